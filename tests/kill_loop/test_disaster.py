"""The kill loop's ledger over a disaster: the host is lost under load, and a backup from before is restored elsewhere.

Whatever was confirmed before the backup was asked for is judged as ever: done, with one effect, under a fence that
grows, although the broker of the copy gives its fences anew. What was confirmed later may be lost, and is left out.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kill_loop import loop
from tests.kill_loop.ledger import read_ledger
from tests.kill_loop.loop import OPTIONS, _Bout, _check
from tests.kill_loop.processes import ROOT, Broker
from tests.kill_loop.verdict import EPOCH_BITS, Kill, judge
from tests.kill_loop.work import QUEUES, amount_of
from zbroker.copies import RAISE_EPOCH
from zclient import Client

EFFECTS = 150
"""So many are seen before the backup, after it, and after the end of all."""


def zbroker(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "zbroker", *map(str, arguments)], cwd=ROOT, check=True, timeout=60)


class Disaster(_Bout):
    """A bout of one kill, of everybody at once."""

    def run_over(self, folder: Path) -> float:
        """Load, a backup, more load, the end of all; then the same on what was restored. When the backup began."""
        for place in self._places:
            place.start()
        self._grant(always=True)
        self._await_effects(EFFECTS)
        asked = time.monotonic()
        zbroker("backup", folder / "backup", "--data", folder / "data")
        self._await_effects(EFFECTS)
        for place in self._places:
            place.kill()
        for place in self._places:
            place.reap()
        zbroker("restore", folder / "backup", "--data", folder / "restored")
        self._broker._data = folder / "restored"
        for place in self._places:
            place.start()
        self._await_effects(EFFECTS)
        return asked


def test_what_was_confirmed_before_the_backup_outlives_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WINDOW", 500)
    kills: list[Kill] = []
    broker = Broker(tmp_path / "broker.log", kills, tmp_path / "data", OPTIONS)
    bout = Disaster(tmp_path, "d", broker, kills, random.Random(7), 7)
    try:
        asked = bout.run_over(tmp_path)
        with Client(broker.endpoint, timeout=60) as client:
            bout._drain(client)
            ledger = read_ledger(tmp_path, client, QUEUES, "d")
    finally:
        bout.abandon()
    for folder in ("data", "backup", "restored"):
        _check(tmp_path / folder)
    late = {
        job
        for job, lines in ledger.sent.items()
        if (said := [line.at for line in lines if line.what == "confirmed"]) and min(said) > asked
    }
    verdict = judge(ledger, kills, {job: amount_of(job) for job in ledger.sent})
    # An attempt that was burnt after the backup is not known to it.
    faults = [fault for fault in verdict.faults if fault.job not in late and fault.what != "its attempts went down"]
    assert faults == []
    confirmed = [job for job, lines in ledger.sent.items() if any(line.what == "confirmed" for line in lines)]
    assert len(set(confirmed) - late) > 2 * EFFECTS
    epochs = {run.fence >> EPOCH_BITS for runs in ledger.runs.values() for run in runs}
    assert epochs == {1, 1 + RAISE_EPOCH + 1}
    assert verdict.repeats > 0  # what ended after the backup ran again, and its effect is there once
