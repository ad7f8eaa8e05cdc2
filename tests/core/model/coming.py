"""The model of jobs that come in: which PUT a queue has room for, and who has a unique text.

It predicts what is certain; where a text may have been set free in the meantime, either answer is right.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.core.model.broker import CRASHES, DELAYS, KEYS, POLICY, PRIORITIES, QUEUES
from tests.core.model.logged import Sent, stored_size
from tests.core.model.sends import Sends
from zbroker.core.policy import QueuePolicy
from zbroker.core.states import WAITING, State
from zclient.protocol import messages as m
from zclient.protocol.record import stored_bytes

RETRIES: dict[str, list[Any]] = {
    "max_attempts": [1, 2, 4],
    "backoff": ["exponential", "linear", "constant", [10, 900]],
    "backoff_min": [1, 400],
    "backoff_max": [600, 5_000],
    "backoff_jitter": [0, 0.5, 1],
}
OF_A_JOB: dict[str, list[Any]] = {**RETRIES, "ttl": [0, 300, 3_000]}
UNIQUE: dict[str, list[Any]] = {
    "unique": ["u", "u", "u", "v"],
    "unique_for": ["done", "done", "waiting", 900, 30_000],
    "on_conflict": ["existing", "replace", "debounce"],
}
# What is no limit has no value here: `unset` leads back to it.
OF_A_QUEUE: dict[str, list[Any]] = {
    **RETRIES,
    "lease": [500],
    "max_run": [2_000],
    "ttl": [400, 4_000],
    "on_expiry": ["drop"],
    "delivery": ["at_most_once"],
    "strategy": ["least_busy", "random"],
    "key_limit": [0, 1, 2],
    "key_weights": [{"a": 3}],
    "in_flight_limit": [1, 3],
    "rate": [[1, 300], [20, 1_000], [100, 1_000]],
    "key_rate": [[1, 300], [20, 1_000], [100, 1_000]],
    "max_jobs": [3, 10],
    "max_bytes": [150, 600],
    "keep_done": [0, 1_000],
    "keep_dead": [2_000],
    "keep_dead_count": [1, 3],
    "dead_to": ["d"],
    "poison_losses": [1, 3],
}
DEFAULTS = QueuePolicy(**POLICY)


def mixes(options: dict[str, list[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the options with values, each option as likely as the others."""
    return st.lists(st.sampled_from(sorted(options)), max_size=most, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(options[name]) for name in names})
    )


class Coming(Sends):
    """A broker whose jobs have options, and whose queues have a policy."""

    declared: dict[str, dict[str, Any]] = {}  # noqa: RUF012 (nobody changes it): queue -> what the file says
    settable = OF_A_QUEUE
    of_a_job = OF_A_JOB

    def begin(self) -> None:
        """Before the first step: nothing is known."""
        self.set: dict[str, dict[str, Any]] = {}
        self.sent_jobs: dict[bytes, Sent] = {}
        self.given: dict[bytes, bytes] = {}  # ids that were not stored, with the job that was there instead
        self.texts: dict[tuple[str, str], tuple[bytes, int]] = {}  # who took it last; until when, 0: while it goes on
        self.unsure: set[tuple[str, str]] = set()  # texts that a replay may take
        self.sharing: set[bytes] = set()  # live jobs whose text another one may have as well

    def policy(self, queue: str) -> QueuePolicy:
        """What should hold for the queue, as the model has it."""
        return DEFAULTS.with_options({**self.declared.get(queue, {}), **self.set.get(queue, {})})

    def with_text(self, queue: str, text: str) -> set[bytes]:
        """The live jobs of the queue that say this text, and are not dead."""
        found = [self.bench.core.state.find(identifier) for identifier in self.alive]
        return {
            job.id
            for job in found
            if job is not None
            and job.state is not State.DEAD
            and job.queue.name == queue
            and job.header.options.get("unique") == text
        }

    def texts_are_unique(self) -> None:
        """At most one job has a text, but for those that another was let in beside."""
        for queue in QUEUES:
            for text in ("u", "v"):
                assert len(self.with_text(queue, text) - self.sharing) <= 1, "a unique text is taken once"

    # ---- jobs come in

    @rule(
        index=st.integers(0, 1),
        queue=st.sampled_from(QUEUES),
        jobs=st.sampled_from([1, 1, 2, 5]),
        priority=PRIORITIES,
        key=KEYS,
        delay=DELAYS,
        data=st.data(),
        crash=CRASHES,
    )
    def put(  # type: ignore[override]
        self, index: int, queue: str, jobs: int, priority: int, key: str, delay: int, data: Any, crash: str
    ) -> None:
        options: dict[str, Any] = data.draw(mixes(self.of_a_job, 2))
        options |= {"priority": priority} if priority else {}
        options |= {"key": key} if key else {}
        options |= {"delay": delay} if delay else {}
        self.put_new(index, queue, jobs, options, crash)

    @rule(queue=st.sampled_from(QUEUES), jobs=st.sampled_from([1, 1, 2]), key=KEYS, data=st.data(), crash=CRASHES)
    def put_unique(self, queue: str, jobs: int, key: str, data: Any, crash: str) -> None:
        options = {name: data.draw(st.sampled_from(values)) for name, values in UNIQUE.items()}
        options |= {"delay": 500} if data.draw(st.integers(0, 3)) == 3 else {}
        self.put_new(1, queue, jobs, options | ({"key": key} if key else {}), crash)

    def before_put(self, message: m.Put) -> Any:
        group = message.groups[0]
        queue = self.bench.core.state.queues.get(group.queue)
        for identifier in group.ids:
            self.sent_jobs[identifier] = self.job_of(group, identifier, self.bench.wall)
        text = group.options.get("unique")
        holders = self.holders(group.queue, text) if text else {None}
        return {
            "growths": self.growths(group, holders),
            "jobs": queue.counts.waiting_jobs if queue else 0,
            "bytes": queue.counts.waiting_bytes if queue else 0,
            "closed": queue is not None and queue.closed,
            "holders": holders,
            "wall": self.bench.wall,
            "states": {identifier: self.state_of(identifier) for identifier in self.alive},
        }

    def growths(self, group: m.Group, holders: set[bytes | None]) -> list[tuple[int, int]]:
        """By how many jobs and bytes the group makes its queue longer: what it may be, where holders are not sure."""
        sizes = [stored_size(self.sent_jobs[identifier], self.bench.wall, b"p") for identifier in group.ids]
        if "unique" not in group.options:
            return [(len(sizes), sum(sizes))]
        growths = []
        for holder in holders:
            found = self.bench.core.state.find(holder) if holder is not None else None
            if holder is not None and group.options.get("on_conflict", "existing") == "existing":
                growths.append((0, 0))
            elif found is not None and found.state in WAITING and found.queue.name == group.queue:
                growths.append((0, sizes[0] - stored_bytes(found.record)))
            else:
                growths.append((1, sizes[0]))
        return growths

    def has_room(self, queue: str, before: Any, more: int, larger: int) -> bool:
        policy = self.policy(queue)
        if not more and larger <= 0:
            return True
        is_long = policy.max_jobs and before["jobs"] + more > policy.max_jobs
        is_large = policy.max_bytes and before["bytes"] + larger > policy.max_bytes
        return not (is_long or is_large)

    def job_of(self, group: m.Group, identifier: bytes, wall: int) -> Sent:
        policy, options = self.policy(group.queue), group.options
        ttl = options.get("ttl", policy.ttl_ms)
        expires = wall + options.get("delay", 0) + ttl if ttl else 0
        return Sent(identifier, group.queue, options, expires)

    def holders(self, queue: str, text: str) -> set[bytes | None]:
        """Who may have the text now: one job, or None for nobody, where that is certain; else both."""
        if (queue, text) in self.unsure:
            return {None, *self.with_text(queue, text)}
        if (queue, text) not in self.texts:
            return {None}
        identifier, until = self.texts[queue, text]
        found = self.bench.core.state.find(identifier)
        goes_on = found is not None and found.state is not State.DEAD and found.queue.name == queue
        if until:
            return {None} if until <= self.bench.wall else {identifier} if goes_on else {identifier, None}
        if not goes_on:
            return {None}
        assert found is not None
        if self.sent_jobs[identifier].options.get("unique_for") != "waiting":
            return {identifier}
        if found.change is None or (found.state is not State.LEASED and not found.change.fence):
            return {identifier} if found.state is not State.LEASED else {None}
        return {None}

    def stored(self, message: m.Put, answer: Any, before: Any) -> None:
        group = message.groups[0]
        instead = dict(answer["instead"]) if answer is not None else {}
        ids = [identifier for identifier in group.ids if identifier not in instead]
        self.given.update(instead)
        for identifier in ids:
            self.alive.add(identifier)
        assert not before["closed"]
        assert any(self.has_room(group.queue, before, *growth) for growth in before["growths"])
        if "unique" in group.options:
            self.stored_unique(group, ids, instead, before)
        else:
            assert not instead

    def stored_unique(self, group: m.Group, ids: list[bytes], instead: dict[bytes, bytes], before: Any) -> None:
        options, holders = group.options, before["holders"]
        if not ids:
            (holder,) = set(instead.values())
            assert options.get("on_conflict", "existing") == "existing"
            assert holder in holders, "a text that is told taken is taken"
            return
        (chosen,) = ids
        assert set(instead.values()) <= {chosen}
        conflict = options.get("on_conflict", "existing")
        assert chosen == group.ids[0 if conflict == "existing" else -1]
        if conflict == "existing":
            assert None in holders, "a text that is taken is not given again"
        period = options.get("unique_for", "done")
        self.texts[group.queue, options["unique"]] = chosen, before["wall"] + period if isinstance(period, int) else 0
        rows = self.rows()
        for other in holders - {None}:
            if conflict == "existing" or other not in self.alive:
                continue
            if before["states"][other] in WAITING:
                assert other not in rows or None in holders, "a job that waits is replaced"
                if other not in rows:
                    self.end(other, "replaced")
            elif before["states"][other] is State.LEASED:
                self.sharing.add(other)
                if conflict == "replace" and None not in holders and self.state_of(other) is State.LEASED:
                    assert self.wished_away(other), "a job that runs is told to end"
        for other in self.with_text(group.queue, options["unique"]) - {chosen}:
            if self.sent_jobs[other].options.get("unique_for", "done") != "done":
                self.sharing.add(other)

    def handler_sent(self, identifier: bytes, group: m.Group, before: Any) -> None:
        super().handler_sent(identifier, group, before)
        assert not before["closed"]
        assert any(self.has_room(group.queue, before, *growth) for growth in before["growths"])

    def refused(self, message: m.Put, failure: m.Failure, before: Any) -> None:
        group = message.groups[0]
        if failure.code == "closed":
            assert before["closed"]
            return
        assert failure.code == "queue_full", failure
        assert not all(self.has_room(group.queue, before, *growth) for growth in before["growths"]), "it had room"

    def sent(self) -> set[bytes]:
        return super().sent() - self.given.keys()
