"""The commands of the front page, as they stand, but for the port, since another broker may be at the default one."""

import re
import shlex
import sys
from pathlib import Path

from tests.examples.running import ROOT, Start, output, ready


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of one language below a heading of the front page."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def one_line(block: str) -> list[str]:
    """The words of a block that is one command."""
    (line,) = block.splitlines()
    return shlex.split(line)


def test_the_quickstart_works_as_it_stands(start: Start, tmp_path: Path) -> None:
    install, start_broker, run_worker, send, look, say = blocks("Quickstart", "sh")
    tasks, program, workflow = blocks("Quickstart", "python")
    assert one_line(install) == ["pip", "install", "."]  # tried by `make build`

    (tmp_path / "tasks.py").write_text(tasks, encoding="utf-8")
    endpoint = ready(start(*one_line(start_broker), cwd=tmp_path, ZBROKER_BIND="tcp://127.0.0.1:*"))
    start(*one_line(run_worker), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint)
    assert output(*one_line(send), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint) == ["Hello, Ada!"]

    program = program.replace("tcp://127.0.0.1:5555", endpoint)
    assert output(sys.executable, "-c", program, cwd=tmp_path) == [
        "Hello, Grace!",
        "scheduled",
        "1000 sent, the last one says: Hello, number 999!",
    ]

    shown = [output(*one_line(line), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint) for line in look.splitlines()]
    queues, workers, scheduled, stats = shown
    assert queues[1].startswith("greet ")
    assert len(workers) == len(scheduled) == 2  # a head, and one line each
    assert '"done": 1003,' in "\n".join(stats)
    _, policy = [output(*one_line(line), cwd=tmp_path, ZBROKER_ENDPOINT=endpoint) for line in say.splitlines()]
    assert [line.split() for line in policy if line.startswith(("rate", "key_limit"))] == [
        ["key_limit", "1", "set"],
        ["rate", "100", "set"],
    ]

    workflow = workflow.replace("tcp://127.0.0.1:5555", endpoint)
    assert output(sys.executable, "-c", workflow, cwd=tmp_path) == ["Hello, Ada! Hello, Grace!"]


def test_two_hosts_work_as_they_stand(start: Start, tmp_path: Path) -> None:
    start_broker, elsewhere = blocks("Two hosts", "sh")
    run_worker, send = elsewhere.splitlines()
    (tmp_path / "tasks.py").write_text(blocks("Quickstart", "python")[0], encoding="utf-8")
    endpoint = ready(start(*one_line(start_broker.replace(":5555", ":*")), cwd=tmp_path))
    here = endpoint.replace("0.0.0.0", "127.0.0.1")
    start(*one_line(run_worker.replace("tcp://queue-host:5555", here)), cwd=tmp_path)
    assert output(*one_line(send.replace("tcp://queue-host:5555", here)), cwd=tmp_path) == ["Hello, Ada!"]
