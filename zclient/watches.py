"""The jobs that a session watches: who waits for their ends, who follows their changes, and what is still to be said.

Of a job's changes the latest alone is kept: a follower that is slow costs one row, however many there were. It sends
nothing and knows no time; the session says what is due, and locks.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from zclient.errors import ZError
from zclient.protocol import limits
from zclient.protocol.messages import Watch
from zclient.requests import CHANGE, WATCH, Request

ENDS = ("done", "dead", "cancelled")
"""How a job, or a workflow or batch, ended; whatever else is told means that nobody knows it."""


class Changes:
    """The latest change of one job, shared by all who follow it. ``next`` ends when another one comes."""

    __slots__ = ("followers", "next", "row", "told")

    def __init__(self) -> None:
        self.followers = 0
        self.row: dict[str, Any] = {}
        self.told = 0
        self.next = Request(CHANGE, ())

    def tell(self, row: dict[str, Any]) -> None:
        """Keep a change in place of the one before, and rouse who waits for it."""
        self.row = row
        self.told += 1
        waited_for, self.next = self.next, Request(CHANGE, ())
        waited_for.finish(row)


class Follower:
    """One who follows the changes of a job. ``end`` is the request for its end, shared with all who wait for that."""

    __slots__ = ("_leaving", "_seen", "changes", "end")

    def __init__(self, end: Request, changes: Changes, leaving: "deque[Follower]") -> None:
        self.end = end
        self.changes = changes
        self._leaving = leaving
        self._seen = 0

    @property
    def requests(self) -> tuple[Request, Request]:
        """What ends when there is something new."""
        return self.end, self.changes.next

    @property
    def news(self) -> bool:
        """Whether there is a change that was not taken yet."""
        return self._seen != self.changes.told

    def fresh(self) -> dict[str, Any] | None:
        """The latest change, as a row of ``show``, if it was not taken yet."""
        if not self.news:
            return None
        self._seen = self.changes.told
        return self.changes.row

    def leave(self) -> None:
        """Follow no longer. In any thread, and without the session's lock: it is noted, and done in its next turn."""
        self._leaving.append(self)


class Watches:
    """All that one session watches."""

    def __init__(self) -> None:
        self.refusal: ZError | None = None
        """Why the broker will tell nothing, as long as it does not change its mind: new watches end with it at once."""
        self._ends: dict[bytes, Request] = {}
        self._changes: dict[bytes, Changes] = {}
        self._due: dict[bytes, None] = {}
        self._joined: set[bytes] = set()  # jobs that more wait for since the broker was last asked
        self._leaving: deque[Follower] = deque()

    @property
    def pending(self) -> bool:
        """Whether there is something to say, or somebody has left."""
        return bool(self._due or self._leaving)

    # ---- who watches

    def watch(self, identifier: bytes) -> Request:
        """The request for a job's end, with one more waiter."""
        request = self._ends.get(identifier)
        if request is not None:
            request.waiters += 1
            self._joined.add(identifier)
            return request
        request = Request(WATCH, (identifier,))
        if self.refusal is not None:
            request.finish(None, self.refusal)
            return request
        self._ends[identifier] = request
        self._due[identifier] = None
        return request

    def follow(self, identifier: bytes) -> Follower:
        """One more who follows a job's changes; if it is the first, the broker is told that they are wanted."""
        end = self.watch(identifier)
        changes = self._changes.get(identifier) or Changes()
        if not changes.followers and not end.done:
            self._changes[identifier] = changes
            self._due[identifier] = None
        changes.followers += 1
        return Follower(end, changes, self._leaving)

    def leave(self, request: Request) -> bool:
        """One waiter less for a job's end; whether it was the last, so that the job is no longer watched."""
        request.waiters -= 1
        identifier = request.body[0]
        if request.waiters > 0 or self._ends.get(identifier) is not request:
            return False
        self._forget(identifier)
        return True

    def left(self) -> Iterator[Request]:
        """Take out the followers that left; the requests of the jobs that nobody watches any more."""
        while self._leaving:
            follower = self._leaving.popleft()
            identifier = follower.end.body[0]
            follower.changes.followers -= 1
            if not follower.changes.followers and self._changes.get(identifier) is follower.changes:
                del self._changes[identifier]
                self._due[identifier] = None  # for those who wait for its end alone
            if self.leave(follower.end):
                yield follower.end

    def _forget(self, identifier: bytes) -> None:
        self._ends.pop(identifier, None)
        self._changes.pop(identifier, None)
        self._due.pop(identifier, None)
        self._joined.discard(identifier)

    def clear(self) -> list[Request]:
        """Forget everything; what was waited for."""
        requests = list(self._ends.values())
        for watched in (self._ends, self._changes, self._due, self._joined, self._leaving):
            watched.clear()
        return requests

    # ---- what is said

    def due(self) -> Iterator[tuple[Watch, list[Request]]]:
        """The messages that say what is due, each with the requests that it carries."""
        while self._due:
            ids = list(islice(self._due, limits.MAX_BATCH_JOBS))
            for identifier in ids:
                del self._due[identifier]
            self._joined.difference_update(ids)
            for changes in (False, True):
                chosen = [identifier for identifier in ids if (identifier in self._changes) is changes]
                if chosen:
                    yield Watch(chosen, changes), [self._ends[identifier] for identifier in chosen]

    def unsaid(self, ids: Iterable[bytes]) -> None:
        """These found no room, and come first when there is some."""
        back = dict.fromkeys(identifier for identifier in ids if identifier in self._ends)
        for identifier in back:
            self._ends[identifier].sends -= 1
        self._due = back | self._due

    def say_again(self, before_ms: float | None = None) -> None:
        """Everything is due again, or what was last said at this time or before."""
        for identifier, request in self._ends.items():
            if before_ms is None or request.last_sent_ms <= before_ms:
                self._due[identifier] = None

    # ---- what is heard

    def finished(self, ends: list[Any]) -> None:
        """The ends of jobs were told: they are watched no longer, and who waited knows. That a job is unknown is asked
        again if more wait for it since it was asked: theirs may have been stored meanwhile."""
        for identifier, state, result, cause in ends:
            if state not in ENDS and identifier in self._joined:
                self._due[identifier] = None
                continue
            request = self._ends.get(identifier)
            self._forget(identifier)
            if request is not None:
                request.finish((state, result, cause))

    def changed(self, row: dict[str, Any]) -> None:
        """A job changed; nothing if nobody follows it."""
        changes = self._changes.get(row["id"])
        if changes is not None:
            changes.tell(row)
