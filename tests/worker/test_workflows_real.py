"""Workflows with real brokers and workers: chains, chords, results by name, and the whole cancelled and retried."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.system.processes import eventually
from tests.worker.brokers import WAIT_S
from zbroker.testing import LocalBroker
from zclient import (
    AsyncClient,
    Client,
    DuplicateId,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    NotFound,
    Piece,
    QueueClosed,
    QueueFull,
    ResultExpired,
    ResultTimeout,
    UnknownParent,
    Workflow,
    WorkflowCancelled,
    chain,
    chord,
    group,
    step,
)
from zclient.parts import PART_JOBS, new_workflow_id
from zworker import Cancelled, Job, Reject, Worker


class Tasks:
    """A worker of a few tasks, each a queue of the test's own; what fails, and how long, the test says."""

    def __init__(self, broker: str, queue: str) -> None:
        self.bad: set[int] = set()
        self.runs: list[object] = []
        self.running = threading.Event()
        self.told = threading.Event()
        self.worker = Worker(broker, concurrency=4)

        @self.worker.task(queue + ".double")
        def double(number: int) -> int:
            self.runs.append(number)
            if number in self.bad:
                raise Reject(f"{number} is bad")
            return 2 * number

        @self.worker.task(queue + ".total")
        def total(job: Job) -> int:
            self.runs.append("total")
            return sum(sum([value] if isinstance(value, int) else value) for value in job.inputs().values())

        @self.worker.task(queue + ".inputs")
        def inputs(job: Job) -> dict[str, object]:
            return {
                name: f"{type(value).__name__} {value}" if not hasattr(value, "members") else [repr(v) for v in value]
                for name, value in job.inputs().items()
            }

        @self.worker.task(queue + ".wait")
        def wait(job: Job) -> None:
            self.running.set()
            assert job.wait(WAIT_S)
            self.told.set()
            raise Cancelled

        self.double, self.total = double, total


@pytest.fixture
def tasks(broker: str, queue: str) -> Iterator[Tasks]:
    tasks = Tasks(broker, queue)
    with tasks.worker:
        yield tasks


def test_a_chain_hands_results_on(client: Client, queue: str, tasks: Tasks) -> None:
    run = client.send_workflow(chain(tasks.double.step(4), tasks.total.step_with(name="sum")(), tasks.total.step()))
    assert run.results(timeout=WAIT_S) == {queue + ".double": 8, "sum": 8, queue + ".total": 8}
    status = run.wait(timeout=WAIT_S)
    assert (status.name, status.state, status.jobs, status.done, status.fraction) == (
        queue + ".double",
        "done",
        3,
        3,
        1,
    )
    assert status.is_over and status.over_at is not None and status.steps["sum"].after == (queue + ".double",)


def test_a_chord_of_200_with_results_by_name(client: Client, queue: str, tasks: Tasks) -> None:
    flow = Workflow("numbers")
    doubles = flow.group("doubles", queue + ".double", range(200))
    flow.group("none", queue + ".double", [], after=doubles)
    total = flow.step("total", tasks.total.step(), after=["doubles", "none"])
    flow.step("told", queue + ".inputs", after=[total, "none"])
    run = client.send_workflow(flow)
    assert run["doubles"].result(timeout=WAIT_S) == [2 * number for number in range(200)]
    results = run.results(timeout=WAIT_S)
    assert results == {
        "doubles": [2 * number for number in range(200)],
        "none": [],
        "total": 39_800,
        # What is after an empty group waits for what that was after, and does not read it.
        "told": {"total": "int 39800", "none": []},
    }
    assert client.workflow(run.id).results(timeout=WAIT_S) == results
    behind = client.send(queue + ".total", after=run["doubles"].status().id)
    assert behind.result(timeout=WAIT_S) == 0  # it belongs to no workflow: no inputs
    with pytest.raises(UnknownParent, match=f"'{run.id}' is a workflow; a parent is a step of it"):
        client.send(queue + ".total", after=run)
    status = run["told"].status()
    assert status.state == "done"
    assert (status.after, status.inputs) == (("total", "none", "doubles"), ("total", "none"))
    jobs = run["doubles"].jobs()
    assert len(jobs) == 200 and [job.result(timeout=WAIT_S) for job in jobs[7:9]] == [14, 16]
    members = list(run["doubles"].members())
    assert [member.id for member in members] == list(jobs.ids) and {member.state for member in members} == {"done"}


def test_inputs_are_read_in_parts_wherever_one_looks(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=4)

    @worker.task(queue)
    def large(number: int) -> str:
        return f"{number:06}" * 10_000

    @worker.task(queue + ".read")
    async def read(job: Job) -> list[object]:
        found = (await asyncio.to_thread(job.inputs))[queue]
        some = [(await asyncio.to_thread(found.__getitem__, place))[:6] for place in (0, 17, -1)]
        ids = await asyncio.to_thread(lambda: [member.id[-2:] for member in found.members()])
        sliced = [value[:6] for value in await asyncio.to_thread(lambda: found[18:5:-4])]
        with pytest.raises(IndexError):
            _ = found[20]
        return [len(found), some, ids, sliced, found[3:3], repr(found)]

    with worker:
        run = client.send_workflow(chain(group(queue, range(20)), step(queue + ".read")))
        assert run.result(queue + ".read", timeout=WAIT_S) == [
            20,
            ["000000", "000017", "000019"],
            [f"{number:02x}" for number in range(20)],
            ["000018", "000014", "000010", "000006"],
            [],
            f"<20 results of step {queue}>",
        ]


def test_a_dead_job_holds_what_comes_after_it_until_the_whole_is_retried(
    client: Client, queue: str, tasks: Tasks
) -> None:
    tasks.bad = {3, 7}
    built = chain(group(queue + ".double", range(10), name="doubles"), step(queue + ".total", name="total"))
    run = client.send_workflow(group(built, step(queue + ".double", 50, name="beside")), name="held")
    status = run.wait(timeout=WAIT_S)
    assert (status.state, status.done, status.dead) == ("dead", 9, 2)
    states = {name: each.state for name, each in status.steps.items()}
    assert states == {"doubles": "dead", "total": "blocked", "beside": "done"}
    assert run.result("beside", timeout=WAIT_S) == 100
    for wrong in (run.results, lambda timeout: run.result("total", timeout), run["doubles"].result):
        with pytest.raises(
            JobFailed, match=r"step doubles of workflow .* 2 of 10 jobs are dead, .*: 3 is bad"
        ) as caught:
            wrong(timeout=WAIT_S)
        assert (caught.value.details["step"], caught.value.reason) == ("doubles", "rejected")
        assert caught.value.details["id"] == run["doubles"].jobs()[3].id
    tasks.bad = {7}
    assert run.retry().count == 2
    eventually(lambda: run.status().done == 10)
    assert run.wait(timeout=WAIT_S).dead == 1
    tasks.bad = set()
    assert run.retry().count == 1
    assert run.results(timeout=WAIT_S)["total"] == 90
    runs = [number for number in tasks.runs if isinstance(number, int)]
    assert sorted(runs) == sorted([*range(10), 50, 3, 7, 7])  # what was done did not run again
    with pytest.raises(NotFound, match="no job of the workflow"):
        run.retry()


def test_other_rules_for_a_step_after_a_dead_one(client: Client, queue: str, tasks: Tasks) -> None:
    tasks.bad = {1}
    flow = Workflow("rules")
    flow.group("part", queue + ".double", [1, 2])
    flow.step("one", queue + ".double", 1)
    flow.step("given up", queue + ".total", after="part", on_parent_death="cancel")
    flow.step("behind", queue + ".total", after="given up", on_parent_death="run")
    flow.step("all the same", queue + ".inputs", after=["part", "one", "given up"], on_parent_death="run")
    run = client.send_workflow(flow)
    status = run.wait(timeout=WAIT_S)
    assert status.state == "dead"
    assert {name: each.state for name, each in status.steps.items()} == {
        "part": "dead",
        "one": "dead",
        "given up": "cancelled",
        "behind": "dead",  # a sum of errors fails
        "all the same": "done",
    }
    told = run.result("all the same", timeout=WAIT_S)
    jobs = [run["part"].jobs()[0].id, run["one"].jobs()[0].id, run["given up"].jobs()[0].id]
    assert told == {
        "part": [f"JobFailed('job {jobs[0]} is dead')", "4"],
        "one": f"JobFailed job {jobs[1]} is dead",
        "given up": f"JobCancelled job {jobs[2]} was cancelled",
    }
    first, second = run["part"].members()
    assert (first.state, second.state) == ("dead", "done")
    tasks.bad = set()
    assert run.retry().count == 3
    assert run.wait(timeout=WAIT_S).dead == 1  # the sum of errors again
    client.drop([run["behind"].jobs()[0].id])
    with pytest.raises(JobCancelled, match=r"step given up of workflow .* 1 of 1 jobs were cancelled"):
        run.results(timeout=WAIT_S)


def test_the_whole_is_cancelled_and_running_jobs_are_told(client: Client, queue: str, tasks: Tasks) -> None:
    flow = Workflow("endless")
    flow.group("waits", queue + ".wait", range(20))
    flow.step("total", queue + ".total", after="waits")
    flow.step("later", queue + ".double", 1, delay="1h")
    run = client.send_workflow(flow)
    assert tasks.running.wait(WAIT_S)
    assert run.cancel() == "running"
    status = run.wait(timeout=WAIT_S)
    assert tasks.told.is_set()
    assert (status.state, status.cancelled, status.done) == ("cancelled", 22, 0)
    for wrong in (run.results, run["total"].result):
        with pytest.raises(JobCancelled, match=r"endless.*jobs were cancelled") as cancelled:
            wrong(timeout=WAIT_S)
        assert cancelled.value.details["step"] == ("waits" if wrong == run.results else "total")
    assert run.cancel() == "cancelled"
    with pytest.raises(WorkflowCancelled, match="was cancelled"):
        run.retry()
    assert "total" not in tasks.runs


def test_a_handler_adds_jobs_to_its_own_step(broker: str, client: Client, queue: str) -> None:
    worker = Worker(broker, concurrency=2)

    @worker.task(queue)
    def grow(depth: int, job: Job) -> int:
        assert job.workflow == run.id and job.batch == run.id + "000"
        for _ in range(2 if depth else 0):
            job.send(queue, depth - 1, batch=job.batch)
        return depth

    @worker.task(queue + ".sum")
    def total(job: Job) -> list[int]:
        found = job.inputs().only
        return [len(found), sum(found), found[0], found[len(found) - 1]]

    run = client.send_workflow(chain(group(queue, [3]), step(queue + ".sum")))
    with worker:
        assert run.result(queue + ".sum", timeout=WAIT_S) == [15, 3 + 2 * 2 + 4, 3, 0]
        status = run.status().steps[queue]
        assert (status.jobs, status.total, status.done) == (1, 15, 15)
        assert sorted(run.results(timeout=WAIT_S)[queue]) == [0] * 8 + [1] * 4 + [2] * 2 + [3]


def test_steps_of_a_task_are_made_of_its_own_arguments(tasks: Tasks, queue: str) -> None:
    made = tasks.double.step_with(name="twice", priority=5, on_parent_death="run")(number=4)
    assert (made.name, made.rule, made.run.queue) == ("twice", "run", queue + ".double")
    assert made.run.options == {"priority": 5}
    assert made.run.payloads == tasks.double.step(4).run.payloads == step("q", {"number": 4}).run.payloads
    with pytest.raises(InvalidArgument, match="missing"):
        tasks.double.step()
    with pytest.raises(InvalidArgument, match="unique"):
        tasks.double.step_with(unique="u")(4)


def test_a_workflow_is_stored_as_a_whole_or_not_at_all(client: Client, queue: str) -> None:
    client.set_queue(queue + ".full", max_jobs=5)
    client.set_queue(queue + ".closed", lease="1m")
    client.drain(queue + ".closed")

    def waiting() -> int:
        return sum(each["ready"] + each["blocked"] for each in client.queues() if each["queue"].startswith(queue))

    beside = group(queue, range(2 * PART_JOBS))
    refused: list[tuple[Piece, type[Exception]]] = [
        (group(step(queue), group(queue + ".full", range(6))), QueueFull),
        (group(beside, group(queue + ".full", range(6))), QueueFull),
        (group(beside, step(queue + ".closed")), QueueClosed),
    ]
    for piece, error in refused:
        flow = piece.workflow("refused")
        with pytest.raises(error):
            client.send_workflow(flow, timeout=5)
        assert waiting() == 0 and not flow.sent
        with pytest.raises(NotFound):
            client.workflow(flow.id or "").status()
    client.resume(queue + ".closed")
    run = client.send_workflow(flow)  # the last of them: it is the same workflow still
    assert run.id == flow.id and run.status().jobs == 2 * PART_JOBS + 1
    eventually(lambda: waiting() == 2 * PART_JOBS + 1)
    with pytest.raises(InvalidArgument, match=r"copy\(\)"):
        client.send_workflow(flow)
    run.cancel()


def test_an_id_of_ones_own(client: Client, queue: str) -> None:
    identifier = new_workflow_id().decode()
    for _ in range(2):  # as after an OutcomeUnknown
        run = client.send_workflow(chord(group(queue, [1, 2]), step(queue)), id=identifier)
        assert run.id == identifier
    assert run.status().jobs == 3 and client.queue(queue)["ready"] == 2
    with pytest.raises(DuplicateId):
        client.send_workflow(step(queue), id=identifier)
    run.cancel()
    with pytest.raises(JobCancelled):
        run.results(timeout=WAIT_S)


def test_workflows_that_nobody_knows_and_steps_that_are_not_there(client: Client, queue: str) -> None:
    run = client.workflow("0" * 22)
    for ask in (run.status, run.cancel, run.retry, run["a"].status, run["a"].jobs):
        with pytest.raises(NotFound):
            ask()
    for wait in (run.wait, run.results, run["a"].result):
        with pytest.raises(ResultExpired):
            wait(timeout=WAIT_S)
    with pytest.raises(InvalidArgument, match="id of a workflow"):
        client.workflow("nightly")
    run = client.send_workflow(step(queue))
    for name_it in (run["b"].status, run["b"].jobs, lambda: run.result("b"), lambda: list(run["b"].members())):
        with pytest.raises(InvalidArgument, match="no step 'b'; it has " + queue):
            name_it()
    for wait in (run.wait, run.results, run[queue].result):
        with pytest.raises(ResultTimeout):
            wait(timeout=0.05)
    assert list(run[queue].members()) == [] and run == client.workflow(run.id)
    run.cancel()


def test_workflows_are_listed_newest_first(client: Client, queue: str) -> None:
    runs = [client.send_workflow(step(queue), name=f"{queue} {n}") for n in range(3)]
    runs[1].cancel()
    assert runs[1].wait(timeout=WAIT_S).state == "cancelled"
    found = [one for one in client.workflows(limit=None) if one.name.startswith(queue + " ")]
    assert [one.id for one in found] == sorted((run.id for run in runs), reverse=True)
    assert [one.name for one in client.workflows(state="cancelled") if one.name.startswith(queue + " ")] == [
        f"{queue} 1"
    ]
    assert len(list(client.workflows(limit=1))) == 1
    with pytest.raises(InvalidArgument, match="state"):
        list(client.workflows(state="ready"))
    for run in runs:
        run.cancel()


def test_through_an_async_client(broker: str, queue: str, tasks: Tasks) -> None:
    async def run_it() -> None:
        async with AsyncClient(broker) as client:
            flow = chord(group(queue + ".double", range(30), name="d"), step(queue + ".total", name="t"))
            run = await client.send_workflow(flow, name="async")
            assert await run.result("t", timeout=WAIT_S) == 870
            assert (await run.results(timeout=WAIT_S))["d"] == [2 * number for number in range(30)]
            assert (await run.wait(timeout=WAIT_S)).state == "done"
            assert (await run["d"].status()).done == 30 and await run["t"].result() == 870
            assert [member.value async for member in run["d"].members()] == [2 * number for number in range(30)]
            assert await (await run["d"].jobs())[29].result() == 58
            assert [one.id async for one in client.workflows(limit=5) if one.name == "async"] == [run.id]
            assert run == client.workflow(run.id)
            with pytest.raises(NotFound):
                await run.retry()
            with pytest.raises(ResultTimeout):
                await (await client.send_workflow(step(queue))).wait(timeout=0.05)
            assert await (await client.send_workflow(step(queue))).cancel() in ("running", "cancelled")

    asyncio.run(run_it())


def test_ten_thousand_and_a_callback(client: Client, queue: str, tasks: Tasks) -> None:
    run = client.send_workflow(chord(group(queue + ".double", range(10_000)), step(queue + ".total")))
    assert run.result(queue + ".total", timeout=60) == 9_999 * 10_000
    results = run.results(timeout=WAIT_S)[queue + ".double"]
    assert results == [2 * number for number in range(10_000)]


def test_with_a_clock_that_the_test_moves() -> None:
    worker = Worker(concurrency=2)

    @worker.task("late")
    def late(job: Job) -> list[str]:
        return list(job.inputs())

    with LocalBroker() as broker:
        client = broker.client()
        run = client.send_workflow(chain(step("late", delay="1h"), group("late", [1, 2], name="both", delay="2h")))
        broker.restart()
        with broker.running(worker):
            broker.advance("1h")
            assert run.status().steps["late"].state == "done"
            broker.advance("1h")
            assert run.results(timeout=5) == {"late": [], "both": [["late"], ["late"]]}
        broker.advance("2d")
        with pytest.raises(ResultExpired):
            run.results(timeout=5)
