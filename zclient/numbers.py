"""The numbers of one incarnation, and which request gets the next one. It holds no socket and no clock."""

from collections import deque

from zclient.gathering import gathered
from zclient.protocol import limits
from zclient.requests import Request

WINDOW = 64
"""Requests on their way at once. Batches that come meanwhile are kept back, and small PUTs of them leave together."""


class Numbers:
    """1, 2, 3, ... in the order in which requests are first handed to the link."""

    def __init__(self) -> None:
        self.next = 1
        self.unanswered: dict[int, Request] = {}
        """Requests that have a number and no answer, oldest first."""
        self.kept_back: deque[Request] = deque()
        """Batches without a number: enough are on their way, or the broker would not remember one more. All that waits
        is younger."""
        self._oldest = 1

    def next_of(self, waiting: deque[Request]) -> Request | None:
        """The next one to be sent, with its number: of those kept back, then of ``waiting``; None if none may be."""
        while True:
            line = self.kept_back if self.kept_back and not self.full else waiting
            if not line:
                return None
            request = line.popleft()
            if request.done:
                continue
            if not request.number:
                if self.full and request.is_batch:
                    self.kept_back.append(request)
                    continue
                request = gathered(request, self.kept_back, waiting)
                self.give(request)
            request.queued = False
            return request

    def give(self, request: Request) -> None:
        """Number a request that is about to be sent for the first time."""
        request.number = self.next
        self.next += 1
        self.unanswered[request.number] = request

    def take_back(self, request: Request) -> None:
        """Free the number of a request that never left. Called for the newest first, so that no gap is left."""
        if request.number == self.next - 1:
            del self.unanswered[request.number]
            self.next = request.number
            self._oldest = min(self._oldest, request.number)
            request.number = 0

    @property
    def full(self) -> bool:
        """Whether one more batch has to wait."""
        if len(self.unanswered) >= WINDOW:
            return True
        most = limits.MAX_OPEN_BATCHES
        return self.next - self._oldest >= most and self.next - self.low(self.next) >= most

    def low(self, number: int) -> int:
        """The oldest number of an unanswered batch, or ``number``. Each number is stepped over once."""
        low = self._oldest
        unanswered = self.unanswered
        while low < number:
            request = unanswered.get(low)
            if request is not None and request.is_batch:
                break
            low += 1
        self._oldest = low
        return low
