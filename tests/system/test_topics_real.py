"""Topics of a real broker that is killed: every confirmed publication is in every bound queue, once."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.system.processes import eventually
from tests.system.system import System
from zclient import Client, OutcomeUnknown

KILLS = 3
PUBLISHERS = 3
STEP = 120
"""Publications between two kills, those of all publishers together."""


class Publishers:
    """Threads that publish as fast as they are answered, each one thing after the other, until they are told to end."""

    def __init__(self, client: Client) -> None:
        self.confirmed: list[tuple[str, int]] = []
        self._client = client
        self._came = threading.Condition()
        self._end = threading.Event()

    def publish(self, name: int) -> None:
        n = 0
        while not self._end.is_set():
            n += 1
            identifier = f"{name}-{n:05}"
            topic, headers = ("a.even" if n % 2 == 0 else "a.odd"), {"n": n}
            try:
                done = self._client.publish(topic, n, id=identifier, headers=headers, timeout=20)
            except OutcomeUnknown:
                done = self._client.publish(topic, n, id=identifier, headers=headers, timeout=20)
            with self._came:
                self.confirmed.append((identifier, done.queues))
                self._came.notify_all()

    def reach(self, number: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.confirmed) >= number, 30)

    def end(self) -> None:
        self._end.set()


def copies_in(client: Client, queue: str) -> Counter[str]:
    """How often each publication is in a queue, by its id, whatever became of the copy."""
    return Counter(job.id.partition(".")[0] for job in client.jobs(queue, limit=None))


def test_what_is_confirmed_is_in_every_bound_queue_once_over_kills(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    client.keep_topic("a.#", keep_for="1h")
    client.bind("a.*", "all")
    client.bind("#.even", "even")
    client.bind("a.#", "even", filters=["n in 1,2,3"])
    worker = system.worker(broker.endpoint, "all")  # the copies of this one are worked off meanwhile
    publishers = Publishers(client)
    with ThreadPoolExecutor(PUBLISHERS) as pool:
        running = [pool.submit(publishers.publish, name) for name in range(PUBLISHERS)]
        for kill in range(KILLS):
            publishers.reach(STEP * (kill + 1))
            if kill == 1:  # and a backfill goes on, while more is published
                client.bind("a.#", "late", start="beginning")
            broker.kill()
            broker.restart()
        publishers.end()
        for one in running:
            one.result()
    confirmed = [identifier for identifier, _ in publishers.confirmed]
    even = [one for one in confirmed if int(one[-5:]) % 2 == 0 or int(one[-5:]) in (1, 3)]
    assert len(confirmed) >= STEP * KILLS
    eventually(lambda: not any(binding.backfilling for binding in client.bindings()))
    assert copies_in(client, "late") == Counter(confirmed)
    assert copies_in(client, "even") == Counter(even)
    worker.reach("run", len(confirmed))
    eventually(lambda: client.queue("all")["totals"]["done"] == len(confirmed))
    assert copies_in(client, "all") == Counter(confirmed)
    read = [one.id for one in client.tail("a.#", start="beginning", timeout=0)]
    assert Counter(read) == Counter(confirmed)
    for identifier, queues in publishers.confirmed:
        bound = 1 + (identifier in even)
        assert queues in (bound, bound + 1), "with the late one, once it is bound"


def test_a_tail_misses_nothing_of_a_kept_topic_over_kills(system: System) -> None:
    broker = system.broker()
    client, reader = system.client(broker.endpoint), system.client(broker.endpoint)
    client.keep_topic("a.#", keep_for="1h")
    publishers = Publishers(client)
    seen: list[str] = []
    with ThreadPoolExecutor(PUBLISHERS) as pool:
        running = [pool.submit(publishers.publish, name) for name in range(PUBLISHERS)]
        tail = reader.tail("a.#", start="beginning")
        for kill in range(KILLS):
            while len(seen) < STEP * (kill + 1):
                publication = next(tail)
                assert publication.missed == 0
                seen.append(publication.id)
            broker.kill()
            broker.restart()
        publishers.end()
        for one in running:
            one.result()
        confirmed = {identifier for identifier, _ in publishers.confirmed}
        while len(seen) < len(confirmed):
            seen.append(next(tail).id)
        tail.close()
    assert Counter(seen) == Counter(confirmed)
