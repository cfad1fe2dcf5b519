"""The file that the state is in: found or made for its user alone, and opened so that what is written stays written.

Reading makes no file, and changes neither a file's mode nor its kind. A file that is something else is
refused before anything touches it.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from rotator.errors import NeedsPerson, StateUnavailable

_BUSY_TIMEOUT = 10.0
_MAGIC = b"SQLite format 3\0"
_COMPANIONS = ("", "-wal", "-shm", "-journal")


def path_of(url: str) -> Path:
    """The file of a state's URL. Raises NeedsPerson for a state elsewhere."""
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        raise NeedsPerson(
            f"the state {url.partition(':')[0]}: is not supported by this version", "use sqlite:///PATH for now"
        )
    return Path(url[len(prefix) :])


def prepare_file(path: Path, create: bool) -> None:
    """Make sure of the file, and with `create` that nobody else can read it. Raises NeedsPerson."""
    try:
        if not path.exists():
            if not create:
                raise no_state(path)
            path.touch(mode=0o600, exist_ok=True)
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise NeedsPerson(f"{path} is no state: it is not an SQLite file", "move it away, or change state")
        for part in (path.with_name(path.name + suffix) for suffix in _COMPANIONS) if create else ():
            with suppress(FileNotFoundError):
                if part.stat().st_mode & 0o077:
                    part.chmod(0o600)
    except OSError as error:
        raise NeedsPerson(
            f"the state {path} cannot be opened: {error.strerror}",
            f"make it and the folder {path.parent} belong to the user that rotator runs as, or change state",
        ) from None


def no_state(path: Path) -> NeedsPerson:
    """That there is no state to read."""
    return NeedsPerson(f"there is no state at {path} yet", "start the service first: rotator run")


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is there now, whatever its name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
    return connection


def unavailable(path: Path, error: Exception) -> StateUnavailable:
    """What SQLite's error means, and what to do."""
    cause = str(getattr(error, "orig", None) or error)
    hint = "check the disk's free space and the file's permissions"
    if "not a database" in cause or "malformed" in cause:
        hint = "it is damaged: restore it from a backup, or move it away"
    elif "locked" in cause:
        hint = "another process has been writing to it for long; see which, with fuser"
    return StateUnavailable(f"the state {path} cannot be used: {cause}", hint)
