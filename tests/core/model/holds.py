"""What holds of a broker between two turns, whatever was sent: who may wait, and when the core wakes.

Each function asks the queues' policies and the jobs' own rows what may hold a job back, and compares that with what
the broker does. It never changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.core.harness import Bench
from zbroker import limits
from zbroker.core import rows
from zbroker.core.state import Found, Queue, State
from zbroker.core.states import State as JobState

NEVER = 1 << 62
RETAIN_MS = 1_000
"""Dead jobs that are too old may stay so much longer."""


def counters_agree(queue: Queue) -> None:
    """As many jobs as came and did not go."""
    counts, totals = queue.counts.jobs, queue.counts.totals
    gone = sum(totals[name] for name in ("done", "cancelled", "purged", "dropped", "moved"))
    assert sum(counts.values()) == totals["put"] - gone


def goes_at(state: State, found: Found) -> int:
    """When limits and rates let a ready job go (lease clock): now, later, or never of themselves."""
    queue, keys, key = found.queue, found.queue.ring.keys, found.place[1]
    policy, now = queue.policy, state.now
    if policy.in_flight_limit and queue.counts.jobs[JobState.LEASED] >= policy.in_flight_limit:
        return NEVER
    at = now
    if queue.rate is not None and not queue.rate.free(queue.used_until, now):
        at = queue.rate.next_at(queue.used_until)
    kept = found.id in keys.kept  # its key waits for it: others that wait do not hold it up
    running = keys.running.get(key, 0) - (sum(other == key for other in keys.kept.values()) if kept else 0)
    if policy.key_limit and running >= policy.key_limit:
        return NEVER
    if keys.rate is not None and keys.room(key, now, kept=kept) <= 0:
        key_at = keys.next_at(key, kept=kept)
        assert key_at is not None and key_at > now
        at = max(at, key_at)
    return at


def waiting_for_a_worker(state: State, queue: Queue, alive: Iterable[bytes]) -> list[Found]:
    """The jobs of a queue that a worker there is could take, if their limits let them."""
    if not queue.free and not queue.suspects:
        return []
    found = [job for job in map(state.find, alive) if job is not None and job.queue is queue]
    ready = [job for job in found if job.state is JobState.READY]
    suspects = {identifier for _, _, identifier in queue.suspects}
    assert suspects <= {job.id for job in ready}
    idle = [peer for peer in queue.workers if peer.capacity and not peer.unsettled and not peer.wedged]
    free = any(peer.credit > 0 for peer in queue.free)  # the others leave it when they are looked at
    first = {identifier for _, _, identifier in queue.suspects[: limits.STEP_ROWS]}  # no more are looked at
    return [job for job in ready if (job.id in first and idle) or (job.id not in suspects and free)]


def nobody_waits_in_vain(state: State, alive: Iterable[bytes]) -> None:
    """No worker with credit waits while a job may go, nor does an empty one while a suspect may."""
    alive = sorted(alive)
    for queue in state.queues.values():
        if queue.paused or not queue.counts.jobs[JobState.READY]:
            continue
        for job in waiting_for_a_worker(state, queue, alive):
            at = goes_at(state, job)
            assert at > state.now, f"job {job.id!r} of {queue.name} may go, and a worker has credit"


def wakes_in_time(bench: Bench) -> None:
    """The core wants its next turn before anything falls due, and not before something may."""
    state = bench.core.state
    wanted = bench.core.wanted_in()
    assert wanted > 0, "it was let settle down"
    due = [NEVER]
    for key, _ in bench.store.scan("timers", b"", b"\xff" * 100):
        due.append(rows.due_of(key) - state.wall)
    due += [delivery.deadline - state.now for delivery in state.deliveries.values()]
    graces = [peer.grace_until - state.now for peer in state.peers.values() if peer.grace_until is not None]
    due += [max(grace, limits.WATCH_MS) for grace in graces]
    for queue in state.queues.values():
        policy = queue.policy
        if policy.keep_dead_ms:
            for key, _ in bench.store.scan(
                "dead", rows.queue_prefix(queue.name), rows.queue_prefix(queue.name)[:-1] + b"\1"
            ):
                ended = rows.split_dead_key(key)[1]
                due.append(max(ended + policy.keep_dead_ms - state.wall, RETAIN_MS))
    for _, value in bench.store.scan("history", b"", b"\xff" * 100):
        row = rows.HistoryRow(*rows.unpack(value))
        due.append(row.ended_ms + state.queues[row.queue].policy.keep_done_ms - state.wall)
    assert wanted <= min(due), f"it wants a turn in {wanted} ms, and something falls due in {min(due)}"


def wakes_for_rates(state: State, wanted: int, alive: Iterable[bytes]) -> None:
    """The core looks again when a rate lets a job go that a worker could take."""
    alive = sorted(alive)
    for queue in state.queues.values():
        if not queue.paused and queue.counts.jobs[JobState.READY]:
            times = [goes_at(state, job) for job in waiting_for_a_worker(state, queue, alive)]
            soonest = min(times, default=NEVER)
            assert wanted <= soonest - state.now, f"a rate of {queue.name} lets a job go in {soonest - state.now} ms"


def keeps_few_dead(bench: Bench, alive: Iterable[bytes]) -> None:
    """No queue keeps more dead jobs than it says, nor older ones."""
    state = bench.core.state
    for queue in state.queues.values():
        policy = queue.policy
        if policy.keep_dead_count:
            assert queue.counts.jobs[JobState.DEAD] <= policy.keep_dead_count
        if policy.keep_dead_ms:
            for job in map(state.find, alive):
                if job is not None and job.queue is queue and job.state is JobState.DEAD:
                    assert job.changed().ended_ms + policy.keep_dead_ms + RETAIN_MS > state.wall


def is_in_its_place(found: Found, came_to: str) -> None:
    """What its record says of its queue: a job that died elsewhere is told apart."""
    header = found.header
    assert header.queue == found.queue.name
    if header.queue != came_to:
        assert header.options["headers"]["dead_queue"] in (came_to, "r")
        assert header.options.keys() <= {"priority", "key", "headers", "batch"}
        assert found.changed().unexpiring
