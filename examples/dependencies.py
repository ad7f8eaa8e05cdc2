"""Jobs that wait for others: parts, their sum, and what becomes of a job whose parent dies.

zbroker start                       in one terminal
python dependencies.py              in another one; it brings its own worker
"""

from zclient import Client, JobCancelled
from zworker import Job, Reject, Worker

worker = Worker()


@worker.task("count-words")
def count(words: str) -> int:
    if not words:
        raise Reject("there is nothing to count")
    return len(words.split())


@worker.task("sum-up")
def total(job: Job) -> str:
    parts = job.parents()  # what each of them returned, by id, in the order in which the job names them
    told = ", ".join("?" if part.state != "done" else str(part.result) for part in parts.values())
    return f"{job.payload}: {told}"


def main() -> None:
    with Client() as client:
        # A job after others is blocked until all of them are done. They need not be sent together.
        pages = client.send_many("count-words", ["once upon a time", "there was", "a queue"])
        sums = client.send("sum-up", "words", after=pages)
        note = client.send("sum-up", "the note", after=sums)
        print("before:", note.status().state, "-", client.why(sums).reasons[0]["text"].partition(":")[0])
        with worker:
            print(sums.result(timeout=30))
            print(note.result(timeout=30))

            # Parents may be done before; their results are kept as long as a child that is not over needs them.
            print(client.send("sum-up", "again", after=pages[0]).result(timeout=30))

            # When a parent dies, its children are cancelled, and their children with them, ...
            empty = client.send("count-words", "")
            child = client.send("sum-up", "never", after=[pages[1], empty])
            grandchild = client.send("sum-up", "never", after=child)
            try:
                grandchild.result(timeout=30)
            except JobCancelled as error:
                print("cancelled, because of its parent:", error.parent == child.id)

            # ... or run all the same, ...
            print(client.send("sum-up", "some", after=[*pages, empty], on_parent_death="run").result(timeout=30))

            # ... or wait until somebody has replayed it, or dropped it.
            patient = client.send("sum-up", "late", after=empty, on_parent_death="wait")
            print("it waits:", patient.status().state)
            client.drop(empty)
            try:
                patient.result(timeout=30)
            except JobCancelled as error:
                print("and was given up with its parent:", error.reason)


if __name__ == "__main__":
    main()
