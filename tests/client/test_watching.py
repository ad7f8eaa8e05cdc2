"""Following a job's changes: what the session says and keeps, and what `watch` makes of it. No socket, no broker."""

import math
from typing import Any

import pytest

from tests.client.conversation import Peer
from zclient.errors import (
    BrokerUnreachable,
    ClosedError,
    NotFound,
    ProtocolFault,
    ResultExpired,
    ResultTimeout,
    UnsupportedVersion,
)
from zclient.handles import JobStatus, Progress
from zclient.protocol import messages as m
from zclient.session import WATCH_AGAIN_MS
from zclient.verbs import End, Wait, advance
from zclient.watching import Following


def row(state: str, identifier: bytes = b"a", **more: Any) -> dict[str, Any]:
    """A job as CHANGED tells it."""
    return {"id": identifier, "queue": "q", "state": state, **more}


def changed(*rows: dict[str, Any]) -> m.Changed:
    return m.Changed(list(rows))


def finished(state: str, result: bytes | None = None, cause: Any = None, identifier: bytes = b"a") -> m.Finished:
    return m.Finished([(identifier, state, result, cause)])


# ---- the session


def test_changes_are_asked_for_and_the_latest_alone_is_kept() -> None:
    peer = Peer()
    peer.connect()
    follower = peer.session.follow(b"a")
    assert peer.said() == [m.Watch([b"a"], changes=True)]
    assert follower.fresh() is None
    waits = follower.requests
    for number in range(1000):
        peer.hear(changed(row("leased", attempt=number), row("ready", b"nobody's")))
    assert waits[1].done and not waits[0].done
    assert follower.fresh() == row("leased", attempt=999)
    assert follower.fresh() is None
    assert not any(request.done for request in follower.requests)


def test_those_who_follow_and_those_who_wait_share_a_watch() -> None:
    peer = Peer()
    peer.connect()
    result = peer.session.watch(b"a")
    assert peer.said() == [m.Watch([b"a"])]
    first = peer.session.follow(b"a")
    assert peer.said() == [m.Watch([b"a"], changes=True)]
    peer.hear(changed(row("ready")))
    second = peer.session.follow(b"a")
    assert peer.said() == []
    assert first.fresh() == second.fresh() == row("ready")
    peer.hear(finished("done", b"\x05"))
    assert result is first.end is second.end
    assert result.value == ("done", b"\x05", None)
    for follower in (first, second):
        follower.leave()
    assert peer.said() == []


def test_followers_that_leave_end_the_watch_or_only_its_changes() -> None:
    peer = Peer()
    peer.connect()
    followers = [peer.session.follow(b"a"), peer.session.follow(b"a"), peer.session.follow(b"b")]
    result = peer.session.watch(b"b")
    peer.said()
    followers[0].leave()
    assert peer.said() == []
    followers[1].leave()
    assert peer.session.pending
    assert peer.said() == [m.Unwatch([b"a"])]
    followers[2].leave()
    assert peer.said() == [m.Watch([b"b"])], "its end is still waited for"
    peer.session.give_up(result)
    assert peer.said() == [m.Unwatch([b"b"])]
    assert not peer.session.pending


def test_a_follower_that_leaves_late_takes_nothing_from_the_next_one() -> None:
    peer = Peer()
    peer.connect()
    old = peer.session.follow(b"a")
    peer.said()
    peer.hear(finished("dead"))
    new = peer.session.follow(b"a")
    assert peer.said() == [m.Watch([b"a"], changes=True)]
    old.leave()
    assert peer.said() == []
    peer.hear(changed(row("ready")))
    assert new.fresh() == row("ready")


def test_watches_of_both_kinds_are_said_again_on_a_new_connection_and_now_and_then() -> None:
    peer = Peer()
    peer.connect()
    peer.session.watch(b"a")
    peer.session.follow(b"b")
    both = [m.Watch([b"a"]), m.Watch([b"b"], changes=True)]
    assert peer.said() == both
    peer.lose()
    assert peer.connect() == both
    peer.now += WATCH_AGAIN_MS
    peer.hear(m.Ping())
    peer.session.tick(peer.now)
    assert peer.said() == both
    peer.session.watch(b"c")
    assert len(peer.session.outgoing(peer.now)) == 1
    peer.session.unsent(1)
    assert peer.said() == [m.Watch([b"c"])]


def test_a_change_of_nothing_is_counted_and_dropped() -> None:
    peer = Peer()
    peer.connect()
    follower = peer.session.follow(b"a")
    peer.hear(changed({}, {"id": []}, row("ready")))
    assert peer.session.faults == 2
    assert follower.fresh() == row("ready")


def test_what_ends_a_session_ends_its_watches() -> None:
    peer = Peer()
    peer.connect()
    follower = peer.session.follow(b"a")
    peer.session.fail_all(ClosedError())
    assert isinstance(follower.end.error, ClosedError)
    follower.leave()
    refused = Peer()
    refused.session.connected(refused.now)
    refused.said()
    refused.hear(m.Failure(0, "unsupported_version", "", {"versions": [2]}))
    assert isinstance(refused.session.watch(b"a").error, UnsupportedVersion)
    assert isinstance(refused.session.follow(b"a").end.error, UnsupportedVersion)


# ---- what a caller sees


class Watcher:
    """A caller's `watch` of the job ``a``, over a session that the test speaks with."""

    def __init__(self, timeout_ms: float = math.inf, *, connected: bool = True) -> None:
        self.peer = Peer()
        if connected:
            self.peer.connect()
        self.following = Following(b"a", timeout_ms)

    def waits(self) -> Any:
        """Begin a step, which has to wait."""
        procedure = self.following.next(self.peer.session, self.peer.now)
        assert isinstance(advance(procedure), Wait)
        return procedure

    def told(self, procedure: Any = None) -> JobStatus | None:
        """What a step ends with, begun before or now."""
        answer = None if procedure is None else self.peer.now
        end = advance(procedure or self.following.next(self.peer.session, self.peer.now), answer)
        assert isinstance(end, End)
        status: JobStatus | None = end.value
        return status


def test_each_status_is_told_until_the_end() -> None:
    watcher = Watcher()
    step = watcher.waits()
    assert watcher.peer.said() == [m.Watch([b"a"], changes=True)]
    watcher.peer.hear(changed(row("ready")))
    assert watcher.told(step) == JobStatus("a", "q", "ready")
    step = watcher.waits()
    watcher.peer.hear(changed(row("leased", attempt=1, progress={"fraction": 0.5, "text": "half", "at": 0})))
    status = watcher.told(step)
    assert status is not None and status.progress is not None
    assert status.progress == Progress(0.5, "half", status.progress.at)
    step = watcher.waits()
    watcher.peer.hear(changed(row("done", attempt=1, finished_at=1893456000_000)))
    assert isinstance(advance(step, watcher.peer.now), Wait), "the result comes with FINISHED"
    watcher.peer.hear(finished("done", b"\x05"))
    status = watcher.told(step)
    assert status is not None
    assert (status.state, status.result, status.finished_at is not None) == ("done", 5, True)
    assert watcher.told() is None
    watcher.following.leave()
    assert watcher.peer.said() == []


def test_what_is_told_again_after_a_reconnection_is_no_change() -> None:
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.hear(changed(row("leased", attempt=1, lease_ms=30_000)))
    watcher.told(step)
    step = watcher.waits()
    watcher.peer.lose()
    assert watcher.peer.connect() == [m.Watch([b"a"], changes=True)]
    watcher.peer.hear(changed(row("leased", attempt=1, lease_ms=12_345)))
    assert isinstance(advance(step, watcher.peer.now), Wait)
    watcher.peer.hear(changed(row("scheduled", attempt=1)))
    status = watcher.told(step)
    assert status is not None and status.state == "scheduled"


def test_a_job_that_is_over_already_is_asked_for_once() -> None:
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.hear(finished("dead", None, {"reason": "rejected"}))
    assert isinstance(advance(step, watcher.peer.now), Wait)
    (ask,) = watcher.peer.said()
    assert isinstance(ask, m.Ask) and ask.verb == "show"
    watcher.peer.hear(m.Answer(ask.number, row("dead", reason="rejected", finished_at=0)))
    status = watcher.told(step)
    assert status is not None and (status.state, status.reason) == ("dead", "rejected")
    assert watcher.told() is None


@pytest.mark.parametrize("answer", [m.Failure(0, "not_found", "", {}), m.Answer(0, row("ready"))])
def test_an_end_that_nobody_can_look_up_is_told_as_far_as_it_is_known(answer: Any) -> None:
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.hear(changed(row("ready", priority=7)))
    watcher.told(step)
    step = watcher.waits()
    watcher.peer.hear(finished("dead", None, {"reason": "expired"}))
    assert isinstance(advance(step, watcher.peer.now), Wait)
    (ask,) = watcher.peer.said()
    assert isinstance(ask, m.Ask)
    watcher.peer.hear(answer._replace(number=ask.number))
    assert watcher.told(step) == JobStatus("a", "q", "dead", priority=7, reason="expired")


def test_a_job_that_nobody_knows_and_one_that_is_gone() -> None:
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.hear(finished("unknown"))
    with pytest.raises(NotFound, match="no job a"):
        watcher.told(step)
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.hear(changed(row("ready")))
    watcher.told(step)
    step = watcher.waits()
    watcher.peer.hear(finished("unknown"))
    with pytest.raises(ResultExpired, match="nothing of it is kept"):
        watcher.told(step)
    assert watcher.told() is None


def test_the_time_is_for_the_whole() -> None:
    watcher = Watcher(1000)
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.now += 900
    watcher.peer.hear(changed(row("ready")))
    assert watcher.told(step) is not None
    step = watcher.waits()
    watcher.peer.now += 100
    with pytest.raises(ResultTimeout):
        watcher.told(step)
    watcher = Watcher(1000)
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.hear(changed(row("ready")))
    watcher.told(step)
    watcher.peer.now += 1000
    watcher.peer.hear(changed(row("leased")))
    with pytest.raises(ResultTimeout):
        watcher.told()


def test_a_broker_out_of_reach_is_told_from_a_job_that_takes_its_time() -> None:
    watcher = Watcher(1000, connected=False)
    step = watcher.waits()
    watcher.peer.now += 1000
    with pytest.raises(BrokerUnreachable):
        watcher.told(step)


def test_without_time_there_is_one_look() -> None:
    watcher = Watcher(0)
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.hear(changed(row("ready")))
    assert watcher.told(step) is not None
    with pytest.raises(ResultTimeout):
        watcher.told()


def test_a_change_that_cannot_be_read_is_a_fault_of_the_broker() -> None:
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.hear(changed({"id": b"a"}))
    with pytest.raises(ProtocolFault):
        watcher.told(step)


def test_in_another_session_it_begins_anew() -> None:
    watcher = Watcher()
    step = watcher.waits()
    watcher.peer.said()
    watcher.peer.hear(changed(row("ready")))
    watcher.told(step)
    before, watcher.peer = watcher.peer, Peer()
    watcher.peer.connect()
    step = watcher.waits()
    assert watcher.peer.said() == [m.Watch([b"a"], changes=True)]
    assert before.said() == [m.Unwatch([b"a"])]
    watcher.peer.hear(changed(row("leased")))
    status = watcher.told(step)
    assert status is not None and status.state == "leased"
