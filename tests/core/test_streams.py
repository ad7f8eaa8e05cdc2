"""Streams in the core: what readers say is passed on, what workers send is passed on, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits
from zclient.protocol import limits as wire
from zclient.protocol import messages as m
from zclient.protocol.codec import MalformedMessage, decode, encode

RETURN_MS = limits.READER_RETURN_MS


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(policy={"backoff": "constant", "backoff_jitter": 0, "backoff_min_ms": 1000})
    yield bench
    bench.check()
    assert all(identifier in peer.streams for peer in bench.core.state.peers.values() for identifier in peer.streams)
    for identifier, stream in bench.core.state.streams.items():
        assert stream.peer is None or identifier in stream.peer.streams


def read(peer: Peer, job: str = "a", *, fence: int = 0, have: int = 0, upto: int = 4, again: bool = False) -> None:
    peer.send(m.Read(job.encode(), fence, have, upto, again))


def yielded(peer: Peer, fence: int, first: int, *values: bytes, job: str = "a", last: bool = False) -> None:
    peer.send(m.Partial(fence, job.encode(), first, list(values), last))


def begun(bench: Bench, job: str = "a") -> tuple[Peer, Peer, int]:
    """Reader, worker and fence of a stream that runs; what was told so far is taken."""
    reader, worker = bench.producer("reader"), bench.worker("w", "q")
    reader.put("q", job, stream=True)
    read(reader, job)
    fence = worker.job()[1]
    assert worker.one(m.Flow) == m.Flow(fence, job.encode(), 0, 4, False)
    reader.send(m.Watch([job.encode()]))
    return reader, worker, fence


def counted(bench: Bench, name: str) -> int:
    return bench.core.state.counters.get(name, 0)


def test_what_is_yielded_goes_to_the_reader_and_no_row_is_written_for_it(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    ticks = bench.core.state.tick.number
    rows = {space: dict(bench.store.scan(space, b"", b"\xff")) for space in ("jobs", "changes", "deliveries", "meta")}
    yielded(worker, fence, 0, b"0", b"1")
    assert reader.one(m.Part) == m.Part(b"a", fence, 0, [b"0", b"1"], False)
    read(reader, fence=fence, have=2, upto=6)
    assert worker.one(m.Flow) == m.Flow(fence, b"a", 2, 6, False)
    assert rows == {space: dict(bench.store.scan(space, b"", b"\xff")) for space in rows}
    assert bench.core.state.tick.number > ticks
    yielded(worker, fence, 2, last=True)
    assert reader.one(m.Part).last
    worker.ack(fence, "a", results=[b"r"])
    assert reader.ends() == {"a": ("done", b"r", None)}
    assert not bench.core.state.streams


def test_the_worker_hears_of_a_reader_that_comes_later_too(bench: Bench) -> None:
    reader, worker = bench.producer(), bench.worker("w", "q")
    reader.put("q", "a", stream=True)
    assert worker.take(m.Flow) == []
    fence = worker.job()[1]
    yielded(worker, fence, 0, b"0")
    assert counted(bench, "partials_unread") == 1
    read(reader)
    assert worker.one(m.Flow).upto == 4


def test_another_run_is_told_and_what_was_granted_to_the_one_before_is_over(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    yielded(worker, fence, 0, b"0")
    read(reader, fence=fence, have=1, upto=5)
    worker.nack(fence, "a")
    reader.inbox.clear(), worker.inbox.clear()
    bench.advance(1000)
    second = worker.job()[1]
    assert second > fence
    assert reader.one(m.Part) == m.Part(b"a", second, 0, [], False)
    assert worker.take(m.Flow) == [], "the reader has to say first what it takes of the new run"
    yielded(worker, second, 0, b"0")
    yielded(worker, fence, 1, b"1")
    assert reader.take(m.Part) == []
    assert (counted(bench, "partials_unread"), counted(bench, "partials_late")) == (1, 1)
    read(reader, fence=fence, have=1, upto=5)
    assert reader.one(m.Part).fence == second, "a reader that has not heard is told again"
    read(reader, fence=second, upto=3)
    assert worker.one(m.Flow) == m.Flow(second, b"a", 0, 3, False)
    yielded(worker, second, 0, b"0")
    assert reader.one(m.Part).values == [b"0"]


def test_a_run_that_ends_before_the_reader_heard_of_it_needs_no_word(bench: Bench) -> None:
    _, worker, fence = begun(bench)
    worker.release(fence, "a")
    second = worker.job()[1]
    assert worker.one(m.Flow) == m.Flow(second, b"a", 0, 4, False)


def test_a_grant_for_any_run_is_not_taken_back_by_one_for_a_run(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    read(reader, fence=fence, have=0, upto=2)
    assert worker.one(m.Flow).upto == 4, "the worker may have used it"
    read(reader, fence=fence, have=2, upto=5)
    assert worker.one(m.Flow) == m.Flow(fence, b"a", 2, 5, False)


# ---- bad words


def test_a_job_that_is_no_stream_or_has_a_reader_is_not_read(bench: Bench) -> None:
    reader, _, fence = begun(bench)
    reader.put("q", "b")
    other = bench.producer("other")
    read(other, "b")
    read(other, "a")
    plain, taken = other.take(m.Failure)
    assert (plain.code, plain.details, plain.number) == ("invalid", {"id": "b"}, 0) and "no stream" in plain.text
    assert taken.details == {"id": "a"} and "another reader" in taken.text
    read(reader, fence=fence, have=0)
    assert reader.take(m.Failure) == []


def test_of_what_is_not_there_or_over_nothing_is_said(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    worker.reject(fence, "a")
    reader.inbox.clear(), worker.inbox.clear()
    read(reader, "a", fence=fence)
    read(reader, "nobody")
    assert (reader.inbox, worker.inbox, bench.core.state.streams) == ([], [], {})


def test_what_was_not_asked_for_or_is_under_a_foreign_fence_is_dropped_and_counted(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    yielded(worker, fence, 3, b"3", b"4")
    yielded(worker, fence + 1, 0, b"0")
    yielded(worker, fence, 0, b"0", job="b")
    yielded(bench.worker("thief", "q"), fence, 0, b"0")
    assert reader.take(m.Part) == []
    assert (counted(bench, "partials_unasked"), counted(bench, "partials_late")) == (1, 3)


def test_a_partial_that_is_larger_than_a_payload_is_refused(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    yielded(worker, fence, 0, bytes(wire.MAX_PAYLOAD_BYTES + 1))
    assert worker.one(m.Failure).code == "too_large"
    yielded(worker, fence, 0, bytes(wire.MAX_PAYLOAD_BYTES))
    assert len(reader.one(m.Part).values[0]) == wire.MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "message",
    [
        m.Read(b"a", 0, 5, 4, False),
        m.Read(b"a", 0, 0, wire.MAX_STREAM_WINDOW + 1, False),
        m.Read(b"a", -1, 0, 4, False),
        m.Read(b"a", 0, -1, 4, False),
        m.Read(b"a", 0, 0, 4, 1),  # type: ignore[arg-type]
        m.Read(b"", 0, 0, 4, False),
        m.Partial(-1, b"a", 0, [], False),
        m.Partial(1, b"a", -1, [], False),
        m.Partial(1, b"a", 0, [b""] * (wire.MAX_STREAM_WINDOW + 1), False),
        m.Partial(1, b"a", 0, ["x"], False),  # type: ignore[list-item]
        m.Partial(1, b"a", 0, [7], False),  # type: ignore[list-item]
        m.Partial(1, b"a", 0, [], None),  # type: ignore[arg-type]
        m.Partial(1, b"a", 1 << 53, [], True),
    ],
)
def test_words_that_cannot_be_are_malformed(message: m.Message) -> None:
    with pytest.raises(MalformedMessage):
        decode(encode(message))


def test_large_partials_travel_as_frames_of_their_own() -> None:
    large, small = bytes(wire.LARGE_BYTES), b"small"
    for message in (m.Partial(1, b"a", 0, [large, small, large], True), m.Part(b"a", 1, 0, [small, large], False)):
        frames = encode(message)
        assert [len(frame) for frame in frames[1:]] == [wire.LARGE_BYTES] * message.values.count(large)
        assert decode(frames) == message


def test_the_streams_of_a_peer_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_STREAMS_PER_PEER", 2)
    reader = bench.producer()
    reader.put("q", "a", "b", "c", stream=True)
    for job in "abc":
        read(reader, job)
    assert reader.one(m.Failure).details == {"id": "c"}
    reader.order("cancel", id=b"a")
    read(reader, "c")
    assert reader.take(m.Failure) == []


def test_a_stream_has_no_unique_text_and_a_schedule_no_stream(bench: Bench) -> None:
    reader = bench.producer()
    answer = reader.put("q", "a", stream=True, unique="u")
    assert isinstance(answer, m.Failure) and answer.code == "invalid"
    assert isinstance(reader.put("q", "a", stream=1), m.Failure)


# ---- readers that are gone


def test_after_a_goodbye_the_jobs_are_cancelled_at_once(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    reader.put("q", "waits", stream=True)
    read(reader, "waits")
    watcher = bench.producer("watcher")
    watcher.send(m.Watch([b"a", b"waits"]))
    reader.send(m.Goodbye())
    assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    assert watcher.ends() == {"waits": ("cancelled", None, {"reason": "unread"})}
    worker.reject(fence, "a", type="Cancelled")
    assert watcher.ends() == {"a": ("cancelled", None, {"reason": "unread"})}
    assert counted(bench, "streams_left") == 2


def test_one_whose_connection_is_gone_has_its_time_to_come_back(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    reader.cut()
    yielded(worker, fence, 0, b"0")  # the broker finds out
    assert worker.take(m.Cancel) == []
    bench.advance(RETURN_MS - 1)
    reader.connect()
    read(reader, fence=0, again=True)
    assert worker.one(m.Flow) == m.Flow(fence, b"a", 0, 4, True)
    yielded(worker, fence, 0, b"0")
    assert reader.one(m.Part).values == [b"0"]
    bench.advance(2 * RETURN_MS)
    assert worker.take(m.Cancel) == []
    worker.send(m.Renew([fence]))
    reader.cut()
    bench.advance(1000)  # a probe finds out
    bench.advance(RETURN_MS)
    assert worker.one(m.Cancel) == m.Cancel(fence, [b"a"])
    assert bench.core.state.streams == {}


def test_a_delivered_stream_that_nobody_reads_is_cancelled(bench: Bench) -> None:
    producer = bench.producer()
    producer.put("q", "a", stream=True)
    bench.advance(3 * RETURN_MS)
    worker = bench.worker("w", "q")
    worker.job()
    (row,) = producer.ask("why", id=b"a")["reasons"][1:]
    assert (row["code"], row["left_ms"]) == ("no_reader", RETURN_MS)
    bench.advance(RETURN_MS)
    assert worker.one(m.Cancel).ids == [b"a"]


def test_the_time_of_a_stream_that_went_back_to_its_queue_runs_on(bench: Bench) -> None:
    producer, worker = bench.producer(), bench.worker("w", "q")
    producer.put("q", "a", stream=True)
    producer.send(m.Watch([b"a"]))
    worker.snooze(worker.job()[1], "a", delay=10 * RETURN_MS)
    bench.advance(RETURN_MS)
    assert producer.ends() == {"a": ("cancelled", None, {"reason": "unread"})}


def test_many_readers_of_one_goodbye_are_cancelled_in_slices(bench: Bench) -> None:
    reader = bench.producer()
    ids = [f"{n}" for n in range(500)]
    reader.put("q", *ids, stream=True)
    for job in ids:
        read(reader, job)
    before = bench.turns
    reader.send(m.Goodbye())
    assert bench.turns - before >= len(ids) / (limits.STEP_ROWS * limits.TURN_STEPS)
    assert bench.counts("q") == {} and not bench.core.state.streams


def test_what_a_crash_leaves_of_a_goodbye_the_time_to_come_back_ends(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    reader.put("q", "waits", stream=True)
    read(reader, "waits")
    bench.turn([(reader.route, m.Goodbye())], ends="before commit")
    bench.crash()
    worker.connect([m.Held(fence, [b"a"], [])])
    bench.advance(RETURN_MS)
    assert worker.one(m.Cancel).ids == [b"a"]
    worker.reject(fence, "a")
    worker.job()
    bench.advance(RETURN_MS)
    assert worker.one(m.Cancel).ids == [b"waits"]


# ---- restarts, and workers that come back


@pytest.mark.parametrize("first", ["worker", "reader"])
def test_after_a_restart_the_stream_goes_on(bench: Bench, first: str) -> None:
    reader, worker, fence = begun(bench)
    yielded(worker, fence, 0, b"0", b"1")
    read(reader, fence=fence, have=2, upto=6)
    reader.inbox.clear(), worker.inbox.clear()
    bench.crash()
    if first == "worker":
        worker.connect([m.Held(fence, [b"a"], [])])
        yielded(worker, fence, 2, b"2")  # nobody is known to read it
    reader.connect()
    read(reader, fence=fence, have=2, upto=6, again=True)
    if first == "reader":
        worker.connect([m.Held(fence, [b"a"], [])])
    assert worker.take(m.Flow)[-1] == m.Flow(fence, b"a", 2, 6, True)
    yielded(worker, fence, 2, b"2")
    assert reader.one(m.Part) == m.Part(b"a", fence, 2, [b"2"], False)
    bench.advance(2 * RETURN_MS)
    assert worker.take(m.Cancel) == []


def test_a_worker_that_comes_back_is_told_again(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    worker.connect([m.Held(fence, [b"a"], [])])
    assert worker.one(m.Flow) == m.Flow(fence, b"a", 0, 4, True)
    assert reader.take(m.Part) == []


def test_a_lost_worker_is_another_run(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    yielded(worker, fence, 0, b"0")
    read(reader, fence=fence, have=1, upto=5)
    reader.inbox.clear()
    other = bench.worker("other", "q")
    worker.cut()
    bench.advance(5000)
    second = other.job()[1]
    assert reader.one(m.Part) == m.Part(b"a", second, 0, [], False)


def test_a_dead_stream_that_is_replayed_is_read_by_nobody(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    worker.reject(fence, "a")
    assert reader.ends()["a"][0] == "dead"
    reader.order("replay", ids=[b"a"])
    worker.job()
    bench.advance(RETURN_MS)
    assert worker.one(m.Cancel).ids == [b"a"]


def test_a_dead_stream_in_another_queue_is_a_plain_job(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    reader.order("set", queue="q", options={"dead_to": "failed"})
    worker.reject(fence, "a")
    other = bench.worker("other", "failed")
    other.job()
    bench.advance(3 * RETURN_MS)
    assert other.take(m.Cancel) == [] and not bench.core.state.streams


def test_who_reads_a_stream_that_is_dead_in_another_queue_is_told_so(bench: Bench) -> None:
    reader, worker = bench.producer(), bench.worker("w", "q")
    reader.order("set", queue="q", options={"dead_to": "failed"})
    reader.put("q", "a", stream=True)
    worker.reject(worker.job()[1], "a", type="ValueError", text="broken")
    reader.send(m.Read(b"a", 0, 0, 4, False), m.Watch([b"a"]))
    cause = {"reason": "rejected", "error": {"text": "ValueError: broken"}, "attempts": 1, "moved_to": "failed"}
    assert reader.ends() == {"a": ("dead", None, cause)}
    assert reader.take(m.Failure) == [] and not bench.core.state.streams
    other = bench.worker("other", "failed")
    other.ack(other.job()[1], "a")
    assert reader.ends() == {"a": ("done", None, None)}
    bench.check()


def test_show_why_and_stats_tell(bench: Bench) -> None:
    reader, worker, fence = begun(bench)
    yielded(worker, fence, 0, b"0")
    read(reader, fence=fence, have=1, upto=5)
    assert reader.ask("show", id=b"a")["options"] == {"stream": True}
    told = reader.ask("why", id=b"a")["reasons"][1]
    assert told == {
        "code": "reader",
        "text": "reader reads it: it has 1 of its values, and takes 4 more",
        "reader": "reader",
        "have": 1,
        "more": 4,
    }
    assert reader.ask("stats")["streams"] == 1
