"""One process at a time, and everybody can tell which."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sinks.builders import until

from rotator.errors import AlreadyRunning, NeedsPerson, StateUnavailable
from rotator.lock import ProcessLock
from rotator.store import Store

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


def test_who_waited_for_a_lock_that_was_removed_takes_the_one_at_its_place(
    state: Path, other: subprocess.Popen[str]
) -> None:
    """Else the next one would find no lock held, and work beside it."""
    lock = ProcessLock(state)

    def is_open() -> bool:
        with suppress(FileNotFoundError):  # a descriptor that was closed meanwhile
            return any(link.readlink() == lock.path for link in Path("/proc/self/fd").iterdir())
        return False

    thread = threading.Thread(target=lock.acquire, args=("run",))
    thread.start()
    until(is_open)
    lock.path.unlink()
    other.kill()
    thread.join()
    assert ProcessLock(state).is_held()
    lock.check()
    lock.release()


@pytest.mark.parametrize("then", [lambda path: None, Path.touch], ids=["removed", "replaced"])
def test_a_lock_whose_file_is_no_longer_there_counts_for_nothing(state: Path, then: Callable[[Path], None]) -> None:
    with ProcessLock(state) as lock:
        lock.acquire("run")
        lock.check()
        lock.path.unlink()
        then(lock.path)
        with pytest.raises(StateUnavailable, match=r"was removed while it was in use.*; restart the service"):
            lock.check()


def test_a_lock_that_was_given_back_counts_for_nothing(state: Path) -> None:
    with ProcessLock(state) as lock:
        lock.acquire("run")
    with pytest.raises(StateUnavailable):
        lock.check()


def test_nothing_is_read_from_a_state_or_written_to_it_without_the_lock(state: Path) -> None:
    with ProcessLock(state) as lock:
        lock.acquire("run")
        with closing(Store(f"sqlite:///{state}", check=lock.check)) as store:
            store.set_meta("word", "before")
            lock.path.unlink()
            with pytest.raises(StateUnavailable, match=r"the lock .* was removed"):
                store.set_meta("word", "after")
            with pytest.raises(StateUnavailable, match=r"the lock .* was removed"):
                store.meta("word")
        with closing(Store(f"sqlite:///{state}")) as store:
            assert store.meta("word") == "before"


def test_a_folder_in_the_place_of_the_lock_is_refused_as_such(state: Path) -> None:
    ProcessLock(state).path.mkdir()
    with pytest.raises(NeedsPerson, match="is not a file of its own; see who made it"):
        ProcessLock(state).acquire("run")
