"""A batch: any number of jobs that are counted together, with jobs that come when they are over.

zbroker start                       in one terminal
python batches.py                   in another one; it brings its own worker
"""

from zclient import Client, step
from zworker import Job, Reject, Worker

FOLDERS: dict[str, list[str]] = {"photos": ["a.jpg", "b.jpg", "2031"], "2031": ["c.jpg", "d.png"]}

PICTURES = {"jpg"}

worker = Worker(concurrency=4)


@worker.task("import-folder")
def import_folder(name: str, job: Job) -> None:
    """What is in a folder becomes jobs of the same batch: in the commit of this one's ack, closed or not."""
    for entry in FOLDERS[name]:
        job.send("import-folder" if entry in FOLDERS else "import-file", entry, batch=job.batch)


@worker.task("import-file")
def import_file(name: str) -> str:
    if name.rpartition(".")[2] not in PICTURES:
        raise Reject(f"{name} is no picture")
    return name.upper()


@worker.task("tell")
def tell(what: str, job: Job) -> str:
    """A callback: it finds its batch in its headers."""
    with Client() as client:
        status = client.batch(id=str(job.headers["batch"])).status()
    return f"{what}: {status.name} has {status.done} done, {status.dead} dead of {status.total}"


def main() -> None:
    with Client() as client:
        callbacks = {kind: step("tell", kind) for kind in ("on_done", "on_settled", "on_death")}
        with client.batch("pictures", keep_results=True, **callbacks) as batch:
            batch.send("import-folder", "photos")
            batch.send_many("import-file", ["x.jpg", "y.jpg"])
            print("while it is open:", batch.status().total, "jobs,", batch.status().state)

        with worker:
            # The end of the block closed it. Its own jobs may still add others, and have done so.
            status = batch.wait(timeout=30)
            print("at its end:", status.total, "jobs,", status.state)
            print(client.job(f"{batch.id}.settled").result(timeout=30))
            print("callbacks:", *sorted(status.fired))

            # A dead job is replayed when its cause is gone: then all is done, and that is told, once.
            PICTURES.add("png")
            client.replay([member.id for member in batch.members() if member.state == "dead"])
            print(client.job(f"{batch.id}.done").result(timeout=30) if batch.wait(timeout=30).dead == 0 else "dead")
            print(*sorted(member.value for member in batch.members() if member.value))

            # A batch of nothing is done as soon as it is closed.
            empty = client.batch("nothing", on_done=step("tell", "on_done"))
            empty.close()
            print(client.job(f"{empty.id}.done").result(timeout=30))


if __name__ == "__main__":
    main()
