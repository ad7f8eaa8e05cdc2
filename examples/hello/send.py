"""Sends jobs to the worker beside this file, and waits for what they return."""

from zclient import Client


def main() -> None:
    with Client() as client:
        job = client.send("greet", {"name": "Ada"})  # returns when the broker has the job on disk
        print("sent", job.id)
        print(job.result(timeout=30))

        job = client.send("count", {"words": ["one", "two", "three"]}, headers={"from": "send.py"})
        print(job.result(timeout=30))

        jobs = client.send_many("greet", ({"name": f"number {n}"} for n in range(1000)))
        print(sum(job.result(timeout=30).startswith("Hello") for job in jobs), "greetings")


if __name__ == "__main__":
    main()
