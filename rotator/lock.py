"""One process at a time: an OS lock on a file beside the state.

The lock belongs to the open file, so it ends with the process, however that ends; the file's text only
tells a second process who is there. Whoever only asks whether it is held has to take it for an instant,
shared with others who ask; so who wants it for himself does not give up at the first try.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from rotator.errors import AlreadyRunning, NeedsPerson

_TRIES = 20
_PAUSE = 0.02


class ProcessLock:
    """Holds the lock from `acquire` to `release`."""

    def __init__(self, state: Path) -> None:
        self.path = state.with_name(state.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self, what: str) -> None:
        """Take the lock or raise AlreadyRunning, naming the process that has it."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._not_ours("is a symbolic link") from None
            raise NeedsPerson(
                f"the lock {self.path} cannot be opened: {error.strerror}",
                f"make the folder {self.path.parent} writable for the user that rotator runs as",
            ) from None
        try:
            found = os.fstat(descriptor)
            # What is written below must not end up in a file that somebody put here for that.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise self._not_ours("is not a file of its own")
            if not _lock(descriptor):
                raise AlreadyRunning(
                    f"another rotator uses this state: {self.holder() or 'an unknown process'}",
                    "stop it first, or give this one another state",
                )
        except OSError as error:
            os.close(descriptor)
            raise NeedsPerson(
                f"the lock {self.path} cannot be taken: {error.strerror}", "put the state on a file system with locks"
            ) from None
        except (AlreadyRunning, NeedsPerson):
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        word = {"pid": os.getpid(), "host": socket.gethostname(), "command": what, "since": _now()}
        with suppress(OSError):  # on a full disk nobody learns who it is, but the lock holds
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(word).encode(), 0)

    def _not_ours(self, problem: str) -> NeedsPerson:
        return NeedsPerson(f"the lock {self.path} {problem}", "see who made it, and remove it")

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> str:
        """Who holds the lock, in words, or an empty string if that cannot be read."""
        try:
            word = json.loads(self.path.read_text())
            return f"process {word['pid']} on {word['host']} (rotator {word['command']}, since {word['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def is_held(self) -> bool:
        """Whether some process holds the lock now."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def __enter__(self) -> ProcessLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(descriptor: int) -> bool:
    """Take the lock for oneself. False if another process keeps it."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        else:
            return True
    return False


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
