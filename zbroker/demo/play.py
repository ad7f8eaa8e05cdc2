"""The demo itself: what is sent, who is killed and when, and how it is checked in the end.

Nobody is killed by the clock. Each kill waits for a number of results, so that it meets full work on a slow machine as
on a fast one.
"""

import asyncio
import platform
import shutil
import signal
import sysconfig
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zbroker.demo.screen import Screen
from zbroker.demo.stage import DemoFailed, Program, Stage
from zbroker.demo.verdict import Story, faults, show_found, show_redelivered
from zclient import AsyncClient, AsyncJobHandle, ZError
from zclient.cli.common import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED
from zclient.errors import InvalidArgument

MODULE = "zworker.examples.standard_library"
INDEX, SUMMARY = "library.index", "library.summary"

MOST_FILES = 800
"""Files that are indexed at most: a sample of them, if the library has more."""

PATIENCE_SECONDS = 120.0
"""For all results together, and for the summary."""

LOOK_SECONDS = 0.1
"""Between two looks at the broker's counters."""

NOT_OURS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders that are no part of the library, or only its tests: some of those are no valid Python, on purpose."""


def run_demo(keep: str | None = None, *, most_files: int = MOST_FILES) -> int:
    """Run the demo and return its exit code: 0 if everything was as it should be, 1 if not, 130 if interrupted.

    ``keep`` is a directory for data and logs, new or empty; without it they are removed, unless something went wrong.
    Raises `InvalidArgument` for a directory that holds something, and `DemoFailed` if there is no library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = library_files(root, most_files)
    directory = _directory(keep)
    code = EXIT_FAILED
    with Screen(len(files)) as screen:
        screen.title(f"The standard library of Python {platform.python_version()}: {len(files)} files, a job for each")
        try:
            asyncio.run(_perform(Play(directory, screen, root, files)))
            code = EXIT_DONE
        except (KeyboardInterrupt, asyncio.CancelledError):
            screen.say("stopped", "interrupted; all processes are ended")
            code = EXIT_INTERRUPTED
        except ZError as error:
            screen.say("failed", str(error))
        finally:
            if keep is None and code != EXIT_FAILED:
                shutil.rmtree(directory)
            else:
                screen.say("kept", f"data and logs are in {directory}")
    return code


def library_files(root: Path, most: int) -> list[str]:
    """The library's source files, as paths below ``root``; evenly chosen, if there are more than ``most``."""
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    files = sorted(path.as_posix() for path in paths if not NOT_OURS & set(path.parts))
    if not files:
        raise DemoFailed(f"this Python keeps no source files of its library in {root}")
    return files[:: -(-len(files) // most)]


def _directory(keep: str | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="zbroker-demo-"))
    directory = Path(keep).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InvalidArgument(f"{directory} is not empty: the demo begins with a fresh directory")
    return directory


async def _perform(play: "Play") -> None:
    """Run the play so that SIGTERM and a closed terminal end it as Ctrl-C does: with all its processes."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
    async with play.stage:
        await play.run()


class Play:
    """One performance. It is the producer; the broker and the workers are on the stage."""

    def __init__(self, directory: Path, screen: Screen, root: Path, files: list[str]) -> None:
        self.stage = Stage(directory)
        self._screen = screen
        self._root = str(root)
        self._files = files
        self._story = Story()
        self._found: list[Any] = []
        self._came = asyncio.Condition()
        self._workers: list[Program] = []

    async def run(self) -> None:
        """Everything, from the first process to the verdict. Raises `DemoFailed`, or what the client raises."""
        broker = await self.stage.start_broker()
        self._screen.say("broker", f"process {broker.pid} serves {self.stage.endpoint}")
        for name in ("worker a", "worker b", "worker c"):
            await self._start_worker(name)
        self._screen.say("workers", ", ".join(f"{worker.name} is {worker.pid}" for worker in self._workers))
        async with AsyncClient(self.stage.endpoint, timeout=PATIENCE_SECONDS) as client:
            broker = await self._index(client, broker)
            await self._summarise(client)
        self._screen.end_bar()
        for program in (*self._workers, broker):
            await program.stop()
        self._screen.say("stop", "workers and broker ended on SIGTERM, each with exit code 0")
        await self._check()

    # ---- the work

    async def _index(self, client: AsyncClient, broker: Program) -> Program:
        """Send the jobs and wait for all results, while things go wrong; the broker that serves afterwards."""
        payloads = [{"root": self._root, "path": path} for path in self._files]
        jobs = await client.send_many(INDEX, payloads)
        self._story.paths = dict(zip(jobs.ids, self._files, strict=True))
        self._screen.say("client", f"sent {len(jobs)} jobs; each is confirmed, so it is on disk")
        watching = asyncio.create_task(self._watch(client))
        trouble = asyncio.create_task(self._cause_trouble(client, broker))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(trouble, *(self._collect(job) for job in jobs))
        except TimeoutError:
            raise DemoFailed(
                f"after {PATIENCE_SECONDS:g} s {len(jobs) - len(self._found)} results are missing"
            ) from None
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        self._screen.say("client", f"has all {len(self._found)} results")
        return trouble.result()

    async def _collect(self, job: AsyncJobHandle) -> None:
        """Wait for one result. The wait outlives a broken connection and a broker that starts again."""
        found = await job.result()
        async with self._came:
            self._found.append(found)
            self._screen.move(len(self._found))
            self._came.notify_all()

    async def _summarise(self, client: AsyncClient) -> None:
        job = await client.send(SUMMARY, {"files": self._found})
        self._story.summary = await job.result(timeout=PATIENCE_SECONDS)
        self._screen.say("client", "sent one more job, which added the results up")
        self._story.jobs = [status async for status in client.jobs(INDEX, state="done", limit=None)]
        self._story.totals = (await client.stats())["totals"]

    async def _watch(self, client: AsyncClient) -> None:
        """Keep what stands beside the bar up to date. A broker that is away just answers later."""
        while True:
            asked = asyncio.create_task(client.stats())
            try:
                if not (await asyncio.wait([asked], timeout=3 * LOOK_SECONDS))[0]:
                    self._screen.tell("no broker; the waits go on")
                stats = await asked
            finally:
                asked.cancel()
            jobs = stats["jobs"]
            self._screen.tell(f"{jobs['leased']} running, {jobs['ready']} waiting, {stats['workers']} workers")
            await asyncio.sleep(LOOK_SECONDS)

    # ---- the trouble

    async def _cause_trouble(self, client: AsyncClient, broker: Program) -> Program:
        """Kill a worker and then the broker, each in the middle of work, and start another one each time."""
        jobs = len(self._files)
        await self._results(jobs // 20)
        await self._kill_a_worker(client)
        await self._start_worker("worker d")
        # The broker is killed when it has noticed the loss, and half of the work is done. On a machine so fast that
        # this would be too late, it is killed before; the jobs are on disk as handed over to a worker that is no more.
        while len(self._found) < jobs * 5 // 6:
            lost = (await client.stats())["totals"]["lost"]
            if lost:
                self._screen.say("broker", f"notices that {self._story.victim} is gone: {lost} jobs go to others")
                break
            await asyncio.sleep(LOOK_SECONDS)
        await self._results(jobs // 2)
        return await self._kill_the_broker(broker)

    async def _kill_a_worker(self, client: AsyncClient) -> None:
        """Kill the worker that has most jobs in its hands."""
        leased = {row["info"].get("pid"): row["leased"] for row in await client.workers()}
        victim = max(self._workers, key=lambda worker: leased.get(worker.pid, 0))
        await victim.kill()
        self._workers.remove(victim)
        self._story.victim = victim.name
        self._screen.say(
            "kill -9", f"{victim.name}, with {leased.get(victim.pid, 0)} jobs in its hands; worker d is started"
        )

    async def _kill_the_broker(self, broker: Program) -> Program:
        """Kill the broker, and start another one on its data and port."""
        await broker.kill()
        self._story.broker_killed_at = datetime.now(UTC)
        waits = len(self._files) - len(self._found)
        self._screen.say("kill -9", f"broker, with {len(self._found)} results delivered and {waits} awaited")
        broker = await self.stage.start_broker()
        opened = await self.stage.opened()
        self._story.left_leased = opened["leased"]
        self._screen.say(
            "broker",
            f"process {broker.pid} takes over; on disk: {opened['ready']} wait, {opened['leased']} with workers",
        )
        return broker

    async def _start_worker(self, name: str) -> None:
        worker = await self.stage.start_worker(name, MODULE)
        self._workers.append(worker)
        self._story.workers = {**self._story.workers, worker.pid: name}

    async def _results(self, number: int) -> None:
        """Wait until so many results are there."""
        async with self._came:
            await self._came.wait_for(lambda: len(self._found) >= number)

    # ---- the verdict

    async def _check(self) -> None:
        """Compute the same without a broker, compare, and show it all."""
        started = time.monotonic()
        direct = await self.stage.ask("one process", MODULE, self._root, "\n".join(self._files))
        seconds = time.monotonic() - started
        self._screen.say("check", f"the same computed directly, in one process, in {seconds:.1f}s")
        show_found(self._screen, self._story.summary)
        show_redelivered(self._screen, self._story)
        found = faults(self._story, direct, self.stage.data)
        for fault in found:
            self._screen.say("failed", fault)
        if found:
            raise DemoFailed("what was found is not what it has to be")
        self._screen.gap()
        self._screen.say("equal", "the jobs found what one process finds; the data is sound")
