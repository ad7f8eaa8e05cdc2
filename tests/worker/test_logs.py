"""The two forms of the log."""

import json
import logging

import pytest

from zworker.logs import LOGGER, JsonFormatter, TextFormatter, log


@pytest.fixture
def record(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    with caplog.at_level("INFO", logger=LOGGER.name):
        log(logging.WARNING, "job failed", job="a b", error='say "no"\nmore', attempt=2, queue=None)
    (record,) = caplog.records
    return record


def test_text_is_one_line_whose_facts_can_be_told_apart(record: logging.LogRecord) -> None:
    line = TextFormatter().format(record)
    assert line.partition(" ")[2] == 'warning job failed  job="a b" error="say \\"no\\"\\nmore" attempt=2'


def test_json_has_the_facts_as_entries(record: logging.LogRecord) -> None:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "warning", "event": "job failed", "job": "a b", "error": 'say "no"\nmore', "attempt": 2}
