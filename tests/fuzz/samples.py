"""One of each message, with parts that fit together: what the fuzzers change. It is no list of what may be sent."""

from __future__ import annotations

from typing import Any

from zclient.protocol import limits, plans
from zclient.protocol import messages as m
from zclient.protocol.options import JOB_OPTIONS, QUEUE_OPTIONS
from zclient.protocol.record import Header, encode_header

INCARNATION = b"0123456789abcdef"
IDS = [b"a", b"b"]
FENCE = (1 << 32) + 1
WORKFLOW, BATCH = b"0123456789abcdef012345", b"0123456789abcdef" * 2
PAYLOAD, LARGE = b"\xc0", b"x" * limits.LARGE_BYTES
RECORD = encode_header(Header("q", 1, {"headers": {"x": 1}}, False)) + bytes(8) + PAYLOAD

OPTIONS: dict[str, Any] = {
    "priority": 1,
    "delay": 1000,
    "ttl": 5000,
    "max_attempts": 2,
    "unique": "one",
    "key": "k",
    "headers": {"x": 1, "y": "z"},
    "after": [b"c"],
    "on_parent_death": "run",
    "batch": BATCH,
}
VERBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("set", {"queue": "q", "options": {"max_attempts": 2, "key_limit": 1, "rate": [10, 1000]}}),
    ("unset", {"queue": "q", "options": ["max_attempts"]}),
    ("cancel", {"id": b"a"}),
    ("replay", {"queue": "q", "rate": 10}),
    ("replay", {"ids": IDS}),
    ("drop", {"queue": "q"}),
    ("purge", {"queue": "q"}),
    ("pause", {"queue": "q"}),
    ("drain", {"queue": "q"}),
    ("resume", {"queue": "q"}),
    ("bind", {"pattern": "news.*", "queue": "r", "filters": [["x", "=", 1]], "start": 0}),
    ("unbind", {"pattern": "news.*", "queue": "r"}),
    ("keep_topic", {"pattern": "news.*", "keep": 60_000, "keep_bytes": 1000}),
    ("forget_topic", {"pattern": "news.*"}),
    ("open_batch", {"id": BATCH, "on_done": {"queue": "r", "options": {}, "payload": PAYLOAD}}),
    ("close_batch", {"id": BATCH}),
    ("cancel_workflow", {"id": WORKFLOW}),
    ("retry_workflow", {"id": WORKFLOW}),
    ("set_schedule", {"name": "s", "cron": "* * * * *", "queue": "q", "payload": PAYLOAD, "options": {}}),
    ("set_schedule", {"name": "e", "every": 1000, "queue": "q", "payload": PAYLOAD, "options": {"priority": 1}}),
    ("run_schedule", {"name": "s"}),
    ("pause_schedule", {"name": "s"}),
    ("resume_schedule", {"name": "s"}),
    ("remove_schedule", {"name": "s"}),
)
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("show", {"id": b"a"}),
    ("why", {"id": b"a"}),
    ("parents", {"id": b"e-after", "start": 0}),
    ("batch", {"id": BATCH}),
    ("workflow", {"id": WORKFLOW}),
    ("results", {"id": plans.step_id(WORKFLOW, 0), "start": 0}),
    ("queues", {}),
    ("queue", {"queue": "q"}),
    ("workers", {}),
    ("stats", {}),
    ("kept_topics", {}),
    ("list", {"queue": "q", "state": "ready", "limit": 10}),
    ("list", {"state": "done", "since": 1}),
    ("dead", {"queue": "q", "limit": 5}),
    ("dead_groups", {"queue": "q"}),
    ("schedules", {}),
    ("bindings", {"queue": "r", "limit": 5}),
    ("publications", {"pattern": "news.*", "start": 0}),
)
PLAN = {"name": "flow", "steps": [["one", 1, [], "wait", False], ["two", 1, [0], "run", True, 1]]}
STEPS = [
    m.Group("q", {"batch": plans.step_id(WORKFLOW, 0)}, plans.job_ids(WORKFLOW, 0, 0, 1), [PAYLOAD]),
    m.Group(
        "q",
        {"batch": plans.step_id(WORKFLOW, 1), "after": [plans.step_id(WORKFLOW, 0)], "on_parent_death": "run"},
        plans.job_ids(WORKFLOW, 1, 0, 1),
        [PAYLOAD],
    ),
]
"""A job of each step of the plan."""


def options_of_jobs() -> dict[str, dict[str, Any]]:
    """Each option with what it needs beside it."""
    alone = {name: {name: value} for name, value in OPTIONS.items()}
    return {**alone, "on_parent_death": {"after": [b"c"], "on_parent_death": "run"}}


def from_peers() -> list[m.Message]:
    """What a broker is sent."""
    group = m.Group("q", {"priority": 1, "headers": {"x": 1}}, IDS, [PAYLOAD, LARGE])
    publication = m.Publication("news.x", {"headers": {"x": 1}}, b"p", PAYLOAD)
    one, two = m.Group("q", {}, [b"c"], [PAYLOAD]), m.Group("q", {"after": [b"c"]}, [b"d"], [PAYLOAD])
    return [
        m.Hello(
            limits.PROTOCOL_VERSION, INCARNATION, "peer", 3, ["q", "r"], [m.Held(FENCE, [b"a"], [b"b"])], 0, {"p": 1}
        ),
        m.Put(1, 1, [group]),
        m.Put(2, 1, [one, two]),
        *(
            m.Put(3, 1, [m.Group("q", options, [b"e-" + name.encode()], [PAYLOAD])])
            for name, options in options_of_jobs().items()
        ),
        m.Settle(
            4, [m.Settlement(FENCE, m.Outcome.ACK, IDS, [PAYLOAD, LARGE])], [m.Sent(FENCE, b"a", [one], [publication])]
        ),
        m.Settle(5, [m.Settlement(FENCE, m.Outcome.NACK, IDS, [{"text": "x", "delay": 5}, {"type": "y"}])]),
        m.Settle(6, [m.Settlement(FENCE, m.Outcome.REJECT, IDS, [{"text": "x"}, {}])]),
        m.Settle(7, [m.Settlement(FENCE, m.Outcome.RELEASE, IDS, [True, None])]),
        m.Settle(8, [m.Settlement(FENCE, m.Outcome.SNOOZE, IDS, [100, 0])]),
        m.Renew([FENCE, FENCE + 1]),
        m.Capacity(5),
        m.Extend(9, FENCE, b"a", 1000),
        m.Watch(IDS, True),
        m.Unwatch(IDS),
        m.Progress([(FENCE, b"a", 0.5, "half"), (FENCE, b"b", None, "")]),
        m.Read(b"a", FENCE, 0, 8, True),
        m.Partial(FENCE, b"a", 0, [PAYLOAD, LARGE], False),
        *(m.Ask(10, verb, arguments) for verb, arguments in QUESTIONS),
        *(m.Order(11, 1, verb, arguments) for verb, arguments in VERBS),
        m.Workflow(12, 1, WORKFLOW, 0, 1, PLAN, STEPS),
        m.Publish(13, 1, [publication]),
        m.Tail(14, 1, "news.*", [["x", "=", 1]], 10, 1000),
        m.Goodbye(),
    ]


def from_brokers() -> list[m.Message]:
    """What a client or worker is sent."""
    told = m.Told(1, "news.x", {"headers": {"x": 1}}, b"p", 1, PAYLOAD)
    return [
        m.Welcome(1, b"broker", 1, {"probe_ms": 1000, "result_bytes": 1 << 20}, [(FENCE, IDS)]),
        m.Who(),
        m.Ok([1, 2, 3]),
        m.Answer(1, {"refused": [[FENCE, b"a", "lost"]]}),
        m.Answer(2, {"id": b"a", "state": "ready"}),
        m.Failure(1, "queue_full", "full", {"retry_after_ms": 5}),
        m.Failure(0, "malformed", "what", {}),
        m.Deliver("q", FENCE, 30_000, IDS, [1, 2], [RECORD, RECORD], {1: LARGE}),
        m.Finished([(b"a", "done", PAYLOAD, None), (b"b", "dead", None, {"reason": "x"})]),
        m.Changed([{"id": b"a", "queue": "q", "state": "ready", "attempts": 1}]),
        m.Publications(1, 0, [told]),
        m.Ping(),
        m.Lost([(FENCE, IDS)], "gone"),
        m.Cancel(FENCE, IDS),
        m.Part(b"a", FENCE, 0, [PAYLOAD], False),
        m.Flow(FENCE, b"a", 0, 8, False),
        m.Closing("bye"),
    ]


def tables() -> tuple[Any, ...]:
    """The tables of options."""
    return JOB_OPTIONS, QUEUE_OPTIONS
