"""Holds the pages to the code: what they list is what there is, with the same names, numbers and limits.

Each table is read from its page. What a sentence says around them no machine can check.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tests.test_import_rules import RULES
from zbroker import calendar, config
from zbroker import limits as broker_limits
from zbroker.core import listings, orders, queries, settle
from zbroker.core.core import Core
from zbroker.core.state import Settings
from zbroker.core.tick import Tick
from zbroker.storage import interface
from zbroker.storage.memory import MemoryStore
from zclient import errors
from zclient.protocol import codec, limits, topics
from zclient.protocol import messages as m
from zclient.protocol.options import JOB_OPTIONS, QUEUE_OPTIONS
from zclient.protocol.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zbroker", "zclient", "zworker")
LATER = ("versions", "dead_groups", "schedules", "bindings", "publications")
"""Questions that are answered in slices, and are in no table of the code."""
SECTION = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)


@cache
def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def tables(name: str, heading: str) -> list[list[list[str]]]:
    """The tables under a heading of a page, up to the next heading: rows of cells, heads left off."""
    parts = SECTION.split(page(name))
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[heading]
    blocks = re.findall(r"(?:^\|.*\n)+", section + "\n", re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()[2:]] for block in blocks
    ]


def table(name: str, heading: str) -> list[list[str]]:
    """The only table under a heading."""
    (rows,) = tables(name, heading)
    return rows


def names(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def nodes(folder: str) -> Iterator[ast.AST]:
    """Every syntax node of the Python files in a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def calls(folder: str, function: str) -> Iterator[ast.Call]:
    """The calls, in the Python files of a folder, of what is written like this expression."""
    for node in nodes(folder):
        if isinstance(node, ast.Call) and re.fullmatch(function, ast.unparse(node.func)):
            yield node


def texts(node: ast.expr) -> list[str]:
    """The texts that an expression may be; nothing if it is computed."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


# ---- architecture.md


def test_architecture_names_every_file() -> None:
    there = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    folders = [title.strip("`") for title in SECTION.findall(page("architecture.md")) if title.startswith("`")]
    told = [f"{folder}/{names(row[0])[0]}" for folder in folders for row in table("architecture.md", f"`{folder}`")]
    assert sorted(told) == there


def test_architecture_tells_what_each_layer_imports_from_elsewhere() -> None:
    told = {row[0].strip("`"): set(row[2].split(", ")) for row in table("architecture.md", "What may import what")}
    programs = told.pop("the three command lines")
    rules = {rule.layer: set(rule.others) for rule in RULES}
    assert {layer: rules[layer] for layer in told} == told
    assert all(rules[f"{package}.cli"] == programs for package in PACKAGES)


class Journey:
    """A core, one producer, one worker, and the rows that each turn writes and deletes."""

    def __init__(self) -> None:
        self.core = Core(MemoryStore(), Settings(), Random(1))
        self.now = 0
        self.commit(self.core.open(self.now, self.now, b"broker"))
        self.turn(b"p", m.Hello(1, b"p" * 16, "producer", 0, [], [], 0, {}))

    def commit(self, tick: Tick) -> Tick:
        self.core.state.view._store.write(tick.rows, tick.ranges)
        self.core.committed(tick)
        return tick

    def turn(self, route: bytes, message: m.Message) -> Tick:
        self.now += 10
        self.core.begin(self.now, self.now)
        self.core.receive(route, message)
        return self.commit(self.core.finish(drained=True))

    def put(self, number: int) -> Tick:
        ids = [b"%d-%d" % (number, n) for n in range(100)]
        return self.turn(b"p", m.Put(number, number, [m.Group("q", {}, ids, [b"x"] * 100)]))

    def hello(self) -> Tick:
        return self.turn(b"w", m.Hello(1, b"w" * 16, "worker", 100, ["q"], [], 0, {}))

    def settle(self, outcome: m.Outcome, jobs: int) -> Tick:
        fence, delivery = max(self.core.state.deliveries.items())
        return self.turn(b"w", m.Settle(1, [m.Settlement(fence, outcome, delivery.ids[:jobs], None)]))


def counted(tick: Tick, *, deleted: bool) -> dict[str, int]:
    counts = {space: sum((row is None) == deleted for row in rows.values()) for space, rows in tick.rows.items()}
    return {space: count for space, count in counts.items() if count}


def test_a_journey_costs_the_rows_that_architecture_tells() -> None:
    journey = Journey()
    steps = [journey.put(1), journey.hello(), journey.settle(m.Outcome.ACK, 100), journey.put(2)]
    steps.append(journey.settle(m.Outcome.NACK, 1))
    told = table("architecture.md", "How a job travels")
    assert len(told) == len(steps)
    for (_, messages, written, deleted), tick in zip(told, steps, strict=True):
        cells = [
            {space: int(count) for count, space in re.findall(r"(\d+) `(\w+)`", cell)} for cell in (written, deleted)
        ]
        assert cells == [counted(tick, deleted=False), counted(tick, deleted=True)]
        sent = [type(message).__name__.upper() for _, message in tick.messages()]
        assert messages.partition(" → ")[2].split(", ") == sent


# ---- protocol.md


def test_protocol_lists_every_command_with_its_number_and_fields() -> None:
    rows = tables("protocol.md", "3. Commands from a peer")[0]
    rows += tables("protocol.md", "4. Commands from the broker")[0]
    told = {row[1]: (int(row[0]), row[2].split(", ") if row[2] else []) for row in rows}
    assert told == {
        kind.__name__.upper(): (number, [field.removesuffix("_ms") for field in getattr(kind, "_fields", ())])
        for kind, number in codec._COMMANDS.items()
    }
    assert set(codec._COMMANDS.values()) == set(codec._DECODERS)


def test_protocol_lists_every_outcome_verb_and_option() -> None:
    _, outcomes, tests, questions, changes = tables("protocol.md", "3. Commands from a peer")
    assert {row[1].partition(":")[0]: int(row[0]) for row in outcomes} == {o.name.lower(): o.value for o in m.Outcome}
    assert [test for row in tests for test in names(row[0])] == list(topics.TESTS)
    assert {row[0] for row in questions} == {*queries._VERBS, *listings.LISTINGS, *LATER}
    assert {verb for row in changes for verb in row[0].split(", ")} == orders._VERBS.keys()
    of_jobs, of_queues = tables("protocol.md", "8. Options")
    assert [name for row in of_jobs for name in row[0].split(", ")] == list(JOB_OPTIONS)
    assert [name for row in of_queues for name in row[0].split(", ")] == list(QUEUE_OPTIONS)


def test_protocol_lists_every_failure() -> None:
    told = {row[0]: row[1] for row in table("protocol.md", "5. Failures")}
    sent = {code for call in calls("zbroker", "Refusal") for code in texts(call.args[0])}
    sent |= {code for call in calls("zbroker", "Failure") for code in texts(call.args[1])}
    assert sent == {code for code, means in told.items() if "Not sent by this version" not in means}
    assert errors._BY_CODE.keys() <= told.keys()


def size(octets: int) -> str:
    unit, name = (1 << 20, "MiB") if octets >= 1 << 20 else (1 << 10, "KiB")
    return f"{octets // unit} {name}" if octets >= 1 << 10 else f"{octets} bytes"


LIMITS = {
    "frame": size(limits.MAX_FRAME_BYTES),
    "frames in a message to the broker": f"{limits.MAX_FRAMES:,}",
    "blob frames": f"from {size(limits.LARGE_BYTES)} on",
    "payload, result": size(limits.MAX_PAYLOAD_BYTES),
    "jobs in one PUT": f"{limits.MAX_BATCH_JOBS:,}",
    "payload bytes in one PUT": size(limits.MAX_BATCH_BYTES),
    "parents of a job": f"{limits.MAX_PARENTS:,}",
    "pairs of job and parent in one PUT": f"{limits.MAX_BATCH_EDGES:,}",
    "acks in one SETTLE, ids in one WATCH, UNWATCH": f"{limits.MAX_BATCH_JOBS:,}",
    "ids in one ORDER, other settlements in one SETTLE": f"{limits.MAX_ORDER_IDS}",
    "PUTs, ORDERs and WORKFLOWs of a peer that were applied, from its `low` on": f"{limits.MAX_OPEN_BATCHES:,}",
    "a batch is sent again": f"{limits.RESEND_LIMIT_MS // 3_600_000} hour ",
    "id": size(limits.MAX_ID_BYTES),
    "queue name": f"{limits.MAX_NAME_CHARS} characters",
    "name of a peer": f"{limits.MAX_NAME_CHARS} characters",
    "key": size(limits.MAX_KEY_BYTES),
    "headers, info": size(limits.MAX_HEADERS_BYTES),
    "priority": f"{limits.MIN_PRIORITY} to {limits.MAX_PRIORITY}",
    "max_attempts": f"{limits.MAX_ATTEMPTS:,}",
    "queues of a worker": f"{limits.MAX_QUEUES_PER_PEER:,}",
    "capacity": f"{limits.MAX_CAPACITY:,}",
    "watched jobs of a peer": f"{limits.MAX_WATCHED_PER_PEER:,}",
    "streams that a peer reads": f"{limits.MAX_STREAMS_PER_PEER:,}",
    "partials beyond those that a reader has": f"{limits.MAX_STREAM_WINDOW:,}",
    "partials in one message": f"{limits.MAX_STREAM_WINDOW:,}",
    "bytes of partials beyond those that a reader has": size(limits.STREAM_BYTES),
    "error text": f"{limits.MAX_ERROR_CHARS:,} characters",
    "name of a schedule": f"{limits.MAX_SCHEDULE_CHARS} characters",
    "cron expression": f"{calendar.MAX_CRON_CHARS} characters",
    "interval of a schedule": f"{limits.MIN_INTERVAL_MS // 1000} s",
    "catch_up_limit": f"{limits.MAX_CATCH_UP}",
    "schedules": f"{broker_limits.MAX_SCHEDULES:,}",
    "steps of a workflow": f"{limits.MAX_STEPS:,}",
    "jobs of a workflow": f"{limits.MAX_WORKFLOW_JOBS:,}",
    "pairs of steps in a plan": f"{limits.MAX_PLAN_EDGES:,}",
    "pairs of a job and a step that it is after, in a plan": f"{limits.MAX_WORKFLOW_EDGES:,}",
    "parts of a workflow": f"{limits.MAX_PARTS:,}",
    "batches and workflows": f"{broker_limits.MAX_BATCHES:,}",
    "topic, pattern": f"{limits.MAX_TOPIC_CHARS} characters",
    "words of a topic": f"{limits.MAX_TOPIC_WORDS}",
    "`#` in a pattern": f"{limits.MAX_OPEN_WORDS}",
    "filters of a binding or tail": f"{limits.MAX_FILTERS}; {size(limits.MAX_HEADERS_BYTES)}",
    "values of a test with `in`": f"{limits.MAX_FILTER_VALUES}",
    "name of a header in a filter": f"{topics.MAX_HEADER_NAME_BYTES} bytes",
    "text of a header that is a number": f"{broker_limits.NUMBER_CHARS} characters",
    "id of a publication": f"{limits.MAX_PUBLICATION_ID_BYTES} bytes",
    "headers of a publication": f"{limits.MAX_PUBLICATION_HEADERS_BYTES:,} bytes",
    "copies that one PUBLISH makes": f"{limits.MAX_COPIES:,}",
    "payload bytes of them": size(limits.MAX_COPY_BYTES),
    "bindings": f"{broker_limits.MAX_BINDINGS:,}",
    "bindings and filters that are looked at for a publication": f"{broker_limits.MATCH_STEPS:,}",
    "kept topics": f"{broker_limits.MAX_KEPT_TOPICS}",
    "tails of a peer": f"{limits.MAX_TAILS_PER_PEER}",
    "tails of all peers": f"{broker_limits.MAX_TAILS:,}",
    "text of progress": f"{limits.MAX_PROGRESS_CHARS:,} characters",
    "entries in one PROGRESS": f"{limits.MAX_ORDER_IDS:,}",
    "traceback": f"{limits.MAX_TRACEBACK_CHARS:,} characters",
    "page of a listing": f"{limits.MAX_PAGE:,} rows",
    "delay, snooze": f"{limits.MAX_DELAY_MS // (366 * 86_400_000)} years",
    "EXTEND": f"{settle.MAX_EXTENSION_MS // 3_600_000} hours",
    "listings and long orders at once": f"{broker_limits.MAX_WORKS:,}",
}


def test_protocol_lists_every_limit() -> None:
    told = dict(table("protocol.md", "6. Limits"))
    assert told.keys() == LIMITS.keys()
    assert [what for what, limit in LIMITS.items() if not re.match(re.escape(limit) + r"(?!\d)", told[what])] == []
    assert limits.MAX_RESULT_BYTES == limits.MAX_PAYLOAD_BYTES  # one row for both


# ---- storage.md


def test_storage_lists_every_keyspace_and_every_error() -> None:
    rows, *_ = tables("storage.md", "Keyspaces")
    assert sorted(space for row in rows for space in names(row[0])) == sorted(interface.KEYSPACES)
    told = {names(row[0])[0] for row in table("storage.md", "Errors")}
    assert told == {
        kind.__name__ for kind in interface.StoreError.__subclasses__() if kind.__module__.startswith("zbroker.storage")
    }


# ---- operating.md


def shown(name: str) -> str:
    """The default of a setting as the page writes it."""
    default = config.SETTINGS[name].default
    text = ",".join(default) if isinstance(default, tuple) else str(default).lower()
    return "-" if default in ("", {}) else text


def test_operating_lists_every_setting_with_its_default() -> None:
    told = {names(row[0])[0]: names(row[1])[0] for row in table("operating.md", "Settings")}
    assert told == {name: shown(name) for name in config.SETTINGS}


@pytest.mark.parametrize(
    ("heading", "folder", "function"),
    [("Of the broker", "zbroker", r"(self\.)?(state\.)?notice"), ("Of a worker", "zworker", "log")],
)
def test_operating_lists_every_event(heading: str, folder: str, function: str) -> None:
    told = {event for row in table("operating.md", heading) for event in names(row[0])}
    assert {text for call in calls(folder, function) for text in texts(call.args[1])} - told == set()
    written = {text for node in nodes(folder) if isinstance(node, ast.Constant) for text in texts(node)}
    assert told - written - {f"{verb} finished" for verb in ("purge", "replay", "drop")} == set()


# ---- decisions


@pytest.mark.parametrize("record", sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md")))
def test_decision_records_have_their_form(record: str) -> None:
    text = page(f"decisions/{record}")
    assert text.startswith(f"# {record[:4]}. ")
    assert re.search(r"^Status: (accepted|superseded by \d{4})$", text, re.MULTILINE)
    parts = ["Why it came up", "What we do", "What else was possible", "What follows"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == parts


# ---- doctor.md, and the version


def test_doctor_lists_every_check() -> None:
    told = [names(row[0])[0] for row in table("doctor.md", "The findings, and what to do")]
    made = {text for call in calls("zbroker", "Finding") for text in texts(call.args[0])}
    assert set(told) == made
    assert [check for check in told if f"\n**{check}.** " not in page("doctor.md")] == []


def test_the_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION
