"""One process at a time: an OS lock on a file beside the state.

The lock belongs to the open file, so it ends with the process, however that ends; the file's text only
tells a second process who is there. Whoever only asks whether it is held has to take it for an instant,
shared with others who ask; so who wants it for himself does not give up at the first try.

A lock is worth nothing once its file is removed, as the next process makes and locks another. So whoever takes
it makes sure that the file is still the one at that path, and whoever has it asks again whenever he uses the state.
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

from rotator.errors import AlreadyRunning, NeedsPerson, StateUnavailable

_TRIES = 20
_PAUSE = 0.02


class ProcessLock:
    """Holds the lock from `acquire` to `release`."""

    def __init__(self, state: Path) -> None:
        self.path = state.with_name(state.name + ".lock")
        self._state = state
        self._descriptor: int | None = None

    def acquire(self, what: str) -> None:
        """Take the lock or raise AlreadyRunning, naming the process that has it. NeedsPerson if there can be none."""
        for _ in range(_TRIES):
            descriptor = self._open()
            if descriptor is None:
                continue
            try:
                self._take(descriptor)
                if self._is_at_its_place(descriptor):
                    break
            except OSError as error:
                os.close(descriptor)
                raise NeedsPerson(
                    f"the lock {self.path} cannot be taken: {error.strerror}",
                    "put the state on a file system with locks",
                ) from None
            except (AlreadyRunning, NeedsPerson):
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was removed in the meantime, and whoever comes next makes another
        else:
            raise NeedsPerson(f"the lock {self.path} is removed again and again", "see who does that, and end it")
        self._descriptor = descriptor
        word = {"pid": os.getpid(), "host": socket.gethostname(), "command": what, "since": _now()}
        with suppress(OSError):  # on a full disk nobody learns who it is, but the lock holds
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(word).encode(), 0)

    def _open(self) -> int | None:
        """The lock's file, made if there is none; None if another process made it at that moment."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with suppress(FileNotFoundError):
                return os.open(self.path, flags)
            descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return None
        except OSError as error:
            raise self._cannot_be_opened(error) from None
        if os.geteuid() == 0:
            with suppress(OSError):  # else the user whose state it is could not start any more
                owner = (self._state if self._state.exists() else self._state.parent).stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    def _take(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        # What is written into it must not end up in a file that somebody put here for that.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise self._not_ours("is not a file of its own")
        if not _lock(descriptor):
            raise AlreadyRunning(
                f"another rotator uses this state: {self.holder() or 'an unknown process'}",
                "stop it first, or give this one another state",
            )

    def _is_at_its_place(self, descriptor: int) -> bool:
        """Whether the file that is open is the one that another process would find."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raise StateUnavailable if another process could have the lock as well, since the file was removed."""
        descriptor = self._descriptor
        try:
            if descriptor is not None and self._is_at_its_place(descriptor):
                return
        except OSError as error:
            raise StateUnavailable(
                f"whether the lock {self.path} is still there cannot be seen: {error.strerror}",
                f"let the user that rotator runs as enter the folder {self.path.parent}",
            ) from None
        raise StateUnavailable(
            f"the lock {self.path} was removed while it was in use, so another process may work with the state",
            "restart the service, and leave the lock's file alone",
        )

    def _not_ours(self, problem: str) -> NeedsPerson:
        return NeedsPerson(f"the lock {self.path} {problem}", "see who made it, and remove it")

    def _cannot_be_opened(self, error: OSError) -> NeedsPerson:
        if error.errno == errno.ELOOP:
            return self._not_ours("is a symbolic link")
        if error.errno in (errno.EISDIR, errno.ENXIO):
            return self._not_ours("is not a file of its own")
        hint = f"make the folder {self.path.parent} writable for the user that rotator runs as"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room on the disk"
        elif error.errno in (errno.EACCES, errno.EPERM):
            with suppress(OSError):
                owner = self.path.lstat().st_uid
                hint = (
                    f"it belongs to user {owner}, and rotator runs as {os.geteuid()}: "
                    "make it that user's and writable for it, or remove it while no rotator uses this state"
                )
        return NeedsPerson(f"the lock {self.path} cannot be opened: {error.strerror}", hint)

    def release(self) -> None:
        """Give the lock back."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

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
