"""This process's memory, which holds secrets, kept from the disk and from other processes of its user.

Two locks, as each alone leaves a door open. A core size of nothing stops the kernel's core files, also those of the
programs that sinks run, which inherit it; but it is only advice to a program that core dumps are piped to. A
process that is *not dumpable* is never dumped, and its `/proc` entries (environment, memory, open files) belong to
root: without it a command that a sink runs, which has the same user, could read the management key in here. A
program that is started is dumpable again, so nobody else's debugging changes. Root reads everything, always.
"""

from __future__ import annotations

import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def keep_private() -> None:
    """No core dumps, and nobody but root looks in. As far as this system lets us: it is never a reason to end."""
    with suppress(ImportError, OSError, ValueError):  # a system without them, or a sandbox that forbids it
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError, MemoryError):  # ctypes needs memory of a kind some forbid
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
