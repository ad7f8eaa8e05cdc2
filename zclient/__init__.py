"""zclient: send jobs to a zbroker, and learn what became of them."""

from typing import TYPE_CHECKING, Any

from zclient.batchhandles import AsyncBatchHandle, BatchHandle
from zclient.blocking import Client
from zclient.composition import NamedStep, Piece, Step, Workflow, chain, chord, group, step
from zclient.errors import (
    AnswerTimeout,
    BatchClosed,
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
    TooManyBatches,
    TooManyPeers,
    TooManyQueues,
    UniqueTaken,
    UnknownBatch,
    UnknownParent,
    UnsupportedVersion,
    WorkflowCancelled,
    WrongBroker,
    ZError,
)
from zclient.handles import AsyncJobHandle, JobHandle, Jobs, JobStatus, Progress
from zclient.joboptions import JobOptions
from zclient.openbatches import BatchStatus
from zclient.schedules import Schedule
from zclient.streaming import AsyncStream, Stream
from zclient.topics import Binding, KeptTopic, Publication, Published, PublishedMany
from zclient.unconfirmed import AsyncUnconfirmedJob, UnconfirmedJob
from zclient.verbs import Bulk, PolicyValue, Why
from zclient.workflowhandles import AsyncStepHandle, AsyncWorkflowHandle, StepHandle, WorkflowHandle
from zclient.workflows import Member, StepStatus, WorkflowStatus, WorkflowSummary

if TYPE_CHECKING:
    from zclient.aio import AsyncClient

__all__ = [
    "AnswerTimeout",
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncJobHandle",
    "AsyncStepHandle",
    "AsyncStream",
    "AsyncUnconfirmedJob",
    "AsyncWorkflowHandle",
    "BatchClosed",
    "BatchHandle",
    "BatchStatus",
    "BatchTooLarge",
    "Binding",
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
    "KeptTopic",
    "LeaseLost",
    "Member",
    "NamedStep",
    "NotFound",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "Piece",
    "PolicyValue",
    "Progress",
    "ProtocolFault",
    "Publication",
    "Published",
    "PublishedMany",
    "QueueClosed",
    "QueueFull",
    "Refused",
    "ResultExpired",
    "ResultTimeout",
    "Schedule",
    "Step",
    "StepHandle",
    "StepStatus",
    "Stream",
    "StreamRestarted",
    "TooManyBatches",
    "TooManyPeers",
    "TooManyQueues",
    "UnconfirmedJob",
    "UniqueTaken",
    "UnknownBatch",
    "UnknownParent",
    "UnsupportedVersion",
    "Why",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowHandle",
    "WorkflowStatus",
    "WorkflowSummary",
    "WrongBroker",
    "ZError",
    "chain",
    "chord",
    "group",
    "step",
]


def __getattr__(name: str) -> Any:
    """`AsyncClient` is loaded when it is first asked for: asyncio costs half of the time to import the rest."""
    if name == "AsyncClient":
        from zclient.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
