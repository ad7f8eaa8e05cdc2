"""What a planted bug is: one edit of the product's source, the promise that it breaks, and the tests that notice.

It owns the edit and its refusal where the source no longer has the text. It runs nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """A bug on purpose. ``text`` stands in ``file`` exactly ``places`` times, and ``instead`` takes its place."""

    name: str
    breaks: str  # what goes wrong
    file: str  # from the root of the repository
    text: str
    instead: str
    caught_by: tuple[str, ...]  # tests by their ids of pytest, quickest first; one is enough
    places: int = 1
    by_seeds: bool = False  # the simulation finds it too: `make simulate-plants` says with which seed

    @property
    def row(self) -> str:
        """How `docs/testing.md` tells it."""
        test = self.caught_by[0].rpartition("::")[2]
        return f"| {self.name} | {self.breaks} | `{test}`{', seeds' if self.by_seeds else ''} |"

    @property
    def module(self) -> str:
        """The file as it is imported."""
        return self.file.removesuffix(".py").replace("/", ".")

    def edited(self, sound: str) -> str:
        """The file's text with the bug in it. ValueError if the text does not stand there as often as it says."""
        found = sound.count(self.text)
        if found != self.places:
            raise ValueError(f"{self.name}: {self.file} has {found} times, and not {self.places}: {self.text!r}")
        return sound.replace(self.text, self.instead)

    def source(self, root: Path) -> str:
        """The same of the file below ``root``."""
        return self.edited((root / self.file).read_text(encoding="utf-8"))

    @contextmanager
    def planted(self, root: Path) -> Iterator[None]:
        """The bug is in the copy at ``root`` as long as this lasts."""
        path = root / self.file
        sound, bug = path.read_text(encoding="utf-8"), self.source(root)
        try:
            _write(path, bug)
            yield
        finally:
            _write(path, sound)


def _write(path: Path, source: str) -> None:
    """Write a module, and remove what was compiled of it: the interpreter tells versions apart by second and size."""
    path.write_text(source, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
