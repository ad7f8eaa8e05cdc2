"""The page about job states says what the table of transitions says: nothing more, and nothing less."""

import re

import pytest

from tools.job_states import PAGE, meanings, movers, page
from zbroker.core.states import COUNTED, TRANSITIONS, WAITING, Counts, Event, IllegalTransition, State


def test_the_page_is_what_the_table_generates() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tools.job_states writes it anew"


def test_the_diagram_shows_every_transition_once() -> None:
    arrows = re.findall(r"^    (\S+) --> (\S+): (.+)$", page(), re.MULTILINE)
    drawn = [(before, event, after) for before, after, events in arrows for event in events.split(", ")]
    table = [(before or "[*]", event, after or "[*]") for (before, event), after in TRANSITIONS.items()]
    assert sorted(drawn) == sorted(table)


def test_every_event_says_who_makes_it_and_every_state_what_it_is() -> None:
    assert list(movers()) == list(Event)
    assert all(movers().values())
    assert list(meanings()) == [state.value for state in State]


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("before", [None, *State])
def test_what_the_table_does_not_list_is_an_error(before: State | None, event: Event) -> None:
    counts = Counts()
    if before in COUNTED:
        counts.jobs[before] = 1
    if before in WAITING:
        counts.sizes[before] = 100
    if (before, event) in TRANSITIONS:
        counts.move(before, event, 1, 100)
        after = TRANSITIONS[before, event]
        assert counts.jobs == {state: int(state is after) for state in COUNTED}
        assert counts.sizes == {state: 100 * (state is after) for state in WAITING}
    else:
        with pytest.raises(IllegalTransition):
            counts.move(before, event, 1, 100)


def test_fewer_than_no_jobs_and_bytes_are_an_error() -> None:
    counts = Counts()
    with pytest.raises(IllegalTransition):
        counts.move(State.READY, Event.DELIVER, 1, 0)
    counts.move(None, Event.PUT, 1, 100)
    with pytest.raises(IllegalTransition):
        counts.move(State.READY, Event.DELIVER, 1, 101)
