"""Running a user's program so that nothing of it is left behind.

The program runs under `supervisor.py`, a small process of its own that ends the program and
whatever it started, at the time-out or when this service is gone. Three pipes go between the two:

- the secret goes to the supervisor's standard input, which the program inherits: the supervisor
  itself never reads it;
- the control pipe is held open here and never written to. Its end is how the supervisor learns that
  the service is gone, however it died; closing it is how an attempt is stopped;
- the supervisor's standard output says in one line how the program ended.

A program's exit status is its receipt. Children that it left behind may finish what they do, but not
after the time-out: the supervisor stays for them, and a thread here waits for the supervisor.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.fields import Duration, base_of
from rotator.model import HandOff

if TYPE_CHECKING:
    import subprocess

SUPERVISOR = Path(__file__).resolve().with_name("supervisor.py")
LONGEST_TIME_OUT = timedelta(days=1)
SUPERVISOR_IS_LATE = 10.0  # seconds after the time-out: then it is taken for dead
# What belongs to this service alone: where its credentials are, and its line to systemd.
OUR_OWN = frozenset({"CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})


def _argv(value: list[str], info: ValidationInfo) -> list[str]:
    """The program and its arguments; a relative path of a program is relative to the configuration file."""
    if any("\0" in word or not word for word in value):
        raise ValueError("an empty word, or a NUL in one; expected words that are not empty and without a NUL")
    program = value[0]
    if "/" in program and not program.startswith("/"):
        program = str((base_of(info) / program).absolute())
    return [program, *value[1:]]


def _some_time(value: timedelta) -> timedelta:
    if not timedelta(0) < value <= LONGEST_TIME_OUT:
        raise ValueError("expected a time-out longer than 0s and of at most 1d")
    return value


Argv = Annotated[list[str], Field(min_length=1), AfterValidator(_argv)]
TimeOut = Annotated[Duration, AfterValidator(_some_time)]


def environment(hand_off: HandOff, withheld: Collection[str]) -> dict[str, str]:
    """The service's own variables without what is secret, and what the program may know of the hand-off."""
    ours = {name: value for name, value in os.environ.items() if name not in OUR_OWN and name not in withheld}
    return {
        **ours,
        "ROTATOR_POLICY": hand_off.policy,
        "ROTATOR_KEY_ID": str(hand_off.key_id),
        "ROTATOR_KEY_NAME": hand_off.key_name,
        "ROTATOR_GENERATION": str(hand_off.generation),
    }


class Program:
    """A program that is run once a hand-off, by several threads if need be."""

    def __init__(self, argv: Sequence[str], timeout: timedelta) -> None:
        self._argv = list(argv)
        self._timeout = timeout.total_seconds()
        self._name = PurePath(argv[0]).name
        self._lock = threading.Lock()
        self._stopping = False
        self._controls: set[IO[bytes]] = set()

    def check(self) -> None:
        """Raises NeedsPerson if the program is not there or may not be run."""
        if shutil.which(self._argv[0]) is None:
            raise NeedsPerson(f"the program {self._name} is not there, or may not be executed", "install it")

    def run(self, variables: dict[str, str], standard_input: bytes = b"") -> None:
        """Return if the program ended with status 0 within the time-out.

        Raises TryLater, saying how it ended, or NeedsPerson if it could not be started. Its output is
        not kept: it may hold the secret.
        """
        import subprocess

        reading, writing = os.pipe()
        control = os.fdopen(writing, "wb", buffering=0)  # closed by `stop`, or when the supervisor has ended
        try:
            with self._lock:
                if self._stopping:
                    raise TryLater("the service is stopping")
                self._controls.add(control)
            words = [sys.executable, "-I", "-S", "-E", str(SUPERVISOR), str(reading), str(self._timeout), *self._argv]
            supervisor = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=variables,
                pass_fds=[reading],
                start_new_session=True,
            )
        except BaseException as error:
            self._release(control)
            if isinstance(error, OSError):
                raise TryLater(f"the program {self._name} cannot be started now: {error.strerror}") from None
            raise
        finally:
            os.close(reading)
        outcome = _converse(supervisor, standard_input, self._timeout + SUPERVISOR_IS_LATE)
        try:
            supervisor.wait(0.25)
            self._release(control)
        except subprocess.TimeoutExpired:
            threading.Thread(target=self._wait, args=(supervisor, control), daemon=True).start()
        if outcome != "exit 0":
            raise self._failure(outcome)

    def stop(self) -> None:
        """End what runs now and whatever it left behind; nothing is run afterwards."""
        with self._lock:
            self._stopping = True
            for control in self._controls:
                control.close()

    def _wait(self, supervisor: subprocess.Popen[bytes], control: IO[bytes]) -> None:
        supervisor.wait()
        self._release(control)

    def _release(self, control: IO[bytes]) -> None:
        with self._lock:
            self._controls.discard(control)
            control.close()

    def _failure(self, outcome: str) -> RotatorError:
        """The error that belongs to what the supervisor said."""
        word, _, number = outcome.partition(" ")
        if word == "missing":
            reason = os.strerror(int(number))
            return NeedsPerson(
                f"the program {self._name} cannot be started: {reason}", "install it or correct its path"
            )
        if word == "exit":
            return TryLater(f"the program {self._name} ended with exit status {number}", "its own log may say why")
        if word == "signal":
            name = signal.strsignal(int(number)) or f"signal {number}"
            return TryLater(f"the program {self._name} was ended by a signal: {name}")
        if word == "timeout":
            return TryLater(f"the program {self._name} did not end within {self._timeout:g} s and was killed")
        if word == "stopped":
            return TryLater(f"the program {self._name} was ended because the service is stopping")
        return TryLater(f"the program {self._name} ended, and its supervisor did not say how")


def _converse(supervisor: subprocess.Popen[bytes], standard_input: bytes, patience: float) -> str:
    """Hand over the input and hear how the program ended. Empty if the supervisor said nothing."""
    import select

    assert supervisor.stdin is not None  # noqa: S101
    assert supervisor.stdout is not None  # noqa: S101
    # A program need not read what it is given. The pipe takes a secret whole, so this never blocks.
    with suppress(BrokenPipeError), supervisor.stdin:
        supervisor.stdin.write(standard_input)
    with supervisor.stdout:
        answer = select.poll()
        answer.register(supervisor.stdout, select.POLLIN)
        if not answer.poll(patience * 1000):
            supervisor.kill()
            return ""
        return os.read(supervisor.stdout.fileno(), 100).decode().strip()
