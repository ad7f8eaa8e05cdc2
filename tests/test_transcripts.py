"""Conversations with the broker that a person can read, run with real frames against the engine.

A transcript is a file of lines: ``name> COMMAND {fields}`` is sent, ``name< COMMAND {fields}`` is what must come back,
``* 30s``, ``* cut name`` and ``* restart`` are what happens meanwhile. Fences are written epoch.n; ids, payloads and
results as text. ``REWRITE_TRANSCRIPTS=1 make test ARGS=tests/test_transcripts.py`` writes what comes back now into the
files: read the difference before you keep it.
"""

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zbroker.commit import Commit, Durability
from zbroker.core.core import Core
from zbroker.core.state import Settings
from zbroker.engine import Engine
from zbroker.storage.memory import MemoryStore
from zclient.durations import duration_ms
from zclient.protocol import codec
from zclient.protocol import messages as m
from zclient.protocol.record import payload_of

FOLDER = Path(__file__).parent / "transcripts"
KINDS = {kind.__name__.upper(): kind for kind in codec._COMMANDS}
QUIET = ("PING",)
"""Said every second, and left out."""

LINE = re.compile(r"(?P<peer>[\w-]+)(?P<way>[<>]) (?P<command>\w+) ?(?P<fields>.*)")


class Stage:
    """A broker without sockets, and named connections to it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.random = random.Random(1)
        self.wall, self.now = 1_700_000_000_000, 1_000_000
        self.routes: dict[str, bytes] = {}
        self.connections = 0
        self.engine = self.open()

    def open(self) -> Engine:
        engine = Engine(
            Core(self.store, Settings(), self.random), Commit(self.store, Durability.FSYNC, lambda seconds: None)
        )
        engine.open(self.wall, self.now, b"broker----------")
        self.routes.clear()
        return engine

    def route(self, peer: str) -> bytes:
        if peer not in self.routes:
            self.connections += 1
            self.routes[peer] = b"route-%d" % self.connections
        return self.routes[peer]

    def turn(self, route: bytes = b"", frames: list[bytes] | None = None) -> list[str]:
        """Let the broker have its turns, with one message first; the lines of what it said."""
        core = self.engine.core
        said: list[str] = []
        core.begin(self.wall, self.now)
        if frames is not None:
            self.engine.receive(route, frames)
        while True:
            for outgoing in self.engine.finish(drained=True):
                names = [name for name, known in self.routes.items() if known == outgoing.route]
                if names:
                    said += self.line(names[0], codec.decode(outgoing.frames))
                else:
                    core.unreachable(outgoing.route)
                    if outgoing.fence:
                        core.undelivered(outgoing.fence)
            if core.wanted_in() > 0:
                return said
            core.begin(self.wall, self.now)

    def pass_time(self, ms: int) -> list[str]:
        said = []
        end = self.now + ms
        while self.now < end:
            step = max(1, min(self.engine.core.wanted_in(), end - self.now))
            self.now += step
            self.wall += step
            said += self.turn()
        return said

    @staticmethod
    def line(peer: str, message: m.Message) -> Iterator[str]:
        command = type(message).__name__.upper()
        if command not in QUIET:
            yield f"{peer}< {command} {json.dumps(shown(message))}"


def shown(message: m.Message) -> dict[str, Any]:
    """The fields of a message as people read them."""
    fields = message._asdict()
    if isinstance(message, m.Deliver):
        fields["payloads"] = [payload_of(record) for record in fields.pop("records")]
        fields["payloads"] = [fields["large"].get(n, payload) for n, payload in enumerate(fields["payloads"])]
        del fields["large"]
    if isinstance(message, m.Welcome):
        del fields["limits"]
    readable: dict[str, Any] = text_of(fields)
    return readable


def text_of(value: Any) -> Any:
    if isinstance(value, bytes):
        text = value.decode()
        return text if len(text) <= 60 else f"{text[:10]}... ({len(text)} bytes)"
    if isinstance(value, dict):
        return {key: text_of(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [text_of(entry) for entry in value]
    if type(value) is int and 1 << 32 <= value < 1 << 36:
        return f"{value >> 32}.{value & 0xFFFFFFFF}"
    return value


def fence_of(text: str) -> int:
    epoch, n = text.split(".")
    return (int(epoch) << 32) + int(n)


def ids_of(texts: list[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def frames_of(peer: str, command: str, fields: dict[str, Any]) -> list[bytes]:
    """The frames of what a transcript says is sent. RAW is sent as it stands, a frame a text."""
    if command == "RAW":
        return [bytes.fromhex(frame) for frame in fields["frames"]]
    given = dict(fields)
    if command == "HELLO":
        given = {"version": 1, "capacity": 0, "queues": [], "held": [], "resend_below": 0, "info": {}} | given
        given |= {"incarnation": peer.encode().ljust(16, b"-"), "name": peer}
        given["held"] = [m.Held(fence_of(f), ids_of(started), ids_of(waiting)) for f, started, waiting in given["held"]]
    elif command == "PUT":
        given.setdefault("low", given["number"])
        given["groups"] = [
            m.Group(queue, options, ids_of(ids), ids_of(payloads)) for queue, options, ids, payloads in given["groups"]
        ]
    elif command == "SETTLE":
        given["settlements"] = [
            m.Settlement(fence_of(fence), m.Outcome[outcome.upper()], ids_of(ids), results_of(values))
            for fence, outcome, ids, values in given["settlements"]
        ]
    elif command == "ORDER":
        given.setdefault("low", given["number"])
    if command in ("ASK", "ORDER"):
        arguments = given["arguments"]
        given["arguments"] = {
            name: value.encode() if name == "id" else ids_of(value) if name == "ids" else value
            for name, value in arguments.items()
        }
    if "fences" in given:
        given["fences"] = [fence_of(fence) for fence in given["fences"]]
    if "fence" in given:
        given["fence"] = fence_of(given["fence"])
    if "id" in given:
        given["id"] = given["id"].encode()
    if command in ("WATCH", "UNWATCH"):
        given["ids"] = ids_of(given["ids"])
    return codec.encode(KINDS[command](**given))


def results_of(values: list[Any] | None) -> list[Any] | None:
    return values and [value.encode() if isinstance(value, str) else value for value in values]


def played(transcript: str) -> str:
    """The transcript with what the broker says now in the place of what stands there."""
    stage = Stage()
    lines: list[str] = []
    for line in transcript.splitlines():
        match = LINE.fullmatch(line)
        if match and match["way"] == "<":
            continue
        lines.append(line)
        if match:
            frames = frames_of(match["peer"], match["command"], json.loads(match["fields"] or "{}"))
            lines += stage.turn(stage.route(match["peer"]), frames)
        elif line == "* restart":
            stage.engine = stage.open()
        elif line.startswith("* cut "):
            stage.routes.pop(line.removeprefix("* cut "))
        elif line.startswith("* "):
            lines += stage.pass_time(duration_ms(line.removeprefix("* ")))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    expected = path.read_text(encoding="utf-8")
    actual = played(expected)
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text(actual, encoding="utf-8")
    assert actual == expected


def test_there_are_transcripts() -> None:
    assert len(list(FOLDER.glob("*.txt"))) >= 10
