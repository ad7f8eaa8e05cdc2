"""Progress, from the handler's report to the message, without I/O; how a run sees that it should end."""

import threading

import pytest

from tests.worker.conversation import Conversation
from zclient.errors import InvalidArgument, LeaseLost
from zclient.protocol import messages as m
from zclient.protocol.limits import MAX_ORDER_IDS, MAX_PROGRESS_CHARS
from zworker import Cancelled
from zworker.progress import INTERVAL_MS

WAIT_S = 10


@pytest.fixture
def talk() -> Conversation:
    talk = Conversation(capacity=1000)
    talk.connect()
    return talk


# ---- progress


def test_the_latest_of_each_job_is_told_in_one_message(talk: Conversation) -> None:
    a, b, _ = talk.deliver(7, "a", "b", "c")
    a.progress(0.1)
    a.progress(0.4, "resizing")
    b.progress(text="waiting")
    (entries,) = talk.progress_told()
    assert sorted(entries, key=lambda entry: entry[1]) == [(7, b"a", 0.4, "resizing"), (7, b"b", None, "waiting")]
    assert talk.sent() == []


def test_it_is_told_at_most_every_interval_for_all_jobs_together(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.progress(0.1)
    assert len(talk.progress_told()) == 1
    b.progress(0.1)
    assert talk.progress_told() == []
    assert talk.worker.tick(talk.now) == talk.now + INTERVAL_MS
    talk.now += INTERVAL_MS - 1
    a.progress(1)
    assert talk.progress_told() == []
    talk.now += 1
    (entries,) = talk.progress_told()
    assert sorted(entries) == [(7, b"a", 1.0, ""), (7, b"b", 0.1, "")]


def test_a_pass_is_asked_for_once_until_it_was_told(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    for job in (a, b, a):
        job.progress(0.1)
    assert talk.woken == 1
    talk.sent()
    a.progress(0.2)
    b.progress(0.2)
    assert talk.woken == 2


def test_the_last_progress_leaves_before_the_settlement(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.progress(0.5)
    talk.sent()
    a.progress(1, "done")
    b.progress(0.3)
    a.ack()
    progress, settle = talk.sent()
    assert progress == m.Progress([(7, b"a", 1.0, "done")])
    assert settle.settlements == [m.Settlement(7, m.Outcome.ACK, [b"a"], None)]
    talk.now += INTERVAL_MS
    assert talk.progress_told() == [[(7, b"b", 0.3, "")]]


def test_a_report_after_a_settlement_still_asks_for_a_pass(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.progress(0.5)
    a.ack()
    talk.sent()
    b.progress(0.5)
    assert talk.woken == 2


def test_a_job_that_is_settled_or_lost_reports_nothing_more(talk: Conversation) -> None:
    a, b, c = talk.deliver(7, "a", "b", "c")
    a.ack()
    a.progress(0.5)
    b.progress(0.5)
    talk.say(m.Lost([(7, [b"b"])], "lease expired"))
    c.progress(0.5)
    talk.say(m.Lost([(7, [b"c"])], "lease expired"))
    c.progress(0.6)
    assert talk.progress_told() == []


def test_without_a_connection_the_latest_waits_and_what_was_told_is_not_told_again(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.progress(0.1)
    talk.sent()
    talk.worker.session.disconnected(talk.now)
    b.progress(0.2)
    b.progress(0.3)
    talk.now += INTERVAL_MS
    assert talk.sent() == []
    assert talk.worker.tick(talk.now) > talk.now
    talk.connect()
    assert talk.progress_told() == [[(7, b"b", 0.3, "")]]


def test_many_reports_are_split(talk: Conversation) -> None:
    for job in talk.deliver(7, *(f"j{n}" for n in range(MAX_ORDER_IDS + 1))):
        job.progress(0.5)
    assert [len(entries) for entries in talk.progress_told()] == [MAX_ORDER_IDS, 1]


def test_a_long_text_is_cut_and_one_that_cannot_travel_is_escaped(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.progress(text="x" * 5000)
    b.progress(text="\udcff")
    (entries,) = talk.progress_told()
    texts = {identifier: text for _, identifier, _, text in entries}
    assert len(texts[b"a"]) == MAX_PROGRESS_CHARS and texts[b"a"].endswith("x…")
    assert texts[b"b"] == "\\udcff"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(-0.1, ""), (1.5, ""), (float("nan"), ""), (True, ""), ("half", ""), (0.5, 7), (0.5, None), ("0.5", "")],
)
def test_nonsense_is_refused(talk: Conversation, fraction: object, text: object) -> None:
    (job,) = talk.deliver(7, "a")
    with pytest.raises(InvalidArgument):
        job.progress(fraction, text)  # type: ignore[arg-type]
    assert talk.progress_told() == []


def test_reports_of_many_threads_leave_nothing_behind(talk: Conversation) -> None:
    jobs = talk.deliver(7, *(f"j{n}" for n in range(8)))
    told: dict[bytes, float] = {}

    def report(number: int) -> None:
        for step in range(200):
            jobs[number].progress(step / 199)

    threads = [threading.Thread(target=report, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        talk.now += INTERVAL_MS
        for entries in talk.progress_told():
            told.update((identifier, fraction) for _, identifier, fraction, _ in entries)
    for _ in range(2):
        talk.now += INTERVAL_MS
        for entries in talk.progress_told():
            told.update((identifier, fraction) for _, identifier, fraction, _ in entries)
    assert told == {job.identifier: 1.0 for job in jobs}


# ---- seeing the end


def test_check_raises_once_the_job_is_cancelled_and_lost_wins(talk: Conversation) -> None:
    a, b = talk.deliver(7, "a", "b")
    a.check()
    talk.say(m.Cancel(7, [b"a"]))
    for _ in range(2):
        with pytest.raises(Cancelled, match="cancelled while it ran"):
            a.check()
    b.check()
    talk.say(m.Lost([(7, [])], "lease expired"))
    for job in (a, b):
        with pytest.raises(LeaseLost):
            job.check()


def test_check_does_not_mind_that_a_job_is_settled_by_hand(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.ack()
    talk.sent()
    job.check()


def test_check_tells_a_run_whose_time_is_over(talk: Conversation) -> None:
    (job,) = talk.deliver(7, "a")
    job.interrupt()
    with pytest.raises(LeaseLost, match="time is over"):
        job.check()


def test_wait_ends_with_its_time_or_when_the_run_should_end(talk: Conversation) -> None:
    a, b, c = talk.deliver(7, "a", "b", "c")
    assert not a.wait("1ms")
    ended = []
    threads = [threading.Thread(target=lambda job=job: ended.append(job.wait("1h"))) for job in (a, a, b)]
    for thread in threads:
        thread.start()
    for job in (a, b):
        job.interrupt()
    for thread in threads:
        thread.join(WAIT_S)
    assert ended == [True] * 3
    assert a.wait("1h")
    talk.say(m.Cancel(7, [b"c"]))
    assert c.wait("1h"), "it need not have been told yet"
    with pytest.raises(InvalidArgument):
        c.wait("soon")
