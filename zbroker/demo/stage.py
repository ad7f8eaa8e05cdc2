"""The processes of the demo: started, killed, stopped, and none left behind. It knows nothing of jobs.

Everything that they write is below one directory: ``data``, a log for each of them, and the broker's ``zbroker.toml``.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from zclient.errors import ZError

READY_SECONDS = 30.0
"""For a broker to open its directory and say that it serves."""

STOP_SECONDS = 15.0
"""For a broker or worker to end after SIGTERM."""

LOG_LOOK_SECONDS = 0.02
"""Between two looks at a log."""

PORTS = range(20_000, 30_000)
"""Below those that systems give to outgoing connections: while the broker is away, no peer that tries to reconnect can
be given its very port and connect to itself."""


class DemoFailed(ZError):
    """The demo did not show what it is there to show."""

    exit_code = 1
    code = "demo_failed"


class Program:
    """One running process of the demo."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process

    @property
    def pid(self) -> int:
        """Its number, which the broker's list of workers shows too."""
        return self.process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    async def kill(self) -> None:
        """End it with SIGKILL, which no process can see coming."""
        if self.runs:
            # It may have ended meanwhile, and asyncio has not noticed.
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """Ask it to end with SIGTERM. Raises `DemoFailed` if it ends with an error, or not in time."""
        if not self.runs:
            raise DemoFailed(f"{self.name} ended by itself, with exit code {self.process.returncode}")
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await self.process.wait()
        except TimeoutError:
            raise DemoFailed(f"{self.name} did not stop within {STOP_SECONDS:g} s of SIGTERM") from None
        if code != 0:
            raise DemoFailed(f"{self.name} ended with exit code {code} after SIGTERM")


class Stage:
    """Starts programs, and kills at the end of its ``async with`` block whatever still runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.endpoint = f"tcp://127.0.0.1:{_free_port()}"
        self._config = directory / "zbroker.toml"
        self._config.write_text(
            f'data = {json.dumps(str(self.data))}\nbind = "{self.endpoint}"\nlog_format = "json"\n', encoding="utf-8"
        )
        self._programs: list[Program] = []
        self._starts = 0  # of the broker

    async def start_broker(self) -> Program:
        """Start a broker on the directory's data and port, the same each time; returns when it serves."""
        broker = await self._start("broker", "-m", "zbroker", "start", "--config", str(self._config), stdout=PIPE)
        told = b""
        if broker.process.stdout is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    told = await broker.process.stdout.readline()
        if told.decode().split() != ["ready", self.endpoint]:
            raise DemoFailed(f"the broker did not start: {self._last_words('broker')}")
        self._starts += 1
        return broker

    async def opened(self) -> Mapping[str, Any]:
        """What the broker logged when it opened the directory, at its last start: which jobs it found there."""
        entries: list[Mapping[str, Any]] = []
        async with asyncio.timeout(READY_SECONDS):
            while len(entries) < self._starts:
                await asyncio.sleep(LOG_LOOK_SECONDS)
                entries = list(self._broker_log("opened"))
        return entries[-1]

    async def start_worker(self, name: str, module: str) -> Program:
        """Start a worker process that runs the tasks of ``module``; it connects by itself."""
        return await self._start(name, "-m", "zworker", "run", module, "--broker", self.endpoint, stdout=DEVNULL)

    async def ask(self, name: str, module: str, argument: str, text: str) -> Any:
        """Run a module as a program with ``text`` on its stdin; the JSON that it prints."""
        program = await self._start(name, "-m", module, argument, stdin=PIPE, stdout=PIPE)
        told, _ = await program.process.communicate(text.encode())
        if program.process.returncode != 0:
            raise DemoFailed(f"{module} failed: {self._last_words(name)}")
        return json.loads(told)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs:
            await program.kill()

    async def _start(self, name: str, *arguments: str, stdout: int, stdin: int | IO[bytes] = DEVNULL) -> Program:
        # A session of their own: Ctrl-C in the terminal reaches the demo alone, which then ends them. Settings that
        # the person at the terminal has made for brokers of their own are not for this one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ZBROKER_")}
        with self._log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=stdin,
                stdout=stdout,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        program = Program(name, process)
        self._programs.append(program)
        return program

    def _broker_log(self, event: str) -> Iterator[Mapping[str, Any]]:
        """What the broker logged of one kind, over all its lives."""
        for line in self._log("broker").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line that SIGKILL cut off, or that is being written
                entry = json.loads(line)
                if entry.get("event") == event:
                    yield entry

    def _log(self, name: str) -> Path:
        return self.directory / f"{name.replace(' ', '-')}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"


def _free_port() -> int:
    """A port of this host that nobody listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DemoFailed("no port is free to listen on")
