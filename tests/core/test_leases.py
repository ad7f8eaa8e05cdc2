"""Leases: they run out, are renewed and extended, and the broker's own stalls shorten none."""

from __future__ import annotations

import pytest

from tests.core.harness import Bench, Peer
from zclient.protocol import messages as m


def holding(*ids: str, lease_ms: int = 30_000, **settings: int) -> tuple[Bench, Peer, int]:
    bench = Bench(policy={"lease_ms": lease_ms}, **settings)
    worker = bench.worker("w", "q", capacity=len(ids))
    bench.producer().put("q", *ids)
    fence = worker.one(m.Deliver).fence
    worker.send(m.Capacity(0))
    return bench, worker, fence


def test_a_lease_runs_out_at_its_end_and_no_sooner() -> None:
    bench, worker, fence = holding("a")
    bench.advance(29_999)
    assert bench.counts("q") == {"leased": 1}
    bench.advance(1)
    assert bench.counts("q") == {"ready": 1}
    assert worker.one(m.Lost) == m.Lost([(fence, [b"a"])], "lease expired")
    assert bench.told("lease expired")[0] == {"worker": "w", "queue": "q", "jobs": 1}
    bench.check()


def test_a_worker_whose_lease_ran_out_is_asked_who_it_is_until_it_says_so() -> None:
    bench, worker, _ = holding("a", lease_ms=500)
    worker.full = True
    bench.advance(600)
    worker.full = False
    assert worker.take(m.Who) == [], "the first question was lost: its connection took nothing"
    worker.capacity = 1
    worker.send(m.Capacity(1))
    bench.advance(3_000)
    assert worker.take(m.Who), "it is asked again"
    worker.hello()
    assert worker.ids() == ["a"]
    bench.check()


def test_what_never_arrived_burns_nothing_although_its_lease_is_over_meanwhile() -> None:
    bench = Bench(policy={"lease_ms": 300})
    worker = bench.worker("w", "q", capacity=5)
    producer = bench.producer()
    worker.full = True
    number = producer.next_number()
    put = m.Put(number, number, [m.Group("q", {}, [b"unsent"], [b"p"])])
    bench.turn([(producer.route, put)])
    bench.now += 400
    bench.wall += 400
    bench.turn()
    assert producer.ask("show", id=b"unsent")["losses"] == 0

    worker.full = False
    bench.advance(150)
    assert worker.ids() == ["unsent"]
    bench.now += 400
    bench.wall += 400
    worker.connect()
    assert producer.ask("show", id=b"unsent")["losses"] == 0
    bench.check()


def test_it_burns_an_attempt_and_is_a_loss_and_the_cause_is_kept() -> None:
    bench, worker, _ = holding("a")
    bench.advance(30_000)
    row = bench.producer("p2").ask("show", id=b"a")
    assert (row["attempt"], row["losses"], row["attempts"][0]["kind"]) == (1, 1, "lease expired")


def test_renewal_lets_it_run_anew_for_as_long_as_the_worker_likes() -> None:
    bench, worker, fence = holding("a", "b")
    for _ in range(20):
        bench.advance(29_000)
        worker.send(m.Renew([fence]))
    assert bench.counts("q") == {"leased": 2} and not worker.take(m.Lost)
    bench.advance(30_000)
    assert bench.counts("q") == {"ready": 2}
    bench.check()


def test_a_renewal_of_what_is_lost_is_told() -> None:
    bench, worker, fence = holding("a")
    bench.advance(30_000)
    worker.take(m.Lost)
    worker.send(m.Renew([fence, 99]))
    assert worker.one(m.Lost).leases == [(fence, []), (99, [])]


def test_a_renewal_is_for_ones_own_leases() -> None:
    bench, _, fence = holding("a")
    other = bench.worker("v", "r")
    bench.advance(20_000)
    other.send(m.Renew([fence]))
    assert other.one(m.Lost).leases == [(fence, [])]
    bench.advance(10_000)
    assert bench.counts("q") == {"ready": 1}


def test_extend_is_at_least_that_long_from_now() -> None:
    bench, worker, fence = holding("a")
    worker.send(m.Extend(7, fence, b"a", 100_000))
    assert worker.answer(7) == m.Ok([7])
    worker.send(m.Extend(8, fence, b"a", 5))
    worker.send(m.Renew([fence]))
    bench.advance(99_999)
    assert bench.counts("q") == {"leased": 1}
    bench.advance(1)
    assert bench.counts("q") == {"ready": 1}
    assert worker.refused(m.Extend(9, fence, b"a", 1000)).code == "lease_lost"
    bench.check()


@pytest.mark.parametrize("duration", [0, 24 * 3_600_000 + 1])
def test_extensions_that_cannot_be(duration: int) -> None:
    _, worker, fence = holding("a")
    assert worker.refused(m.Extend(7, fence, b"a", duration)).code == "invalid"


def test_extensions_do_not_pile_up_in_memory() -> None:
    bench, worker, fence = holding("a")
    for number in range(7, 1007):
        worker.send(m.Extend(number, fence, b"a", 60_000))
        bench.advance(50)
    assert len(bench.core.state.lease_heap) < 10


def test_extend_is_for_ones_own_leases() -> None:
    bench, _, fence = holding("a")
    assert bench.worker("v", "r").refused(m.Extend(7, fence, b"a", 1000)).code == "lease_lost"


def test_a_large_delivery_expires_in_slices_and_takes_settlements_meanwhile() -> None:
    bench, worker, fence = holding(*(f"{n:04}" for n in range(1000)))
    bench.now += 30_000
    bench.wall += 30_000
    bench.turn()
    leased = bench.counts("q")["leased"]
    assert 0 < leased < 1000
    worker.send(m.Renew([fence]))  # which comes too late: it was told that they are lost
    assert bench.counts("q") == {"ready": 1000}
    assert worker.ack(fence, "0999") == [(fence, b"0999", "lost")]
    bench.check()


# ---- stalls


def test_a_stall_of_the_broker_moves_the_deadlines() -> None:
    bench, worker, fence = holding("a")
    bench.advance(25_000)
    bench.now += 20_000
    bench.wall += 20_000
    bench.turn(stalled_ms=20_000)
    bench.settle_down()
    assert bench.counts("q") == {"leased": 1}
    bench.advance(4_999)
    assert bench.counts("q") == {"leased": 1}
    bench.advance(1)
    assert bench.counts("q") == {"ready": 1}
    assert bench.told("stalled")[0] == {"gap_ms": 20_000}


def test_nothing_expires_before_what_has_arrived_was_read() -> None:
    bench, worker, fence = holding("a")
    bench.advance(29_000)
    bench.now += 10_000
    bench.wall += 10_000
    bench.turn(stalled_ms=4_000, drained=False)
    bench.turn(drained=False)
    assert bench.counts("q") == {"leased": 1}
    bench.turn([(worker.route, m.Renew([fence]))], drained=True)
    bench.settle_down()
    assert bench.counts("q") == {"leased": 1}
    bench.check()


def test_a_stall_moves_the_grace_of_a_silent_worker() -> None:
    bench, worker, fence = holding("a")
    bench.core.unreachable(worker.route)
    bench.turn()
    bench.now += 60_000
    bench.wall += 60_000
    bench.turn(stalled_ms=60_000)
    bench.settle_down()
    assert worker.connect([m.Held(fence, [b"a"], [])]).lost == []
    assert bench.counts("q") == {"leased": 1}
    bench.check()


@pytest.mark.parametrize("silent_before", [False, True])
def test_after_a_long_stall_workers_have_as_long_to_come_back_as_after_a_start(silent_before: bool) -> None:
    bench, worker, fence = holding("a", grace_ms=100)
    if silent_before:
        bench.core.unreachable(worker.route)
        bench.turn()
    bench.now += 7_000
    bench.wall += 7_000
    bench.turn(stalled_ms=7_000)
    worker.cut()  # it gave up meanwhile, and a probe finds out
    bench.advance(4_999)
    assert bench.counts("q") == {"leased": 1}
    assert worker.connect([m.Held(fence, [b"a"], [])]).lost == []
    bench.advance(1)
    worker.cut()
    bench.advance(1_100)
    assert bench.counts("q") == {"ready": 1}, "from then on it is the grace that counts"
    bench.check()


def test_after_a_short_stall_it_is_the_grace_that_counts() -> None:
    bench, worker, _ = holding("a", grace_ms=100)
    bench.now += 5_999
    bench.wall += 5_999
    bench.turn(stalled_ms=5_999)
    worker.cut()
    bench.advance(1_100)
    assert bench.counts("q") == {"ready": 1}
    bench.check()
