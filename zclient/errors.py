"""Every error that users of the packages meet: one base class, and each knows the exit code of its kind.

The codes on the wire (``docs/protocol.md``) map to these classes here and nowhere else. It never does I/O.
"""

from collections.abc import Sequence
from typing import Any


class ZError(Exception):
    """Base of all errors of zclient, zworker and zbroker. ``exit_code`` is what a command line ends with."""

    exit_code = 1
    code = "error"
    confirmed: Sequence[str] = ()
    """After a `send_many` that failed: the ids of the jobs that the broker confirmed."""
    unknown: Sequence[str] = ()
    """After a `send_many` that failed: the ids of the jobs that left and were not answered. No other is stored."""

    def __init__(self, text: str = "", **details: Any) -> None:
        super().__init__(text or self.__class__.__doc__)
        self.details = details


class InvalidArgument(ZError, ValueError):
    """A name, option or value that cannot be; nothing was sent or nothing was done."""

    exit_code = 2
    code = "invalid"


class BrokerUnreachable(ZError, ConnectionError):
    """The broker was not reached in time; nothing was sent."""

    exit_code = 3
    code = "unreachable"


class OutcomeUnknown(ZError):
    """Sent, and not answered in time: stored, or not. ``ids`` names the jobs; sending these ids again is safe."""

    exit_code = 3
    code = "outcome_unknown"

    def __init__(self, text: str = "", *, ids: tuple[str, ...] = (), **details: Any) -> None:
        if not text:
            which = ids[0] if len(ids) == 1 else f"{len(ids)} jobs"
            text = (
                f"sent, and not answered in time: {which} may be stored, or not; the same id can be sent again safely"
            )
        super().__init__(text, **details)
        self.ids = ids

    @property
    def id(self) -> str | None:
        """The job's id, where it was one job."""
        return self.ids[0] if self.ids else None


class AnswerTimeout(ZError, TimeoutError):
    """A question or an order was not answered in time."""

    exit_code = 3
    code = "timeout"


class Refused(ZError):
    """The broker refused, and kept nothing of it. ``retry_after`` is in seconds, where waiting may help."""

    exit_code = 4
    code = "refused"

    @property
    def retry_after(self) -> float | None:
        """Seconds after which another try makes sense, or None."""
        after = self.details.get("retry_after_ms")
        return None if after is None else float(after) / 1000


class PayloadTooLarge(Refused):
    """A payload, its headers or a result is larger than the broker takes."""

    code = "too_large"


class BatchTooLarge(Refused):
    """More jobs or bytes in one batch than the broker takes."""

    code = "batch_too_large"


class QueueFull(Refused):
    """The queue holds as many jobs or bytes as it may."""

    code = "queue_full"


class DiskFull(Refused):
    """The broker's disk is below its floor of free space: it takes no new jobs, and still takes settlements."""

    code = "disk_full"


class DuplicateId(Refused):
    """Another job with this id exists, and it differs."""

    code = "duplicate_id"


class UniqueTaken(Refused):
    """Another job has the unique text; ``details["id"]`` is its id, where it was told."""

    code = "conflict"


class UnknownParent(Refused):
    """A job is to wait for one that nobody knows. ``details["id"]`` names it."""

    code = "unknown_parent"


class UnknownBatch(Refused):
    """A job is to belong to a batch that nobody has opened, or that is kept no longer. ``details["id"]`` names it."""

    code = "unknown_batch"


class BatchClosed(Refused):
    """The batch takes no more jobs, but for those that its own jobs add. ``details["id"]`` names it."""

    code = "batch_closed"


class WorkflowCancelled(Refused):
    """Somebody cancelled the workflow: it is not tried again. ``details["id"]`` names it."""

    code = "workflow_cancelled"


class TooManyBatches(Refused):
    """The broker has as many batches and workflows as it may."""

    code = "too_many_batches"


class QueueClosed(Refused):
    """The queue, or the whole broker, takes no new jobs: it is being drained or stopped."""

    code = "closed"


class TooManyPeers(Refused):
    """The broker serves as many peers as it may."""

    code = "too_many_peers"


class TooManyQueues(Refused):
    """The broker has as many queues as it may."""

    code = "too_many_queues"


class UnsupportedVersion(Refused):
    """The broker speaks another version of the protocol."""

    code = "unsupported_version"


class WrongBroker(Refused):
    """Another broker answered than the one this client belongs to: several endpoints are addresses of one broker."""

    code = "wrong_broker"


class ProtocolFault(Refused):
    """The broker could not read what was sent: a mismatch of versions, or a bug in this library."""

    code = "malformed"


class CannotListen(ZError, OSError):
    """A broker cannot listen on the endpoint that it was given."""

    code = "cannot_listen"


class NotFound(ZError, LookupError):
    """There is no such job, queue or worker."""

    exit_code = 5
    code = "not_found"


class JobFailed(ZError):
    """The job is dead. ``reason`` says why (``attempts``, ``rejected``, ...), ``error`` is the last attempt's.

    ``moved_to`` is the queue that got the job instead, where its queue has one for its dead (``dead_to``); else None.
    """

    code = "job_failed"

    def __init__(
        self,
        text: str = "",
        *,
        reason: str = "",
        error: dict[str, Any] | None = None,
        moved_to: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(text, moved_to=moved_to, **details)
        self.reason = reason
        self.error = error or {}
        self.moved_to = moved_to


class JobCancelled(ZError):
    """The job was cancelled before it was done.

    ``reason`` is ``cancelled`` (somebody asked for it), ``purged`` (with its queue), ``replaced``: another job with
    its unique text took its place, and ``by`` is the id of that one; or ``parent``: a job that it waited for is dead
    or cancelled, and ``parent`` is the id of that one. A stream that lost its reader has the reason ``unread``.
    """

    code = "job_cancelled"

    def __init__(
        self,
        text: str = "",
        *,
        reason: str = "cancelled",
        by: str | None = None,
        parent: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(text, **details)
        self.reason = reason
        self.by = by
        self.parent = parent


class ResultExpired(ZError):
    """The job is done, or never was: its result is no longer kept."""

    exit_code = 5
    code = "result_expired"


class StreamRestarted(ZError):
    """The run that gave the values so far is over without an end; another one gives them again, from the first on.

    ``values`` is how many came of it, ``restarts`` how often this happened so far. The stream goes on: the next value
    is the first of the new run.
    """

    code = "stream_restarted"

    def __init__(self, text: str = "", *, values: int = 0, restarts: int = 0, **details: Any) -> None:
        super().__init__(text, **details)
        self.values = values
        self.restarts = restarts


class ResultTimeout(ZError, TimeoutError):
    """The job did not end in time. It goes on, unless the text says otherwise."""

    exit_code = 1
    code = "result_timeout"


class LeaseLost(ZError):
    """The job is no longer this worker's: another may run it, so this run's outcome does not count."""

    code = "lease_lost"


class ClosedError(ZError):
    """The client, worker or consumer was closed, or belongs to another process."""

    code = "client_closed"


_BY_CODE: dict[str, type[ZError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        OutcomeUnknown,
        PayloadTooLarge,
        BatchTooLarge,
        QueueFull,
        DiskFull,
        DuplicateId,
        UniqueTaken,
        QueueClosed,
        UnknownParent,
        UnknownBatch,
        BatchClosed,
        WorkflowCancelled,
        TooManyBatches,
        TooManyPeers,
        TooManyQueues,
        UnsupportedVersion,
        ProtocolFault,
        NotFound,
        LeaseLost,
    )
}


def error_from_wire(code: str, text: str, details: dict[str, Any]) -> ZError:
    """The error that a FAILURE message stands for; an unknown code is a plain `Refused`. Ids become texts."""
    told = {
        str(name): value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in details.items()
        if name not in ("ids", "text", "self")
    }
    return _BY_CODE.get(code, Refused)(text, **told)
