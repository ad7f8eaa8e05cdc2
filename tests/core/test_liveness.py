"""Who is there: connections that break, workers that come back or do not, and what a broker's restart makes of it."""

from __future__ import annotations

import pytest

from tests.core.harness import Bench, Peer
from zbroker import limits as broker_limits
from zclient.protocol import messages as m


def holding(*ids: str, capacity: int = 0) -> tuple[Bench, Peer, int]:
    """A worker that holds these jobs of one delivery, and takes no more."""
    bench = Bench()
    worker = bench.worker("w", "q", capacity=capacity or len(ids))
    bench.producer().put("q", *ids)
    return bench, worker, worker.one(m.Deliver).fence


# ---- meeting


def test_welcome_tells_who_the_broker_is() -> None:
    bench = Bench()
    welcome = Peer(bench, "w", (), 0).connect()
    assert (welcome.version, welcome.broker, welcome.epoch, welcome.lost) == (1, b"broker", 1, [])
    assert welcome.limits["payload_bytes"] == 1024 * 1024 and welcome.limits["probe_ms"] == 1000
    bench.crash()
    again = Peer(bench, "w", (), 0).connect()
    assert (again.broker, again.epoch) == (b"broker", 2)


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"version": 2}, "unsupported_version"), ({"queues": ["no spaces"]}, "invalid"), ({"queues": [""]}, "invalid")],
)
def test_a_hello_that_cannot_be_is_refused(changes: dict[str, object], code: str) -> None:
    bench = Bench()
    peer = Peer(bench, "w", ("q",), 1)
    peer.route = bench.new_route(peer)
    hello = m.Hello(1, peer.incarnation, "w", 1, ["q"], [], 0, {})
    peer.send(hello._replace(**changes))
    failure = peer.one(m.Failure)
    assert (failure.number, failure.code) == (0, code)
    assert not bench.core.state.peers
    peer.send(m.Renew([1]))
    assert peer.inbox == [m.Who()]


def test_peers_beyond_the_limit_are_refused_and_have_room_when_others_go() -> None:
    bench = Bench(max_peers=2)
    first, _ = bench.producer("one"), bench.producer("two")
    third = Peer(bench, "three", (), 0)
    third.route = bench.new_route(third)
    hello = m.Hello(1, third.incarnation, "three", 0, [], [], 0, {})
    third.send(hello)
    assert third.one(m.Failure).code == "too_many_peers"
    first.cut()
    bench.advance(broker_limits.CLIENT_PROBE_MS)
    third.send(hello)
    assert third.one(m.Welcome)


def test_the_newer_connection_voids_the_older_and_what_still_arrives_from_it() -> None:
    bench, worker, fence = holding("a")
    old = worker.route
    worker.connect([m.Held(fence, [b"a"], [])])
    bench.routes[old] = worker
    bench.receive((old, m.Goodbye()))
    assert worker.take(m.Who) == [m.Who()]
    assert bench.counts("q") == {"leased": 1}
    assert worker.ack(fence, "a") == []
    bench.check()


def test_hello_again_on_the_same_connection_keeps_what_may_have_crossed_it() -> None:
    bench, worker, fence = holding("a")
    assert worker.hello([]).lost == []
    assert bench.counts("q") == {"leased": 1}
    assert worker.ack(fence, "a") == []


def test_another_incarnation_on_the_same_connection_is_another_peer() -> None:
    bench, worker, fence = holding("a")
    forked = Peer(bench, "forked", ("q",), 0)
    forked.route = worker.route
    bench.routes[forked.route] = forked
    forked.hello()
    assert {peer.name for peer in bench.core.state.routes.values()} == {"producer", "forked"}
    bench.advance(1000)
    assert bench.counts("q") == {"ready": 1}
    bench.check()


# ---- a connection that breaks


def test_a_worker_that_does_not_come_back_loses_its_jobs_after_the_grace() -> None:
    bench, worker, _ = holding("a", "b")
    worker.cut()
    bench.advance(1000)  # the next PING finds nobody there
    assert bench.counts("q") == {"leased": 2}
    assert bench.told("worker silent") == [{"worker": "w", "jobs": 2}]
    bench.advance(1000 - 1)
    assert bench.counts("q") == {"leased": 2}
    bench.advance(1 + broker_limits.WATCH_MS)
    assert bench.counts("q") == {"ready": 2}
    assert bench.told("worker lost") == [{"worker": "w", "jobs": 2}]
    row = bench.producer("p2").ask("show", id=b"a")
    assert (row["attempt"], row["losses"], row["attempts"][0]["kind"]) == (1, 1, "worker lost")
    assert len(bench.core.state.peers) == 2
    bench.check()


def test_a_worker_that_comes_back_in_time_keeps_what_it_names() -> None:
    bench, worker, fence = holding("a", "b", "c")
    worker.cut()
    bench.advance(1500)
    assert worker.connect([m.Held(fence, [b"a"], [b"b"])]).lost == []
    assert worker.take(m.Deliver)[0].ids == [b"c"], "what it does not name never arrived, and comes again"
    bench.advance(10_000)
    assert worker.ack(fence, "a", "b") == []
    assert bench.producer("p2").ask("show", id=b"c")["attempt"] == 1
    bench.check()


def test_a_worker_that_comes_back_too_late_is_told_what_it_lost() -> None:
    bench, worker, fence = holding("a", "b")
    worker.cut()
    bench.advance(3000)
    welcome = worker.connect([m.Held(fence, [b"a"], [b"b"]), m.Held(5, [b"x"], [])])
    assert welcome.lost == [(fence, [b"a", b"b"]), (5, [b"x"])]
    assert worker.ack(fence, "a") == [(fence, b"a", "lost")]
    bench.check()


def test_a_name_counts_for_its_own_delivery_only() -> None:
    """The worker runs a job under an old fence; that it got the job anew it does not know yet."""
    bench, worker, fence = holding("a", "b", capacity=3)
    worker.release(fence, "a")
    newer = worker.one(m.Deliver)
    assert newer.ids == [b"a"] and newer.fence > fence
    worker.cut()
    welcome = worker.connect([m.Held(fence, [b"a", b"b"], [])])
    assert welcome.lost == [(fence, [b"a"])]
    assert worker.one(m.Deliver).ids == [b"a"], "the second delivery of it never arrived"
    bench.check()


def test_goodbye_returns_everything_at_once_and_burns_nothing() -> None:
    bench, worker, _ = holding("a", "b")
    other = bench.worker("v", "q", capacity=5)
    worker.send(m.Goodbye())
    came = other.one(m.Deliver)
    assert (came.ids, came.attempts) == ([b"a", b"b"], [1, 1])
    assert {peer.name for peer in bench.core.state.peers.values()} == {"producer", "v"}
    worker.send(m.Renew([1]))
    assert worker.take(m.Who) == [m.Who()]
    bench.check()


def test_a_large_loss_goes_in_slices_and_stops_when_the_worker_comes_back() -> None:
    bench, worker, fence = holding(*(f"{n:04}" for n in range(1000)))
    ids = [b"%04d" % n for n in range(1000)]
    bench.core.unreachable(worker.route)
    bench.now += 1000
    bench.wall += 1000
    bench.turn()
    held = bench.counts("q")["leased"]
    assert 0 < held < 1000
    worker.capacity = 0
    welcome = worker.connect([m.Held(fence, ids, [])])
    ((_, lost),) = welcome.lost
    assert len(lost) == 1000 - held and bench.counts("q") == {"leased": held, "ready": 1000 - held}
    bench.check()


def test_a_worker_gets_jobs_while_what_it_did_not_name_returns_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_limits, "STEP_ROWS", 2)
    monkeypatch.setattr(broker_limits, "TURN_STEPS", 1)
    bench, worker, fence = holding("a", "b", "c", "d", "e")
    worker.cut()
    worker.route = bench.new_route(worker)
    hello = m.Hello(1, worker.incarnation, "w", 5, ["q"], [m.Held(fence, [b"a"], [])], 0, {})
    bench.turn([(worker.route, hello)])
    for _ in range(3):
        bench.check()
        bench.turn()
    assert [delivery.ids for delivery in worker.take(m.Deliver)] == [[b"b"], [b"c", b"d"], [b"e"]]
    bench.check()


def test_a_loss_that_has_not_begun_does_not_hit_the_worker_that_is_back() -> None:
    """Other slow work was ahead of it; meanwhile the worker said HELLO."""
    bench, worker, fence = holding("a")
    bench.core.unreachable(worker.route)
    state = bench.core.state
    for _ in range(20):
        state.work(iter([None, None, None]))
    bench.now += 1000 + broker_limits.WATCH_MS
    bench.turn()
    assert bench.counts("q") == {"leased": 1}
    assert worker.connect([m.Held(fence, [b"a"], [])]).lost == []
    assert bench.counts("q") == {"leased": 1}
    assert worker.ack(fence, "a") == []
    bench.check()


def test_what_is_released_by_a_full_or_broken_connection_burns_nothing() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", capacity=5)
    worker.cut()
    bench.producer().put("q", "a", "b")
    assert bench.counts("q") == {"ready": 2}
    assert worker.connect().lost == []
    assert worker.one(m.Deliver).attempts == [1, 1]
    bench.check()


def test_idle_peers_that_go_are_forgotten() -> None:
    bench = Bench()
    for n in range(20):
        (bench.worker(f"w{n}", "q") if n % 2 else bench.producer(f"p{n}")).cut()
    bench.advance(broker_limits.CLIENT_PROBE_MS + 1000)
    state = bench.core.state
    assert not state.peers and not state.routes and not state.queues["q"].workers and not state.queues["q"].free
    bench.check()


# ---- the broker's own restart


@pytest.mark.parametrize("clean", [False, True])
def test_workers_that_return_after_a_restart_keep_what_they_name(clean: bool) -> None:
    bench, worker, fence = holding("a", "b")
    if clean:
        bench.core.drain()
        bench.turn()
    bench.crash()
    assert bench.counts("q") == {"leased": 2}
    bench.advance(3000)
    worker.capacity = 0
    assert worker.connect([m.Held(fence, [b"a"], [])]).lost == []
    assert bench.counts("q") == {"leased": 1, "ready": 1}
    assert worker.ack(fence, "a") == []
    bench.check()


def test_workers_that_do_not_return_lose_their_jobs_but_no_attempt() -> None:
    bench, _, _ = holding("a", "b")
    bench.crash()
    other = bench.worker("v", "q", capacity=5)
    bench.advance(4_900)
    assert other.jobs() == []
    bench.advance(200)
    came = other.one(m.Deliver)
    assert (came.ids, came.attempts) == ([b"a", b"b"], [1, 1])
    row = bench.producer("p2").ask("show", id=b"a")
    assert (row["losses"], row["attempts"]) == (0, [])
    assert {peer.name for peer in bench.core.state.peers.values()} == {"v", "p2"}
    bench.check()


def test_a_worker_that_returns_in_the_middle_of_being_given_up_keeps_the_rest() -> None:
    bench, worker, fence = holding(*(f"{n:04}" for n in range(1000)))
    ids = [b"%04d" % n for n in range(1000)]
    bench.crash()
    bench.now += 5000 + broker_limits.WATCH_MS
    bench.turn()
    held = bench.counts("q")["leased"]
    assert 0 < held < 1000
    worker.capacity = 0
    ((_, lost),) = worker.connect([m.Held(fence, ids, [])]).lost
    assert len(lost) == 1000 - held and bench.counts("q")["leased"] == held
    bench.check()


def test_fences_grow_over_restarts_and_a_lost_commits_fence_never_left() -> None:
    bench = Bench()
    worker = bench.worker("w", "q", capacity=1)
    fences = []
    producer = bench.producer()
    for n in range(4):
        number = producer.next_number()
        put = m.Put(number, number, [m.Group("q", {}, [b"%d" % n], [b""])])
        bench.turn([(producer.route, put)], ends="before commit")
        assert worker.jobs() == []
        bench.crash()
        producer.connect()
        worker.connect()
        producer.send(put)
        identifier, fence = worker.job()
        assert identifier == f"{n}"
        fences.append(fence)
        worker.ack(fence, identifier)
    assert fences == sorted(set(fences)) and [fence >> 32 for fence in fences] == [2, 3, 4, 5]


def test_a_delivery_that_was_committed_and_never_left_comes_again() -> None:
    bench = Bench()
    worker, producer = bench.worker("w", "q", capacity=1), bench.producer()
    put = m.Put(1, 1, [m.Group("q", {}, [b"a"], [b""])])
    bench.turn([(producer.route, put)], ends="before send")
    bench.crash()
    assert bench.counts("q") == {"leased": 1}
    worker.connect()
    came = worker.one(m.Deliver)
    assert (came.ids, came.attempts) == ([b"a"], [1])
    bench.check()


def test_leases_run_anew_after_a_restart() -> None:
    bench, worker, fence = holding("a")
    bench.advance(29_000)
    bench.crash()
    worker.connect([m.Held(fence, [b"a"], [])])
    bench.advance(29_000)
    assert bench.counts("q") == {"leased": 1}
    bench.advance(6_000)
    assert bench.counts("q") == {"ready": 1}


def test_a_wish_to_cancel_outlives_a_restart() -> None:
    bench, worker, fence = holding("a")
    producer = bench.producer("p2")
    assert producer.order("cancel", id=b"a") == {"state": "leased"}
    bench.crash()
    worker.connect([m.Held(fence, [b"a"], [])])
    producer.connect()
    assert producer.ask("show", id=b"a")["cancel_requested"]
    worker.nack(fence, "a")
    assert producer.ask("show", id=b"a")["state"] == "cancelled"
    bench.check()


def test_what_opening_took_is_not_taken_from_those_who_come_back() -> None:
    bench = Bench()
    bench.producer("p").put("q", "a")
    bench.worker("w", "q").job()
    bench.crash()
    core = bench.core
    core.serving(bench.now + 60_000)
    core.begin(bench.wall, bench.now + 60_000 + 4_900)
    tick = core.finish(drained=True)
    core.committed(tick)
    assert core.leased == 1, "five seconds to come back, from the moment on from which that is possible"
