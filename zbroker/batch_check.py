"""The part of `zbroker check` that knows batches and workflows: their counters against jobs and rows.

It holds a counter for each batch that has jobs, and the ids that timers name; nothing else grows with what there is.
"""

from collections import Counter
from collections.abc import Callable

from zbroker.core import batches, rows, workflows
from zbroker.core.batches import DEAD, DONE, GONE, Batch
from zbroker.core.states import State
from zbroker.core.workflows import Workflow
from zbroker.core.works import Work
from zbroker.storage import Store
from zclient.protocol import limits as wire
from zclient.protocol.messages import Group
from zclient.protocol.plans import step_id
from zclient.protocol.record import Header

_END = b"\xff" * 300


class BatchCheck:
    """Told of every job, it compares at the end. ``fault`` takes what is wrong, in a sentence."""

    def __init__(self, store: Store, fault: Callable[[str], None]) -> None:
        self._store = store
        self._fault = fault
        self._live: Counter[bytes] = Counter()  # jobs that go on, also such as a purge voided and did not reach yet
        self._dead: Counter[bytes] = Counter()
        self._timed: set[bytes] = set()  # batches and workflows that have a timer
        self._removed: set[bytes] = set()  # those that are being removed
        self._storing: set[bytes] = set()  # workflows of which jobs are being stored
        for _, value in store.scan("meta", rows.META_WORK, rows.beyond(rows.META_WORK)):
            work = Work(*rows.unpack(value))
            if work.kind == "forget":
                self._removed.update(work.ids)
            elif work.kind == "store_workflow":
                self._storing.update(work.ids)

    def timer(self, key: bytes) -> None:
        self._timed.add(key)

    def job(self, header: Header, state: State) -> None:
        batch = header.options.get("batch")
        if batch is not None:
            (self._dead if state is State.DEAD else self._live)[batch] += 1

    def waits(self, parent: bytes, rule: str) -> bool:
        """Whether somebody may wait for this batch, as far as its row says."""
        value = self._store.get("batches", parent)
        if value is None:
            return False
        batch = batches.decode(parent, value)
        return batch.is_parent and (not batch.end or (batch.end == DEAD and rule == "wait"))

    def compare(self) -> None:
        staged = self._read_staged()
        kept = 0
        batch: Batch | None = None
        ends: Counter[str] = Counter()
        for key, value in self._store.scan("batches", b"", _END):
            if batch is not None and key.startswith(batch.id) and len(key) > len(batch.id) and key[len(batch.id)] < 3:
                if key[len(batch.id)] == 0:
                    ends[value[:2].decode()] += 1
                continue
            if batch is not None:
                self._compare_ends(batch, ends)
            if len(key) > wire.MADE_ID_BYTES or min(key) < 3:
                self._fault(f"batches has a row {key!r}, which is of no batch")
                continue
            batch = batches.decode(key, value)
            ends.clear()
            kept += not batch.workflow
            self._compare_batch(batch, staged.pop(batch.id, 0))
        if batch is not None:
            self._compare_ends(batch, ends)
        for identifier in [*self._live, *self._dead]:
            if self._store.get("batches", identifier) is None:
                self._fault(f"jobs are of the batch {identifier.decode()}, which there is not")
        for key, value in self._store.scan("workflows", b"", _END):
            if len(key) == wire.WORKFLOW_ID_BYTES:
                kept += 1
                self._compare_workflow(workflows.decode(key, value))
        told = int.from_bytes(self._store.get("meta", rows.META_BATCHES) or b"", "big")
        if told != kept:
            self._fault(f"there are {kept} batches and workflows, and their counter says {told}")

    def _read_staged(self) -> Counter[bytes]:
        """Jobs that are laid aside, by step, of the workflows that are there."""
        staged: Counter[bytes] = Counter()
        for key, value in self._store.scan("workflows", b"", _END):
            flow, kind = key[: wire.WORKFLOW_ID_BYTES], key[wire.WORKFLOW_ID_BYTES :][:1]
            is_gone = flow in self._removed and self._store.get("workflows", flow) is None
            if kind != b"\0" or is_gone:
                continue
            for group in rows.unpack(value):
                staged[Group(*group).options["batch"]] += len(Group(*group).ids)
        return staged

    def _compare_batch(self, batch: Batch, staged: int) -> None:
        name = batch.id.decode()
        if batch.workflow and self._store.get("workflows", batch.workflow) is None:
            if batch.workflow not in self._removed:
                self._fault(f"the step {name} is of a workflow that there is not")
            return
        over = batch.done + batch.dead + batch.cancelled
        goes_on = self._live[batch.id] + staged
        if goes_on != batch.total - over or self._dead[batch.id] != batch.dead:
            found = f"{goes_on} of its jobs go on and {self._dead[batch.id]} are dead"
            self._fault(f"batch {name}: {found}; its counters say {batch.total - over} and {batch.dead}")
        end = (GONE if batch.cancelled else DEAD if batch.dead else DONE) if batch.is_settled else ""
        if batch.end != end or bool(end) != bool(batch.over_ms):
            self._fault(f"batch {name} has ended {batch.end!r}, and its counters say {end!r}")
        due = (batch.is_settled and batch.done == batch.total) | batch.is_settled << 1 | batch.died << 2
        if batch.has & due & ~batch.fired or batch.fired & ~batch.has:
            self._fault(f"batch {name}: callbacks are missing")
        if bool(batch.has) != (self._store.get("batches", rows.callbacks_key(batch.id)) is not None):
            if batch.id not in self._removed:
                self._fault(f"batch {name}: what its callbacks are is not there")
        if (
            end
            and not batch.dead
            and not batch.workflow
            and batch.id not in self._timed
            and batch.id not in self._removed
        ):
            self._fault(f"no timer removes the batch {name}")

    def _compare_ends(self, batch: Batch, ends: Counter[str]) -> None:
        """Of a batch that keeps results, there is no more than one row for each job that is over."""
        if batch.id in self._removed or batch.workflow in self._removed:
            return
        for end, jobs in ((DONE, batch.done), (DEAD, batch.dead), (GONE, batch.cancelled)):
            told = ends[end[:2]]
            if told > jobs or (told and not batch.keeps_results) or (batch.workflow and end == DEAD and told != jobs):
                self._fault(f"batch {batch.id.decode()}: {jobs} jobs are {end}, and {told} rows say so")

    def _compare_workflow(self, flow: Workflow) -> None:
        name = flow.id.decode()
        if self._store.get("workflows", rows.plan_key(flow.id)) is None:
            self._fault(f"workflow {name} has no plan")
        is_staged = next(self._store.scan("workflows", flow.id + b"\0", flow.id + b"\1"), None) is not None
        if flow.state == workflows.COMING:
            if flow.id not in self._timed:
                self._fault(f"no timer removes the workflow {name}, which is not complete")
            return
        if is_staged and flow.id not in self._storing:
            self._fault(f"jobs of the workflow {name} are laid aside, and nobody stores them")
        values = self._store.get_many("batches", [step_id(flow.id, place) for place in range(flow.steps)])
        ends = [batches.decode(b"", value).end if value is not None else None for value in values]
        if ends != [workflows.ENDS[code] for code in flow.ends]:
            self._fault(f"workflow {name}: its steps have ended otherwise than it says")
        if (flow.state == workflows.RUNNING) == bool(flow.over_ms):
            self._fault(f"workflow {name} is {flow.state}, and it is {'over' if flow.over_ms else 'not over'}")
        if flow.state in (DONE, GONE) and flow.id not in self._timed:
            self._fault(f"no timer removes the workflow {name}")
