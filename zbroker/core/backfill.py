"""The backfill of a binding: copies of what is kept and was published before it, in slices, over restarts too.

It ends before the offset at which the binding began. A copy has the id that it would have had at once, so one that the
queue has already, by another binding or an earlier slice, is not stored twice.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from zbroker import limits
from zbroker.core import kept, rows
from zbroker.core.matching import compiled, overlap, passes
from zbroker.core.publish import Run, copies, judge_copies, options_of_copy
from zbroker.core.put import put_judged, refuse_for_now
from zbroker.core.refusal import Refusal
from zbroker.core.state import State, Steps
from zbroker.core.topics import load_binding, save_binding
from zclient.protocol.messages import Publication

if TYPE_CHECKING:
    from zbroker.core.works import Work


def run(state: State, work: "Work", save: Callable[["Work | None"], None]) -> Steps:
    """Slow work: go on from the cursor. Where the queue is full, or takes nothing for another reason that may pass, it
    waits and tries again."""
    pattern, queue = work.reason, work.queue
    while True:
        binding = load_binding(state, pattern, queue)
        if binding is None or binding.backfill != work.until:
            break  # it is bound no longer, or has begun another backfill
        following, is_held = _copy_some(state, work, binding, int.from_bytes(work.cursor, "big"))
        if following is None:
            save_binding(state, pattern, queue, binding._replace(backfill=0, since_ms=0))
            break
        work = work._replace(cursor=rows.number8(following))
        save(work)
        yield state.now + limits.BACKFILL_PAUSE_MS if is_held else None
    save(None)
    state.notice("info", "backfill finished", queue=work.queue, pattern=work.reason)


def _copy_some(state: State, work: "Work", binding: rows.BindingRow, cursor: int) -> tuple[int | None, bool]:
    """Copy the publications of one slice; where to go on, None at the end, and whether to wait for the queue."""
    tests = compiled(binding.filters)
    keeping = kept.overlapping(state, work.reason)
    found, following = kept.read_slice(state, keeping, cursor, work.until)
    for offset, row in found:
        if row.at_ms < binding.since_ms or not overlap(work.reason, row.topic):
            continue
        if not passes(tests, row.options.get("headers", {})):
            continue
        publication = Publication(row.topic, row.options, row.id, row.payload)
        try:
            refuse_for_now(state)
            run = Run({work.queue: None}, {}, options_of_copy(publication))
            groups = copies([publication], [run])
            put_judged(state, groups, judge_copies(state, groups))
        except Refusal as refusal:
            if "retry_after_ms" in refusal.details or refusal.code == "closed":
                return offset, True
            state.notice("warning", "backfill skipped", queue=work.queue, offset=offset, reason=refusal.code)
    return following, False
