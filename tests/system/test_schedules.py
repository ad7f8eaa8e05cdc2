"""Schedules of a real broker that is killed: one job an occurrence, none lost, none doubled."""

from itertools import pairwise

from tests.system.processes import eventually
from tests.system.system import System


def test_an_every_second_schedule_outlives_a_broker_that_is_killed(system: System) -> None:
    broker = system.broker()
    client = system.client(broker.endpoint)
    client.schedule("tick", "q", 0, cron="* * * * * *")
    worker = system.worker(broker.endpoint)
    for runs in (2, 4, 6):
        worker.reach("run", runs)
        broker.kill()
        broker.restart()
    worker.reach("run", 9)
    client.pause_schedule("tick")
    put = client.queue("q")["totals"]["put"]
    eventually(lambda: client.queue("q")["totals"]["done"] == put)
    jobs = list(client.jobs("q", limit=None))
    times = sorted(int(job.id.removeprefix("tick@")) for job in jobs)
    assert [later - sooner for sooner, later in pairwise(times)] == [1000] * (len(times) - 1)
    assert len(times) == put == client.schedules()[0].jobs >= 9
    assert {job.state for job in jobs} == {"done"}


def test_what_a_file_declares_runs_and_goes_with_it(system: System) -> None:
    file = system.folder / "zbroker.toml"
    file.write_text('[schedules.tick]\nevery = "1s"\nqueue = "q"\npayload = 7\n')
    broker = system.broker(config=file)
    client = system.client(broker.endpoint)
    worker = system.worker(broker.endpoint)
    worker.reach("run", 2)
    assert [(one.name, one.every, one.declared) for one in client.schedules()] == [("tick", "1s", True)]
    broker.kill()
    file.write_text("")
    broker.restart()
    assert client.schedules() == []
