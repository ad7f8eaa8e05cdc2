"""The procedure behind `watch`: the statuses of one job, one after the other, until it is over.

It outlives single calls, so it keeps what it follows between them. It runs as the procedures in `verbs` do.
"""

import contextlib
from dataclasses import replace
from typing import Any

from zclient.errors import AnswerTimeout, BrokerUnreachable, NotFound, ProtocolFault, ResultExpired, ResultTimeout
from zclient.handles import JobStatus, text_of
from zclient.session import Session
from zclient.verbs import Procedure, Wait, asking, show
from zclient.watches import ENDS, Follower

LAST_SHOW_MS = 10_000
"""How long the question may take for how a job ended, where its last change did not tell."""


class Following:
    """One caller who watches a job. ``timeout_ms`` counts from the first `next`."""

    def __init__(self, identifier: bytes, timeout_ms: float) -> None:
        self._id = identifier
        self._timeout_ms = timeout_ms
        self._until_ms: float | None = None
        self._session: Session | None = None
        self._follower: Follower | None = None
        self._last: JobStatus | None = None
        self._final: JobStatus | None = None
        self._over = False

    def next(self, session: Session, now: float) -> Procedure[JobStatus | None]:
        """The job's status, as soon as it is another one than the last; None after its end.

        Several changes since the last call are told as one. In another session (after a fork) it begins anew. Raises
        `ResultTimeout`, or why the broker is out of reach, when the time is over; `NotFound` or `ResultExpired` if the
        broker does not know the job, or no longer.
        """
        if self._over:
            return None
        follower = self._followed(session)
        if self._until_ms is None:
            self._until_ms = now + self._timeout_ms
        looked = self._last is not None
        while True:
            if looked and now >= self._until_ms and not follower.end.done:
                raise self._late(session, follower)
            status = self._fresh(follower)
            if status is not None:
                self._last = status
                return status
            if follower.end.done:
                return (yield from self._ended(session, now, follower))
            now = yield Wait(follower.requests, self._until_ms)
            looked = self._last is not None or not follower.news

    def leave(self) -> None:
        """Watch no longer. It may be called in any thread, at any time."""
        if self._follower is not None:
            self._follower.leave()
            self._follower = None

    def _followed(self, session: Session) -> Follower:
        if self._follower is None or self._session is not session:
            self.leave()
            self._session = session
            self._follower = session.follow(self._id)
        return self._follower

    def _fresh(self, follower: Follower) -> JobStatus | None:
        """A status that was not told yet. That of an end is kept for when FINISHED has come, which has the result."""
        row = follower.fresh()
        if row is None:
            return None
        try:
            status = JobStatus.from_wire(row)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ProtocolFault(f"a change cannot be read: {type(error).__name__} {error}") from None
        if status.is_over:
            self._final = status
            return None
        return None if status == self._last else status

    def _ended(self, session: Session, now: float, follower: Follower) -> Procedure[JobStatus]:
        """The status with which it ended, from the last change, or asked for, or as far as it is known."""
        self._over = True
        if follower.end.error is not None:
            raise follower.end.error.with_traceback(None)
        state, result, cause = follower.end.value
        name = text_of(self._id)
        if state not in ENDS:
            if self._last is None:
                raise NotFound(f"no job {name}")
            raise ResultExpired(f"job {name} is over, and nothing of it is kept")
        status = self._final
        if status is None or status.state != state:
            with contextlib.suppress(NotFound, AnswerTimeout, BrokerUnreachable):
                status = yield from asking(session, now, show(self._id.decode()), LAST_SHOW_MS)
        if status is None or status.state != state:
            status = self._last
        if status is None:
            raise ResultExpired(f"job {name} is {state}, and nothing else of it is kept")
        cause = cause if isinstance(cause, dict) else {}
        told: dict[str, Any] = {"reason": cause.get("reason"), "error": cause.get("error"), "result_bytes": result}
        missing = {field: value for field, value in told.items() if value and getattr(status, field) is None}
        return replace(status, state=state, **missing)

    def _late(self, session: Session, follower: Follower) -> Exception:
        if not follower.end.sent:
            return session.unreachable()
        return ResultTimeout(f"job {text_of(self._id)} did not end in time; it goes on")
