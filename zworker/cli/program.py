"""The program `zworker`: run the tasks of a module, or a program for each job of a queue.

It owns how a worker is found in a module and which of its settings the command line overrides.
"""

import importlib
import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zclient.cli.common import VerbGroup, broker_options, duration, settings, usage, version_option

if TYPE_CHECKING:
    from zworker.worker import Worker

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _worker_options(function: _Decorated) -> _Decorated:
    """What every verb that runs a worker takes."""
    for option in (
        click.option(
            "--log-format",
            type=click.Choice(("text", "json")),
            default="text",
            show_default=True,
            help="How events are written to stderr.",
        ),
        click.option(
            "--connect-timeout",
            type=duration,
            metavar="DURATION",
            help="Give up if the broker does not answer in this time at the start.  [default: try for ever]",
        ),
        click.option(
            "--drain-timeout",
            type=duration,
            metavar="DURATION",
            help="What running jobs get to end after SIGTERM.  [default: 30s]",
        ),
        broker_options,
    ):
        function = option(function)
    return function


@click.group(
    "zworker",
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 failed; 2 usage; 3 the broker was not reached in time; 4 refused.",
)
@version_option
@broker_options
def program() -> None:
    """Serve queues of a running zbroker.

    SIGTERM and Ctrl-C drain: no new jobs, and running ones may end. A second one gives them back and ends at once.
    """


@program.command("run")
@click.argument("target", metavar="MODULE[:ATTR]")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Jobs at once, in place of the code's.")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Keep this many processes alive.")
@click.option("--reload", is_flag=True, help="Start again when a Python file below the current folder changes.")
@click.option("--supervised", is_flag=True, hidden=True)
@_worker_options
def run_module(
    target: str,
    concurrency: int | None,
    processes: int | None,
    reload: bool,
    supervised: bool,
    drain_timeout: float | None,
    connect_timeout: float | None,
    log_format: str,
) -> None:
    """Run the worker of a Python module, found from the current folder.

    ATTR names it; without, it is the only Worker in the module, or the one called `worker`.
    """
    _log(log_format)
    if (processes is not None or reload) and not supervised:
        from zworker.supervisor import Supervisor

        command = [sys.executable, "-m", "zworker", *sys.argv[1:], "--supervised"]
        raise click.exceptions.Exit(Supervisor(command, processes or 1, Path.cwd() if reload else None).run())
    worker = find_worker(target)
    if concurrency is not None:
        worker.concurrency = concurrency
    if supervised:
        from zworker.supervisor import end_with_parent

        threading.Thread(
            target=end_with_parent, args=(lambda: worker.stop(wait=False),), name="zworker-parent", daemon=True
        ).start()
    _serve(worker, drain_timeout, connect_timeout)


@program.command("exec", context_settings={"ignore_unknown_options": False})
@click.argument("queue")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Jobs at once.")
@click.option("--timeout", type=duration, metavar="DURATION", help="Kill a program that runs longer: a failure.")
@click.option("--max-attempts", type=click.IntRange(1), metavar="N", help="Runs of a job; the last failure is final.")
@click.option("--backoff", metavar="HOW", help="exponential, linear, constant, or the waits themselves: 1s,10s,1m.")
@click.option("--backoff-min", type=duration, metavar="DURATION", help="Wait before the first retry.")
@click.option("--backoff-max", type=duration, metavar="DURATION", help="Longest wait before a retry.")
@click.option("--backoff-jitter", type=float, metavar="SHARE", help="Share of a wait that chance may take off, 0 to 1.")
@_worker_options
def run_command(
    queue: str,
    command: tuple[str, ...],
    concurrency: int,
    timeout: float | None,
    max_attempts: int | None,
    backoff: str | None,
    backoff_min: float | None,
    backoff_max: float | None,
    backoff_jitter: float | None,
    drain_timeout: float | None,
    connect_timeout: float | None,
    log_format: str,
) -> None:
    """Run a program for each job of a queue.

    The payload is on its stdin: bytes as they are, anything else as JSON. What it prints is the result. Exit code 0 is
    success; after any other the job is tried again. ZBROKER_JOB_ID, ZBROKER_QUEUE, ZBROKER_ATTEMPT and ZBROKER_FENCE
    are in its environment. It is killed when the job is cancelled or no longer this worker's.
    """
    from zclient.cli.output import json_text
    from zworker.programs import program_handler
    from zworker.worker import Worker

    _log(log_format)
    if shutil.which(command[0]) is None:
        raise usage(f"there is no program {command[0]!r}")
    worker = Worker(concurrency=concurrency)
    handler = program_handler(command, lambda payload: json_text(payload, indent=None))
    worker.task(
        queue,
        timeout=timeout,
        max_attempts=max_attempts,
        backoff=backoff,
        backoff_min=backoff_min,
        backoff_max=backoff_max,
        backoff_jitter=backoff_jitter,
    )(handler)
    _serve(worker, drain_timeout, connect_timeout, endpoints_of_code=False)


def find_worker(target: str) -> "Worker":
    """The worker that ``MODULE[:ATTR]`` names; a usage error if there is none, or more than one."""
    from zworker.worker import Worker

    name, _, attribute = target.partition(":")
    if name.endswith(".py") or "/" in name:
        raise usage(f"a module is named as in an import: {name.removesuffix('.py').strip('./').replace('/', '.')}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise usage(f"there is no module {name} in {os.getcwd()} or on Python's path") from None
        raise
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, Worker):
            raise usage(f"{name} has no Worker called {attribute}")
        return found
    workers = {id(value): (key, value) for key, value in vars(module).items() if isinstance(value, Worker)}
    if len(workers) == 1:
        return next(iter(workers.values()))[1]
    if isinstance(module.__dict__.get("worker"), Worker):
        return module.__dict__["worker"]  # type: ignore[no-any-return]
    names = ", ".join(key for key, _ in workers.values())
    raise usage(f"{name} has several workers: name one of {names}" if workers else f"{name} has no Worker")


def _log(style: str) -> None:
    from zworker.logs import log_to_stderr

    log_to_stderr(style)


def _serve(
    worker: "Worker", drain_timeout: float | None, connect_timeout: float | None, *, endpoints_of_code: bool = True
) -> None:
    """Run the worker with what the command line says in place of the code."""
    given = settings()
    if given.endpoints or not endpoints_of_code:
        worker.endpoints = given.broker
    if given.credentials is not None:
        worker.credentials = given.credentials
    if drain_timeout is not None:
        worker.drain_timeout = drain_timeout
    worker.run(connect_timeout=connect_timeout)
