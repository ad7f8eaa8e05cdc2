"""The kill loop over a disaster: the host is lost under load, and a backup from before is restored elsewhere.

Whatever was confirmed before the backup was asked for is judged as ever: over, with one effect, under a fence that
grows, although the broker of the copy gives its fences anew. What was confirmed later may be lost, and is left out;
what the lost broker said to workers after that moment does not bind the copy, which never heard of it.
"""

import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.history import records as r
from tests.history.checker import Report, check
from tests.history.records import Reader, Record, Recorder, files_of, now_us
from tests.history.rules import EPOCH_BITS, Fault
from tests.kill_loop.bout import LOOK_S, OPTIONS, OVER, Bout
from tests.kill_loop.loop import check_data
from tests.kill_loop.processes import Broker, Harms
from tests.system.processes import ROOT, Reserved
from zbroker.copies import RAISE_EPOCH

EFFECTS = 100
"""So many are seen before the backup, after it, and after the end of all."""


def zbroker(*arguments: str | Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "zbroker", *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL
    )


class Disaster(Bout):
    """A bout of one harm: a backup, more load, and the end of everybody; the broker goes on with what was restored."""

    window = 4 * EFFECTS
    further = (EFFECTS,)
    asked_us = 0
    """When the backup was asked for."""
    gone_us = 0
    """When everybody was gone."""

    def harm(self) -> None:
        self.await_effects(EFFECTS, self.pause_s)
        self.asked_us = now_us()
        with zbroker("backup", self.folder / "backup", "--data", self.broker.data) as backup:
            while backup.poll() is None:
                self.await_effects(1, LOOK_S)
        assert backup.returncode == 0
        self.await_effects(EFFECTS, self.pause_s)
        for place in self.places:
            place.kill()
        for place in self.places:
            place.reap()
        self.gone_us = now_us()
        self.broker.data = self.folder / "restored"
        with zbroker("restore", self.folder / "backup", "--data", self.broker.data) as restore:
            assert restore.wait(60) == 0
        for place in self.places:
            place.start()
        self._grant(always=True)

    def judge(self) -> Report:
        """The faults of what the backup is to hold, and how many jobs of all the copy knows at the end."""
        whole = check(self.folder)
        histories = [(reader.header, list(reader)[1:]) for reader in map(Reader, files_of(self.folder))]
        records = [record for _, several in histories for record in several]
        held = {record[2] for record in records if record[0] == r.CONFIRMED and record[1] < self.asked_us}
        assert whole.counts["confirmed"] > len(held) > 2 * EFFECTS
        folder = self.folder / "held"
        folder.mkdir()
        for header, several in histories:
            recorder = Recorder(folder, header.who, buffer_bytes=1 << 20, **header.facts)
            for record in several:
                if record[0] == r.HARM or (record[2] in held and not self._is_promise(record)):
                    recorder.record(*record)
            recorder.close()
        report = check(folder, kept_faults=sys.maxsize)
        ran = {record[2] for record in records if record[0] == r.START and self._is_unheld(record)}
        # The copy does not know of a run after the backup: it may let the job run again, and as that attempt.
        faults = [fault for fault in report.faults if not (_is_of_unknown_run(fault) and fault.job in ran)]
        return report._replace(
            counts=Counter({**report.counts, **{state: whole.counts[state] for state in OVER}}),
            faults=faults,
            named=Counter(fault.name for fault in faults),
        )

    def _is_unheld(self, record: Record) -> bool:
        """Whether it happened after the backup was asked for, with the broker that was lost."""
        return self.asked_us <= record[1] < self.gone_us

    def _is_promise(self, record: Record) -> bool:
        """Whether the lost broker said it, and nobody else can know."""
        said = record[0] in (r.ANSWER, r.VALID) or (record[0] == r.ORDER and record[4] is not None)
        return said and self._is_unheld(record)

    def epochs(self) -> set[int]:
        """Those of all fences under which anything ran."""
        readers = map(Reader, files_of(self.folder))
        return {record[3] >> EPOCH_BITS for reader in readers for record in reader if record[0] == r.START}


def _is_of_unknown_run(fault: Fault) -> bool:
    return fault.name == "more than once" or fault.what == "its attempts went down"


def test_what_was_confirmed_before_the_backup_outlives_the_host(tmp_path: Path) -> None:
    harms = Harms()
    with closing(Reserved()) as port:
        broker = Broker(tmp_path / "broker.log", harms, tmp_path / "data", OPTIONS, port.endpoint)
        bout = Disaster(tmp_path, "d", broker, harms, random.Random(7), 7)
        try:
            came = bout.run(lambda: bout.gone_us > 0)
        finally:
            bout.abandon()
    for folder in ("data", "backup", "restored"):
        check_data(tmp_path / folder)
    assert bout.epochs() == {1, 1 + RAISE_EPOCH + 1}
    assert came.report.counts["late effects"] > 0  # what ended after the backup ran again, and its effect is there once
