"""Topics through both clients, against a real broker process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.system.processes import BrokerProcess
from zclient import AsyncClient, Client, DuplicateId, InvalidArgument, NotFound, PayloadTooLarge, Publication, QueueFull


def test_a_publication_comes_to_all_who_are_bound(client: Client) -> None:
    bound = client.bind("t1.*.created", "t1-mail", filters=["amount>=10", ("region", "in", ["eu", "us"])])
    assert (bound.pattern, bound.queue, bound.backfilling) == ("t1.*.created", "t1-mail", False)
    assert bound.filters == ["amount>=10", "region in eu,us"]
    assert bound.created_at is not None and abs(datetime.now(UTC) - bound.created_at) < timedelta(minutes=1)
    client.bind("t1.#", "t1-audit")
    done = client.publish("t1.a.created", {"n": 1}, headers={"amount": "12", "region": "eu"}, priority=4)
    assert done.queues == 2
    (copy,) = client.jobs("t1-mail")
    status = client.get(copy.id)
    assert status.id.startswith(f"{done.id}.")
    assert (status.payload, status.priority) == ({"n": 1}, 4)
    assert status.headers == {"amount": "12", "region": "eu", "topic": "t1.a.created"}
    assert client.publish("t1.a.created", 2).queues == 1
    assert client.publish("t1-nobody", 3).queues == 0
    again = client.publish("t1.a.created", {"n": 1}, id=done.id, headers={"amount": "12", "region": "eu"}, priority=4)
    assert (again.id, again.queues) == (done.id, 2)
    with pytest.raises(DuplicateId):
        client.publish("t1.a.created", "another", id=done.id)
    assert client.queue("t1-audit")["ready"] == 2
    assert [one.pattern for one in client.bindings("t1-mail")] == ["t1.*.created"]
    assert client.unbind("t1.#", "t1-audit").queue == "t1-audit"
    with pytest.raises(NotFound):
        client.unbind("t1.#", "t1-audit")


def test_many_are_published_in_a_pipeline_and_in_smaller_batches_where_they_are_too_many(client: Client) -> None:
    for n in range(30):
        client.bind("t2", f"t2-{n}")
    told: list[int] = []
    done = client.publish_many("t2", range(250), progress=told.append, headers={"x": 1})
    assert (len(done.ids), done.copies, done.unrouted) == (250, 250 * 30, 0)
    assert told[-1] == 250
    assert {client.queue(f"t2-{n}")["ready"] for n in range(30)} == {250}
    assert client.get(f"{done.ids[7]}.{next(client.jobs('t2-3', limit=1)).id.partition('.')[2]}").payload == 7
    assert client.publish_many("t2-nobody", range(5)).unrouted == 5


def test_large_payloads_travel_to_queues_and_tails(client: Client) -> None:
    client.bind("t3", "t3-q")
    client.keep_topic("t3", keep_bytes="10MiB")
    large = bytes(range(256)) * 2000
    tail = client.tail("t3", start="beginning")
    client.publish("t3", large)
    first = next(tail)
    client.publish("t3", large + b"!")
    assert (first.payload, next(tail).payload) == (large, large + b"!")
    assert client.get(next(client.jobs("t3-q")).id).payload in (large, large + b"!")
    with pytest.raises(PayloadTooLarge):
        client.publish("t3", b"x" * (2 << 20))


def test_a_full_queue_refuses_for_all_in_time(client: Client) -> None:
    client.set_queue("t4-small", max_jobs=1)
    for queue in ("t4-small", "t4-large"):
        client.bind("t4", queue)
    assert client.publish("t4").queues == 2
    with pytest.raises(QueueFull):
        client.publish("t4", timeout=0.3)
    assert [client.queue(queue)["ready"] for queue in ("t4-small", "t4-large")] == [1, 1]
    client.bind("t4", "t4-small", filters=["!never"])
    client.unset_queue("t4-small", "max_jobs")
    assert client.publish("t4").queues == 2


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [
        ("publish", ("a.*",), {}),
        ("publish", ("a",), {"unique": "x"}),
        ("publish", ("a",), {"id": "i" * 41}),
        ("publish", ("a",), {"headers": {"topic": "x"}}),
        ("publish_many", ("#", [1]), {}),
        ("bind", ("a..b", "q"), {}),
        ("bind", ("a", "no queue"), {}),
        ("bind", ("a", "q"), {"filters": ["x!=1"]}),
        ("bind", ("a", "q"), {"filters": "x=1"}),
        ("bind", ("a", "q"), {"start": "soon"}),
        ("unbind", ("", "q"), {}),
        ("keep_topic", ("a",), {}),
        ("keep_topic", ("a",), {"keep_for": 0}),
        ("keep_topic", ("a",), {"keep_bytes": 0}),
        ("keep_topic", ("a",), {"keep_bytes": "1 furlong"}),
        ("forget_topic", (".",), {}),
        ("tail", ("a b",), {}),
        ("tail", ("a",), {"start": "soon"}),
    ],
)
def test_what_cannot_be_is_said_before_it_is_sent(
    client: Client, method: str, arguments: tuple[object, ...], options: dict[str, object]
) -> None:
    with pytest.raises(InvalidArgument):
        getattr(client, method)(*arguments, **options)


# ---- kept, and told


def test_a_topic_is_kept_read_and_forgotten(client: Client) -> None:
    kept = client.keep_topic("t5.#", keep_for="2h", keep_bytes="1MB")
    assert (kept.keep_for, kept.keep_bytes, kept.publications) == ("2h", 1_000_000, 0)
    client.publish_many("t5.a", range(30))
    between = datetime.now(UTC)
    client.publish("t5.b", 30, headers={"x": 1})
    read = list(client.tail("t5.#", start="beginning", timeout=0))
    assert [one.payload for one in read] == list(range(31))
    assert [one.payload for one in client.tail("t5.#", start=between - timedelta(milliseconds=1), timeout=0)][-1:] == [
        30
    ]
    (one,) = client.tail("t5.#", start="beginning", filters=["exists x"], timeout=0)
    assert (one.topic, one.headers, one.missed, one.offset) == ("t5.b", {"x": 1}, 0, read[-1].offset)
    client.bind("t5.#", "t5-q", start="beginning")
    client.bind("t5.a", "t5-late", start=datetime.now(UTC) + timedelta(hours=1))
    while any(binding.backfilling for queue in ("t5-q", "t5-late") for binding in client.bindings(queue)):
        continue
    assert [client.queue(queue)["ready"] for queue in ("t5-q", "t5-late")] == [31, 0]
    assert [row.publications for row in client.kept_topics() if row.pattern == "t5.#"] == [31]
    assert client.forget_topic("t5.#").publications == 31
    assert list(client.tail("t5.#", start="beginning", timeout=0)) == []


def test_a_tail_goes_from_what_is_kept_to_live_without_gap_or_repetition(broker: BrokerProcess, client: Client) -> None:
    client.keep_topic("t6", keep_for="1h")
    client.publish_many("t6", range(1500))
    with Client(broker.endpoint) as other:
        tail = other.tail("t6", start="beginning")
        seen = [next(tail).payload for _ in range(700)]
        client.publish_many("t6", range(1500, 3000))
        seen += [next(tail).payload for _ in range(2300)]
        client.publish("t6", 3000)
        seen.append(next(tail).payload)
        tail.close()
    assert seen == list(range(3001))


def test_a_slow_reader_of_a_kept_topic_reads_what_it_was_not_told(
    broker: BrokerProcess, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zclient.tails.WINDOW", 20)
    client.keep_topic("t7.kept", keep_for="1h")
    client.publish("t7.kept", "first")
    with Client(broker.endpoint) as other:
        tail = other.tail("t7.kept", start="beginning")
        assert next(tail).payload == "first"
        client.publish_many("t7.kept", range(500), batch=500)
        told = [next(tail) for _ in range(500)]
    assert [one.payload for one in told] == list(range(500))
    assert {one.missed for one in told} == {0}


def test_a_slow_reader_of_what_nobody_keeps_is_told_how_much_it_missed(
    broker: BrokerProcess, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zclient.tails.WINDOW", 20)
    with Client(broker.endpoint) as other:
        tail = other.tail("t8")
        told = [_next(client, tail, "begin")]
        client.publish_many("t8", range(100), batch=100)
        while told[-1].payload != "end":
            told.append(_next(client, tail, "end"))
    seen = [one.payload for one in told if isinstance(one.payload, int)]
    assert 0 < len(seen) < 100
    assert seen == list(range(len(seen)))
    assert sum(one.missed or 0 for one in told) >= 100 - len(seen)


def _next(client: Client, tail: Iterator[Publication], payload: str) -> Publication:
    """The next publication of a tail; they come until it has one."""
    with ThreadPoolExecutor() as pool:
        told = pool.submit(next, tail)
        while not told.done():
            client.publish("t8", payload)
        return told.result()


def test_a_tail_outlives_the_broker(own_broker: BrokerProcess) -> None:
    with Client(own_broker.endpoint) as client, Client(own_broker.endpoint) as other:
        client.keep_topic("kept", keep_for="1h")
        kept, live = other.tail("kept", start="beginning"), other.tail("#", start="beginning")
        client.publish("kept", 0)
        assert (next(kept).payload, next(live).payload) == (0, 0)
        client.publish("other", "x")
        assert next(live).payload == "x"
        own_broker.kill()
        own_broker.restart()
        for n in range(1, 4):
            client.publish("kept", n)
        told = [next(kept) for _ in range(3)]
        assert [(one.payload, one.missed) for one in told] == [(1, 0), (2, 0), (3, 0)]
        after = [next(live) for _ in range(3)]
        assert [(one.payload, one.missed) for one in after] == [(1, None), (2, 0), (3, 0)], "of the others nobody knows"


# ---- asyncio


def test_the_same_with_asyncio(broker: BrokerProcess) -> None:
    async def payloads() -> AsyncIterator[int]:
        for n in range(20):
            yield n

    async def main() -> None:
        async with AsyncClient(broker.endpoint) as client:
            await client.bind("t9.#", "t9-q", filters=["x=1"])
            assert [one.queue async for one in client.bindings("t9-q")] == ["t9-q"]
            await client.keep_topic("t9.*", keep_for="1h")
            assert (await client.publish("t9.a", "first", headers={"x": 1})).queues == 1
            done = await client.publish_many("t9.b", payloads())
            assert (len(done.ids), done.unrouted) == (20, 20)
            assert "t9.*" in [one.pattern for one in await client.kept_topics()]
            seen = []
            async for one in client.tail("t9.#", start="beginning"):
                seen.append(one.payload)
                if len(seen) == 21:
                    await client.publish("t9.c", "live")
                if seen[-1] == "live":
                    break
            assert seen == ["first", *range(20), "live"]
            assert [one.payload async for one in client.tail("t9.c", timeout=0)] == []
            await client.unbind("t9.#", "t9-q")
            assert (await client.forget_topic("t9.*")).publications == 22

    asyncio.run(main())
