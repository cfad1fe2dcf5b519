"""One process at a time, and everybody can tell which."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.errors import AlreadyRunning, NeedsPerson
from rotator.lock import ProcessLock

ROOT = Path(__file__).parent.parent
HOLDS = """
import sys
from pathlib import Path
from rotator.lock import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
lock.acquire("run")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def other(state: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLDS, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_which_one_is_there(state: Path, other: subprocess.Popen[str]) -> None:
    with ProcessLock(state) as lock, pytest.raises(AlreadyRunning) as refused:
        lock.acquire("apply")
    assert f"process {other.pid} on " in str(refused.value)
    assert "(rotator run, since 2" in str(refused.value)
    assert ProcessLock(state).is_held()


def test_the_lock_ends_with_its_process_however_that_ends(state: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    with ProcessLock(state) as lock:
        assert not lock.is_held()
        lock.acquire("apply")
        assert f"process {os.getpid()} on " in lock.holder()


def test_nobody_holds_a_lock_that_was_given_back(state: Path) -> None:
    with ProcessLock(state) as lock:
        assert not lock.is_held()
        lock.acquire("run")
        assert ProcessLock(state).is_held()
    assert not lock.is_held()
    lock.release()


def test_asking_whether_it_is_held_makes_no_file(state: Path) -> None:
    assert not ProcessLock(state).is_held()
    assert ProcessLock(state).holder() == ""
    assert list(state.parent.iterdir()) == []


def test_who_only_asks_never_keeps_a_process_from_starting(state: Path) -> None:
    with ProcessLock(state) as first:
        first.acquire("run")
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            ProcessLock(state).is_held()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(100):
            with ProcessLock(state) as lock:
                lock.acquire("run")
    finally:
        ended.set()
        thread.join()


def test_only_its_user_can_read_the_lock(state: Path) -> None:
    with ProcessLock(state) as lock:
        lock.acquire("run")
        assert lock.path.stat().st_mode & 0o777 == 0o600


def test_a_lock_whose_text_is_damaged_still_holds(state: Path, other: subprocess.Popen[str]) -> None:
    ProcessLock(state).path.write_text('{"pid": ')
    with pytest.raises(AlreadyRunning, match="an unknown process"):
        ProcessLock(state).acquire("run")


def test_a_folder_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NeedsPerson, match="cannot be opened: No such file or directory; make the folder"):
        ProcessLock(tmp_path / "nowhere" / "state.db").acquire("run")
