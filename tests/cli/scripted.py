"""A broker that says what the test wants: it welcomes whoever comes, and a function answers the rest.

It is for what a real broker does on bad days only: silence, refusals, odd answers.
"""

import queue
import threading
from collections.abc import Callable, Sequence

import zmq

from zclient.protocol import messages as m
from zclient.protocol.codec import decode, encode

Script = Callable[[m.Message], Sequence[m.Message]]

WELCOME = m.Welcome(1, b"b" * 16, 1, {}, [])


class ScriptedBroker:
    """Listens on a free port while the ``with`` block lasts; ``script`` may be set anew at any time."""

    def __init__(self) -> None:
        self.script: Script = lambda message: []
        self.seen: queue.Queue[m.Message] = queue.Queue()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._wake, self._woken = (self._context.socket(zmq.PAIR) for _ in range(2))
        self._wake.bind("inproc://wake")
        self._woken.connect("inproc://wake")
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "ScriptedBroker":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._wake.send(b"")
        self._thread.join()
        self._context.destroy(linger=0)

    def answer_asks(self, **answers: object) -> None:
        """Answer each ASK or ORDER with what stands under its verb: a value, or a `Failure` without its number."""

        def script(message: m.Message) -> list[m.Message]:
            if not isinstance(message, m.Ask | m.Order) or message.verb not in answers:
                return []
            answer = answers[message.verb]
            if isinstance(answer, m.Failure):
                return [answer._replace(number=message.number)]
            return [m.Answer(message.number, answer)]

        self.script = script

    def wait_for(self, kind: type, timeout: float = 10) -> m.Message:
        """The next message of this kind, which may have come already."""
        while not isinstance(message := self.seen.get(timeout=timeout), kind):
            continue
        return message

    def _serve(self) -> None:
        poller = zmq.Poller()
        for socket in (self._socket, self._woken):
            poller.register(socket, zmq.POLLIN)
        while self._woken not in (ready := dict(poller.poll())):
            if self._socket not in ready:
                continue
            peer, *frames = self._socket.recv_multipart()
            message = decode(frames)
            answers = [WELCOME] if isinstance(message, m.Hello) else self.script(message)
            for answer in answers:
                self._socket.send_multipart([peer, *encode(answer)])
            self.seen.put(message)
