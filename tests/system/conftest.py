"""The fixture of this folder, and what a report shows of the processes of a test that failed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.system import System


@pytest.fixture
def system(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[System]:
    """An empty system. Whatever happened in it, the data it leaves behind has no fault."""
    system = System(tmp_path)
    request.node.system = system
    try:
        yield system
    finally:
        system.end()
    system.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    system = getattr(item, "system", None)
    if system is not None and report.failed:
        for child in system.children:
            report.sections.append((f"{child.log.name}, process {child.pid}", child.story()))
    return report
