"""The kill loop: bouts of kills, one after another, on one data directory, and a check of the data after each."""

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.kill_loop.bout import OPTIONS, Bout, Came, Failed
from tests.kill_loop.processes import Broker, Harms
from tests.system.processes import Missing, Reserved
from zbroker.check import check_directory
from zbroker.storage import StoreError


def run_bouts(folder: Path, rounds: int, seed: int, store: str = "rocksdb", kills_each: int = 50) -> Iterator[Came]:
    """So many kills, in bouts, on one data directory. Raises `Failed`; the folder then has the data and all logs."""
    chance = random.Random(seed)
    harms = Harms()
    with closing(Reserved()) as port:
        broker = Broker(folder / "broker.log", harms, folder / "data", [*OPTIONS, "--store", store], port.endpoint)
        for number, before in enumerate(range(0, rounds, kills_each)):
            place = folder / f"bout-{number:04d}"
            place.mkdir()
            bout = Bout(place, f"b{number:04d}x", broker, harms, chance, seed)
            kills = min(kills_each, rounds - before)
            try:
                came = bout.run(lambda: harms.total("killed") >= kills)  # noqa: B023 (it is over before the next one)
                check_data(folder / "data")
            except (Failed, Missing) as failure:
                again = f"make kill-loop ROUNDS={rounds} SEED={seed} STORE={store}"
                raise Failed(f"{again}\nin bout {number}, with everything in {folder}\n{failure}") from None
            finally:
                bout.abandon()
            shutil.rmtree(place)
            yield came


def check_data(data: Path) -> None:
    """`zbroker check` of a directory that no broker has open. Raises `Failed`."""
    try:
        faults = check_directory(data).faults
    except StoreError as error:
        faults = [str(error)]
    if faults:
        raise Failed("\n".join(["zbroker check finds:", *faults]))
