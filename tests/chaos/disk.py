"""A small disk of the broker's own, which can be filled up and emptied while the broker runs on it.

It is a tmpfs in a mount namespace that nobody else sees, held by a process that waits for the end of its stdin. The
driver reaches into it through /proc, the broker is started inside. A sync costs nothing there, so what a power failure
takes is not tried here.
"""

import os
import subprocess
from errno import ENOSPC
from pathlib import Path

from tests.system.processes import ROOT

PATIENCE_S = 10.0
CHUNK_BYTES = 4 << 20


class NoDisk(Exception):
    """This machine does not let us mount one; the text says why."""


class SmallDisk:
    """``where`` is its path as the broker sees it, ``path`` the same as this process does."""

    def __init__(self, where: Path, size_bytes: int) -> None:
        self.where = where
        where.mkdir()
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        mount = 'mount -t tmpfs -o "size=$2" tmpfs "$1" && echo mounted && exec cat'
        try:
            self._holder = subprocess.Popen(
                ["unshare", "--mount", *user, "sh", "-c", mount, "sh", str(where), str(size_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError:
            raise NoDisk("there is no program `unshare`") from None
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if not self._holder.stdout.readline():
            why = self._holder.stderr.read().strip()
            self.close()
            raise NoDisk(why)
        target = f"--target={self._holder.pid}"
        # Who enters stands at the root afterwards, and has to go back to where its modules are.
        back = ["sh", "-c", 'cd "$0" && exec "$@"', str(ROOT)]
        self.enter = ["nsenter", target, *(["--user", "--preserve-credentials"] if user else []), "--mount", *back]
        self.path = Path(f"/proc/{self._holder.pid}/root{where}")
        self._filler = self.path / "filler"

    def fill(self, leave_bytes: int) -> None:
        """Take all room but so much, whatever the broker takes meanwhile."""
        file = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            while (take := min(self._room() - leave_bytes, CHUNK_BYTES)) > 0:
                os.write(file, bytes(take))
        except OSError as error:
            if error.errno != ENOSPC:
                raise
        finally:
            os.close(file)

    def _room(self) -> int:
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize

    def empty(self) -> None:
        """Give all of it back."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """It is gone, with all that is on it."""
        self._holder.communicate(timeout=PATIENCE_S)
