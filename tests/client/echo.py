"""A worker of a few lines over `Session` and `Link`, so that these tests need no package but `zclient`."""

import threading
from collections.abc import Callable
from typing import Any

from zclient.jobs import decode_payload, encode_payload
from zclient.link import Link
from zclient.protocol import messages as m
from zclient.protocol.record import payload_of
from zclient.session import Session


class Reject(Exception):
    """Raised by a handler: the job is dead at once."""


class Echo:
    """Serves a queue on a thread of its own; the result of a job is what ``handler`` makes of its payload."""

    def __init__(self, endpoint: str, queue: str, handler: Callable[[Any], Any] = lambda payload: payload) -> None:
        self._handler = handler
        self._held: dict[int, list[bytes]] = {}
        self._session = Session(
            threading.get_ident().to_bytes(16, "big"),
            name="echo",
            info={},
            capacity=1000,
            queues=[queue],
            held=lambda: [m.Held(fence, ids, []) for fence, ids in self._held.items()],
        )
        self._link = Link(self._session, endpoint)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Echo":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._link.wake()
        self._thread.join()
        self._session.goodbye()
        self._link.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            for message in self._link.pump(1000):
                if isinstance(message, m.Deliver):
                    self._work(message)

    def _work(self, deliver: m.Deliver) -> None:
        if deliver.fence in self._held:
            return
        self._held[deliver.fence] = deliver.ids
        settlements = []
        for position, (identifier, record) in enumerate(zip(deliver.ids, deliver.records, strict=True)):
            payload = decode_payload(deliver.large.get(position) or payload_of(record))
            try:
                outcome, value = m.Outcome.ACK, encode_payload(self._handler(payload))
            except Reject as error:
                outcome, value = m.Outcome.REJECT, {"type": "Reject", "text": str(error)}  # type: ignore[assignment]
            settlements.append(m.Settlement(deliver.fence, outcome, [identifier], [value]))
        settled = self._session.settle(settlements, self._link.now())
        settled.on_done(lambda request: self._held.pop(deliver.fence, None))
