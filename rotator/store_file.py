"""The file that the state is in: found or made for its user alone, and opened so that what is written stays written.

Reading makes no file, and changes neither a file's mode nor its kind. A file that is something else is
refused before anything touches it, and so is one that somebody else may have put there: a link, another
user's file, a file in a folder where everybody may replace it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from rotator.errors import NeedsPerson, StateUnavailable

_BUSY_TIMEOUT = 10.0
_LARGEST_IDLE_WAL = 4 * 2**20
_MAGIC = b"SQLite format 3\0"
_WRITTEN = ("", "-wal", "-shm")
_COMPANIONS = (*_WRITTEN, "-journal")


def path_of(url: str) -> Path:
    """The file of a state's URL. Raises NeedsPerson for a state elsewhere."""
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        raise NeedsPerson(
            f"the state {url.partition(':')[0]}: is not supported by this version", "use sqlite:///PATH for now"
        )
    return Path(url[len(prefix) :])


def prepare_file(path: Path, create: bool) -> list[str]:
    """Make sure of the file, and with `create` that nobody else can read or replace it. Raises NeedsPerson.

    Returns what had to be put right for that, in words.
    """
    try:
        if create:
            guard(path)
        if not path.exists():
            if not create:
                raise no_state(path)
            path.touch(mode=0o600, exist_ok=True)
        if not path.is_file():  # opening a named pipe would wait for its writer
            raise NeedsPerson(f"the state {path} is not a regular file", "move it away, or change state")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise NeedsPerson(f"{path} is no state: it is not an SQLite file", "move it away, or change state")
        return [*_close_to_others(path)] if create else []
    except OSError as error:
        raise NeedsPerson(
            f"the state {path} cannot be opened: {error.strerror}",
            f"make it and the folder {path.parent} belong to the user that rotator runs as, or change state",
        ) from None


def guard(path: Path) -> None:
    """Raise NeedsPerson if what is there may be somebody else's work, who wants us to read or write what he chose.

    Root may work on the state of the service's user, as SQLite then leaves all files to that user.
    """
    ours = os.geteuid()
    folder = path.parent.stat()
    shared = bool(folder.st_mode & stat.S_IWOTH)
    if shared and not folder.st_mode & stat.S_ISVTX and folder.st_uid != ours:
        raise NeedsPerson(
            f"everybody may write in {path.parent}, the folder of the state, and so could replace it",
            f"run chmod o-w {path.parent}, or keep the state in a folder of its own",
        )
    for part in _parts(path):
        try:
            found = part.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(found.st_mode):
            problem, hint = "is a symbolic link", "remove it, or give the path of the file itself"
        elif not stat.S_ISREG(found.st_mode):
            problem, hint = "is not a regular file", "move it away, or change state"
        elif found.st_nlink > 1:  # SQLite's own files, and our lock, stand beside one name only
            problem, hint = "has another name as well (a hard link)", "remove that other name, or make a copy of it"
        elif found.st_uid != ours and (ours != 0 or shared):
            problem = f"belongs to user {found.st_uid}, and rotator runs as {ours}"
            hint = "give it to that user if it is yours, else remove it"
        else:
            continue
        raise NeedsPerson(f"the state {part} {problem}", hint)


def _close_to_others(path: Path) -> Iterator[str]:
    """Take from others what they need not have, and say so."""
    folder = path.parent.stat()
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        path.parent.chmod(stat.S_IMODE(folder.st_mode) & ~stat.S_IWOTH)
        yield f"everybody could write in {path.parent}, the folder of the state; now only its owner and group can"
    for part in _parts(path):
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(part.stat().st_mode)
            if mode & 0o077:
                part.chmod(0o600)
                yield f"the state {part} was open to others (mode {mode:04o}); now it is 0600"


def _parts(path: Path) -> Iterator[Path]:
    return (path.with_name(path.name + suffix) for suffix in _COMPANIONS)


def no_state(path: Path) -> NeedsPerson:
    """That there is no state to read."""
    return NeedsPerson(f"there is no state at {path} yet", "start the service first: rotator run")


class Footing:
    """The files that the state stands on. Asked inside a transaction that writes, when all three are there.

    SQLite holds them open, and would go on writing to one that was removed or cut short: whatever it committed
    then, the next process would not find.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, tuple[int, int]] = {}
        self._size = 0

    def check(self, length: Callable[[], int]) -> None:
        """Raise StateUnavailable if one of them is gone, another, or was cut short.

        `length` is how long SQLite takes the state for, in bytes; after a VACUUM that is less than it was.
        """
        for suffix in _WRITTEN:
            part = self._path.with_name(self._path.name + suffix)
            try:
                found = part.stat()
            except OSError:
                found = None
            now = (found.st_dev, found.st_ino) if found is not None else None
            if now is not None and self._seen.setdefault(suffix, now) == now:
                continue
            if suffix not in self._seen:
                continue  # where WAL cannot be had, SQLite does without
            raise _moved(part, "removed" if now is None else "replaced")
        size = self._path.stat().st_size
        if size < self._size and size < length():
            raise _moved(self._path, "cut short")
        self._size = size

    def closed(self) -> None:
        """A connection was closed. With the last one SQLite removes its two files, and makes them anew."""
        for suffix in _WRITTEN[1:]:
            self._seen.pop(suffix, None)


def _moved(part: Path, how: str) -> StateUnavailable:
    return StateUnavailable(
        f"the state's file {part} was {how} while it was in use",
        "restart the service, so that it works with what is there now",
    )


def connect(path: Path, create: bool) -> sqlite3.Connection:
    """A connection to a file that is there: one that vanished is not silently begun anew."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    if create:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # While somebody reads for long the WAL must grow; without this it would keep that size.
    connection.execute(f"PRAGMA journal_size_limit={_LARGEST_IDLE_WAL}")
    return connection


def unavailable(path: Path, error: Exception) -> StateUnavailable:
    """What SQLite's error means, and what to do."""
    cause = str(getattr(error, "orig", None) or error)
    hint = "check the disk's free space and the file's permissions"
    if any(words in cause for words in ("not a database", "malformed", "Could not decode")):
        hint = "it is damaged: restore it from a backup, or move it away"
    elif "locked" in cause:
        hint = "another process has been writing to it for long; see which, with fuser"
    return StateUnavailable(f"the state {path} cannot be used: {cause}", hint)
