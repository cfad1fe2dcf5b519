"""The demo as a stranger sees it: a command that ends well, or says that it does not."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from rotator.demo.outcome import Outcome
from rotator.demo.play import play
from rotator.demo.receiver import Receiver
from rotator.demo.stage import LEAST_SECONDS
from rotator.demo.story import Moment
from rotator.demo.view import Lines, Scene
from rotator.sandbox import Sandbox

HOME = Path(__file__).parents[2]
LOOKS_LIKE_A_SECRET = re.compile(r"napi_[a-z0-9]{20,}|whsec_\w{20,}")
PATIENCE = 60.0  # what a busy machine may take; nothing here waits that long for itself


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """The folder for temporary files of the demo under test."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def start(
    room: Path, *arguments: str, before: Callable[[], None] | None = None, **more: Any
) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background hands on that it is ignored
        if before is not None:
            before()

    environment = {**os.environ, "TMPDIR": str(room), "TERM": "xterm-256color", "PYTHONPATH": str(HOME)}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "rotator", "demo", *arguments]
    return subprocess.Popen(command, cwd=room, env=environment, preexec_fn=prepare, **more)


def service_of(room: Path) -> list[int]:
    """The processes whose command line names a configuration in this room."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"{room}/rotator-demo-".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def a_failed_call(scene: Scene) -> bool:
    return scene.at > PATIENCE or any(consumer.failed for consumer in scene.consumers)


class Watching(Lines):
    """Lines, and something that is done at the first moment that a policy tells of."""

    def __init__(self, policy: str, what: str, do: Callable[[Moment], object]) -> None:
        self._awaited = (policy, what)
        self._do: Callable[[Moment], object] | None = do

    def told(self, moment: Moment) -> None:
        super().told(moment)
        if self._do is not None and (moment.policy, moment.what) == self._awaited:
            do, self._do = self._do, None
            do(moment)


def test_it_tells_a_whole_story_and_ends_with_0(room: Path) -> None:
    """Every key created, handed over, live, revoked; no failed call; nothing left, and no secret in what it said."""
    demo = start(room, "--seconds", str(LEAST_SECONDS), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = (text.decode() for text in demo.communicate(timeout=PATIENCE))
    assert (demo.returncode, err) == (0, ""), out
    numbers = {name: int(number) for name, number in re.findall(r"^([\w -]+): +(\d+)$", out, re.MULTILINE)}
    assert numbers["calls failed"] == 0
    assert numbers["calls made"] > 0
    assert numbers["keys revoked"] >= 2
    assert numbers["keys created"] == numbers["keys revoked"] + numbers["keys living"]
    assert numbers["hand-offs"] >= numbers["keys created"]
    told = set(re.findall(r"^ *[\d.]+ s  (\S+) +(created|handed over|live|revoked) ", out, re.MULTILINE))
    assert told == {(p, w) for p in ("web-app", "ci") for w in ("created", "handed over", "live", "revoked")}
    assert not LOOKS_LIKE_A_SECRET.search(out)
    assert list(room.iterdir()) == []
    assert service_of(room) == []


def test_a_key_that_is_revoked_behind_the_service_makes_calls_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """Consumers notice, they are counted, and the demo does not end well."""
    neon = Sandbox()
    view = Watching("ci", "live", lambda moment: neon.revoke_key(moment.key_id or 0))
    outcome = play(5.0, view, threading.Event(), neon=neon, enough=a_failed_call)
    assert outcome.exit_status == 1
    assert outcome.failed > 0
    assert outcome.failed < outcome.calls
    out = capsys.readouterr().out
    assert re.search(r"calls of consumer ci failed; the first one: .*401", out)
    assert not LOOKS_LIKE_A_SECRET.search(out)


def test_a_receiver_that_is_out_of_order_makes_it_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """Its policy never has a live key, and the one that was created for it is left over."""
    receiver = Receiver(status=HTTPStatus.INTERNAL_SERVER_ERROR)
    failed: list[Moment] = []
    view = Watching("ci", "failed", failed.append)
    outcome = play(
        5.0, view, threading.Event(), receiver=receiver, enough=lambda scene: bool(failed) or scene.at > PATIENCE
    )
    assert outcome.exit_status == 1
    assert failed
    assert failed[0].trouble
    faults = " ".join(outcome.faults)
    assert "consumer ci was handed no key" in faults
    assert "no key of policy ci was revoked" in faults
    assert outcome.failed == 0
    assert "left over" in faults
    assert not LOOKS_LIKE_A_SECRET.search(capsys.readouterr().out)


def test_a_service_that_dies_ends_it(monkeypatch: pytest.MonkeyPatch, room: Path) -> None:
    """At once, with its status, and with nothing left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(room))

    def kill(_: Moment) -> None:
        for pid in service_of(room):
            os.kill(pid, signal.SIGKILL)

    outcome: Outcome = play(60.0, Watching("web-app", "live", kill), threading.Event())
    assert outcome.exit_status == 1
    assert "status -9 by itself" in outcome.faults[0]
    assert list(room.iterdir()) == []


def test_ctrl_c_on_a_terminal_ends_it_and_leaves_the_terminal_as_it_was(room: Path) -> None:
    """It has drawn a picture by then; the cursor is back, the settings are the old ones, no process is left."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        before = termios.tcgetattr(theirs)
        demo = start(room, before=lambda: os.login_tty(theirs), pass_fds=[theirs])
        screen = Screen(ours)
        try:
            screen.until(demo, lambda text: "calls made" in text and text.count("\u2588") > 20)
            assert service_of(room)
            asked = time.monotonic()
            os.write(ours, b"\x03")
            screen.until(demo, lambda _: False)
            took = time.monotonic() - asked
        finally:
            demo.kill()
            demo.wait()
        assert demo.returncode == 130
        assert took < PATIENCE / 2
        assert termios.tcgetattr(theirs) == before
        assert screen.text.rfind("\x1b[?25h") > screen.text.rfind("\x1b[?25l") > 0
        assert "Stopped before the end" in screen.text.replace("\r\n", " ")
        assert not LOOKS_LIKE_A_SECRET.search(screen.text)
        assert service_of(room) == []
        assert list(room.iterdir()) == []
    finally:
        os.close(ours)
        os.close(theirs)


class Screen:
    """What came out of a terminal so far."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._bytes = b""

    @property
    def text(self) -> str:
        return self._bytes.decode(errors="replace")

    def until(self, process: subprocess.Popen[bytes], seen: Callable[[str], bool]) -> None:
        """Read until something is seen or the process has ended and nothing more comes."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            ended = process.poll() is not None
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._bytes += os.read(self._terminal, 65536)
            elif ended:
                return
            if seen(self.text):
                return
        raise AssertionError(f"nothing of the kind came within {PATIENCE:g} s:\n{self.text}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(room: Path, number: signal.Signals) -> None:
    """With 130, and no process and no folder left."""
    with start(room, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if b"live" in line:
                break
        demo.send_signal(number)
        rest = demo.stdout.read().decode()
        assert demo.wait(PATIENCE) == 130, rest
    assert "Stopped before the end" in rest
    assert service_of(room) == []
    assert list(room.iterdir()) == []


def test_a_time_that_is_too_short_is_refused_with_what_is_needed(room: Path) -> None:
    """As a mistake in the command's usage."""
    demo = start(room, "--seconds", str(LEAST_SECONDS - 1), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = demo.communicate(timeout=PATIENCE)
    assert (demo.returncode, out) == (2, b"")
    assert f"at least {LEAST_SECONDS}" in err.decode()
