"""Workflows as people build them: steps, groups and chains, and the graph of named steps that they make.

A *piece* (`step`, `group`, `chain`, `chord`) is a description that may be used again and again. A `Workflow` is one run
of a graph: its id is fixed when it is first sent. Payloads are encoded and options checked when a piece is made, so
that what cannot be sent is refused before anything leaves. It sends nothing; `zclient.parts` cuts it into messages.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, cast

from zclient.errors import InvalidArgument
from zclient.joboptions import StepOptions
from zclient.jobs import encode_payload, queue_name, wire_options
from zclient.protocol import limits, plans
from zclient.protocol.options import PARENT_RULES

if TYPE_CHECKING:
    from zclient.parts import Parts

DEFAULT_RULE = "wait"
"""What a step does, unless it says otherwise, when one that it is after is dead: a retry of the whole brings it on."""

_NOT_OF_STEPS = {
    "after": "a step says what it is after in the workflow, and jobs outside of it are none of its steps",
    "unique": "a step's job could be another workflow's then",
    "unique_for": "it goes with unique",
    "on_conflict": "it goes with unique",
}


class Run(NamedTuple):
    """Jobs in a row that share queue and options (those of the wire)."""

    queue: str
    options: dict[str, Any]
    payloads: list[bytes]


# ---- pieces


class Piece:
    """A part of a workflow that is not in one yet: what `step`, `group`, `chain` and `chord` make."""

    __slots__ = ()

    def workflow(self, name: str | None = None) -> "Workflow":
        """A workflow of this piece alone; its name is that of its first step, unless given."""
        flow = Workflow("workflow" if name is None else name)
        flow.add(self)
        if name is None:
            flow.name = next(iter(flow)).name
        return flow


class Step(Piece):
    """One job to be: see `step`."""

    __slots__ = ("name", "rule", "run")

    def __init__(self, run: Run, name: str | None, rule: str | None) -> None:
        self.run = run
        self.name = name
        self.rule = rule

    def __repr__(self) -> str:
        return f"<step {self.name or self.run.queue}>"


class Group(Piece):
    """Many jobs of one step: see `group`."""

    __slots__ = ("name", "rule", "runs")

    def __init__(self, runs: Sequence[Run], name: str | None, rule: str | None) -> None:
        self.runs = tuple(runs)
        self.name = name
        self.rule = rule

    def __repr__(self) -> str:
        return f"<group {self.name or self.runs[0].queue} of {sum(len(run.payloads) for run in self.runs)} jobs>"


class Parallel(Piece):
    """Pieces side by side: see `group`."""

    __slots__ = ("members",)

    def __init__(self, members: Sequence[Piece]) -> None:
        self.members = tuple(members)

    def __repr__(self) -> str:
        return f"<group of {len(self.members)} pieces>"


class Chain(Piece):
    """Pieces one after the other: see `chain`."""

    __slots__ = ("links",)

    def __init__(self, links: Sequence[Piece]) -> None:
        self.links = tuple(links)

    def __repr__(self) -> str:
        return f"<chain of {len(self.links)} pieces>"


def step(queue: str, payload: Any = None, *, name: str | None = None, **options: Unpack[StepOptions]) -> Step:
    """One job: a step of a workflow once it is in one, called ``name`` or else after its queue.

    ``options`` are those of `zclient.Client.send`, but for ``after`` and ``unique``. ``on_parent_death`` is ``wait`` if
    not said.
    """
    run, rule = _run(queue, [encode_payload(payload)], options)
    return Step(run, _name(name), rule)


def group(
    first: "str | Piece | Iterable[Piece]",
    *rest: Any,
    name: str | None = None,
    **options: Unpack[StepOptions],
) -> Piece:
    """Jobs or pieces side by side.

    ``group(queue, payloads)`` is one step of many jobs, one for each payload, with ``options`` as in `step`; its result
    is a list in their order. ``group(piece, piece, ...)``, or an iterable of pieces, is several side by side; if all of
    them are steps of one queue that were given no names, they are one step of many jobs as well.
    """
    if isinstance(first, str):
        if len(rest) != 1 or isinstance(rest[0], Piece | str | bytes | Mapping) or not isinstance(rest[0], Iterable):
            raise InvalidArgument("group(queue, payloads) takes one iterable of payloads")
        run, rule = _run(first, [encode_payload(payload) for payload in rest[0]], options)
        return Group([run], _name(name), rule)
    if options:
        raise InvalidArgument(f"{', '.join(options)}: options go with a queue, or with each step")
    members = list(_pieces([first, *rest] if rest or isinstance(first, Piece) else first))
    if not members:
        raise InvalidArgument("a group of no pieces; group(queue, []) is a step of no jobs")
    steps = [member for member in members if isinstance(member, Step) and member.name is None]
    queues = {(member.run.queue, member.rule) for member in steps}
    if len(steps) == len(members) and len(queues) == 1:
        return Group(_joined(member.run for member in steps), _name(name), steps[0].rule)
    if name is not None:
        raise InvalidArgument("a group of several steps has no name of its own: name the steps")
    return Parallel(members)


def chain(*links: "Piece | Iterable[Piece]") -> Chain:
    """Pieces one after the other: what a piece begins with is after all that the one before ends with."""
    pieces = list(_pieces(links[0] if len(links) == 1 and not isinstance(links[0], Piece) else links))
    if not pieces:
        raise InvalidArgument("a chain has at least one piece")
    return Chain(pieces)


def chord(header: "Piece | Iterable[Piece]", callback: Piece) -> Chain:
    """A group, and what comes when all of it is done: ``chain(header, callback)``. A list of pieces is a group."""
    return chain(header if isinstance(header, Piece) else group(header), callback)


def _pieces(given: Any) -> Iterator[Piece]:
    pieces = [given] if isinstance(given, str | bytes | Workflow) or not isinstance(given, Iterable) else given
    for piece in pieces:
        if isinstance(piece, Workflow | NamedStep):
            raise InvalidArgument(f"{piece!r} is in a workflow already: pieces come from step(), group(), chain()")
        if not isinstance(piece, Piece):
            raise InvalidArgument(f"step(), group(), chain() or chord(), not {piece!r:.60}")
        yield piece


def _run(queue: str, payloads: list[bytes], options: StepOptions) -> tuple[Run, str | None]:
    """Jobs of one queue with checked options, and what they do when one that they are after is dead."""
    for name, why in _NOT_OF_STEPS.items():
        if options.get(name) is not None:
            raise InvalidArgument(f"a step has no {name}: {why}")
    given = dict(options)
    rule = _rule(given.pop("on_parent_death", None))
    return Run(queue_name(queue), wire_options(**given), payloads), rule


def _rule(rule: Any) -> str | None:
    if rule is not None and rule not in PARENT_RULES:
        raise InvalidArgument(f"on_parent_death is one of {', '.join(PARENT_RULES)}, not {rule!r:.60}")
    return cast("str | None", rule)


def _name(name: Any) -> str | None:
    if name is None or (isinstance(name, str) and name.isprintable() and 0 < len(name) <= limits.MAX_NAME_CHARS):
        return name
    raise InvalidArgument(f"a step's name is text of 1 to {limits.MAX_NAME_CHARS} characters, not {name!r:.60}")


def display_name(name: Any, of: str) -> str:
    """The name of a workflow or batch, checked; it may be empty, and others may have the same."""
    if isinstance(name, str) and name.isprintable() and len(name) <= limits.MAX_NAME_CHARS:
        return name
    raise InvalidArgument(f"the name of a {of} is text of at most {limits.MAX_NAME_CHARS} characters, not {name!r:.60}")


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Runs with neighbours of the same queue and options put together."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1][:2] == run[:2]:
            joined[-1].payloads.extend(run.payloads)
        else:
            joined.append(run._replace(payloads=list(run.payloads)))
    return joined


# ---- the graph


class NamedStep:
    """A step of a `Workflow`, with its place in the graph. ``jobs`` is how many it has.

    ``single``: it is one job whose result stands for itself, not a group of one.
    """

    __slots__ = ("after", "name", "rule", "runs", "single")

    def __init__(self, name: str, runs: Sequence[Run], after: tuple[str, ...], rule: str, single: bool) -> None:
        self.name = name
        self.runs = runs
        self.after = after
        self.rule = rule
        self.single = single

    @property
    def jobs(self) -> int:
        """How many jobs it has."""
        return sum(len(run.payloads) for run in self.runs)

    def __repr__(self) -> str:
        return f"<step {self.name} of {self.jobs} jobs>"


class Workflow:
    """A graph of named steps, which is stored and begun as a whole, or not at all.

        flow = Workflow("nightly-report")
        fetch = flow.group("fetch", "download", urls)
        clean = flow.step("clean", "clean", {"all": True}, after=fetch)
        client.send_workflow(flow)

    It stands for one run: `send_workflow` may be called with it again as long as it was not confirmed, and stores it
    once. `copy` makes another run of the same graph.
    """

    def __init__(self, name: str = "workflow") -> None:
        self.name = display_name(name, "workflow")
        self.parts: Parts | None = None
        """What it is sent as; made when it is first sent."""
        self.sent = False
        """Whether the broker confirmed it."""
        self._steps: dict[str, NamedStep] = {}

    def step(
        self,
        name: str,
        queue: "str | Step",
        payload: Any = None,
        *,
        after: Any = (),
        **options: Unpack[StepOptions],
    ) -> NamedStep:
        """Add a step of one job: its queue, payload and options as in `zclient.Client.send`, or a `step` as it is.

        ``after``: the steps that must be done before, as what these calls return, or by name, also of steps that are
        still to be added; one or several. ``on_parent_death`` says what becomes of it when one of them is dead:
        ``wait`` (if not said) until it is retried, ``cancel``, or ``run`` all the same.
        """
        if isinstance(queue, Step):
            if payload is not None or options:
                raise InvalidArgument("a step has its payload and options already")
            piece = queue
        else:
            piece = step(queue, payload, **options)
        return self._add(name, [piece.run], after, piece.rule, single=True)

    def group(
        self,
        name: str,
        queue: "str | Piece | Iterable[Piece]",
        payloads: Iterable[Any] | None = None,
        *,
        after: Any = (),
        **options: Unpack[StepOptions],
    ) -> NamedStep:
        """Add a step of many jobs: one for each payload, or for each of several `step`. There may be none at all.

        Its result is a list in their order; it is done when all of them are. The rest is as in `step`.
        """
        if isinstance(queue, str):
            piece: Piece = group(queue, () if payloads is None else payloads, **options)
        elif payloads is not None or options:
            raise InvalidArgument("a group has its payloads and options already")
        else:
            piece = queue if isinstance(queue, Group) else self._one_step(queue)
        assert isinstance(piece, Group)
        return self._add(name, piece.runs, after, piece.rule, single=False)

    def _one_step(self, given: Any) -> Group:
        """Steps of any queues as the jobs of one step."""
        steps = list(_pieces(given))
        if not steps or not all(isinstance(one, Step) for one in steps):
            raise InvalidArgument("a step of many jobs is made of a queue and payloads, or of step() several times")
        if len({cast(Step, one).rule for one in steps}) > 1:
            raise InvalidArgument("the jobs of one step have one on_parent_death")
        return Group(_joined(cast(Step, one).run for one in steps), None, cast(Step, steps[0]).rule)

    def add(self, piece: Piece, *, after: Any = ()) -> list[NamedStep]:
        """Add a piece; the steps that it ends with, for what is to come after it.

        Steps without names are called after their queues: ``a``, ``b``, ``b-2``. ``after`` is for those that it begins
        with.
        """
        (piece,) = _pieces([piece])
        named = [one.name for one in _leaves(piece) if one.name is not None]
        for name in named:
            if name in self._steps or named.count(name) > 1:
                raise InvalidArgument(f"two steps would be called {name}")
        reserved = {*self._steps, *named}
        return self._place(piece, _names(after), reserved)

    def _place(self, piece: Piece, after: tuple[str, ...], reserved: set[str]) -> list[NamedStep]:
        if isinstance(piece, Chain):
            ends: list[NamedStep] = []
            for link in piece.links:
                ends = self._place(link, after, reserved)
                after = tuple(end.name for end in ends)
            return ends
        if isinstance(piece, Parallel):
            return [end for member in piece.members for end in self._place(member, after, reserved)]
        if isinstance(piece, Step):
            runs: Sequence[Run] = [piece.run]
        else:
            assert isinstance(piece, Group)
            runs = piece.runs
        name = piece.name
        if name is None:
            name = _free(runs[0].queue, reserved)
            reserved.add(name)
        return [self._add(name, runs, after, piece.rule, single=isinstance(piece, Step))]

    def _add(self, name: str, runs: Sequence[Run], after: Any, rule: str | None, *, single: bool) -> NamedStep:
        if self.parts is not None:
            raise InvalidArgument(f"workflow {self.name} was sent already: copy() makes another one")
        _name(name)
        if name in self._steps:
            raise InvalidArgument(f"two steps would be called {name}")
        if len(self._steps) >= limits.MAX_STEPS:
            raise InvalidArgument(
                f"a workflow has at most {limits.MAX_STEPS} steps; many jobs of one kind are one step: group()"
            )
        added = NamedStep(name, runs, _names(after), rule or DEFAULT_RULE, single)
        if self.jobs + added.jobs > limits.MAX_WORKFLOW_JOBS:
            raise InvalidArgument(
                f"a workflow has at most {limits.MAX_WORKFLOW_JOBS} jobs; a batch may have any number"
            )
        self._steps[name] = added
        return added

    def copy(self) -> "Workflow":
        """Another run of the same graph: not sent, and with an id of its own once it is."""
        other = Workflow(self.name)
        other._steps = dict(self._steps)
        return other

    # ---- what it says

    @property
    def id(self) -> str | None:
        """Its id, which is fixed when it is first sent; None before."""
        return None if self.parts is None else self.parts.id.decode()

    @property
    def jobs(self) -> int:
        """How many jobs it has."""
        return sum(one.jobs for one in self._steps.values())

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[NamedStep]:
        return iter(self._steps.values())

    def __getitem__(self, name: str) -> NamedStep:
        return self._steps[name]

    def __repr__(self) -> str:
        return f"<workflow {self.name} of {len(self)} steps, {self.jobs} jobs>"

    def plan(self) -> dict[str, Any]:
        """The graph as the broker is told. `InvalidArgument` for one that cannot be: no steps, a circle, too much.

        A step of no jobs is over at once, so what comes after it is also after what it was after itself.
        """
        if not self._steps:
            raise InvalidArgument(f"workflow {self.name} has no steps")
        places = {name: place for place, name in enumerate(self._steps)}
        steps: list[plans.Step] = []
        for one in self:
            for name in one.after:
                if name not in places:
                    raise InvalidArgument(f"step {one.name} is after {name}, which is no step of workflow {self.name}")
            steps.append(plans.Step(one.name, one.jobs, [places[name] for name in one.after], one.rule, one.single))
        for place in plans.in_order([step.after for step in steps]):
            told = steps[place]
            beyond = [far for near in told.after if not steps[near].jobs for far in steps[near].after]
            steps[place] = told._replace(after=list(dict.fromkeys([*told.after, *beyond])), named=len(told.after))
        plan = {"name": self.name, "steps": [list(told) for told in steps]}
        if fault := plans.plan_fault(plan):
            raise InvalidArgument(fault)
        return plan


def _leaves(piece: Piece) -> Iterator[Step | Group]:
    if isinstance(piece, Step | Group):
        yield piece
    elif isinstance(piece, Chain | Parallel):
        for inner in piece.links if isinstance(piece, Chain) else piece.members:
            yield from _leaves(inner)


def _free(queue: str, taken: set[str]) -> str:
    """The name of a step of this queue: ``b``, ``b-2``, ``b-3``."""
    stem = queue[: limits.MAX_NAME_CHARS - 5]
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def _names(after: Any) -> tuple[str, ...]:
    """The names of what a step is after."""
    several = [after] if isinstance(after, str | NamedStep) else after
    if not isinstance(several, Iterable):
        raise InvalidArgument(f"after: steps of the workflow, or their names, not {after!r:.60}")
    names = [one.name if isinstance(one, NamedStep) else one for one in several]
    if not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"after: steps of the workflow, or their names, not {after!r:.60}")
    return tuple(dict.fromkeys(names))
