"""The two complete examples on real input, with workers killed in the middle."""

import csv
import errno
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.examples.running import EXAMPLES, PATIENCE_S, Start, output
from tests.system.processes import eventually
from zclient import Client


def test_etl(start: Start, endpoint: str, tmp_path: Path) -> None:
    """One of the two workers is killed in the middle: the report is whole, and as another look at the files has it."""
    settings = {"ZBROKER_ENDPOINT": endpoint, "AUDIT": str(tmp_path / "audit.sqlite")}
    site = sysconfig.get_path("purelib")
    workers = [start("zworker", "run", "worker", cwd=EXAMPLES / "etl", **settings) for _ in range(2)]
    with Client(endpoint) as client:
        while len(list(client.workers())) < 2:
            assert all(worker.poll() is None for worker in workers)
        sender = start(sys.executable, "etl/send.py", site, cwd=EXAMPLES, **settings)
        assert sender.stdout is not None
        sent = re.fullmatch(r"sent: (\w+), (\d+) packages\n", sender.stdout.readline())
        assert sent is not None
        run = client.workflow(sent[1])
        while not run.status().done:
            assert sender.poll() is None
        workers[0].kill()
    *_, told, page = sender.communicate(timeout=2 * PATIENCE_S)[0].splitlines()
    assert sender.returncode == 0

    records = list(Path(site).glob("*.dist-info/RECORD"))
    files = sum((record.parent.parent / row[0]).is_file() for record in records for row in rows_of(record))
    counted = re.fullmatch(r"(\d+) packages, (\d+) files, \d+ not as installed", told)
    assert counted is not None
    assert [int(number) for number in counted.groups()] == [len(records), files]
    assert int(sent[2]) == len(records)
    report = Path(page.removeprefix("the report: ")).read_text(encoding="utf-8")
    assert report.startswith(f"# {len(records)} packages, {files} files, ")


def test_etl_of_other_folders(start: Start, endpoint: str, tmp_path: Path) -> None:
    """A folder that is named from where the sender stands, and one without packages: the report says what is there."""
    settings = {"ZBROKER_ENDPOINT": endpoint, "AUDIT": str(tmp_path / "audit.sqlite")}
    start("zworker", "run", "worker", cwd=EXAMPLES / "etl", **settings)
    package = tmp_path / "site" / "small-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "RECORD").write_text("small.py,,\ngone.py,,\n", encoding="utf-8")
    (tmp_path / "site" / "small.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    send = str(EXAMPLES / "etl" / "send.py")
    *_, told, page = output(sys.executable, send, "site", cwd=tmp_path, **settings)
    assert told == "1 packages, 1 files, 1 not as installed"
    report = Path(page.removeprefix("the report: ")).read_text(encoding="utf-8")
    assert "- small: gone.py is missing" in report
    *_, told, page = output(sys.executable, send, "empty", cwd=tmp_path, **settings)
    assert told == "0 packages, 0 files, 0 not as installed"


def rows_of(record: Path) -> list[list[str]]:
    with record.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


def test_fan_out(start: Start, endpoint: str, tmp_path: Path) -> None:
    """Each file once in each group that wants it, although workers share them and are killed in the middle."""
    tree = tmp_path / "tree"
    shutil.copytree(Path(sysconfig.get_path("stdlib"), "email"), tree, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "large.bin").write_bytes(b"x" * 200_000)
    (tree / "large.py").write_text("def f(): pass\n" * 20_000, encoding="utf-8")
    held = tree / "held.py"  # whoever reads it waits for somebody who writes
    os.mkfifo(held)
    files = [path for path in tree.rglob("*") if not path.is_dir()]
    wanted = [(path.suffix == ".py") + (path.stat().st_size >= 100_000) for path in files]
    large = sum(path.stat().st_size >= 100_000 for path in files)
    settings = {"ZBROKER_ENDPOINT": endpoint, "FAN_OUT": str(tmp_path)}

    def worker(group: str) -> "subprocess.Popen[str]":
        return start("zworker", "run", f"worker:{group}", cwd=EXAMPLES / "fan_out", **settings)

    killed = [worker(group) for group in ("index", "index", "watch")]
    sender = start(sys.executable, "fan_out/publish.py", str(tree), cwd=EXAMPLES, **settings)
    writing = eventually(lambda: once_read(held))
    for process in killed:
        process.kill()
        process.wait()
    os.close(writing)
    held.unlink()
    held.write_text("class C: pass\n", encoding="utf-8")
    for group in ("index", "watch"):
        worker(group)
    told = sender.communicate(timeout=2 * PATIENCE_S)[0].splitlines()
    assert sender.returncode == 0
    assert [line for line in told if "groups" in line] == [
        f"{wanted.count(groups)} events for {groups} of the groups" for groups in sorted(set(wanted))
    ]
    index, watch = told[-2:]
    python = sum(path.suffix == ".py" for path in files)
    assert re.fullmatch(rf"index: {python} files with 2\d{{4}} functions and \d+ classes", index)
    assert watch == f"watch: {large} large files, the largest of 0.3 MB"


def once_read(pipe: Path) -> int:
    """The pipe, open to write, if somebody reads it by now; else 0."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        assert error.errno == errno.ENXIO, error
        return 0
