"""`zclient workflow` and `zclient batch`, against a real broker: the drawing, JSON, and exit codes."""

import os
import re
import subprocess
import sys

import pytest

from tests.cli.conftest import Zclient, told
from tests.cli.test_terminal import read_all, terminal
from tests.system.processes import ROOT
from zclient import Client, StepStatus, Workflow, WorkflowHandle, WorkflowStatus, chain, group, step
from zclient.cli.workflows import bar, drawing
from zworker import Consumer

__all__ = ["terminal"]

WAIT_S = 20


def begun(broker: str, queue: str) -> WorkflowHandle:
    """A workflow: of its ten first jobs the first is dead, and the others are done; the next two wait for it."""
    flow = Workflow("nightly")
    first = flow.group("fetch", queue, range(10))
    side = flow.step("side", queue + ".later", after=first)
    flow.step("index", queue + ".later", after=[first, side])
    with Client(broker) as client, Consumer(broker, queue, credit=10) as consumer:
        run = client.send_workflow(flow)
        for _ in range(10):
            job = consumer.get(timeout=WAIT_S)
            assert job is not None
            if job.payload:
                job.ack([job.payload])
            else:
                job.reject("no route")
        run.wait(timeout=WAIT_S)
        return WorkflowHandle(client, run.id)


# ---- the drawing


def status(*steps: StepStatus) -> WorkflowStatus:
    named = {each.name: each for each in steps}
    return WorkflowStatus("0" * 22, "n", "running", sum(each.total for each in steps), None, None, named)


def test_a_workflow_is_drawn() -> None:
    drawn = drawing(
        status(
            StepStatus("fetch", "done", 10_000, 10_000, 0, 0),
            StepStatus("thumbnails", "running", 10_000, 9_999, 1, 0, ("fetch",)),
            StepStatus("texts", "cancelled", 3, 1, 0, 2, ("fetch",)),
            StepStatus("nothing", "done", 0, 0, 0, 0),
            StepStatus("index", "blocked", 1, 0, 0, 0, ("thumbnails", "texts")),
        ),
        None,
    )
    assert drawn.splitlines() == [
        "n, running, 20,000 of 20,004 jobs done, 1 dead, 2 cancelled",
        "",
        "●─── fetch       done       ██████████  10,000/10,000",
        "├─●─ thumbnails  running    █████████░   9,999/10,000  1 dead",
        "╰─●─ texts       cancelled  ███░░░░░░░            1/3  2 cancelled",
        "  ╰─ index       blocked    ░░░░░░░░░░            0/1",
        "     nothing     done       ██████████            0/0",
    ]


def test_the_page_shows_what_is_drawn() -> None:
    page = (ROOT / "docs" / "workflows.md").read_text(encoding="utf-8")
    shown = [line[4:] for line in page.splitlines() if "█" in line or "░" in line]
    drawn = drawing(
        status(
            StepStatus("fetch", "done", 10_000, 10_000, 0, 0),
            StepStatus("thumbnails", "running", 10_000, 9_120, 3, 0, ("fetch",)),
            StepStatus("texts", "running", 500, 123, 0, 0, ("fetch",)),
            StepStatus("index", "blocked", 1, 0, 0, 0, ("thumbnails", "texts")),
            StepStatus("mail", "blocked", 1, 0, 0, 0, ("texts",)),
        ),
        None,
    )
    assert shown == drawn.splitlines()[2:]


def test_a_bar_is_full_when_all_is_done_and_not_before() -> None:
    assert bar(StepStatus("s", "running", 1_000_000, 999_999, 0, 0)) == "█████████░"
    assert bar(StepStatus("s", "done", 3, 3, 0, 0)) == "██████████"
    assert bar(StepStatus("s", "running", 10, 0, 0, 0)) == "░░░░░░░░░░"


def test_forty_steps_fit_into_eighty_columns() -> None:
    steps = [StepStatus("begin", "done", 1, 1, 0, 0)]
    for lane in range(13):
        name = f"load-from-region-{lane}-and-validate-everything-in-it"
        load = StepStatus(name, "running", 5_000, 4_321, 17, 0, ("begin",))
        steps += [load, StepStatus(f"check-{lane}", "blocked", 1, 0, 0, 0, (load.name,))]
        steps.append(StepStatus(f"report-{lane}", "blocked", 1, 0, 0, 0, (f"check-{lane}",)))
    lines = drawing(status(*steps), 80).splitlines()
    assert len(lines) == 2 + 40 and max(map(len, lines)) <= 80
    assert sum("…" in line for line in lines) == 13
    assert max(map(len, drawing(status(*steps), None).splitlines())) > 80


def test_a_graph_without_rails_says_what_is_after_what() -> None:
    steps = [StepStatus(f"a{n}", "done", 1, 1, 0, 0) for n in range(20)]
    for n in range(20):
        steps.append(StepStatus(f"b{n}", "blocked", 1, 0, 0, 0, tuple(f"a{m}" for m in range(20) if m != n)))
    lines = drawing(status(*steps), 80).splitlines()
    (line,) = [line for line in lines if line.startswith("b19 ")]
    assert line.endswith("0/1  after " + ", ".join(f"a{m}" for m in range(19)))


# ---- the verbs


def test_show_list_and_results(call: Zclient, broker: str, queue: str) -> None:
    run = begun(broker, queue)
    ended = call("workflow", "show", run.id)
    assert (ended.code, ended.err) == (
        0,
        f"`zclient workflow retry {run.id}` replays the dead jobs; `zclient workflow cancel {run.id}` gives it up\n",
    )
    head, _, *lines = ended.out.splitlines()
    assert re.fullmatch(r"nightly, dead, 9 of 12 jobs done, 1 dead, sent 20\S+-05:00 \(.+\)", head)
    assert lines == [
        "●─── fetch  dead       █████████░  9/10  1 dead",
        "├─●─ side   blocked    ░░░░░░░░░░   0/1",
        "╰─┴─ index  blocked    ░░░░░░░░░░   0/1",
    ]
    document = told(call("workflow", "show", run.id, "--json"))
    assert document.pop("created_at").endswith("Z") and document.pop("over_at").endswith("Z")
    steps = document.pop("steps")
    assert document == {
        "id": run.id,
        "name": "nightly",
        "state": "dead",
        "jobs": 12,
        "done": 9,
        "dead": 1,
        "cancelled": 0,
    }
    assert steps[2] == {
        "name": "index",
        "state": "blocked",
        "total": 1,
        "done": 0,
        "dead": 0,
        "cancelled": 0,
        "after": ["fetch", "side"],
        "inputs": ["fetch", "side"],
        "on_parent_death": "wait",
        "single": True,
        "jobs": 1,
        "id": run.id + "002",
    }
    (listed,) = [one for one in told(call("workflow", "list", "--state", "dead", "--json")) if one["id"] == run.id]
    assert (listed["jobs"], listed["state"]) == (12, "dead")
    head, *rows = call("workflow", "list").out.splitlines()
    assert head.split() == ["id", "name", "state", "jobs", "created", "over"]
    assert any(row.startswith(f"{run.id}  nightly  dead") for row in rows)
    with Client(broker) as client:
        dead, blocked = client.workflow(run.id)["fetch"].jobs()[0], client.workflow(run.id)["index"].jobs()[0]
    for job in (dead, blocked):
        assert re.search(f"^workflow +{run.id}$", call("show", job.id).out, re.MULTILINE)
        assert told(call("show", job.id, "--json"))["batch"] == job.id[:25]
    for argv in ((), ("index",), ("fetch",), ("index", "--wait")):
        ended = call("workflow", "results", run.id, *argv)
        assert (ended.code, ended.out) == (1, "") and "step fetch of workflow" in ended.err and "no route" in ended.err


def test_retry_results_and_cancel(call: Zclient, broker: str, queue: str) -> None:
    run = begun(broker, queue)
    assert call("workflow", "retry", run.id).out == f"dead jobs of {run.id} that are being replayed: 1\n"
    ended = call("workflow", "results", run.id, "fetch")
    assert (ended.code, ended.out) == (1, "") and "step fetch is running; --wait waits for its end" in ended.err
    ended = call("workflow", "results", run.id)
    assert ended.code == 1 and f"workflow {run.id} is running; --wait" in ended.err
    ended = call("workflow", "results", run.id, "--wait", "--timeout", "100ms")
    assert ended.code == 1 and "did not end in time" in ended.err
    ended = call("workflow", "results", run.id, "nobody")
    assert ended.code == 2 and "it has fetch, side, index" in ended.err
    with Consumer(broker, queue) as consumer:
        job = consumer.get(timeout=WAIT_S)
        assert job is not None
        job.ack("at last")
        assert told(call("workflow", "results", run.id, "fetch", "--wait")) == ["at last", *([n] for n in range(1, 10))]
    with Consumer(broker, queue + ".later") as consumer:
        for result in (b"raw", "text"):
            job = consumer.get(timeout=WAIT_S)
            assert job is not None
            job.ack(result)
        assert told(call("workflow", "results", run.id, "--wait", "--timeout", "20s"))["index"] == "text"
    assert call("workflow", "results", run.id, "side").raw == b"raw"
    assert call("workflow", "results", run.id, "index").out == "text\n"
    assert call("workflow", "results", run.id, "index", "--json").out == '"text"\n'
    assert call("workflow", "cancel", run.id).out == f"workflow {run.id} is done\n"
    ended = call("workflow", "retry", run.id)
    assert (ended.code, ended.out) == (5, "") and "no job of the workflow" in ended.err
    run = begun(broker, queue)
    assert told(call("workflow", "cancel", run.id, "--json"))["id"] == run.id
    ended = call("workflow", "retry", run.id)
    assert (ended.code, ended.out) == (4, "") and "was cancelled" in ended.err
    ended = call("workflow", "results", run.id, "index", "--wait", "--timeout", "20s")
    assert ended.code == 1 and "step index of" in ended.err and "1 of 1 jobs were cancelled" in ended.err


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("workflow", "show", "0" * 22), 5, "no workflow"),
        (("workflow", "cancel", "0" * 22), 5, "no workflow"),
        (("workflow", "retry", "0" * 22), 5, "no workflow"),
        (("workflow", "results", "0" * 22), 5, "no workflow"),
        (("workflow", "show", "nightly"), 2, "digits, not 'nightly'"),
        (("workflow", "list", "--state", "ready"), 2, "ready"),
        (("workflow", "list", "--limit", "0"), 2, "0"),
        (("workflow", "list", "-b", "tcp://127.0.0.1:1", "--timeout", "100ms"), 3, "no broker"),
        (("batch", "show", "0" * 32), 5, "no batch"),
        (("batch", "close", "0" * 32), 5, "no batch"),
        (("batch", "show", "import"), 2, "digits, not 'import'"),
        (("batch", "list", "--state", "shut"), 2, "shut"),
    ],
)
def test_what_cannot_be_ends_with_its_code(call: Zclient, argv: tuple[str, ...], code: int, says: str) -> None:
    ended = call(*argv)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err and "Traceback" not in ended.err


def test_batches_are_shown_listed_and_closed(call: Zclient, broker: str, queue: str) -> None:
    with Client(broker) as client:
        batch = client.batch("import", on_done=step(queue + ".done"), on_death=step(queue + ".dead"))
        job = batch.send(queue, 1)
        assert (job.status().batch, job.status().workflow) == (batch.id, None)
    assert re.search(f"^batch +{batch.id}$", call("show", job.id).out, re.MULTILINE)
    lines = call("batch", "show", batch.id).out.splitlines()
    assert [line.split()[:2] for line in lines[:5]] == [
        ["id", batch.id],
        ["name", "import"],
        ["state", "open"],
        ["jobs", "1"],
        ["done", "0"],
    ]
    assert lines[-2:] == [f"on_done   to {queue}.done", f"on_death  to {queue}.dead"]
    assert call("batch", "close", batch.id).out == f"batch {batch.id} is closed, and running\n"
    with Consumer(broker, queue) as consumer:
        taken = consumer.get(timeout=WAIT_S)
        assert taken is not None
        taken.ack()
        with Client(broker) as client:
            client.batch(id=batch.id).wait(timeout=WAIT_S)
    document = told(call("batch", "show", batch.id, "--json"))
    assert (document["state"], document["done"], document["fired"]) == ("done", 1, ["on_done"])
    assert f"on_done   to {queue}.done: job {batch.id}.done\n" in call("batch", "show", batch.id).out
    head, *rows = call("batch", "list", "--state", "done").out.splitlines()
    assert head.split() == ["id", "name", "state", "total", "done", "dead", "cancelled", "created"]
    assert any(row.startswith(batch.id) for row in rows)
    assert batch.id in [one["id"] for one in told(call("batch", "list", "--json"))]
    ended = call("batch", "list", "--limit", "1")
    assert len(ended.out.splitlines()) == 2
    assert told(call("batch", "close", batch.id, "--json"))["state"] == "done"


def test_a_terminal_gets_colours_and_its_width(broker: str, queue: str, terminal: tuple[int, int]) -> None:
    name = "a-step-with-a-name-that-is-rather-long-for-a-terminal-of-eighty-columns"
    with Client(broker) as client:
        run = client.send_workflow(chain(group(queue, [1, 2], name=name), step(queue, name="z", delay="1h")))
        ours, theirs = terminal
        process = subprocess.Popen(
            [sys.executable, "-m", "zclient", "-b", broker, "workflow", "show", run.id],
            cwd=ROOT,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        shown = read_all(ours).decode()
        assert process.communicate(timeout=WAIT_S)[1] == b"" and process.returncode == 0
        run.cancel()
    lines = [line.rstrip("\r") for line in shown.split("\n")]
    assert lines[2].startswith("●─ a-step-with-a-name") and "…" in lines[2] and len(lines[2]) <= 80
