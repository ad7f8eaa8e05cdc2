"""Unique texts: at most one job of a queue has one taken, until it is over, until it is delivered, or for a time.

It owns the rows of ``unique``. A row counts while its job does: whoever asks looks at the job as well, so that a job
which a purge has made void holds nothing.
"""

from zbroker.core import rows
from zbroker.core.entities import Found
from zbroker.core.policy import Options
from zbroker.core.rows import UniqueRow
from zbroker.core.state import State
from zbroker.core.states import State as JobState


def holder(state: State, queue: str, text: str) -> bytes | None:
    """The job that has the text taken, or None. It may be over, if the text is taken for a time."""
    value = state.view.get("unique", rows.unique_key(queue, text))
    if value is None:
        return None
    row = UniqueRow(*rows.unpack(value))
    if row.until_ms:
        return row.id if row.until_ms > state.wall else None
    found = state.find(row.id)
    if found is None or found.state is JobState.DEAD or found.queue.name != queue:
        return None
    return row.id


def holding(state: State, queue: str, text: str) -> Found | None:
    """The job that has the text, if it goes on in the queue."""
    identifier = holder(state, queue, text)
    found = state.find(identifier) if identifier is not None else None
    if found is None or found.state is JobState.DEAD or found.queue.name != queue:
        return None
    return found


def claim(state: State, queue: str, identifier: bytes, options: Options) -> None:
    """The job takes the text of its options; whoever had it has it no more."""
    period = options.get("unique_for", "done")
    until_ms = state.wall + period if isinstance(period, int) else 0
    key = rows.unique_key(queue, options["unique"])
    state.tick.rows["unique"][key] = rows.pack(UniqueRow(identifier, until_ms))
    if until_ms:
        timer = rows.TimerRow(queue, 0, options["unique"].encode(), 0, [identifier])
        state.add_timer(until_ms, timer, rows.TIMER_UNIQUE)


def release(state: State, queue: str, identifier: bytes, options: Options, *, ran: bool = False) -> None:
    """The job is over, or for `waiting` delivered: the text is free, unless it is taken for a time and the job ``ran``
    to an end of its own, good or bad. Who cancels a job, or drops one that expired, sets its text free."""
    text = options.get("unique")
    if text is None or (ran and isinstance(options.get("unique_for"), int)):
        return
    free(state, rows.unique_key(queue, text), identifier)


def ends_with(state: State, queue: str, identifier: bytes, options: Options) -> bool:
    """Whether the job has its text taken, and no longer than until it is over."""
    text = options.get("unique")
    if text is None or isinstance(options.get("unique_for"), int):
        return False
    value = state.view.get("unique", rows.unique_key(queue, text))
    return value is not None and UniqueRow(*rows.unpack(value)).id == identifier


def delivered(state: State, queue: str, identifier: bytes, options: Options) -> None:
    """The job waits no more."""
    if options.get("unique_for") == "waiting":
        release(state, queue, identifier, options)


def free(state: State, key: bytes, identifier: bytes) -> None:
    """Delete a row, if it is this job's."""
    value = state.view.get("unique", key)
    if value is not None and UniqueRow(*rows.unpack(value)).id == identifier:
        state.tick.rows["unique"][key] = None


def lapse(state: State, timer: rows.TimerRow, due_ms: int) -> None:
    """The time of a text is over, if it is still taken by the same job until the same time."""
    key = rows.unique_key(timer.queue, timer.key.decode())
    value = state.view.get("unique", key)
    if value is not None and UniqueRow(*rows.unpack(value)) == (timer.ids[0], due_ms):
        state.tick.rows["unique"][key] = None
