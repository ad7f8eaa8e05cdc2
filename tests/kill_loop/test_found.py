"""What the kill loop has found, each as a test of its own, without any process."""

from tests.core.harness import Bench
from zclient.protocol import messages as m


def test_a_lease_does_not_run_while_its_worker_may_still_come_back() -> None:
    """With a lease shorter than the time to return, a restart of the broker burnt an attempt of what living workers
    held, and counted a loss, as soon as one of them was slower than its lease."""
    bench = Bench(policy={"lease_ms": 2_000}, return_ms=5_000)
    worker = bench.worker("w", "q")
    bench.producer().put("q", "a")
    fence = worker.one(m.Deliver).fence
    bench.crash()
    bench.advance(4_999)
    assert (bench.counts("q"), bench.told("lease expired")) == ({"leased": 1}, [])
    assert worker.connect(held=[m.Held(fence, [b"a"], [])]).lost == []
    assert worker.ack(fence, "a") == []
    bench.check()


def test_what_nobody_came_back_for_returns_and_burns_no_attempt() -> None:
    bench = Bench(policy={"lease_ms": 2_000}, return_ms=2_000)
    bench.worker("w", "q")
    bench.producer().put("q", "a")
    bench.crash()
    bench.advance(2_000)
    assert (bench.counts("q"), bench.told("lease expired")) == ({"ready": 1}, [])
    assert bench.worker("v", "q").one(m.Deliver).attempts == [1]
    bench.check()


def test_a_lease_of_who_came_back_runs_out_if_it_is_not_renewed() -> None:
    bench = Bench(policy={"lease_ms": 2_000}, return_ms=5_000)
    worker = bench.worker("w", "q")
    bench.producer().put("q", "a")
    fence = worker.one(m.Deliver).fence
    bench.crash()
    worker.connect(held=[m.Held(fence, [b"a"], [])])
    bench.advance(2_000)
    assert worker.one(m.Lost) == m.Lost([(fence, [b"a"])], "lease expired")
    bench.check()
