"""The transcripts in `tests/transcripts/`: conversations with the broker that a person can read, run to the last byte.

Owns their notation (`tests/transcripts/README.md`) and how they are run: real frames through the codec into the real
engine, on the memory store, with a clock the transcript moves. What the broker sends is written between the lines; a
test fails if it is anything else than what the file says. `pytest --rewrite-transcripts` writes what was sent into
the files: read the difference before you keep it.
"""

from __future__ import annotations

import ast
import difflib
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from zbroker.commit import Commit, Durability
from zbroker.core.core import Core
from zbroker.core.policy import QueuePolicy
from zbroker.core.state import Settings
from zbroker.engine import Engine
from zbroker.storage.memory import MemoryStore
from zclient.protocol import codec, record
from zclient.protocol import messages as m

FOLDER = Path(__file__).parent / "transcripts"
WALL = 1_700_000_000_000
"""The wall clock at the first line: Unix ms."""

KINDS: dict[str, Any] = {kind.__name__.upper(): kind for kind in m.Message.__args__}
FENCE = re.compile(r"\bE(\d+)\.(\d+)\b")
FIELD = re.compile(r"(?:^| )(\w+)=")
SAYS = re.compile(r"(\w+) > (\w+) ?(.*)")
CLOCK = re.compile(r"\+ (\d+) ms")
PEER_DOES = re.compile(r"(\w+) (connects|is cut)")


class Play:
    """One transcript, as far as it was played."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: list[str] = []
        self.shows = {word for line in text.splitlines() if line.startswith("show ") for word in line.split()[1:]}
        self.store = MemoryStore()
        self.wall, self.now = WALL, 0
        self.routes: dict[str, bytes] = {}
        self.names: dict[bytes, str] = {}
        self.dies = ""
        self.engine = self._open()

    def _open(self) -> Engine:
        policy = QueuePolicy(backoff_jitter=0.0, max_attempts=2)
        core = Core(self.store, Settings(policy=policy), Random(0))
        engine = Engine(core, Commit(self.store, Durability.MEMORY, lambda seconds: None))
        engine.open(self.wall, self.now, b"a data directory")
        return engine

    # ---- lines in, lines out

    def run(self) -> str:
        """The transcript with what the broker really sent."""
        for line in self.text.splitlines():
            if re.match(r"\w+ <|    [<>=]", line):
                continue  # what it is said to have sent: that is what is being found out
            self.lines.append(line)
            if line.strip() and not line.startswith(("#", "show ")):
                self._step(line)
        return "\n".join(self.lines) + "\n"

    def _step(self, line: str) -> None:
        if says := SAYS.fullmatch(line):
            self._says(*says.groups())
        elif clock := CLOCK.fullmatch(line):
            self._advance(int(clock[1]))
        elif does := PEER_DOES.fullmatch(line):
            self._leaves(does[1])
            if does[2] == "connects":
                self.routes[does[1]] = b"%b-%d" % (does[1].encode(), len(self.lines))
                self.names[self.routes[does[1]]] = does[1]
        elif line == "the broker restarts":
            self._restart()
        elif line in ("the broker dies before its next commit", "the broker dies after its next commit"):
            self.dies = line
        elif line == "the broker stops":
            self.engine.core.drain()
            self._turns()
        elif line == "the broker closes":
            self.engine.core.say_closing("the broker stops")
            self._turns(at_least=1)
        else:
            raise ValueError(f"no line of a transcript: {line!r}")

    def _leaves(self, peer: str) -> None:
        self.names.pop(self.routes.pop(peer, b""), None)

    def _restart(self) -> None:
        for peer in list(self.routes):
            self._leaves(peer)
        self.dies = ""
        self.engine = self._open()
        self._turns()

    # ---- turns

    def _says(self, peer: str, command: str, fields: str) -> None:
        if command == "FRAMES":
            frames = [bytes.fromhex(frame) for frame in fields.split("|")]
        else:
            frames = codec.encode(parsed(command, fields))
            self._show_frames(frames)
        self._turn(self.routes[peer], frames)
        if self.dies:
            self._restart()
        else:
            self._turns()

    def _advance(self, ms: int) -> None:
        end = self.now + ms
        while self.now < end:
            step = min(max(self.engine.core.wanted_in(), 1), end - self.now)
            self.now += step
            self.wall += step
            self._turns(at_least=1)

    def _turns(self, at_least: int = 0) -> None:
        while at_least > 0 or self.engine.core.wanted_in() == 0:
            at_least -= 1
            self._turn()

    def _turn(self, route: bytes = b"", frames: list[bytes] | None = None) -> None:
        core = self.engine.core
        core.begin(self.wall, self.now)
        if frames is not None:
            self.engine.receive(route, frames)
        if "before" in self.dies:
            core.finish(drained=True)
            return
        sent = self.engine.finish(drained=True)
        if self.dies:
            return
        for to, reply, fence in sent:
            if to in self.names:
                self._show(self.names[to], reply)
                continue
            core.unreachable(to)
            if fence:
                core.undelivered(fence)

    # ---- showing

    def _show(self, peer: str, frames: list[bytes]) -> None:
        message = codec.decode(frames)
        command = type(message).__name__.upper()
        if command == "PING" and "PING" not in self.shows:
            return
        self.lines.append(f"{peer} < {command} {shown(message)}".rstrip())
        self._show_frames(frames)

    def _show_frames(self, frames: list[bytes]) -> None:
        if "frames" in self.shows:
            self.lines += [f"    = {frame.hex()}" for frame in frames]


# ---- notation


def parsed(command: str, fields: str) -> m.Message:
    """``PUT number=1 low=1 groups=[...]`` as a message; values are Python's literals, and E1.2 is a fence."""
    kind = KINDS[command]
    parts = FIELD.split(fields)
    values = {
        name: ast.literal_eval(FENCE.sub(lambda fence: str((int(fence[1]) << 32) + int(fence[2])), value))
        for name, value in zip(parts[1::2], parts[2::2], strict=True)
    }
    missing = {"info": {}, "held": [], "resend_below": 0, "version": 1, "tasks": {}, "sends": []}
    missing |= dict.fromkeys(("changes", "again", "last"), False)
    message: m.Message = kind(**{name: values.get(name, missing.get(name)) for name in kind._fields} | values)
    return message


def shown(message: m.Message) -> str:
    """The fields of a message of the broker, in the same notation."""
    fields = message._asdict()
    if isinstance(message, m.Welcome):
        fields["limits"] = "..."
    elif isinstance(message, m.Deliver):
        fields["records"] = [record_shown(each) for each in message.records]
    return " ".join(f"{name}={value_shown(value)}" for name, value in fields.items())


def record_shown(encoded: bytes) -> tuple[Any, ...]:
    """created, options, sequence, payload (the queue is the delivery's)."""
    header = record.header_of(encoded)
    payload = record.payload_of(encoded)
    return header.created_ms, header.options, record.sequence_of(encoded), payload


def value_shown(value: Any) -> str:
    if value == "...":
        return "..."
    return re.sub(
        r"\b\d{10,}\b",
        lambda number: fence_shown(int(number[0])),
        repr(value),
    )


def fence_shown(number: int) -> str:
    return f"E{number >> 32}.{number & 0xFFFFFFFF}" if number < 1 << 40 else str(number)


# ---- the test


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    played = Play(text).run()
    if request.config.getoption("--rewrite-transcripts"):
        path.write_text(played, encoding="utf-8")
        return
    difference = difflib.unified_diff(text.splitlines(), played.splitlines(), "written", "sent", lineterm="")
    assert played == text, "\n".join(difference)


def test_every_command_is_in_a_transcript() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.txt"))
    assert [command for command in KINDS if not re.search(rf"[<>] {command}\b", texts)] == []
