"""A file that holds the secret: alone (raw), or as one entry of a dotenv or JSON file.

**Writing.** The new text goes to a temporary file in the same folder, which gets its owner and mode
before the secret is in it, is flushed to the disk and renamed over the old one; then the folder is
flushed. So a reader sees the old text or the new one, never half of one, and never a moment in which
somebody else may read it. The path must not be a symbolic link, and have no other name: what is replaced would be
the link, and the other name would keep the old key. No folder on the way may have become a symbolic link since the
path was resolved, else its owner could lead us anywhere. The owner and the group stay those of the file that was
there, if the configuration names no others; but not where everybody may write and so may have put it there. So does
its access control list, which the mode caps (`folder.py`).

**Taking turns.** Who writes holds a lock (flock) on the folder: one file may be written by several
policies and processes, each changing another entry, and none may undo the work of another. A lock taken
on a descriptor of one's own also keeps threads apart. It needs no file of its own, ends with the
process, and makes the temporary file's name free to be fixed: what is there under that name is what a
crash left, and is removed. Programs that know nothing of the lock are met with a look at the file just before
it is replaced: if it is no longer the one that was read, all begins again with its new text.

**Receipt.** The file is read back, its entry and who may use it are compared, and its path must still lead to the
folder that was written in; then `after_write` has run and ended with status 0. `after_write` gets no secret.

What the entry is and how it is replaced without touching the rest is told in `entries.py`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from rotator import fields
from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.fields import ConfigPath
from rotator.model import HandOff, Held, SinkRef
from rotator.secret import Secret, fingerprint
from rotator.sinks import entries
from rotator.sinks.folder import (
    LEAVE,
    Access,
    acl_of,
    flush,
    group_number,
    mark,
    mount_points,
    open_folder,
    user_number,
)
from rotator.sinks.process import Argv, Program, TimeOut, environment

LOCK_TAKES_AT_MOST = 10.0  # seconds; a writer holds it for milliseconds
LARGEST_FILE = 1 << 20  # bytes; a larger one is not what this is for, and most likely another file
LONGEST_PART = 60  # characters of the file's name in the temporary one, of 4 bytes at most: a name has room for 255
CHANGES_MET = 20  # how often another program may change the file while we are about to replace it
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.EINTR}
HINTS = {
    errno.ENOENT: "create its folder",
    errno.EACCES: "let this user read and write in its folder",
    errno.EPERM: "let this user read and write in its folder; lsattr shows whether something is immutable",
    errno.EROFS: "let this service write there, for example with ReadWritePaths=",
    errno.ENOLCK: "put the file on a file system with locks (flock), such as a local one",
    errno.EBADF: "put the file on a file system with locks (flock) on folders, such as a local one",
    errno.EBUSY: "it is mounted as a single file, which can only be written in place: mount its folder instead",
}
MODE_EXPECTED = 'expected a mode in octal, in quotes, such as "0640"'


def _path(value: Path) -> Path:
    if value.name in ("", ".", ".."):
        raise ValueError("expected the path of a file, not of a folder")
    return value


def _mode(value: object) -> object:
    if isinstance(value, int):
        raise ValueError(f"{MODE_EXPECTED}; quote it: without quotes YAML reads another number")
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(MODE_EXPECTED)
    bits = int(value, 8)
    if not bits & 0o400:
        raise ValueError(f"{MODE_EXPECTED}; the owner must be able to read the file")
    if bits & 0o002:
        raise ValueError(f"{MODE_EXPECTED}; a file that anybody can write is no place for a key")
    if bits & 0o111:
        raise ValueError(f"{MODE_EXPECTED}; a file with a key is not to be executed")
    return value


def _account(value: object) -> object:
    if isinstance(value, int):
        raise ValueError('expected a name, or a number in quotes such as "1000"')
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}|[^\W\d][^\s:/\0]*", value):
        raise ValueError("expected a name or a number")
    return value


Mode = Annotated[str, BeforeValidator(_mode), WithJsonSchema({"type": "string", "pattern": "^0?[0-7]{3}$"})]
Account = Annotated[str, BeforeValidator(_account)]


class _Found(NamedTuple):
    """What is at the path now."""

    text: str
    status: os.stat_result
    acl: bytes


class FileSink:
    """Writes the secret to one file, or to one entry of it."""

    class Settings(fields.Settings):
        """What the configuration says of a file sink."""

        path: Annotated[ConfigPath, AfterValidator(_path)] = Field(description="The file that receives the key.")
        format: Literal["raw", "dotenv", "json"] = Field(
            default="raw", description="raw: the key alone; dotenv or json: one entry of the file."
        )
        variable: str | None = Field(
            default=None, validate_default=True, description="The entry that holds the key; only this one changes."
        )
        mode: Mode = Field(
            default="0600",
            description="The file's permissions, an octal number in quotes; if left out, a file that is closed to "
            "others keeps its own.",
        )
        owner: Account | None = Field(default=None, description="The file's owner; as it is if left out.")
        group: Account | None = Field(default=None, description="The file's group; as it is if left out.")
        after_write: Argv | None = Field(
            default=None, description="A program to run in / after the file was written; it must end with status 0."
        )
        timeout: TimeOut = Field(default=timedelta(seconds=30), description="How long after_write may take.")

        @field_validator("variable")
        @classmethod
        def _belongs_to_the_format(cls, value: str | None, info: ValidationInfo) -> str | None:
            kind = info.data.get("format")
            if kind == "raw" and value is not None:
                raise ValueError("a raw file has no entries; leave `variable` out, or set `format: dotenv` or json")
            if kind in ("dotenv", "json") and not value:
                raise ValueError(
                    f"a {kind} file needs the name of the entry that holds the key; add variable: NEON_API_KEY"
                )
            if kind == "dotenv" and value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
                raise ValueError("expected the name of a variable: letters, digits and _, no digit first")
            return value

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.path = settings.path.parent.resolve() / settings.path.name
        self.format = settings.format
        self.variable = settings.variable
        self.withheld: frozenset[str] = frozenset()
        self._stopping = threading.Event()
        self._program = Program(settings.after_write, settings.timeout) if settings.after_write else None

    @property
    def ref(self) -> SinkRef:
        """The target is the file, its folder resolved, and the entry in it."""
        return SinkRef(
            name=self.name,
            target=f"file:{self.path}" + (f"#{self.variable}" if self.variable else ""),
            settings=hashlib.sha256(self.settings.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16],
            pause=self.settings.timeout if self.settings.after_write else timedelta(0),
            reads_back=True,
        )

    def withhold(self, names: Iterable[str]) -> None:
        """Keep these variables out of the environment of `after_write`: secrets come from them."""
        self.withheld = frozenset(names)

    def check(self, *, probe: bool = False) -> None:
        """The file could be written now; found out with a file that never gets a name. A probe adds nothing."""
        with self._folder() as folder, self._turn(folder):  # its turn, since some file systems have no locks
            found = self._read_to_write(folder)
            if found is not None:
                self._entry(found)
            with self._plainly("replaced"):
                if str(self.path) in mount_points():
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self._try_to_write(folder, found)
            with self._plainly("written"):
                flush(folder, self.path)
        if self._program:
            self._program.check()

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        """Write, read back, run `after_write`. Whatever it raises, the file is whole: the old one or the new one."""
        value = secret.reveal()
        with self._folder() as folder, self._turn(folder):
            for _ in range(CHANGES_MET):
                found = self._read_to_write(folder)
                try:
                    text = entries.write(found.text if found else "", self.format, self.variable, value)
                except entries.NotUnderstood as error:
                    raise self._not_understood(error) from None
                access = self._access(found)
                if self._replace(folder, text, access, found):
                    break
            else:
                raise TryLater(f"{self.path} is changed all the time", "see which other program writes it")
            self._read_back(folder, value, access)
        if self._program:
            self._program.run(environment(hand_off, self.withheld))

    def contents(self) -> str:
        """The fingerprint of the entry's value now; or that there is none, or that a person has to look."""
        try:
            self.path.parent.stat()
            with self._folder() as folder:
                found = self._read(folder)
            value = self._entry(found) if found else None
            return fingerprint(value) if value else Held.NOTHING
        except FileNotFoundError:
            return Held.NOTHING
        except (OSError, RotatorError, UnicodeEncodeError):
            return Held.UNREADABLE

    def stop(self) -> None:
        """End `after_write` and a wait for the lock; nothing is written afterwards."""
        self._stopping.set()
        if self._program:
            self._program.stop()

    # The folder, and whose turn it is

    @contextmanager
    def _folder(self) -> Iterator[int]:
        """A descriptor of the folder: all of one delivery happens in it, wherever its path leads meanwhile."""
        with self._plainly("reached"):
            folder = open_folder(self.path)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _turn(self, folder: int) -> Iterator[None]:
        """The folder's lock. It is asked for again and again, because nothing can end a wait in flock."""
        give_up = time.monotonic() + LOCK_TAKES_AT_MOST
        with self._plainly("locked"):
            while not self._stopping.is_set():
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise TryLater(
                            f"another process has held the lock on {self.path.parent} for {LOCK_TAKES_AT_MOST:g} s",
                            "see with lslocks which",
                        ) from None
                    self._stopping.wait(0.01)
            else:
                raise TryLater("the service is stopping")
        try:
            yield
        finally:
            # Not left to the closing: a program that is just being started may hold a copy of the descriptor.
            fcntl.flock(folder, fcntl.LOCK_UN)

    # Reading

    def _read(self, folder: int) -> _Found | None:
        """The file that is there, or None. Raises NeedsPerson if it is not a regular file of UTF-8 text."""
        # Without O_NONBLOCK the opening of a named pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._plainly("read"):
            try:
                file = os.open(self.path.name, flags, dir_fd=folder)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise NeedsPerson(f"{self.path} is a symbolic link", "give the path of the file itself") from None
                if error.errno == errno.ENXIO:
                    raise self._not_regular() from None  # a socket, which cannot be opened
                raise
            try:
                status, acl = os.fstat(file), acl_of(file)
                if not stat.S_ISREG(status.st_mode):
                    raise self._not_regular()
                with open(file, "rb", closefd=False) as stream:
                    content = stream.read(LARGEST_FILE + 1)
            finally:
                os.close(file)
        if len(content) > LARGEST_FILE:
            raise NeedsPerson(f"{self.path} is larger than 1 MiB", "see whether it is the right file")
        try:
            return _Found(content.decode("utf-8"), status, acl)
        except UnicodeDecodeError:
            raise NeedsPerson(f"{self.path} is not UTF-8 text", "see whether it is the right file") from None

    def _read_to_write(self, folder: int) -> _Found | None:
        """The same, if it may be replaced."""
        found = self._read(folder)
        if found is None:
            return None
        if found.status.st_nlink > 1:
            raise NeedsPerson(
                f"{self.path} has another name as well (a hard link), which would keep the old key",
                "remove that name, or make a copy of it",
            )
        around, owner = os.fstat(folder), found.status.st_uid
        if around.st_mode & stat.S_IWOTH and self.settings.owner is None and owner not in (os.geteuid(), around.st_uid):
            raise NeedsPerson(
                f"{self.path} belongs to user {owner}, and everybody may have put it there",
                f"run chmod o-w {self.path.parent}, or set `owner`",
            )
        return found

    def _entry(self, found: _Found) -> str | None:
        """The value that a file holds for us, or None. Raises NeedsPerson if the file is not of its format."""
        try:
            return entries.read(found.text, self.format, self.variable)
        except entries.NotUnderstood as error:
            raise self._not_understood(error) from None

    def _not_regular(self) -> NeedsPerson:
        return NeedsPerson(f"{self.path} is not a regular file", "move it away, or give another path")

    def _not_understood(self, error: entries.NotUnderstood) -> NeedsPerson:
        return NeedsPerson(f"{self.path} is not changed: {error}", f"correct it by hand, or its format {self.format}")

    def _read_back(self, folder: int, value: str, access: Access) -> None:
        """The receipt: the disk holds what was to be written, for those who are to read it and nobody else."""
        found = self._read(folder)
        if found is None or self._entry(found) != value:
            raise TryLater(
                f"{self.path} does not hold what was just written to it", "see which other program writes it"
            )
        if not access.is_of(found.status, found.acl):
            raise NeedsPerson(
                f"{self.path} did not get the mode and the owner that it was given",
                "see whether its file system has modes and owners",
            )
        with self._folder() as now:
            if not os.path.samestat(os.fstat(now), os.fstat(folder)):
                raise TryLater(f"the folder of {self.path} was moved or replaced while the file was written")

    # Writing

    def _replace(self, folder: int, text: str, access: Access, found: _Found | None) -> bool:
        """Put a new file with this text where the path is; False if what was `found` there is not there any more."""
        temporary = f".{self.path.name[:LONGEST_PART]}.rotator.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._plainly("written"):
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)  # left by a crash: who holds the lock is alone
            file = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as stream:
                    access.give(file, self.path)
                    stream.write(text.encode())
                    stream.flush()
                    os.fsync(file)
                if self._is_another(folder, found):
                    os.unlink(temporary, dir_fd=folder)
                    return False
                os.rename(temporary, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            flush(folder, self.path)
        return True

    def _is_another(self, folder: int, found: _Found | None) -> bool:
        """Whether the file is not the one that was read, or was written since."""
        try:
            now = os.lstat(self.path.name, dir_fd=folder)
        except FileNotFoundError:
            return found is not None
        return found is None or mark(now) != mark(found.status)

    def _access(self, found: _Found | None) -> Access:
        """Who may use the file: as it is now, but for what the configuration says."""
        owner, group = (found.status.st_uid, found.status.st_gid) if found else (LEAVE, LEAVE)
        if self.settings.owner is not None:
            owner = user_number(self.settings.owner)
        if self.settings.group is not None:
            group = group_number(self.settings.group)
        return Access(owner, group, self._mode(found), found.acl if found else None)

    def _mode(self, found: _Found | None) -> int:
        """The configuration's; without one a file keeps its own, so that a group can go on reading it.

        But not where others may do anything: that is rather a umask's doing than meant for a key.
        """
        bits = stat.S_IMODE(found.status.st_mode) if found else 0o777
        return int(self.settings.mode, 8) if bits & 0o007 or "mode" in self.settings.model_fields_set else bits & 0o660

    def _try_to_write(self, folder: int, found: _Found | None) -> None:
        """Do all of a delivery that leaves no trace: a file without a name, its owner, its mode, reading it."""
        access = self._access(found)
        with self._plainly("written"):
            try:
                file = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                # This file system has no files without a name. The permission bits say less, but something.
                if not os.access(self.path.parent, os.W_OK | os.X_OK, effective_ids=True):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
                return
            with os.fdopen(file, "wb"):
                access.give(file, self.path)
                with suppress(FileNotFoundError):  # no /proc here
                    os.close(os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC))

    @contextmanager
    def _plainly(self, done: str) -> Iterator[None]:
        """Turn the system's errors into ours: those that pass by themselves, and those that do not."""
        try:
            yield
        except OSError as error:
            problem = f"{self.path} cannot be {done}: {error.strerror}"
            if error.errno in PASSING:
                raise TryLater(problem) from None
            raise NeedsPerson(problem, HINTS.get(error.errno or 0, "")) from None
