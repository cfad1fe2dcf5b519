"""A disk so small that a test can fill it: a tmpfs in a folder, unmounted whatever happens."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 4 * 2**20
_PIECE = b"x" * 4096


class Disk:
    """A folder that is a file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not one byte free. May be called twice."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while True:
                os.write(descriptor, _PIECE)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Take back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def remount(self, *options: str) -> None:
        """As an administrator would, or a kernel that met an error."""
        subprocess.run(["mount", "-o", ",".join(("remount", *options)), self.folder], check=True, capture_output=True)


@contextmanager
def a_small_disk(folder: Path, size: int = SIZE) -> Iterator[Disk]:
    """Of so many bytes, mounted at `folder`, which is made. Skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
