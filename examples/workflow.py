"""A workflow: many downloads, what comes when all of them are done, and a retry of the whole.

zbroker start                       in one terminal
python workflow.py                  in another one; it brings its own worker
"""

from zclient import Client, JobFailed, Workflow, chain, chord, group, step
from zworker import Job, Reject, Worker

PAGES = {"/": "welcome to the queue", "/about": "a queue with no server beside it", "/news": "nothing new"}

worker = Worker(concurrency=4)


@worker.task("download")
def download(path: str) -> str:
    if path not in PAGES:
        raise Reject(f"there is no {path}")
    return PAGES[path]


@worker.task("count-words")
def count_words(job: Job) -> dict[str, int]:
    """What the step before returned, whatever its name: for a group that is a sequence, read page by page."""
    counts: dict[str, int] = {}
    for page in job.inputs().only:
        for word in page.split():
            counts[word] = counts.get(word, 0) + 1
    return counts


@worker.task("report")
def report(title: str, job: Job) -> str:
    """What the steps before returned, by their names."""
    inputs = job.inputs()
    words = inputs["words"]
    return f"{title}: {len(inputs['fetch'])} pages, {len(words)} words, {max(words, key=words.get)!r} most often"


def named_steps(client: Client) -> None:
    """A graph by hand: each step has a name, and says what it is after."""
    flow = Workflow("site")
    fetch = flow.group("fetch", "download", list(PAGES))
    words = flow.step("words", "count-words", after=fetch)
    flow.step("report", "report", {"title": "the site"}, after=[fetch, words])
    run = client.send_workflow(flow)  # all of it is on the broker's disk, or nothing
    print(run.results(timeout=30)["report"])
    for step_name, status in run.status().steps.items():
        print(f"  {step_name}: {status.state}, {status.done} of {status.total}, after {list(status.after)}")


def pieces(client: Client) -> None:
    """The same shapes as pieces; a task's function makes steps with its own arguments."""
    run = client.send_workflow(chain(download.step("/about"), group(step("echo", 1), step("echo", 2)), step("echo", 3)))
    print("a chain:", {name: each.total for name, each in run.status().steps.items()})
    run.cancel()
    print("and cancelled as a whole:", run.wait(timeout=30).state)


def retry(client: Client) -> None:
    """A dead job holds what comes after it. Nothing is lost, and what is done is not done again."""
    run = client.send_workflow(chord(group("download", ["/", "/jobs", "/news"]), step("count-words")))
    status = run.wait(timeout=30)
    print("the whole is", status.state, "and the callback", status.steps["count-words"].state)
    try:
        run.results()
    except JobFailed as error:
        print(f"step {error.details['step']}: {error.error['text']}")
    PAGES["/jobs"] = "three open jobs"
    run.retry()
    print("after a retry:", run.results(timeout=30)["count-words"])


def main() -> None:
    with Client() as client, worker:
        named_steps(client)
        pieces(client)
        retry(client)


if __name__ == "__main__":
    main()
