"""What a file sink asks of the system: its folder, whose file it is, and whether it is still the same."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from pathlib import Path

from rotator.errors import NeedsPerson

_PASS = getattr(os, "O_PATH", os.O_RDONLY)


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
