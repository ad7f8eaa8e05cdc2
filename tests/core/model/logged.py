"""A bench that tells the model each delivery as it leaves, received or not; and the model's own rates and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.core.harness import Bench
from zbroker.core.keys import BURST_MS
from zclient.protocol import messages as m
from zclient.protocol.record import Header, encode_header


class LoggedBench(Bench):
    """Calls ``on_deliver`` for each delivery that is sent, also to a connection that is gone."""

    on_deliver: Callable[[m.Deliver], None] | None = None

    def _deliver(self, route: bytes, message: m.Message) -> None:
        if isinstance(message, m.Deliver) and self.on_deliver is not None:
            self.on_deliver(message)
        super()._deliver(route, message)


@dataclass
class Sent:
    """What the model knows of a job that was stored."""

    id: bytes
    queue: str
    options: dict[str, Any]
    expires_ms: int  # wall clock; 0: never


@dataclass
class Meter:
    """What a rate let through, counted without the broker: a list of times, and the bound on any stretch of them."""

    jobs: int
    per_ms: int
    times: list[int] = field(default_factory=list)

    def passed(self, now: int, jobs: int) -> None:
        self.times += [now] * jobs
        times = self.times
        for first, start in enumerate(times):
            allowed = self.allowed(now - start)
            assert len(times) - first <= allowed, f"{len(times) - first} jobs in {now - start} ms; at most {allowed}"

    def allowed(self, ms: int) -> int:
        """Jobs in a stretch of time: what the rate says, and the burst."""
        interval = self.per_ms / self.jobs
        return int((ms + max(0.0, BURST_MS - interval)) / interval) + 1


def meter(rate: Any) -> Meter | None:
    return Meter(*rate) if rate else None


def stored_size(sent: Sent, created_ms: int, payload: bytes) -> int:
    """What a small job takes on disk, by the layout of the record: header, sequence, payload."""
    kept = {name: value for name, value in sent.options.items() if name not in ("delay", "at")}
    return len(encode_header(Header(sent.queue, created_ms, kept, False, sent.expires_ms))) + 8 + len(payload)


def longest_wait(backoff: Any, least: int, most: int, runs: int) -> int:
    """The wait before the next try, if chance takes nothing off."""
    if isinstance(backoff, list):
        return int(backoff[-1] if runs > len(backoff) else backoff[runs - 1])
    grown = {"exponential": least * 2 ** (runs - 1), "linear": least * runs, "constant": least}
    return int(min(most, grown[backoff]))
