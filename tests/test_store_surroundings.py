"""Where the state is: what others may read, replace or have put there, and that nothing of it is followed or kept."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sinks.builders import NOBODY, as_nobody, mode_of, needs_root

from rotator.assembly import assemble
from rotator.config import load
from rotator.errors import NeedsPerson
from rotator.lock import ProcessLock
from rotator.model import Event
from rotator.store import Store

ROOT = Path(__file__).parent.parent

Sees = Callable[[str], None]


def a_store(path: Path, *, create: bool = True) -> Store:
    return Store(f"sqlite:///{path}", create=create)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder in which everybody may write, with a way to it for everybody."""
    outer = Path(tempfile.mkdtemp(prefix="state-"))
    outer.chmod(0o755)
    folder = outer / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(outer)


def refusal(path: Path) -> str:
    """What is said about it; nothing has changed in the folder, nor where a link leads to."""
    before = {file: file.lstat() for file in path.parent.iterdir()}
    with pytest.raises(NeedsPerson) as refused:
        a_store(path)
    for file, found in before.items():
        assert (file.lstat().st_ino, file.lstat().st_mode, file.lstat().st_size) == (
            found.st_ino,
            found.st_mode,
            found.st_size,
        )
    return str(refused.value)


@pytest.mark.fault(
    "State",
    "The state can be read by others, and everybody may write in its folder",
    "It takes that from them when it starts, and says so; the state holds no secret, but it rules what is revoked.",
)
def test_what_others_could_do_is_taken_from_them_and_told(shared: Path, person_sees: Sees) -> None:
    path = shared / "state.db"
    a_store(path).close()
    path.chmod(0o664)
    shared.chmod(0o777)
    with closing(a_store(path)) as store:
        person_sees("; ".join(store.repaired))
        assert mode_of(path) == "0600"
        assert mode_of(shared) == "0775"
        assert len(store.repaired) == 2
    with closing(a_store(path)) as store:
        assert store.repaired == []


def test_the_service_tells_what_it_put_right_and_a_check_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    (tmp_path / "config.yaml").write_text(
        "neon: {api_key: {file: key}, api_url: 'http://127.0.0.1:1'}\n"
        "sinks: {app: {type: file, path: app.key}}\n"
        "policies: {ci: {rotate: {every: 30d}, deliver_to: [app]}}\n"
    )
    a_store(tmp_path / "rotator.db").close()
    (tmp_path / "rotator.db").chmod(0o640)
    told: list[Event] = []
    assemble(load(tmp_path / "config.yaml"), threading.Event(), told.append).close()
    (event,) = told
    assert event.name == "state.repaired"
    assert "was open to others (mode 0640); now it is 0600" in event.why

    (tmp_path / "rotator.db").rename(tmp_path / "real.db")
    (tmp_path / "rotator.db").symlink_to("real.db")
    words = [sys.executable, "-m", "rotator", "check", "--online", "-c", str(tmp_path / "config.yaml")]
    checked = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 1
    assert f"state: the state {tmp_path / 'rotator.db'} is a symbolic link" in checked.stderr


def test_reading_puts_nothing_right(shared: Path) -> None:
    path = shared / "state.db"
    a_store(path).close()
    shared.chmod(0o777)
    path.chmod(0o644)
    a_store(path, create=False).close()
    assert (mode_of(path), mode_of(shared)) == ("0644", "0777")


@needs_root
@pytest.mark.fault(
    "State",
    "Everybody may write in the state's folder, which belongs to somebody else",
    "It does not start: anybody could put another state in the place of its own.",
)
def test_a_folder_of_somebody_else_in_which_everybody_may_write_is_refused(shared: Path, person_sees: Sees) -> None:
    with as_nobody():
        person_sees(refusal(shared / "state.db"))
    assert list(shared.iterdir()) == []


def test_a_folder_for_everybody_in_which_nobody_can_replace_what_is_ours_will_do(shared: Path) -> None:
    shared.chmod(0o1777)
    with closing(a_store(shared / "state.db")) as store:
        assert store.repaired == []
    assert mode_of(shared) == "1777"


@needs_root
@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_a_file_that_another_user_put_into_such_a_folder_is_refused(shared: Path, suffix: str) -> None:
    shared.chmod(0o1777)
    planted = shared / f"state.db{suffix}"
    planted.touch(mode=0o666)
    os.chown(planted, NOBODY, NOBODY)
    assert f"{planted} belongs to user {NOBODY}, and rotator runs as 0" in refusal(shared / "state.db")


@needs_root
@pytest.mark.fault(
    "State",
    "The state belongs to another user",
    "It does not start, and leaves the state as it is. Root alone may work on another user's.",
)
def test_the_state_of_another_user_is_refused(shared: Path, person_sees: Sees) -> None:
    shared.chmod(0o755)
    path = shared / "state.db"
    a_store(path).close()
    os.chown(path, 1234, 1234)
    os.chown(shared, NOBODY, NOBODY)
    path.chmod(0o666)
    with as_nobody():
        said = refusal(path)
    assert f"belongs to user 1234, and rotator runs as {NOBODY}" in said
    person_sees(said)
    with closing(a_store(path)):
        assert path.stat().st_uid == 1234
        assert {file.stat().st_uid for file in shared.glob("state.db*")} == {1234}  # so that he can go on with it


def a_link_to_a_state(path: Path) -> None:
    a_store(path.parent / "real.db").close()
    path.symlink_to("real.db")


@pytest.mark.fault(
    "State",
    "The state is a symbolic link",
    "It does not start: SQLite's log and the lock would stand beside another name.",
)
def test_a_state_that_is_a_symbolic_link_is_refused(tmp_path: Path, person_sees: Sees) -> None:
    a_link_to_a_state(tmp_path / "state.db")
    person_sees(refusal(tmp_path / "state.db"))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def a_second_name(path: Path) -> None:
    path.touch()
    os.link(path, path.with_name("another name"))


@pytest.mark.parametrize(
    ("put", "problem"),
    [
        pytest.param(lambda path: path.symlink_to("nowhere"), "is a symbolic link", id="a dangling link"),
        pytest.param(os.mkfifo, "is not a regular file", id="a named pipe"),
        pytest.param(a_socket, "is not a regular file", id="a socket"),
        pytest.param(lambda path: path.mkdir(), "is not a regular file", id="a folder"),
        pytest.param(a_second_name, "has another name as well", id="a hard link"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_what_is_no_file_of_its_own_is_refused(
    tmp_path: Path, put: Callable[[Path], object], problem: str, suffix: str
) -> None:
    put(tmp_path / f"state.db{suffix}")
    assert problem in refusal(tmp_path / "state.db")


def test_reading_does_not_wait_at_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.db")
    with pytest.raises(NeedsPerson, match="is not a regular file"):
        a_store(tmp_path / "state.db", create=False)


# The lock beside it


@pytest.mark.fault(
    "State",
    "Somebody put a symbolic link in the place of the lock",
    "It does not start, and writes nothing through the link.",
)
def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path, person_sees: Sees) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "state.db.lock").symlink_to(victim)
    with pytest.raises(NeedsPerson) as refused, ProcessLock(tmp_path / "state.db") as lock:
        lock.acquire("run")
    person_sees(str(refused.value))
    assert victim.read_text() == "untouched"
    assert not ProcessLock(tmp_path / "state.db").is_held()


@pytest.mark.parametrize(
    "put",
    [
        pytest.param(os.mkfifo, id="a named pipe"),
        pytest.param(lambda path: os.link(path.with_name("victim"), path), id="a hard link"),
    ],
)
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path: Path, put: Callable[[Path], object]) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    put(tmp_path / "state.db.lock")
    with pytest.raises(NeedsPerson, match="is not a file of its own; see who made it"):
        ProcessLock(tmp_path / "state.db").acquire("run")
    assert not ProcessLock(tmp_path / "state.db").is_held()
    assert victim.read_text() == "untouched"
    assert stat.S_ISREG(victim.stat().st_mode)


@needs_root
def test_a_lock_that_root_makes_belongs_to_the_user_whose_state_it_is(shared: Path) -> None:
    """As when root runs one command while the service is down."""
    shared.chmod(0o755)
    os.chown(shared, NOBODY, NOBODY)
    state = shared / "state.db"
    with ProcessLock(state) as lock:
        lock.acquire("rotate")
        assert (lock.path.stat().st_uid, lock.path.stat().st_gid) == (NOBODY, NOBODY)
        lock.path.unlink()
    state.touch()
    os.chown(state, 1234, 4321)
    with ProcessLock(state) as lock:
        lock.acquire("rotate")
        assert (lock.path.stat().st_uid, lock.path.stat().st_gid, mode_of(lock.path)) == (1234, 4321, "0600")
    assert state.stat().st_uid == 1234


@needs_root
@pytest.mark.fault(
    "State",
    "The lock belongs to another user, such as root",
    "It does not start, and says whose the lock is and what to do with it.",
)
def test_a_lock_of_another_user_is_told_with_what_to_do(shared: Path, person_sees: Sees) -> None:
    shared.chmod(0o755)
    os.chown(shared, NOBODY, NOBODY)
    (shared / "state.db.lock").touch(mode=0o600)
    with as_nobody(), pytest.raises(NeedsPerson) as refused:
        ProcessLock(shared / "state.db").acquire("run")
    person_sees(str(refused.value))
