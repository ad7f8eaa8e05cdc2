"""The broker's settings: one table; flag > environment > TOML > default. Where each value came from is kept.

It reads files and the environment, and checks what they say; it starts nothing.
"""

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from zbroker import limits
from zbroker.calendar import Calendar
from zbroker.commit import Durability
from zbroker.core.policy import QueuePolicy
from zbroker.core.state import Settings
from zclient.durations import duration_ms, format_duration
from zclient.errors import InvalidArgument
from zclient.options import queue_options, read_value, written_value
from zclient.protocol import limits as wire
from zclient.protocol.options import QUEUE_OPTIONS, Option
from zclient.schedules import schedule_arguments

_SIZE = re.compile(r"(\d{1,18})\s*(B|[KMG]iB|[KMG]B)?", re.ASCII)
_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"a text, not {value!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not value or not all(isinstance(item, str) and item for item in value):
        raise InvalidArgument(f"a text or a list of texts, not {value!r}")
    return tuple(item.strip() for item in value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return value.lower() in ("1", "true", "yes", "on")
    raise InvalidArgument(f"true or false, not {value!r}")


def _size(low: int, high: int) -> Callable[[Any], int]:
    """Bytes: a number, or a number with KiB, MiB, GiB (or KB, MB, GB) behind it."""

    def check(value: Any) -> int:
        size = value
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            size = int(match[1]) * _UNITS[match[2] or ""]
        if isinstance(size, bool) or not isinstance(size, int) or not low <= size <= high:
            raise InvalidArgument(f"bytes, such as 1048576 or 1MiB, from {low} to {high}, not {value!r:.60}")
        return size

    return check


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value.strip(), re.ASCII):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise InvalidArgument(f"a whole number from {low} to {high}, not {value!r:.60}")
        return number

    return check


@dataclass(frozen=True)
class _Duration:
    """Milliseconds between two bounds, written as people write durations."""

    least_ms: int
    most_ms: int = 366 * 86_400_000

    def __call__(self, value: Any) -> int:
        ms = duration_ms(value)
        if not self.least_ms <= ms <= self.most_ms:
            least, most = format_duration(self.least_ms / 1000), format_duration(self.most_ms / 1000)
            raise InvalidArgument(f"from {least} to {most}, not {value!r}")
        return ms


_ENDPOINT = re.compile(r"(?:tcp://(?P<host>[^\s:/]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5}|\*)|ipc://\S+)")


def _endpoints(value: Any) -> tuple[str, ...]:
    endpoints = _texts(value)
    for endpoint in endpoints:
        match = _ENDPOINT.fullmatch(endpoint)
        port = match["port"] if match else None
        if not match or (port not in (None, "*") and not 0 < int(port or 0) < 1 << 16):
            raise InvalidArgument(f"tcp://HOST:PORT (a port from 1 to 65535, or *) or ipc://PATH, not {endpoint!r}")
    return endpoints


def _one_of(*names: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names:
            raise InvalidArgument(f"one of {', '.join(names)}, not {value!r}")
        return str(value)

    return check


class Setting(NamedTuple):
    """One setting. ``check`` turns what was written into its value, or raises `InvalidArgument`."""

    default: Any
    check: Callable[[Any], Any]
    help: str


def _of_queues(option: Option) -> Setting:
    """An option of queues, as the setting that says what holds for a queue that says nothing."""
    return Setting(
        written_value(option, option.default), partial(read_value, option), f"default of queues: {option.help}"
    )


def _maps(value: Any, wanted: str) -> Mapping[str, Mapping[str, Any]]:
    """A table of tables, or the JSON of one; `InvalidArgument` says what was wanted."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except ValueError:
            raise InvalidArgument(f"{wanted}, not {value!r:.60}") from None
    if not isinstance(found, Mapping) or not all(isinstance(each, Mapping) for each in found.values()):
        raise InvalidArgument(f"{wanted}, not {found!r:.60}")
    return found


def _schedules(value: Any) -> dict[str, dict[str, Any]]:
    """Schedules by name, as the wire has them. In a variable they are JSON."""
    declared: dict[str, dict[str, Any]] = {}
    for name, written in _maps(value, "a map from names to schedules").items():
        if "queue" not in written:
            raise InvalidArgument(f"{name}: a schedule has a queue, to which its jobs come")
        try:
            arguments = declared[name] = schedule_arguments(name, **written)
        except (InvalidArgument, TypeError) as error:
            raise InvalidArgument(f"{name}: {error}") from None
        fault = Calendar().fault(arguments.get("cron", "* * * * *"), arguments["zone"])
        if fault is not None:
            raise InvalidArgument(f"{name}: {fault}")
    return declared


def _queues(value: Any) -> dict[str, dict[str, Any]]:
    """Options of queues by name, as the wire has them. In a variable they are JSON."""
    declared: dict[str, dict[str, Any]] = {}
    for name, options in _maps(value, "a map from queues to their options").items():
        fault = wire.queue_name_fault(name)
        if fault is not None:
            raise InvalidArgument(fault)
        try:
            declared[name] = queue_options(options)
        except InvalidArgument as error:
            raise InvalidArgument(f"{name}: {error}") from None
    return declared


def _refuse_circles(declared: Mapping[str, Mapping[str, Any]], everywhere: str) -> None:
    """Raises `InvalidArgument` if dead jobs would come back to a queue. ``everywhere``: where those of a queue go that
    says nothing; that one keeps its own."""
    for name, options in declared.items():
        seen, target = {name}, options.get("dead_to", everywhere if everywhere != name else "")
        while target:
            if target in seen:
                raise InvalidArgument(f"queues: {name}: dead_to: its dead jobs would come back to {target}")
            seen.add(target)
            following = declared.get(target, {}).get("dead_to", everywhere)
            target = following if following != target else ""


SETTINGS: dict[str, Setting] = {
    "data": Setting("zbroker-data", _text, "directory of the jobs"),
    "bind": Setting(("tcp://127.0.0.1:5555",), _endpoints, "endpoints to listen on"),
    "durability": Setting(
        "fsync", _one_of(*Durability), "what a confirmed job survives: power loss, the process, nothing"
    ),
    "store": Setting("rocksdb", _text, "which store keeps the jobs"),
    "insecure": Setting(False, _flag, "listen beyond this host without credentials"),
    "log_format": Setting("text", _one_of("text", "json"), "how events are written to stderr"),
    "max_payload": Setting(
        wire.MAX_PAYLOAD_BYTES, _size(1024, wire.MAX_FRAME_BYTES // 2), "largest payload or result, in bytes"
    ),
    "max_peers": Setting(limits.MAX_PEERS, _whole(1, 1_000_000), "producers and workers at a time"),
    "disk_floor": Setting(256 << 20, _size(0, 1 << 50), "free bytes on disk below which no new jobs are taken"),
    "drain_timeout": Setting("5s", _Duration(0), "how long a stop waits for running jobs; workers keep them beyond it"),
    "grace": Setting("1s", _Duration(0), "for a worker whose connection broke to come back"),
    "return_time": Setting("5s", _Duration(0), "for workers to come back after a start of the broker"),
    "heartbeat_interval": Setting("2s", _Duration(10, 600_000), "between heartbeats on a silent connection"),
    "heartbeat_timeout": Setting("8s", _Duration(20, 3_600_000), "silence after which a connection is cut"),
    "keep_done_count": Setting(100_000, _whole(0, 100_000_000), "finished jobs kept at most, all queues together"),
    **{name: _of_queues(option) for name, option in QUEUE_OPTIONS.items()},
    "queues": Setting({}, _queues, "options of single queues: a table [queues.NAME] for each in the file"),
    "schedules": Setting({}, _schedules, "schedules: a table [schedules.NAME] for each in the file"),
}

ENVIRONMENT_PREFIX = "ZBROKER_"
DEFAULT_FILE = "zbroker.toml"


@dataclass(frozen=True)
class Config:
    """Values by name, checked, and where each came from."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def store(self) -> str:
        """The name of the store: without a disk there is one only."""
        return "memory" if self["durability"] == Durability.MEMORY else str(self["store"])

    def core(self) -> Settings:
        """What the core is told."""
        values = self.values
        policy = QueuePolicy().with_options({name: values[name] for name in QUEUE_OPTIONS})
        return Settings(
            policy=policy,
            sources={name: self.sources[name] for name in QUEUE_OPTIONS},
            queues=values["queues"],
            schedules=values["schedules"],
            calendar=Calendar(),
            grace_ms=values["grace"],
            return_ms=values["return_time"],
            cut_ms=min(limits.CUT_MS, max(0, values["heartbeat_timeout"] - values["heartbeat_interval"])),
            max_payload=values["max_payload"],
            keep_done_count=values["keep_done_count"],
            max_peers=values["max_peers"],
            durability=str(values["durability"]),
            store=self.store,
        )


def load_config(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ, file: str | Path | None = None
) -> Config:
    """The settings in force. `InvalidArgument` for an unknown key or a value that cannot be.

    ``flags`` holds what was given on the command line or as arguments; None means not given. ``file`` is the TOML file;
    without it, ``zbroker.toml`` in the current directory, if there is one.
    """
    return _settled(flags, environment, _read_file(file), str(file or DEFAULT_FILE))


def given_config(settings: Mapping[str, Any]) -> Config:
    """The settings given by name, over the defaults: for a broker inside a program, which says itself what it wants.

    The environment and a file that happens to lie in the current directory have no say. Raises as `load_config` does.
    """
    return _settled(settings, {}, {}, "")


def _settled(flags: Mapping[str, Any], environment: Mapping[str, str], written: Mapping[str, Any], file: str) -> Config:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        variable = ENVIRONMENT_PREFIX + name.upper()
        if flags.get(name) is not None:
            value, source = flags[name], "argument"
        elif variable in environment:
            value, source = environment[variable], variable
        elif name in written:
            value, source = written[name], file
        else:
            value, source = setting.default, "default"
        try:
            values[name] = setting.check(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"{name} ({source}): {error}") from None
        sources[name] = source
    unknown = flags.keys() - SETTINGS.keys()
    if unknown:
        raise InvalidArgument(f"no such setting: {min(unknown)}; `zbroker config` lists them")
    _refuse_circles(values["queues"], values["dead_to"])
    return Config(values, sources)


def _read_file(file: str | Path | None) -> dict[str, Any]:
    path = Path(file or DEFAULT_FILE)
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file is None:
            return {}
        raise InvalidArgument(f"there is no configuration file {path}") from None
    except (OSError, ValueError) as error:  # it is no UTF-8, no TOML, or has a number that is too long
        raise InvalidArgument(f"{path}: {error}") from None
    unknown = written.keys() - SETTINGS.keys()
    if unknown:
        raise InvalidArgument(f"{path}: no such setting: {min(unknown)}; `zbroker config` lists them")
    return written


def shown(name: str, value: Any) -> Any:
    """A value as people write it."""
    if name in QUEUE_OPTIONS:
        return written_value(QUEUE_OPTIONS[name], value)
    if name == "schedules":
        return {schedule: _shown_schedule(written) for schedule, written in value.items()}
    if name == "queues":
        return {
            queue: {option: written_value(QUEUE_OPTIONS[option], one) for option, one in options.items()}
            for queue, options in value.items()
        }
    if isinstance(SETTINGS[name].check, _Duration):
        return format_duration(value / 1000)
    return list(value) if isinstance(value, tuple) else value


def _shown_schedule(arguments: Mapping[str, Any]) -> dict[str, Any]:
    when = arguments.get("cron") or f"every {format_duration(arguments['every'] / 1000)}"
    return {"when": when, "tz": arguments["zone"], "queue": arguments["queue"]}


def is_loopback(endpoint: str) -> bool:
    """Whether only this host can connect to the endpoint."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
