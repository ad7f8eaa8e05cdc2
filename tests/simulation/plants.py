"""Bugs on purpose: what the simulation must find. They are those mutants (`tests/mutants/`) that its seeds can find.

A plant is put into a process of its own, before the module is loaded: `python -m tests.simulation --plant NAME`. A
text that is no longer there is an error, so that a plant cannot come to nothing unseen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

PLANTS = {mutant.name: mutant for mutant in MUTANTS if mutant.by_seeds}


class _Planter(MetaPathFinder):
    def __init__(self, plant: Mutant) -> None:
        self._plant = plant

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._plant.module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.origin is not None, name
        spec.loader = _Planted(name, spec.origin, self._plant)
        return spec


class _Planted(SourceFileLoader, Loader):
    def __init__(self, name: str, path: str, plant: Mutant) -> None:
        super().__init__(name, path)
        self._plant = plant

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        return compile(self._plant.edited(self.get_data(self.path).decode()), self.path, "exec")


def plant(name: str) -> None:
    """From now on the module is loaded with the bug in it."""
    one = PLANTS[name]
    if one.module in sys.modules:
        raise RuntimeError(f"{one.module} is loaded already")
    sys.meta_path.insert(0, _Planter(one))
