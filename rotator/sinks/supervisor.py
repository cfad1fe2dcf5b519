"""Runs one program and leaves nothing of it behind. A script of its own, started by `process.py`.

    supervisor.py CONTROL SECONDS PROGRAM [ARGUMENT…]

It must be a process of its own, because the service can die by SIGKILL and run no code then. What
tells it so is CONTROL, the number of the reading end of a pipe that only the service holds open:
its end means that the service is gone, or wants the program ended. SECONDS is the time-out.

On Linux it is a child subreaper: whatever the program starts, also in a session of its own, becomes
a child of this process once its parents are gone. So the whole family is found by killing children
until there are none left; and as a child's number is not given away before the child is reaped here, no
stranger is ever killed. Elsewhere only the program's process group can be ended.

The program gets this process's standard input, which this process never reads. One line on standard
output says how it ended: `exit N`, `signal N`, `timeout`, `stopped`, or `missing ERRNO` if it could
not be started. After a `timeout` or `stopped` the family is dead when the line is written; after an
`exit` children of the program may still be at work, and are killed at the time-out.

Only the standard library, and no import of the project: the interpreter runs isolated.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILLING_TAKES_AT_MOST = 5.0  # seconds: a process in an uninterruptible call dies only after it


def find_prctl() -> Callable[[int, int], int] | None:
    """Linux's prctl(2), or None where there is none, or no ctypes to call it with."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        return lambda option, value: int(library.prctl(option, value, 0, 0, 0))
    except (ImportError, OSError, AttributeError, MemoryError):
        return None


def children_of(parent: int) -> list[int]:
    """The processes whose parent is this one now, zombies too. Empty without /proc."""
    found = []
    with suppress(OSError):
        for entry in os.listdir("/proc"):  # noqa: PTH208, a list of names is all that is needed
            if entry.isdigit():
                with suppress(OSError, ValueError, IndexError):
                    # The name in parentheses may hold anything, also parentheses.
                    rest = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                    if int(rest[1]) == parent:
                        found.append(int(entry))
    return found


class Family:
    """The program and everything that it started."""

    def __init__(self, program: int, *, subreaper: bool) -> None:
        self.program = program
        self.subreaper = subreaper
        self.status: int | None = None

    def reap(self) -> bool:
        """Take note of who ended; whether somebody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.program:
                self.status = status
                if not self.subreaper:
                    # Nobody would find the children later, so they end with the program.
                    with suppress(OSError):
                        os.killpg(self.program, signal.SIGKILL)

    def kill(self) -> None:
        """End them all. A killed child's own children become ours, and have their turn in the next round."""
        if self.status is None:
            with suppress(OSError):
                os.killpg(self.program, signal.SIGKILL)
        give_up = time.monotonic() + KILLING_TAKES_AT_MOST
        while self.reap() and time.monotonic() < give_up:
            for pid in children_of(os.getpid()):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def say(how: str) -> None:
    """Tell the service how it ended, and that nothing more will be said."""
    with suppress(OSError):
        os.write(1, f"{how}\n".encode())
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def main(control: int, seconds: float, command: list[str]) -> None:
    """Run `command`, say how it ended, and return when nothing of it is left."""
    deadline = time.monotonic() + seconds
    os.set_inheritable(control, False)
    prctl = find_prctl()
    subreaper = prctl is not None and prctl(PR_SET_CHILD_SUBREAPER, 1) == 0

    # Signals are only bytes on a pipe: what is to be done about them is decided in one place, below.
    asked_to_end: list[int] = []
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: asked_to_end.append(received))

    def die_with_supervisor() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        program = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            preexec_fn=die_with_supervisor,  # safe here: this process has one thread
        )
    except OSError as error:
        say(f"missing {error.errno}")
        return
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)  # else the service would not see a program that closes its standard input
    os.close(nowhere)

    family = Family(program.pid, subreaper=subreaper)
    said = False
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    waiting.register(woken, select.POLLIN)
    while True:
        somebody_left = family.reap()
        if family.status is not None and not said:
            code = os.waitstatus_to_exitcode(family.status)
            say(f"exit {code}" if code >= 0 else f"signal {-code}")
            said = True
        if not somebody_left:
            return
        left = deadline - time.monotonic()
        ready = dict(waiting.poll(max(0, left) * 1000))
        with suppress(BlockingIOError):
            os.read(woken, 4096)
        if control in ready or asked_to_end or left <= 0:
            family.kill()
            if not said:
                say("stopped" if control in ready or asked_to_end else "timeout")
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
