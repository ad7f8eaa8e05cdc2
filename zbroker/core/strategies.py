"""Which worker gets which of a queue's jobs: one at a time in turn, the least busy one, or any of them.

Plans are made here, and only here: how many jobs a turn may plan, and what becomes of a plan, is for `dispatch.py`.
"""

from heapq import heapify, heappop, heapreplace

from zbroker.core.entities import Peer, Queue
from zbroker.core.rows import Change
from zbroker.core.state import State
from zclient.protocol.record import Header

Taken = tuple[bytes, bytes, Header, Change | None, int]
"""Of a job that may be delivered: id, record, its header (looked up once), change, sequence."""


def set_aside(queue: Queue, budget: int, jobs: int) -> dict[Peer, None]:
    """Where ``jobs`` fill all free workers, but not in one turn: those of them that are filled in the next ones.

    A delivery costs much the same whatever it carries. Were a turn shared by all workers, each would get a sliver of
    its credit, and have as many small deliveries from then on, since each ack makes room for as much as it names.
    """
    aside: dict[Peer, None] = {}
    if jobs <= budget or queue.ring.keys.limited:
        return aside
    for peer in queue.free:
        if budget <= 0:
            aside[peer] = None
        credit = peer.credit
        if credit > 0:  # less than none, if its capacity was lowered
            budget -= credit
            jobs -= credit
            if jobs < 0:
                return {}
    for peer in aside:
        del queue.free[peer]
    return aside


def free_credit(queue: Queue, plans: dict[Peer, list[Taken]], most: int) -> int:
    """Credit of the free workers, less what is planned for them already; not counted beyond ``most``."""
    credit = 0
    gone: list[Peer] = []
    for peer in queue.free:
        room = peer.credit - len(plans.get(peer, ()))
        if room <= 0:
            gone.append(peer)
            continue
        credit += room
        if credit >= most:
            credit = most
            break
    for peer in gone:
        _leave_free(queue, peer)
    return credit


def _leave_free(queue: Queue, peer: Peer) -> None:
    """The worker has no credit left: it comes back to the queue when it has."""
    del queue.free[peer]
    peer.away[queue] = None


def assign(state: State, queue: Queue, jobs: list[Taken], plans: dict[Peer, list[Taken]]) -> int:
    """Spread the jobs over the workers with credit, one at a time, as the queue's strategy says."""
    free = queue.free
    if len(free) == 1 and jobs:
        peer = next(iter(free))
        plans.setdefault(peer, []).extend(jobs)
        if peer.credit <= len(plans[peer]):
            _leave_free(queue, peer)
        return len(jobs)
    if jobs:
        _STRATEGIES[queue.policy.strategy](state, queue, jobs, plans)
    return len(jobs)


def _round_robin(state: State, queue: Queue, jobs: list[Taken], plans: dict[Peer, list[Taken]]) -> None:
    """One at a time in turn: as many full rounds at once as the worker with the least room can take. It looks at no
    more workers than there are jobs: most of a large fleet may be idle."""
    given = 0
    while given < len(jobs):
        left = len(jobs) - given
        peers = _able(queue, plans, left)
        if len(peers) < left:
            rounds = min(peer.credit - len(plans.get(peer, ())) for peer in peers)
            until = given + min(rounds, left // len(peers)) * len(peers)
        else:  # a round at most is left: those who get one go behind the others
            until = len(jobs)
            for peer in peers:
                del queue.free[peer]
                queue.free[peer] = None
        for place, peer in enumerate(peers, given):
            plans.setdefault(peer, []).extend(jobs[place : until : len(peers)])
        given = until


def _able(queue: Queue, plans: dict[Peer, list[Taken]], most: int) -> list[Peer]:
    """The workers with credit, in the order of their turns; the first ``most`` of them."""
    able: list[Peer] = []
    gone: list[Peer] = []
    for peer in queue.free:
        if peer.credit <= len(plans.get(peer, ())):
            gone.append(peer)
            continue
        able.append(peer)
        if len(able) >= most:
            break
    for peer in gone:
        _leave_free(queue, peer)
    return able


def _least_busy(state: State, queue: Queue, jobs: list[Taken], plans: dict[Peer, list[Taken]]) -> None:
    """To the worker of whose capacity the smallest share is leased; among equals, in turn."""
    peers = _able(queue, plans, len(queue.free))
    heap = [
        ((peer.unsettled + len(plans.get(peer, ()))) / peer.capacity, turn, peer) for turn, peer in enumerate(peers)
    ]
    heapify(heap)
    turn = len(heap)
    for job in jobs:
        _, _, peer = heap[0]
        plan = plans.setdefault(peer, [])
        plan.append(job)
        if peer.credit > len(plan):
            del queue.free[peer]
            queue.free[peer] = None
            turn += 1
            heapreplace(heap, ((peer.unsettled + len(plan)) / peer.capacity, turn, peer))
        else:
            _leave_free(queue, peer)
            heappop(heap)


def _random(state: State, queue: Queue, jobs: list[Taken], plans: dict[Peer, list[Taken]]) -> None:
    """To any worker with credit, each as likely as the others."""
    peers = _able(queue, plans, len(queue.free))
    for job in jobs:
        place = state.random.randrange(len(peers))
        peer = peers[place]
        plan = plans.setdefault(peer, [])
        plan.append(job)
        if peer.credit <= len(plan):
            _leave_free(queue, peer)
            peers[place] = peers[-1]
            peers.pop()


_STRATEGIES = {"round_robin": _round_robin, "least_busy": _least_busy, "random": _random}
