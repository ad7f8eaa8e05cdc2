"""The roles of `zclient bench` that send, each in a process of its own: ``python -m zclient.cli.senders``.

They use `Client` as any program does. Moments are those of the monotonic clock, which all processes of a host share.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zclient import Client
from zclient.cli.roles import play

Given = Mapping[str, Any]


def put(given: Given, start: Callable[[], None]) -> dict[str, float]:
    """Send ``jobs`` in batches: when it began, and when the last one was confirmed."""
    payload = b"x" * given["payload"]
    with _client(given) as client:
        start()
        began = time.monotonic()
        client.send_many(given["queue"], (payload for _ in range(given["jobs"])), batch=given["batch"])
        return {"began": began, "ended": time.monotonic()}


def send(given: Given, start: Callable[[], None]) -> dict[str, float]:
    """Send ``jobs`` one by one, from several threads of one client: likewise."""
    payload = b"x" * given["payload"]
    with _client(given) as client, ThreadPoolExecutor(given["threads"]) as pool:

        def some(jobs: int) -> None:
            for _ in range(jobs):
                client.send(given["queue"], payload)

        shares = share(given["jobs"], given["threads"])
        start()
        began = time.monotonic()
        list(pool.map(some, shares))
        return {"began": began, "ended": time.monotonic()}


def pace(given: Given, start: Callable[[], None]) -> dict[str, float]:
    """Send ``jobs`` at ``rate`` a second, each with the moment before its send; threads share them, so that one that
    waits for its confirmation holds up no other."""
    padding = b"x" * given["payload"]
    jobs, rate, threads = given["jobs"], given["rate"], given["threads"]
    pause = threading.Event()
    with _client(given) as client, ThreadPoolExecutor(threads) as pool:
        start()
        began = time.monotonic()

        def some(first: int) -> None:
            for number in range(first, jobs, threads):
                pause.wait(max(0.0, began + number / rate - time.monotonic()))
                client.send(given["queue"], [time.monotonic(), padding])

        list(pool.map(some, range(threads)))
        return {"began": began, "ended": time.monotonic()}


def call(given: Given, start: Callable[[], None]) -> list[float]:
    """Call ``jobs`` times, one after the other: the seconds that each took."""
    padding = b"x" * given["payload"]
    took: list[float] = []
    with _client(given) as client:
        start()
        for _ in range(given["jobs"]):
            began = time.monotonic()
            client.call(given["queue"], [began, padding], timeout=given["timeout"])
            took.append(time.monotonic() - began)
    return took


def share(jobs: int, parts: int) -> list[int]:
    """The jobs in so many parts, as even as can be."""
    each, more = divmod(jobs, parts)
    return [each + (number < more) for number in range(parts)]


def _client(given: Given) -> Client:
    """A client that is connected: what that takes is not measured."""
    client = Client(given["endpoints"], credentials=given["credentials"], timeout=given["timeout"])
    client.stats()
    return client


if __name__ == "__main__":
    play({"put": put, "send": send, "pace": pace, "call": call})
