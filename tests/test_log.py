"""The broker's log: lines that can be told apart, and nothing that is wrong with them ends the broker."""

import errno
import io
import json
import sys

import pytest

from zbroker.core.state import Notice
from zbroker.log import log_writer

NOTICE = Notice("warning", "worker lost", {"worker": "a b\x1b[2J\r", "jobs": 3, "queues": ["a", "b"], "reason": ""})


def test_text_is_one_line_whose_facts_can_be_told_apart() -> None:
    stream = io.StringIO()
    log_writer("text", stream)(NOTICE)
    told = stream.getvalue().partition(" ")[2]
    assert told == 'warning worker lost  worker="a b\\u001b[2J\\r" jobs=3 queues=a,b reason=""\n'


def test_json_has_the_facts_as_entries() -> None:
    stream = io.StringIO()
    log_writer("json", stream)(NOTICE)
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("+00:00")
    assert entry == {"level": "warning", "event": "worker lost", **NOTICE.facts}


class Full(io.StringIO):
    """A file on a disk without room."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else() -> None:
    log_writer("text", Full())(NOTICE)


def test_without_stderr_nothing_goes_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    log_writer("text")(NOTICE)
    assert capsys.readouterr().out == ""
