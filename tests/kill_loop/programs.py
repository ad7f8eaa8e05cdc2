"""The processes that are killed: workers, a consumer, producers.

Run as ``python -m tests.kill_loop.programs NAME JSON``. Each writes its history: a worker each run before it begins,
how it settled it and what the broker said; a producer what it is about to send, and what came of it. A worker writes a
byte to the pipe of the kill loop for each job that it has done. A producer is told on stdin how many of its jobs may be
confirmed. Each ends in peace at the end of its stdin.
"""

import asyncio
import json
import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.history import records as r
from tests.history.records import Reader, Recorder, now_us
from tests.kill_loop.work import BOOKING, QUEUES, Work, told_of, work_of
from zclient import AnswerTimeout, AsyncClient, BrokerUnreachable, Client, LeaseLost, NotFound, OutcomeUnknown, Refused
from zclient.config import OpenTransport
from zclient.link import Link
from zclient.protocol.messages import Settlement
from zclient.requests import Request
from zclient.session import Session
from zworker import Consumer, Job, Snooze, Worker

KEPT_JOBS = 5000
"""Jobs that a worker looks at again, whether their outcome counted: more than may be unanswered."""

LOOK_S = 0.1
"""How often it looks."""

SEND_S = 60
"""Longer than any broker is away."""

ASK_S = 5
"""How long a handler waits for the answer to its question."""

SNOOZE_S = 0.02

REFUSED_S = 0.1
"""How long a producer waits after it was refused."""

END_S = 60
"""How long a worker that is told to end may look for a broker before it ends nevertheless."""

COROUTINES = 5
"""As many as the threads on which they wait for leave, on the smallest machine."""


def example() -> Any:
    """The example's module. It is a program of its own, so its folder is where it finds its parts."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "exactly_once"))
    import worker

    return worker


# ---- workers


def noted(endpoint: str, recorder: Recorder) -> OpenTransport:
    """The usual connection, of a session whose settlements and their answers go into the history."""

    def answered(request: Request) -> None:
        if request.error is not None:
            return  # It is asked again, or the process ends: nobody knows.
        settlements: list[Settlement] = request.body[0]
        verdicts = {(fence, id): verdict for fence, id, verdict, *_ in (request.value or {}).get("refused", ())}
        for fence, _, ids, _ in settlements:
            for id in ids:
                verdict = verdicts.get((fence, id), "")
                if verdict != "unknown":  # which says nothing
                    recorder.note(r.ANSWER, id.decode(), fence, not verdict)

    def open_link(session: Session) -> Link:
        settle = session.settle

        def settle_and_note(settlements: list[Settlement], now: float, sends: Any = ()) -> Request:
            for fence, outcome, ids, _ in settlements:
                for id in ids:
                    recorder.note(r.SETTLE, id.decode(), fence, int(outcome))
            request = settle(settlements, now, sends)
            request.on_done(answered)
            return request

        setattr(session, "settle", settle_and_note)  # noqa: B010
        return Link(session, endpoint)

    return open_link


class Hands:
    """What every kind of worker does with a job."""

    def __init__(self, endpoint: str, folder: str, who: str, pipe: int) -> None:
        self._recorder = Recorder(Path(folder), who)
        self.transport = noted(endpoint, self._recorder)
        self._pipe = pipe
        self._chance = random.Random(who)
        self._bank = example()
        self._superseded: type[Exception] = sys.modules["once"].Superseded
        self._seen: deque[Job] = deque(maxlen=KEPT_JOBS)
        self._lost: set[tuple[str, int]] = set()
        self._errors: list[BaseException] = []  # of the database: none is expected
        self._ended = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def begin(self, job: Job) -> float:
        """Note the run; returns how many seconds its work takes. Raises `Snooze`."""
        self._recorder.note(r.START, job.id, job.fence, job.attempt)
        self._seen.append(job)
        if job.payload["snoozes"] and job.attempt == 1 and self._chance.random() < 0.7:
            raise Snooze(SNOOZE_S)
        if job.queue in BOOKING and job.payload["begins"]:
            self._guarded(lambda: self._bank.begin(self._bank.bank(), job))
        return float(job.payload["ms"]) / 1000

    def ask(self, job: Job) -> None:
        """Ask for a longer lease, which proves that there is one. On a thread: it waits for the answer."""
        if job.payload["asks"]:
            at = now_us()
            try:
                job.extend("3s", timeout=ASK_S)
            except LeaseLost:
                self._note_lost()
            except AnswerTimeout:
                return  # The broker is away: nothing is known.
            else:
                self._recorder.note(r.VALID, job.id, job.fence, at=at)

    def end(self, job: Job) -> Any:
        """The effect, or the failure that the job asks for."""
        payload = job.payload
        if job.attempt <= payload["fails"]:
            if job.attempt == work_of(job.id).options.get("max_attempts"):
                os.write(self._pipe, b"x")
            raise RuntimeError(f"its first {payload['fails']} attempts fail")
        result = None
        if job.queue in BOOKING:
            result = self._guarded(lambda: self._bank.book(job, payload["account"], payload["amount"]))
        os.write(self._pipe, b".")
        return result

    def close(self) -> None:
        """Note what was lost up to now."""
        self._ended.set()
        self._note_lost()
        assert not self._errors, self._errors

    def _guarded(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except self._superseded:
            raise
        except BaseException as error:
            self._errors.append(error)
            raise

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._note_lost()

    def _note_lost(self) -> None:
        for job in list(self._seen):
            if job.lease_lost and (job.id, job.fence) not in self._lost:
                self._lost.add((job.id, job.fence))
                self._recorder.note(r.LOST, job.id, job.fence)


def worker_threads(endpoint: str, **facts: Any) -> None:
    """Functions on threads."""
    hands = Hands(endpoint, **facts)
    worker = Worker(endpoint, concurrency=4, drain_timeout=10, transport=hands.transport)

    def serve(job: Job) -> Any:
        seconds = hands.begin(job)
        hands.ask(job)
        threading.Event().wait(seconds)
        return hands.end(job)

    serve_until_told(worker, serve)
    hands.close()


def worker_coroutines(endpoint: str, **facts: Any) -> None:
    """Coroutines."""
    hands = Hands(endpoint, **facts)
    worker = Worker(endpoint, concurrency=4, drain_timeout=10, transport=hands.transport)

    async def serve(job: Job) -> Any:
        await asyncio.sleep(hands.begin(job))
        return hands.end(job)

    serve_until_told(worker, serve)
    hands.close()


def serve_until_told(worker: Worker, serve: Callable[[Job], Any]) -> None:
    """Run it until the end of stdin."""
    for queue in QUEUES:
        worker.task(queue)(serve)

    def stop() -> None:
        if not worker.ready.wait(END_S):
            os._exit(1)
        worker.stop(wait=False)

    at_end_of_stdin(stop)
    worker.run()


def at_end_of_stdin(end: Callable[[], Any]) -> None:
    def read() -> None:
        sys.stdin.read()
        end()

    threading.Thread(target=read, daemon=True).start()


def consumer(endpoint: str, **facts: Any) -> None:
    """A loop of one's own."""
    hands = Hands(endpoint, **facts)
    with Consumer(endpoint, QUEUES, credit=4, transport=hands.transport) as consumer:
        at_end_of_stdin(consumer.close)
        for job in consumer:
            try:
                threading.Event().wait(hands.begin(job))
                job.ack(hands.end(job))
            except Snooze:
                job.snooze(SNOOZE_S)
            except Exception as error:
                job.nack(error)
    hands.close()


# ---- producers


class Source:
    """What a producer sends next: first some of those of which an earlier process of its name knows no end."""

    def __init__(self, folder: str, name: str, who: str, prefix: str, seed: int) -> None:
        sent, answered = earlier(Path(folder), name)
        self._recorder = Recorder(Path(folder), who)
        self._prefix = f"{prefix}{who.replace('/', 'x')}x"
        self._chance = random.Random(f"{seed} {who}")
        self._unknown = [job for job in sent if job not in answered and self._chance.random() < 0.5]
        self._again: list[str] = []  # refused: to be sent again
        self._open = len(answered)  # confirmed, or on their way
        self._most = 0
        self._made = 0
        self._changed = threading.Condition()
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._change(int(line))
        self.end()

    def _change(self, most: int) -> None:
        with self._changed:
            self._most = most
            self._changed.notify_all()

    def end(self) -> None:
        """No more."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def next(self) -> tuple[str, Work] | None:
        """The next job; waits until one more is allowed. None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._unknown or self._again or self._open < self._most)
            if self.ended:
                return None
            self._open += 1
            if self._unknown or self._again:
                job = (self._unknown or self._again).pop()
            else:
                self._made += 1
                job = f"{self._prefix}{self._made}"
        return job, work_of(job)

    def sending(self, job: str, work: Work) -> None:
        """It is sent now."""
        options = work.options
        self._recorder.note(r.SEND, job, work.queue, options.get("key"), options.get("priority", 0), told_of(work))

    def confirmed(self, job: str) -> bool:
        """Note it; returns whether the job is to be sent once more, for nothing."""
        self._recorder.note(r.CONFIRMED, job)
        return self._chance.random() < 0.05

    def unknown(self, job: str) -> None:
        self._recorder.note(r.UNKNOWN, job)

    def failed(self, job: str, error: Refused | BrokerUnreachable) -> None:
        """It was refused, or never left: nothing is stored. It is tried again later."""
        self._recorder.note(r.FAILED, job, error.code)
        with self._changed:
            self._open -= 1
            self._again.append(job)

    def cancelling(self, job: str) -> None:
        self._recorder.note(r.ORDER, job, "cancel", None)

    def cancelled(self, job: str, answer: str) -> None:
        self._recorder.note(r.ORDER, job, "cancel", answer == "cancelled")


def earlier(folder: Path, name: str) -> tuple[dict[str, None], set[str]]:
    """What earlier processes of this name sent, in order, and of what they know that it was confirmed."""
    sent: dict[str, None] = {}
    answered: set[str] = set()
    for path in folder.glob(f"{name}.*.history"):
        for record in Reader(path):
            if record[0] == r.SEND:
                sent[record[2]] = None
            elif record[0] == r.CONFIRMED:
                answered.add(record[2])
    return sent, answered


def producer_threads(endpoint: str, timeout: float = SEND_S, **facts: Any) -> None:
    """Two threads that send one job after the other through one client."""
    source = Source(**facts)

    def send() -> None:
        while (found := source.next()) is not None:
            job, work = found
            again = True
            while again and not source.ended:
                source.sending(job, work)
                try:
                    client.send(work.queue, work.payload, id=job, **work.options)
                except OutcomeUnknown:
                    source.unknown(job)
                except (Refused, BrokerUnreachable) as error:
                    source.failed(job, error)
                    again = False
                    threading.Event().wait(REFUSED_S)
                else:
                    again = source.confirmed(job)
                    if work.is_cancelled:
                        cancel(job)

    def cancel(job: str) -> None:
        source.cancelling(job)
        try:
            source.cancelled(job, client.cancel(job))
        except (NotFound, Refused, AnswerTimeout, OutcomeUnknown, BrokerUnreachable):
            return  # It is over by now, or nobody knows.

    with Client(endpoint, timeout=timeout) as client:
        run_threads(send, 2)


def run_threads(target: Callable[[], None], count: int) -> None:
    """Run it on so many threads; what one of them raises ends the process."""

    def run() -> None:
        try:
            target()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def producer_coroutines(endpoint: str, timeout: float = SEND_S, **facts: Any) -> None:
    """Coroutines that send over one connection."""
    source = Source(**facts)

    async def send(client: AsyncClient) -> None:
        while (found := await asyncio.to_thread(source.next)) is not None:
            job, work = found
            again = True
            while again and not source.ended:
                source.sending(job, work)
                try:
                    await client.send(work.queue, work.payload, id=job, **work.options)
                except OutcomeUnknown:
                    source.unknown(job)
                except (Refused, BrokerUnreachable) as error:
                    source.failed(job, error)
                    again = False
                    await asyncio.sleep(REFUSED_S)
                else:
                    again = source.confirmed(job)

    async def run() -> None:
        async with AsyncClient(endpoint, timeout=timeout) as client:
            await asyncio.gather(*(send(client) for _ in range(COROUTINES)))

    asyncio.run(run())


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))
