"""Writes docs/job-states.md from the table of transitions: ``python -m tools.job_states``, at the top of a checkout.

It owns the shape of that page. What the page says is taken from `zbroker/core/states.py`, the comments of its events
included, and from the glossary; `tests/test_job_states.py` holds the page to it.
"""

import ast
import re
from pathlib import Path

from zbroker.core import states
from zbroker.core.states import GONE, TRANSITIONS, Event, State

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "job-states.md"

_HEAD = """\
# Job states

Every state of a job, every way from one to another, and who moves it. The page is generated from the table
`TRANSITIONS` in `zbroker/core/states.py`; after a change there, `python -m tools.job_states` writes it anew. Whatever
the table does not list is an error of the broker: it stops, and starts again from disk.
"""

_TAIL = """\
A job that is `done` or `cancelled` is history: `keep_done` and `keep_done_count` say how long it is kept. A job that is
`dead` stays until somebody replays or drops it. What burns an attempt, and when a loss counts towards poison, is on
[the page about operating](operating.md#when-a-worker-is-lost).
"""


def page() -> str:
    """The whole page, as it should stand in docs/job-states.md."""
    return "\n".join([_HEAD, _diagram(), _table(), _TAIL])


def movers() -> dict[Event, str]:
    """Who makes each event happen: the comment behind it in the source."""
    source = Path(states.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Event")
    lines = source.splitlines()
    found = {}
    for line in body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            found[Event[line.targets[0].id]] = lines[line.lineno - 1].partition("#")[2].strip()
    return found


def meanings() -> dict[str, str]:
    """What each state means, in the glossary's words."""
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = glossary.partition("\n## The states of a job\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (\w+) \| (.+) \|$", section, re.MULTILINE)[1:])


def _diagram() -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault((before or "[*]", after or "[*]"), []).append(event)
    lines = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _table() -> str:
    meaning, who = meanings(), movers()
    lines = ["| state | a job leaves it by | who moves it, and when | to |", "|---|---|---|---|"]
    for state in (GONE, *State):
        told = f"`{state}`: {meaning[state]}" if state else "not there: never sent, or nothing of it is kept"
        ways = [(event, after) for (before, event), after in TRANSITIONS.items() if before == state]
        for event, after in ways:
            lines.append(f"| {told} | {event} | {who[event]} | {f'`{after}`' if after else 'not there'} |")
            told = ""
        if not ways:
            lines.append(f"| {told} | | nobody: no job comes here yet | |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
