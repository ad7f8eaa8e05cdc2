"""The servers of other systems, started from what the machine has: each in a fresh directory on disk, on a free port.

``Missing`` says what there would have to be. Durability is named for all alike: ``fsync`` (on disk before a
confirmation), or ``default`` (what the system does if nobody says anything).
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START_S = 60.0


class Missing(Exception):
    """A program or library that a peer needs is not on this machine."""


def need(*modules: str) -> None:
    """Raises `Missing` unless the Python libraries are installed."""
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    if lacking:
        raise Missing(f"no Python library {', '.join(lacking)}: make peers")


def program(name: str, *others: str) -> str:
    """The path of a program; beside the interpreter, in the PATH, or at one of the other places."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    found = found or next((other for other in others if os.access(other, os.X_OK)), None)
    if found is None:
        raise Missing(f"no program {name}")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int, directory: str, env: dict[str, str] | None = None) -> Iterator[int]:
    """The server until the block ends; yields its port once it takes connections."""
    log = Path(directory, "server.log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=directory, env=env, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def _directory() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="zbroker-bench-", ignore_cleanup_errors=True)


@contextlib.contextmanager
def redis(durability: str) -> Iterator[int]:
    """Redis with an append-only file, synced at each write; as it comes it has none, which is no queue to compare
    with, so that ``default`` means a sync each second."""
    command = program("redis-server")
    port = free_port()
    policy = "always" if durability == "fsync" else "everysec"
    with _directory() as directory:
        options = [
            "--port",
            str(port),
            "--dir",
            directory,
            "--appendonly",
            "yes",
            "--appendfsync",
            policy,
            "--save",
            "",
        ]
        with running([command, *options], port, directory):
            yield port


@contextlib.contextmanager
def rabbitmq(durability: str) -> Iterator[int]:
    """RabbitMQ. Whether a message is on disk before its confirm is for the publisher to say, and for the queue."""
    command = program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/sbin/rabbitmq-server")
    script = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one in the PATH changes the user
    port = free_port()
    with _directory() as directory:
        env = {
            **os.environ,
            "HOME": directory,
            "RABBITMQ_NODENAME": f"bench{port}@localhost",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": f"{directory}/db",
            "RABBITMQ_LOG_BASE": f"{directory}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }
        with running([script if os.access(script, os.X_OK) else command], port, directory, env):
            yield port


@contextlib.contextmanager
def beanstalkd(durability: str) -> Iterator[int]:
    """beanstalkd with its log; ``-f0`` syncs each write, otherwise it is every 50 ms."""
    command = program("beanstalkd")
    port = free_port()
    sync = ["-f0"] if durability == "fsync" else []
    with _directory() as directory, running([command, "-p", str(port), "-b", directory, *sync], port, directory):
        yield port


@contextlib.contextmanager
def nats(durability: str) -> Iterator[int]:
    """NATS with JetStream on files; synced at each write, or as it comes every two minutes."""
    command = program("nats-server")
    port = free_port()
    with _directory() as directory:
        sync = "sync_interval: always" if durability == "fsync" else ""
        config = Path(directory, "nats.conf")
        config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{directory}/js"\n {sync} }}\n')
        with running([command, "-c", str(config)], port, directory):
            yield port
