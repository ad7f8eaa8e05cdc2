"""One job of a kind at a time: unique texts, and what becomes of a second job.

zbroker start                       in one terminal
python unique.py                    in another one; it brings its own worker
"""

from zclient import Client, DuplicateId, JobCancelled
from zworker import Worker

worker = Worker()


@worker.task("invoice")
@worker.task("reindex")
@worker.task("welcome")
def handle(what: str) -> str:
    return f"{what} is done"


def main() -> None:
    with Client() as client:
        # `existing`, unless told: the second job is not stored, and its sender gets the handle of the first.
        first = client.send("invoice", "order 17", unique="order-17")
        second = client.send("invoice", "order 17", unique="order-17")
        print("the same job:", second.id == first.id, second.existing)

        # `debounce`: of jobs that come one after the other the last runs, once there is a pause.
        edits = [
            client.send("reindex", f"edit {n}", unique="page-4", on_conflict="debounce", delay="500ms")
            for n in (1, 2, 3)
        ]
        try:
            edits[0].result(timeout=30)
        except JobCancelled as error:
            print("edit 1 was", error.reason)

        with worker:
            print(first.result(timeout=30))
            print(edits[2].result(timeout=30))

            # Until the job is over, unless told; or for a time, whatever becomes of it meanwhile.
            again = client.send("invoice", "order 17, again", unique="order-17")
            print(again.result(timeout=30))
            mail = client.send("welcome", "mail to ada", unique="ada", unique_for="1h")
            print(mail.result(timeout=30))
            print("the second mail is the first:", client.send("welcome", "mail to ada", unique="ada").id == mail.id)

        # The id is another matter: the same id is the same job for as long as the broker knows it.
        client.send("invoice", "order 18", id="invoice-18")
        client.send("invoice", "order 18", id="invoice-18")  # sent again, for its answer was lost: nothing happens
        try:
            client.send("invoice", "order 19", id="invoice-18")
        except DuplicateId:
            print("another job under that id is refused")


if __name__ == "__main__":
    main()
