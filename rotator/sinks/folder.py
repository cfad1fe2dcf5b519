"""What a file sink asks of the system: its folder, who may do what with its file, and whether it is still the same.

A file's POSIX access control list names further users and groups who may use it. The kernel hands it over as a version
of 4 bytes and entries of 8 (a tag, the rights, who), and keeps three of the entries equal to the bits of the file's
mode. Where there is a list, the group's bits of the mode are its *mask*: the most that anybody named in it may do. So a
mode that is set after the list caps it, as chmod does.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
from pathlib import Path
from typing import NamedTuple

from rotator.errors import NeedsPerson

_PASS = getattr(os, "O_PATH", os.O_RDONLY)
LEAVE = -1  # chown(2): this one stays as it is
ACL = "system.posix_acl_access"
_IN_THE_MODE = {0x01, 0x10, 0x20}  # the tags of the entries that are bits of the mode: owner, mask, others


class Access(NamedTuple):
    """Who may use a file: user and group by number or LEAVE, mode, and list or None for the folder's default."""

    owner: int
    group: int
    mode: int
    acl: bytes | None

    def give(self, file: int, path: Path) -> None:
        """Set it on an open file of our own that is still empty. Raises NeedsPerson and OSError."""
        if self.acl is not None:
            self._give_acl(file, self.acl, path)
        try:
            os.fchmod(file, self.mode)  # before the owner, while it is our own file
            os.fchown(file, self.owner, self.group)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL):
                raise
            # Going on would take the file away from who reads it now. EINVAL: a namespace that lacks that user.
            raise NeedsPerson(
                f"this process may not make {path} belong to user {self.owner} and group {self.group}",
                "run it with CAP_CHOWN where that user and group are known (PrivateUsers=no under systemd), or set "
                "`owner` and `group` to whom the file may belong",
            ) from None

    def is_of(self, status: os.stat_result, acl: bytes) -> bool:
        """Whether a file has it."""
        return (
            stat.S_IMODE(status.st_mode) == self.mode
            and self.owner in (LEAVE, status.st_uid)
            and self.group in (LEAVE, status.st_gid)
            and (self.acl is None or _named(self.acl) == _named(acl))
        )

    @staticmethod
    def _give_acl(file: int, acl: bytes, path: Path) -> None:
        try:
            if acl:
                os.setxattr(file, ACL, acl)
            elif acl_of(file):
                os.removexattr(file, ACL)  # the folder's default for new files, which this one is not
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            raise NeedsPerson(
                f"the access control list of {path} cannot be kept: {error.strerror}",
                "run this service where the users in it are known (PrivateUsers=no under systemd), or take the list "
                "away with setfacl -b",
            ) from None


def acl_of(file: int) -> bytes:
    """The access control list of an open file, as the kernel has it; empty if there is none."""
    if not hasattr(os, "getxattr"):
        return b""
    try:
        return os.getxattr(file, ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return b""
        raise


def _named(acl: bytes) -> set[bytes]:
    """What a list says beyond the mode."""
    return {acl[at : at + 8] for at in range(4, len(acl), 8) if acl[at] not in _IN_THE_MODE}


def open_folder(path: Path) -> int:
    """A descriptor of the folder that a file is in, whose path was resolved. Raises NeedsPerson and OSError.

    It is gone to step by step: what is a symbolic link now was put there since, and is not followed.
    """
    step = os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
    parts = path.parent.parts
    # On the way only passing through is needed, which may be allowed where reading is not.
    kinds = [*[_PASS] * (len(parts) - 1), os.O_RDONLY]
    folder = os.open(parts[0], step | kinds[0])
    for number, (part, kind) in enumerate(zip(parts[1:], kinds[1:], strict=True), start=2):
        try:
            inner = os.open(part, step | kind, dir_fd=folder)
        except NotADirectoryError:
            if stat.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode):
                raise NeedsPerson(
                    f"{Path(*parts[:number])} has become a symbolic link, so {path} would be another file",
                    "reload the configuration (SIGHUP) if that is meant",
                ) from None
            raise
        finally:
            os.close(folder)
        folder = inner
    return folder


def flush(folder: int, path: Path) -> None:
    """Make what is in the folder of a file outlast a loss of power. Raises NeedsPerson where that cannot be had."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP):
            raise
        raise NeedsPerson(
            f"the folder of {path} cannot be flushed to the disk: {error.strerror}",
            "put the file on a file system that can, such as a local one",
        ) from None


def mark(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file was written or replaced, or got another name."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def user_number(name: str) -> int:
    """The number of a user. Raises NeedsPerson if there is none of that name."""
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise NeedsPerson(f"there is no user {name}", "create it, or set `owner` to another") from None


def group_number(name: str) -> int:
    """The number of a group. Raises NeedsPerson if there is none of that name."""
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise NeedsPerson(f"there is no group {name}", "create it, or set `group` to another") from None


def mount_points() -> set[str]:
    """Where something is mounted. A single file that is mounted into a container cannot be renamed over."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return set()
    return {re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4]) for line in lines}
