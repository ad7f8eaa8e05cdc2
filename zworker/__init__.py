"""Workers of zbroker: functions that serve queues (`Worker`), or a loop of one's own over jobs (`Consumer`)."""

from zclient.errors import LeaseLost
from zworker.consumer import Consumer
from zworker.job import Job
from zworker.outcomes import Cancelled, Reject, Retry, Snooze
from zworker.worker import Worker

__all__ = ["Cancelled", "Consumer", "Job", "LeaseLost", "Reject", "Retry", "Snooze", "Worker"]
