"""Workflows as they are built: what pieces mean as a graph, what is refused, and how they are cut into parts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zclient import InvalidArgument, Workflow, chain, chord, group, step
from zclient.composition import Piece
from zclient.jobs import encode_payload
from zclient.parts import new_workflow_id, parts_of
from zclient.protocol import limits, plans
from zclient.protocol.codec import decode, encode
from zclient.protocol.messages import Workflow as Message
from zclient.protocol.options import job_fault


def steps(flow: Workflow | Piece) -> dict[str, tuple[int, list[str]]]:
    """The steps of a plan by name: how many jobs, 0 for a single one, and the names of what they are after."""
    flow = flow if isinstance(flow, Workflow) else flow.workflow()
    told = plans.steps_of(flow.plan())
    return {each.name: (0 if each.single else each.jobs, [told[place].name for place in each.after]) for each in told}


# ---- what pieces mean


def test_a_chain_is_one_step_after_the_other() -> None:
    assert steps(chain(step("a", 1), step("b"), step("c"))) == {"a": (0, []), "b": (0, ["a"]), "c": (0, ["b"])}
    assert steps(chain([step("a"), step("b")])) == {"a": (0, []), "b": (0, ["a"])}


def test_steps_are_called_after_their_queues_or_as_they_say() -> None:
    same = step("b")
    built = chain(step("b"), same, step("c", name="b-2"), same, step("b", name="last"))
    assert list(steps(built)) == ["b", "b-3", "b-2", "b-4", "last"]


def test_a_group_of_payloads_is_one_step() -> None:
    assert steps(chord(group("a", range(3)), step("b"))) == {"a": (3, []), "b": (0, ["a"])}
    assert steps(group("a", [7], name="one")) == {"one": (1, [])}


def test_a_group_of_steps_of_one_queue_is_one_step_as_well() -> None:
    many = [step("a", n, priority=n // 2) for n in range(4)]
    for built in (group(*many), group(many), group(iter(many))):
        flow = built.workflow()
        assert steps(flow) == {"a": (4, [])}
        (made,) = flow
        assert [(run.options, run.payloads) for run in made.runs] == [
            ({"priority": 0}, [b"\x00", b"\x01"]),
            ({"priority": 1}, [b"\x02", b"\x03"]),
        ]
    assert steps(group(step("a"))) == {"a": (1, [])}  # a list, however many there are


def test_a_group_of_different_pieces_is_several_steps_side_by_side() -> None:
    built = chain(step("first"), group(step("a"), chain(step("b"), step("c")), group("d", [1, 2])), step("last"))
    assert steps(built) == {
        "first": (0, []),
        "a": (0, ["first"]),
        "b": (0, ["first"]),
        "c": (0, ["b"]),
        "d": (2, ["first"]),
        "last": (0, ["a", "c", "d"]),
    }
    assert steps(group(step("a", name="left"), step("a", name="right"))) == {"left": (0, []), "right": (0, [])}


def test_a_group_after_a_group_is_after_all_of_it() -> None:
    assert steps(chain(group("a", [1, 2]), group(step("b"), step("c")), group("d", [3]))) == {
        "a": (2, []),
        "b": (0, ["a"]),
        "c": (0, ["a"]),
        "d": (1, ["b", "c"]),
    }


def test_a_chord_takes_a_list_of_pieces() -> None:
    assert steps(chord([step("a"), step("b")], chain(step("c"), step("d")))) == {
        "a": (0, []),
        "b": (0, []),
        "c": (0, ["a", "b"]),
        "d": (0, ["c"]),
    }


def test_a_piece_is_used_again_and_again() -> None:
    both = group(step("a"), step("b"))
    assert list(steps(chain(both, both))) == ["a", "b", "a-2", "b-2"]
    assert both.workflow("x").name == "x" and both.workflow().name == "a"


# ---- a graph by hand


def test_a_workflow_of_named_steps() -> None:
    flow = Workflow("nightly")
    fetch = flow.group("fetch", "download", ["u", "v"], priority=3)
    clean = flow.step("clean", "clean", {"all": True}, after=fetch)
    flow.step("report", "report", after=[clean, "fetch", fetch], on_parent_death="run")
    flow.group("side", [step("x", 1), step("y", 2), step("x", 3)], after="report")
    flow.group("whole", group("x", [1]))
    flow.step("done", step("z", 5, on_parent_death="cancel"), after=("side", "whole"))
    assert steps(flow) == {
        "fetch": (2, []),
        "clean": (0, ["fetch"]),
        "report": (0, ["clean", "fetch"]),
        "side": (3, ["report"]),
        "whole": (1, []),
        "done": (0, ["side", "whole"]),
    }
    assert [each.rule for each in flow] == ["wait", "wait", "run", "wait", "wait", "cancel"]
    assert [run.queue for run in flow["side"].runs] == ["x", "y", "x"]
    assert (len(flow), flow.jobs, repr(flow)) == (6, 9, "<workflow nightly of 6 steps, 9 jobs>")


def test_a_step_may_be_after_one_that_is_still_to_come() -> None:
    flow = Workflow()
    flow.step("b", "q", after="a")
    flow.step("a", "q")
    assert steps(flow) == {"b": (0, ["a"]), "a": (0, [])}


def test_pieces_are_added_to_a_graph() -> None:
    flow = Workflow()
    first = flow.step("a", "a")
    ends = flow.add(chain(step("b"), group(step("a"), step("c"))), after=first)
    flow.step("end", "q", after=ends)
    assert steps(flow) == {
        "a": (0, []),
        "b": (0, ["a"]),
        "a-2": (0, ["b"]),
        "c": (0, ["b"]),
        "end": (0, ["a-2", "c"]),
    }


def test_what_comes_after_an_empty_group_is_after_what_that_was_after() -> None:
    flow = Workflow()
    flow.step("first", "q")
    flow.group("none", "q", [], after="first")
    flow.group("nothing", "q", after="none")
    flow.step("last", "q", after="nothing")
    assert steps(flow) == {
        "first": (0, []),
        "none": (0, ["first"]),
        "nothing": (0, ["none", "first"]),
        "last": (0, ["nothing", "none", "first"]),
    }
    told = plans.steps_of(flow.plan())
    assert [[told[place].name for place in each.inputs] for each in told] == [[], ["first"], ["none"], ["nothing"]]
    assert [len(groups) for _, groups in parts_of(flow).bodies] == [2]
    assert [groups for _, groups in parts_of(group("q", []).workflow()).bodies] == [[]]


# ---- what is refused, before anything is sent


def full() -> Workflow:
    flow = Workflow()
    for n in range(limits.MAX_STEPS):
        flow.step(f"s{n}", "q")
    return flow


def circle() -> Workflow:
    flow = Workflow()
    for name, after in (("a", ()), ("b", ("a", "d")), ("c", "b"), ("d", "c"), ("e", "d")):
        flow.step(name, "q", after=after)
    return flow


def sent() -> Workflow:
    flow = step("q").workflow()
    parts_of(flow)
    return flow


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: step("no queue"), "queue name"),
        (lambda: step("q", object()), "payload"),
        (lambda: step("q", priority=1000), "priority"),
        (lambda: step("q", name=""), "name"),
        (lambda: step("q", name=b"x"), "name"),
        (lambda: step("q", unique="u"), "unique"),
        (lambda: step("q", on_conflict="replace"), "on_conflict"),
        (lambda: step("q", after=["id"]), "after"),
        (lambda: step("q", on_parent_death="shrug"), "cancel, run, wait"),
        (lambda: step("q", delay="1s", at=0), "delay and at"),
        (group, "positional"),
        (lambda: group([]), "no pieces"),
        (lambda: group("q"), "one iterable"),
        (lambda: group("q", "text"), "one iterable"),
        (lambda: group("q", {"one": "payload"}), "one iterable"),
        (lambda: group("q", 7), "one iterable"),
        (lambda: group("q", step("q")), "one iterable"),
        (lambda: group("q", [1], [2]), "one iterable"),
        (lambda: group(step("a"), 7), "not 7"),
        (lambda: group(7), "not 7"),
        (lambda: group(step("a"), step("b"), priority=1), "priority"),
        (lambda: group(step("a"), step("b"), name="both"), "name the steps"),
        (chain, "at least one"),
        (lambda: chain("a"), "not 'a'"),
        (lambda: chain(Workflow()), "in a workflow already"),
        (lambda: chain(Workflow().step("a", "q")), "in a workflow already"),
        (lambda: chord(step("a"), "b"), "not 'b'"),
        (lambda: chain(step("a", name="x"), step("b", name="x")).workflow(), "called x"),
        (lambda: Workflow("a\n"), "name"),
        (lambda: Workflow("n" * 129), "name"),
        (lambda: Workflow().plan(), "no steps"),
        (lambda: Workflow().step("", "q"), "name"),
        (lambda: Workflow().step("a", step("q"), 7), "already"),
        (lambda: Workflow().step("a", "q", after=7), "after"),
        (lambda: Workflow().step("a", "q", after=[7]), "after"),
        (lambda: Workflow().group("a", group("q", [1]), [2]), "already"),
        (lambda: Workflow().group("a", chain(step("q"))), "step() several times"),
        (lambda: Workflow().group("a", [step("q"), step("r", on_parent_death="run")]), "one on_parent_death"),
        (lambda: Workflow().group("a", "q", range(100_001)), "100000 jobs"),
        (lambda: full().step("more", "q"), "1000 steps"),
        (lambda: sent().step("more", "q"), "copy()"),
        (lambda: parts_of(sent(), "0" * 22), "copy()"),
        (lambda: parts_of(step("q").workflow(), "my-own"), "id of a workflow"),
        (lambda: circle().plan(), "circle: b, c, d"),
    ],
)
def test_what_cannot_be_said_is_refused(build: Any, says: str) -> None:
    with pytest.raises((InvalidArgument, TypeError), match=says.replace("(", r"\(").replace(")", r"\)")):
        build()


def test_a_name_is_given_once_and_after_names_a_step() -> None:
    flow = Workflow()
    flow.step("a", "q")
    with pytest.raises(InvalidArgument, match="called a"):
        flow.group("a", "q", [1])
    with pytest.raises(InvalidArgument, match="called a"):
        flow.add(step("q", name="a"))
    flow.step("b", "q", after="nobody")
    with pytest.raises(InvalidArgument, match="b is after nobody"):
        flow.plan()


def test_a_copy_is_another_run() -> None:
    flow = chord(group("a", [1]), step("b")).workflow("x")
    first = parts_of(flow)
    other = flow.copy()
    assert (flow.id, other.id, other.name) == (first.id.decode(), None, "x")
    assert steps(other) == steps(flow)
    assert parts_of(other).id != first.id
    other.copy().step("more", "q")
    assert len(flow) == len(other) == 2


# ---- parts


def test_ids_begin_with_the_time() -> None:
    made = [new_workflow_id() for _ in range(20)]
    assert all(plans.workflow_id_fault(each) is None for each in made)
    assert sorted(each[:12] for each in made) == [each[:12] for each in made] and len(set(made)) == 20


def test_parts_are_made_once_and_an_id_may_be_given() -> None:
    flow = step("q").workflow()
    given = new_workflow_id().decode()
    assert parts_of(flow, given) is parts_of(flow) is parts_of(flow, given)
    assert flow.id == given


def test_a_small_workflow_is_one_message() -> None:
    flow = chord(group("a", [1, 2], priority=3), step("b", "p", on_parent_death="run")).workflow("w")
    parts = parts_of(flow)
    ((plan, groups),) = parts.bodies
    assert plan == {"name": "w", "steps": [["a", 2, [], "wait", False, 0], ["b", 1, [0], "run", True, 1]]}
    first, second = groups
    wid = parts.id
    assert first.options == {"priority": 3, "batch": wid + b"000"}
    assert first.ids == [wid + b"0000000000", wid + b"0000000001"]
    assert second.options == {"batch": wid + b"001", "after": [wid + b"000"], "on_parent_death": "run"}
    assert (second.ids, second.payloads) == ([wid + b"0010000000"], [encode_payload("p")])


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    octets=st.sampled_from([1, 20_000, 90_000]),
    most=st.integers(1, 25),
)
def test_parts_hold_all_jobs_once_in_their_order_within_the_bounds(sizes: list[int], octets: int, most: int) -> None:
    flow = Workflow("w")
    for place, size in enumerate(sizes):
        mixed = [step(f"q{n % 3 // 2}", bytes(octets), priority=place) for n in range(size)]
        flow.group(f"s{place}", mixed if mixed else "q", after=[f"s{place - 1}"] if place else ())
    parts = parts_of(flow, jobs=most)
    found: list[bytes] = []
    for part, (plan, groups) in enumerate(parts.bodies):
        message = Message(1, 1, parts.id, part, len(parts.bodies), plan, groups)
        assert decode(encode(message)) == message
        jobs = [identifier for each in groups for identifier in each.ids]
        assert len(jobs) <= most and (jobs or part == 0)
        found += jobs
        assert all(job_fault(each.options) is None for each in groups)
        payloads = [len(payload) for each in groups for payload in each.payloads]
        assert sum(payloads[:-1]) < limits.MESSAGE_BYTES
    assert found == [
        identifier for place, size in enumerate(sizes) for identifier in plans.job_ids(parts.id, place, 0, size)
    ]
    assert plans.plan_fault(parts.bodies[0][0] or {}) is None


def test_a_chain_of_links_is_as_flat_as_one_of_all() -> None:
    flat = chain(*(step("q", n) for n in range(5)))
    nested = chain(chain(chain(step("q", 0), step("q", 1)), step("q", 2)), chain(step("q", 3), step("q", 4)))
    assert steps(flat) == steps(nested)


def test_large_payloads_make_larger_parts_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PARTS", 4)
    flow = group("q", [bytes(200_000)] * 20).workflow()
    parts = parts_of(flow)
    sizes = [sum(len(payload) for each in groups for payload in each.payloads) for _, groups in parts.bodies]
    assert len(sizes) == 4 and max(sizes) < 2 * limits.MESSAGE_BYTES * 4
    with pytest.raises(InvalidArgument, match="4 messages"):
        parts_of(group("q", [bytes(1_000_000)] * 100).workflow())
