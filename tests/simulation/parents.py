"""What a job waited for is over, and in the way that its rule asks for: judged whenever one is delivered.

It reads the book and keeps nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.world import Violation
from zbroker.core.rows import Change
from zbroker.core.states import State
from zclient.protocol.record import Header

if TYPE_CHECKING:
    from tests.simulation.book import Book


def check_parents(book: Book, identifier: bytes, header: Header, change: Change | None) -> None:
    """All that it waits for is over, and in the way that its rule asks for. One that was dead and is replayed does not
    wait for what nobody can bring back."""
    runs_anyway = header.options.get("on_parent_death", "cancel") == "run"
    was_replayed = change is not None and change.unexpiring
    for parent in header.options["after"]:
        if parent in book.batches:
            _check_batch(book, identifier, parent, runs_anyway=runs_anyway or was_replayed)
        elif not (
            _is_done(book, parent, identifier)
            or (runs_anyway and _is_over(book, parent))
            or (was_replayed and _is_gone(book, parent))
        ):
            raise Violation(f"{_text(identifier)} is delivered, and its parent {_text(parent)} is not done")


def _is_done(book: Book, parent: bytes, child: bytes) -> bool:
    """Whether the parent is done. One that was forgotten and sent again counts as it ended before, if the child is
    older than its second life: it waited for the first."""
    end = book.ended.get(parent)
    if end is None and book.born.get(parent, 0) > book.born[child]:
        end = book.before.get(parent)
    return end is not None and end.how == "done"


def _is_gone(book: Book, parent: bytes) -> bool:
    return parent in book.ended or parent in book.before


def _is_over(book: Book, parent: bytes) -> bool:
    return _is_gone(book, parent) or parent in book.was_dead


def _check_batch(book: Book, identifier: bytes, batch: bytes, *, runs_anyway: bool) -> None:
    """All jobs of a batch or step that was waited for are done; or over, where the child runs anyway. One that was dead
    may have been replayed since then."""
    for job in book.batches[batch]:
        if runs_anyway:
            if job in book.records and job not in book.was_dead:
                raise Violation(f"{_text(identifier)} is delivered, and {_text(job)} of its batch goes on")
        elif book.state_of(job) is State.DEAD or not _is_done(book, job, identifier):
            raise Violation(f"{_text(identifier)} is delivered, and {_text(job)} of its batch is not done")


def _text(identifier: bytes) -> str:
    return identifier.decode(errors="backslashreplace")
