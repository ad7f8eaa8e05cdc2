"""From payloads to arguments, over many signatures, and back."""

import functools
import typing
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest

from zclient.errors import InvalidArgument
from zworker.binding import Binding, PayloadMismatch
from zworker.job import Job
from zworker.task import Task, TaskOptions

if TYPE_CHECKING:
    from zworker import Job as LaterJob

JOB = object()


def told(function: Any, payload: Any) -> Any:
    args, kwargs = Binding(function).call(payload, JOB)
    return function(*args, **kwargs)


def one(a):
    return a


def two(a, b=2):
    return a, b


def none():
    return "nothing"


def named(*, a, b=2):
    return a, b


def placed(a, b=2, /):
    return a, b


def anything(*args, **kwargs):
    return args, kwargs


def rest(a, *others):
    return a, others


def open_ended(a, **others):
    return a, others


def job_only(job: Job):
    return job


def job_first(job: Job, a, b=2):
    return job, a, b


def job_between(a, job: Job, b=2):
    return job, a, b


def job_last(a, b=2, job: Job | None = None):
    return job, a, b


def job_named(a, *, job: Job, b=2):
    return job, a, b


def job_placed(job: Job, /, a=1):
    return job, a


def job_and_rest(job: Job, *others):
    return job, others


@pytest.mark.parametrize(
    ("function", "payload", "expected"),
    [
        (one, {"a": 1}, 1),
        (one, [1], 1),
        (one, 1, 1),
        (one, None, None),
        (one, "text", "text"),
        (one, b"bytes", b"bytes"),
        (one, [[1, 2]], [1, 2]),
        (two, {"a": 1}, (1, 2)),
        (two, {"b": 3, "a": 1}, (1, 3)),
        (two, [1, 3], (1, 3)),
        (two, 5, (5, 2)),
        (none, None, "nothing"),
        (none, {}, "nothing"),
        (none, [], "nothing"),
        (named, {"a": 1}, (1, 2)),
        (placed, {"a": 1}, (1, 2)),
        (placed, {"a": 1, "b": 3}, (1, 3)),
        (placed, [1], (1, 2)),
        (anything, {"a": 1}, ((), {"a": 1})),
        (anything, [1, 2], ((1, 2), {})),
        (anything, 1, ((1,), {})),
        (rest, [1, 2, 3], (1, (2, 3))),
        (open_ended, {"a": 1, "z": 2}, (1, {"z": 2})),
        (job_only, {"any": "payload"}, JOB),
        (job_only, None, JOB),
        (job_first, {"a": 1}, (JOB, 1, 2)),
        (job_first, [1, 3], (JOB, 1, 3)),
        (job_first, 1, (JOB, 1, 2)),
        (job_between, {"a": 1}, (JOB, 1, 2)),
        (job_between, [1, 3], (JOB, 1, 3)),
        (job_last, [1], (JOB, 1, 2)),
        (job_last, {"a": 1, "b": 3}, (JOB, 1, 3)),
        (job_named, [1], (JOB, 1, 2)),
        (job_named, {"a": 1, "b": 3}, (JOB, 1, 3)),
        (job_placed, {"a": 2}, (JOB, 2)),
        (job_placed, [], (JOB, 1)),
        (job_and_rest, [1, 2], (JOB, (1, 2))),
    ],
)
def test_a_payload_becomes_arguments(function: Any, payload: Any, expected: Any) -> None:
    assert told(function, payload) == expected


@pytest.mark.parametrize(
    ("function", "payload", "words"),
    [
        (one, {"b": 1}, "lacks a"),
        (one, {"a": 1, "b": 2}, "no parameter takes b"),
        (one, {1: 2, "a": 1}, "not all text"),
        (one, [], "needs 1 arguments, and the payload has 0"),
        (one, [1, 2], "takes 1 arguments, and the payload has 2"),
        (none, 1, "takes no arguments"),
        (named, [1], "a can only be given by name"),
        (named, 1, "by name"),
        (placed, {"b": 1}, "lacks a"),
        (job_first, {"a": 1, "job": 2}, "no parameter takes job"),
        (job_first, [], "needs 1"),
        (open_ended, {"a": 1, 7: 2}, "not all text"),
    ],
)
def test_a_payload_that_does_not_fit_says_why(function: Any, payload: Any, words: str) -> None:
    with pytest.raises(PayloadMismatch, match=words) as caught:
        told(function, payload)
    assert function.__name__ in str(caught.value)


def test_a_job_in_the_open_ended_names_is_not_the_job() -> None:
    def handler(job: Job, **others: Any) -> Any:
        return job, others

    assert told(handler, {"a": 1}) == (JOB, {"a": 1})
    with pytest.raises(PayloadMismatch):
        told(handler, {"job": 1})


def test_the_job_is_found_by_its_annotation_in_every_form() -> None:
    def text(job: "Job"): ...
    def text_optional(job: "Job | None" = None): ...
    def optional(job: Optional[Job] = None): ...  # noqa: UP045
    def forward(job: Optional["Job"] = None): ...
    def for_typing(job: "LaterJob"): ...
    def of_a_module(job: "zworker.Job"): ...  # noqa: F821
    def annotated(job: Annotated[Job, "note"]): ...

    forms = (text, text_optional, optional, forward, of_a_module, annotated)
    assert [Binding(form).job_name for form in forms] == ["job"] * len(forms)
    # A name that cannot be looked up and is not called Job is no job: it would take the payload.
    assert Binding(for_typing).job_name is None


def test_other_annotations_are_not_the_job() -> None:
    class Elsewhere:
        class Job: ...

    def handler(a: int, b: "list[Job]", c: typing.Union[int, str], d: Elsewhere.Job, e: "no such name"): ...  # noqa: F722, UP007

    assert Binding(handler).job_name is None


def test_what_cannot_be_a_handler_is_refused_when_it_is_registered() -> None:
    def twice(a: Job, b: Job): ...
    def several(*jobs: Job): ...
    def hidden(a: int, job: Job, /): ...

    for function in (twice, several, hidden, type):
        with pytest.raises(InvalidArgument):
            Binding(function)


def test_wrapped_methods_and_partial_functions_have_their_own_signatures() -> None:
    class Service:
        def handle(self, a: int, job: Job) -> Any:
            return a, job

        def __call__(self, a: int) -> int:
            return a

    @functools.wraps(two)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return two(*args, **kwargs)

    assert told(Service().handle, {"a": 1}) == (1, JOB)
    assert told(Service(), [3]) == 3
    assert told(wrapper, {"a": 1}) == (1, 2)
    assert told(functools.partial(two, b=9), [1]) == (1, 9)
    with pytest.raises(PayloadMismatch):
        told(wrapper, {"c": 1})


# ---- from a call to a payload


class SentJobs:
    """In the place of a client: keeps what is sent."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def send(self, queue: str, payload: Any, **options: Any) -> None:
        self.jobs.append((queue, payload, options))


def payload(function: Any, *args: Any, **kwargs: Any) -> Any:
    sent = SentJobs()
    Task(function, "q", TaskOptions(), lambda: sent).send(*args, **kwargs)  # type: ignore[arg-type,return-value]
    ((queue, value, options),) = sent.jobs
    assert (queue, options) == ("q", {})
    return value


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (one, (1,), {}),
        (two, (1,), {"b": 5}),
        (two, (), {"a": 1}),
        (none, (), {}),
        (named, (), {"a": 1}),
        (placed, (1, 2), {}),
        (anything, (1, 2), {}),
        (anything, (), {"x": 1}),
        (rest, (1, 2, 3), {}),
        (open_ended, (1,), {"z": 2}),
        (one, ([1, 2],), {}),
        (one, ({"x": 1},), {}),
    ],
)
def test_what_is_sent_comes_back_as_the_same_call(function: Any, args: Any, kwargs: Any) -> None:
    assert told(function, payload(function, *args, **kwargs)) == function(*args, **kwargs)


def test_the_job_is_left_out_when_sending() -> None:
    assert payload(job_first, 1, b=3) == {"a": 1, "b": 3}
    assert payload(job_between, 1) == {"a": 1}
    assert payload(job_only, {"x": 1}) == {"x": 1}
    assert payload(job_only, x=1) == {"x": 1}
    assert payload(job_only) is None


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [(one, (), {}), (one, (1, 2), {}), (one, (), {"b": 1}), (anything, (1,), {"x": 1}), (job_only, (1, 2), {})],
)
def test_arguments_that_do_not_fit_are_not_sent(function: Any, args: Any, kwargs: Any) -> None:
    with pytest.raises(InvalidArgument):
        payload(function, *args, **kwargs)


def test_a_task_is_still_its_function() -> None:
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    sent = SentJobs()
    task = Task(add, "q", TaskOptions(), lambda: sent)  # type: ignore[arg-type,return-value]
    assert task(1) == 3
    assert (task.__name__, task.__doc__, task.queue) == ("add", "Adds.", "q")
    task.send_with(priority=5, delay="5s")(1, b=3)
    assert sent.jobs == [("q", {"a": 1, "b": 3}, {"priority": 5, "delay": "5s"})]


def test_a_batch_task_sends_one_payload() -> None:
    def embed(jobs: list[Job]) -> None: ...

    sent = SentJobs()
    task: Any = Task(embed, "q", TaskOptions(batch=3), lambda: sent)  # type: ignore[arg-type,return-value]
    task.send("text")
    task.send(text="x")
    assert [job[1] for job in sent.jobs] == ["text", {"text": "x"}]
    with pytest.raises(InvalidArgument):
        task.send(1, 2)


def test_a_generator_takes_no_batches() -> None:
    def numbers() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    for function in (numbers, later):
        with pytest.raises(InvalidArgument, match="generator"):
            Task(function, "q", TaskOptions(batch=2), lambda: None)  # type: ignore[arg-type,return-value]
