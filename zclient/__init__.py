"""zclient: send jobs to a zbroker, and learn what became of them."""

from typing import TYPE_CHECKING, Any

from zclient.blocking import Client
from zclient.errors import (
    AnswerTimeout,
    BatchTooLarge,
    BrokerUnreachable,
    CannotListen,
    ClosedError,
    DiskFull,
    DuplicateId,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    ProtocolFault,
    QueueClosed,
    QueueFull,
    Refused,
    ResultExpired,
    ResultTimeout,
    StreamRestarted,
    TooManyPeers,
    TooManyQueues,
    UniqueTaken,
    UnknownParent,
    UnsupportedVersion,
    WrongBroker,
    ZError,
)
from zclient.handles import AsyncJobHandle, JobHandle, Jobs, JobStatus, Progress
from zclient.joboptions import JobOptions
from zclient.schedules import Schedule
from zclient.streaming import AsyncStream, Stream
from zclient.verbs import Bulk, PolicyValue, Why

if TYPE_CHECKING:
    from zclient.aio import AsyncClient

__all__ = [
    "AnswerTimeout",
    "AsyncClient",
    "AsyncJobHandle",
    "AsyncStream",
    "BatchTooLarge",
    "BrokerUnreachable",
    "Bulk",
    "CannotListen",
    "Client",
    "ClosedError",
    "DiskFull",
    "DuplicateId",
    "InvalidArgument",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobOptions",
    "JobStatus",
    "Jobs",
    "LeaseLost",
    "NotFound",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PolicyValue",
    "Progress",
    "ProtocolFault",
    "QueueClosed",
    "QueueFull",
    "Refused",
    "ResultExpired",
    "ResultTimeout",
    "Schedule",
    "Stream",
    "StreamRestarted",
    "TooManyPeers",
    "TooManyQueues",
    "UniqueTaken",
    "UnknownParent",
    "UnsupportedVersion",
    "Why",
    "WrongBroker",
    "ZError",
]


def __getattr__(name: str) -> Any:
    """`AsyncClient` is loaded when it is first asked for: asyncio costs half of the time to import the rest."""
    if name == "AsyncClient":
        from zclient.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
