"""What a client was told at its making, and how it makes a session and a link of it. Shared by both clients."""

import math
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from zclient.durations import parse_duration
from zclient.errors import InvalidArgument
from zclient.jobs import encode_payload, id_bytes, new_id, queue_name, whole
from zclient.link import Link, Transport, check_endpoints
from zclient.protocol import limits
from zclient.protocol.messages import Group
from zclient.protocol.version import VERSION
from zclient.session import Session

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"

ENDPOINT_VARIABLE = "ZBROKER_ENDPOINT"
"""Where the broker is, for whoever is not told otherwise: one endpoint, or several with blanks between."""

Duration = str | int | float | timedelta
"""``"5s"``, ``"300ms"``, a number of seconds, or a timedelta."""

OpenTransport = Callable[[Session], Transport]


Moment = datetime | str | int | float
"""A datetime, ISO 8601 (local time where it names no zone), or Unix seconds."""

Headers = Mapping[str, str | int | float | bool]
"""Context that travels beside the payload."""


class Config:
    """Endpoints, name, default timeout and way to the broker, checked once."""

    def __init__(
        self,
        endpoints: str | Sequence[str] | None,
        credentials: Any,
        name: str | None,
        timeout: Duration,
        transport: OpenTransport | None,
    ) -> None:
        if credentials is not None:
            raise InvalidArgument("credentials arrive in a later version")
        if name is not None and not 0 < len(name) <= limits.MAX_NAME_CHARS:
            raise InvalidArgument(f"a name has 1 to {limits.MAX_NAME_CHARS} characters")
        self.name = name
        self.timeout_ms = parse_duration(timeout) * 1000
        self._endpoints = endpoints_of(endpoints)
        self._transport = transport or self._link

    def open(self) -> tuple[Session, Transport]:
        """A new incarnation of this process, and its connection."""
        session = Session(os.urandom(limits.INCARNATION_BYTES), name=self.name or process_name(), info=process_info())
        return session, self._transport(session)

    def timeout(self, given: Duration | None) -> float:
        """Milliseconds: what the caller gave, or the client's default."""
        return self.timeout_ms if given is None else parse_duration(given) * 1000

    def patience(self, given: Duration | None) -> float:
        """Milliseconds to wait for a job's end: what the caller gave, or without end."""
        return math.inf if given is None else parse_duration(given) * 1000

    def _link(self, session: Session) -> Transport:
        return Link(session, self._endpoints)


def endpoints_of(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """What was given, checked; for None what `ENDPOINT_VARIABLE` says, and without it `DEFAULT_ENDPOINT`.

    `InvalidArgument` for what is no endpoint.
    """
    if given is not None:
        return check_endpoints(given)
    told = os.environ.get(ENDPOINT_VARIABLE, "").split()
    try:
        return check_endpoints(told or DEFAULT_ENDPOINT)
    except InvalidArgument as error:
        raise InvalidArgument(f"{ENDPOINT_VARIABLE}: {error}") from None


def process_name() -> str:
    """``host:pid``, what people see where no name was chosen."""
    return f"{socket.gethostname()}:{os.getpid()}"[-limits.MAX_NAME_CHARS :]


def process_info() -> dict[str, Any]:
    """What HELLO tells people about this process."""
    python = sys.version.partition(" ")[0]
    return {"host": socket.gethostname(), "pid": os.getpid(), "python": python, "version": VERSION}


def one_job(queue: str, payload: Any, identifier: str | None, options: dict[str, Any]) -> Group:
    """A single job, checked and encoded; the options as the wire has them."""
    name = new_id() if identifier is None else id_bytes(identifier)
    return Group(queue_name(queue), options, [name], [encode_payload(payload)])


def batch_size(given: int) -> int:
    """Jobs a batch, checked."""
    return whole(given, "batch", 1, limits.MAX_BATCH_JOBS)
