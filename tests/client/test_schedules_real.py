"""Schedules through both clients, against a real broker process."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.client.echo import Echo
from tests.system.processes import BrokerProcess
from zclient import AsyncClient, Client, InvalidArgument, NotFound, Schedule


def test_a_schedule_is_made_changed_run_and_removed(broker: BrokerProcess, client: Client) -> None:
    made = client.schedule(
        "s-one", "s-queue", {"n": 1}, cron="0 3 * * *", tz="Asia/Kolkata", overlap="skip", catch_up="all", priority=7
    )
    assert (made.name, made.queue, made.cron, made.every, made.tz) == (
        "s-one",
        "s-queue",
        "0 3 * * *",
        None,
        "Asia/Kolkata",
    )
    assert (made.overlap, made.catch_up, made.catch_up_limit, made.words) == ("skip", "all", 100, "At 03:00 every day")
    assert made.next_at is not None and (made.next_at.hour, made.next_at.minute) == (21, 30)
    assert datetime.now(UTC) < made.next_at <= datetime.now(UTC) + timedelta(days=1)
    assert (made.last_at, made.last_id, made.jobs, made.paused, made.declared) == (None, None, 0, False, False)
    job = client.run_schedule("s-one")
    status = job.status()
    assert (status.queue, status.payload, status.priority) == ("s-queue", {"n": 1}, 7)
    assert status.headers["schedule"] == "s-one"
    with Echo(broker.endpoint, "s-queue"):
        assert job.result(timeout=20) == {"n": 1}
    changed = client.schedule("s-one", "s-queue", every=timedelta(hours=2))
    assert (changed.every, changed.cron, changed.words, changed.jobs, changed.tz) == ("2h", None, "Every 2h", 1, "UTC")
    assert client.pause_schedule("s-one").next_at is None
    assert client.resume_schedule("s-one").next_at is not None
    assert [one.name for one in client.schedules()] == ["s-one"]
    assert client.remove_schedule("s-one").jobs == 1
    assert client.schedules() == []


def test_what_cannot_be_is_said(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="either"):
        client.schedule("s-bad", "q")
    with pytest.raises(InvalidArgument, match="either"):
        client.schedule("s-bad", "q", cron="* * * * *", every="5s")
    with pytest.raises(InvalidArgument, match="no cron expression"):
        client.schedule("s-bad", "q", cron="soon")
    with pytest.raises(InvalidArgument, match="no time zone"):
        client.schedule("s-bad", "q", every="5s", tz="Mars/Base")
    with pytest.raises(InvalidArgument, match="one second"):
        client.schedule("s-bad", "q", every="5ms")
    with pytest.raises(InvalidArgument, match="no at and no unique"):
        client.schedule("s-bad", "q", every="5s", unique="u")
    with pytest.raises(InvalidArgument, match="not after"):
        client.schedule("s-bad", "q", every="5s", after=["j"])
    with pytest.raises(InvalidArgument, match="name of a schedule"):
        client.schedule("no name", "q", every="5s")
    for verb in (client.run_schedule, client.pause_schedule, client.resume_schedule, client.remove_schedule):
        with pytest.raises(NotFound):
            verb("s-nobody")
    assert client.schedules() == []


def test_the_same_for_asyncio(broker: BrokerProcess) -> None:
    async def main() -> None:
        async with AsyncClient(broker.endpoint) as client:
            made = await client.schedule("s-async", "s-async-q", 1, every="1h")
            assert await client.schedules() == [made]
            assert isinstance(made, Schedule)
            job = await client.run_schedule("s-async")
            assert (await job.status()).queue == "s-async-q"
            assert (await client.pause_schedule("s-async")).paused
            assert not (await client.resume_schedule("s-async")).paused
            assert (await client.remove_schedule("s-async")).jobs == 1
            with pytest.raises(InvalidArgument):
                await client.schedule("s-async", "q", cron="soon")

    asyncio.run(main())
