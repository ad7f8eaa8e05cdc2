"""The limits of the wire: each with its unit, its default and its reason; their only home.

A peer that crosses one gets a typed refusal, or silence and a count if it did not speak the protocol at all.
The broker may be set to lower ones; it tells its peers so in WELCOME. The broker's own memory limits live in
``zbroker/limits.py``, since no peer ever sees them.
"""

import re
from typing import Any

PROTOCOL_VERSION = 1
"""Number in HELLO and WELCOME. Raised when a peer of the older number could misunderstand a message."""

LARGE_BYTES = 64 * 1024
"""A payload or result of this many bytes or more travels as a frame of its own, so that no codec copies it."""

MAX_PAYLOAD_BYTES = 1024 * 1024
"""Default for one job's encoded payload. A queue is not a file store; a path or an object key belongs in the job."""

MAX_RESULT_BYTES = 1024 * 1024
"""Default for one job's encoded result."""

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""What libzmq accepts in one frame (ZMQ_MAXMSGSIZE). A larger one cuts its sender's connection."""

MAX_FRAMES = 2048
"""Frames in one message: the body, and at most one for each job of the largest batch, with room."""

MAX_BATCH_JOBS = 1000
"""Jobs in one PUT or SETTLE, ids in one WATCH: what a turn can carry without holding up the others."""

MAX_ORDER_IDS = 250
"""Ids in one ORDER, and jobs in one SETTLE that end in another way than ack: each costs the broker several rows."""

MAX_OPEN_BATCHES = 1000
"""PUTs, ORDERs, WORKFLOWs and PUBLISHes of one peer from the oldest without an answer on. The broker remembers which of
them it applied; a peer that leaves more unanswered is refused, so a client keeps further ones back."""

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Payload bytes in one PUT."""

MESSAGE_BYTES = 256 * 1024
"""Payload and result bytes after which a sender closes a message of many jobs and begins another. A connection counts
as silent until a whole frame has come over it: one that takes longer than the heartbeat timeout would never arrive.
With the default timeout of 8 s a link of 0.3 Mbit/s carries this."""

MADE_ID_BYTES = 32
"""The length of an id that a client made."""

MAX_ID_BYTES = 64
"""A job id, as UTF-8. Ids made by the client take 32."""

MAX_NAME_CHARS = 128
"""A queue's or a peer's name."""

MAX_KEY_BYTES = 256
"""A job's key, as UTF-8."""

MAX_HEADERS_BYTES = 8 * 1024
"""A job's headers, encoded. They are kept beside every job and read by people: context, not data."""

MAX_QUEUES_PER_PEER = 1000
"""Queues that one worker may serve."""

MAX_CAPACITY = 100_000
"""Jobs that one worker may hold at once."""

MAX_WATCHED_PER_PEER = 100_000
"""Jobs whose end one peer may wait for at a time."""

MAX_STREAMS_PER_PEER = 10_000
"""Streams that one peer may read at a time."""

MAX_STREAM_WINDOW = 1000
"""Partials that a reader may be sent beyond those that it has."""

STREAM_BYTES = 1024 * 1024
"""Bytes of partials that a worker sends beyond those that the reader has; one that is larger goes alone. So much of a
stream lies at most between its handler and its reader, wherever it is."""

MAX_ERROR_CHARS = 2_000
"""The text of an error that a worker reports; longer ones are cut by the worker, and again by the broker."""

MAX_TRACEBACK_CHARS = 8_000
"""The traceback of such an error; its end is kept, since that is where the cause stands."""

MAX_SCHEDULE_CHARS = 40
"""A schedule's name: with the time of an occurrence behind it, it is the id of that one's job."""

MIN_INTERVAL_MS = 1000
"""The shortest interval of a schedule."""

MAX_CATCH_UP = 100
"""Occurrences that a schedule catches up on at once."""

MAX_PARENTS = 1000
"""Jobs that one job waits for: its record names them."""

MAX_BATCH_EDGES = 10_000
"""Pairs of job and parent in one PUT: each is a row, and all of them are stored in one turn."""

MAX_STEPS = 1000
"""Steps of a workflow: each is a batch with a row of its own."""

MAX_WORKFLOW_JOBS = 100_000
"""Jobs of a workflow as it is sent. Its jobs may add others."""

MAX_WORKFLOW_EDGES = 1_000_000
"""Pairs of a job of a workflow and a step that it is after: each is a row while the workflow goes on."""

MAX_PLAN_EDGES = 10_000
"""Pairs of steps of which one is after the other: the plan is read as a whole when a step ends badly."""

MAX_PARTS = 1000
"""Messages that a workflow is sent in."""

WORKFLOW_ID_BYTES = 22
"""A workflow's id: with step and number behind it, it is the id of a job, as long as those that clients make."""
MAX_TOPIC_CHARS = 200
"""A topic, or a pattern of topics."""

MAX_TOPIC_WORDS = 32
"""Words of a topic or pattern, between its dots."""

MAX_OPEN_WORDS = 8
"""`#` in one pattern: each may stand for any number of words, so each makes matching longer."""

MAX_FILTERS = 20
"""Tests on headers in one binding or tail, all of which must hold."""

MAX_FILTER_VALUES = 100
"""Values that one test with `in` names."""

MAX_PUBLICATION_ID_BYTES = 40
"""The id of a publication: with 17 bytes for the queue behind it, it is the id of a copy."""

MAX_PUBLICATION_HEADERS_BYTES = MAX_HEADERS_BYTES - MAX_TOPIC_CHARS - 10
"""The headers of a publication, encoded: with its topic they are the headers of a copy."""

MAX_COPIES = 1000
"""Jobs that one PUBLISH makes: each costs the broker what a job of a PUT does, and all are stored in one turn."""

MAX_COPY_BYTES = 64 * 1024 * 1024
"""Payload bytes of all of them: a copy has its payload to itself."""

MAX_TAILS_PER_PEER = 100
"""Tails that one peer may follow at a time."""

MAX_PROGRESS_CHARS = 500
"""The text of a job's progress; longer ones are cut by the worker."""

MAX_PAGE = 1000
"""Rows in one answer to a listing."""

MIN_PRIORITY, MAX_PRIORITY = -100, 100
"""Higher is served first."""

MAX_ATTEMPTS = 10_000
"""Runs a job may be given."""

MAX_DELAY_MS = 10 * 366 * 24 * 3600 * 1000
"""Ten years: beyond it a delay is a mistake of units."""

RESEND_LIMIT_MS = 3600 * 1000
"""A peer resends no batch older than this: the broker keeps its numbers for a day, so a resend is always recognised."""

PROBE_INTERVAL_MS = 1000
"""How often the broker sends PING to a worker. A worker that hears nothing for three of them says HELLO again."""

INCARNATION_BYTES = 16
"""Random bytes that name one run of a process."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@-]*")
_RESERVED = ("mmi.", "titanic.")


def queue_name_fault(name: str) -> str | None:
    """Why ``name`` cannot be a queue's name, or None if it can."""
    if not name or len(name) > MAX_NAME_CHARS:
        return f"a queue name has 1 to {MAX_NAME_CHARS} characters, not {len(name)}"
    if not _NAME.fullmatch(name):
        return (
            f"a queue name consists of letters, digits and _ . : / @ -, and starts with a letter, digit or _: {name!r}"
        )
    if name.startswith(_RESERVED):
        return f"queue names that start with {' or '.join(_RESERVED)} belong to the broker: {name!r}"
    return None


def schedule_name_fault(name: Any) -> str | None:
    """Why ``name`` cannot be a schedule's name, or None if it can: a queue's name, but shorter."""
    if type(name) is str and 0 < len(name) <= MAX_SCHEDULE_CHARS and _NAME.fullmatch(name):
        return None
    text = "letters, digits and _ . : / @ -, the first a letter, digit or _"
    return f"the name of a schedule has 1 to {MAX_SCHEDULE_CHARS} {text}: {name!r:.60}"


def id_fault(identifier: bytes) -> str | None:
    """Why ``identifier`` cannot be a job id, or None if it can."""
    if not 0 < len(identifier) <= MAX_ID_BYTES:
        return f"a job id has 1 to {MAX_ID_BYTES} bytes, not {len(identifier)}"
    try:
        text = identifier.decode()
    except UnicodeDecodeError:
        return f"a job id is UTF-8 text, not {identifier!r}"
    return None if text.isprintable() and not text.isspace() else f"a job id is printable text, not {text!r}"
