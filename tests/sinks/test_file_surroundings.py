"""A file sink where the ground moves: links, folders and files that change while it writes, and others who write too.

What happens in between is made to happen exactly there: the interpreter announces each call to the system
to an audit hook, and in that the test does its mischief, as another process could.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.model import Held

from .builders import NOBODY, a_file_sink, as_nobody, deliver, mode_of, needs_root

Sees = Callable[[str], None]
Mischief = Callable[[], object]
_waiting: dict[str, list[Mischief]] = {}


def _hook(event: str, _: object) -> None:
    if _waiting.get(event):
        _waiting[event].pop(0)()


@contextmanager
def just_before(event: str, *mischief: Mischief) -> Iterator[None]:
    """Do this when the call is about to be made, the first of them at the first, and so on."""
    if not _waiting:
        sys.addaudithook(_hook)  # for good: there is no way to take one out
    _waiting[event] = list(mischief)
    try:
        yield
    finally:
        left = _waiting.pop(event)
        _waiting[""] = []
    assert not left, f"{event} was not called so often"


READ = "os.remove"  # of what a crash left under the temporary name: the first thing after the file was read
WRITTEN = "os.rename"


def refusal(attempt: Callable[[], object], kind: type[RotatorError] = NeedsPerson) -> str:
    with pytest.raises(RotatorError) as refused:
        attempt()
    assert type(refused.value) is kind
    return str(refused.value)


# Links


@pytest.mark.fault(
    "Sinks",
    "A folder on a file sink's path becomes a symbolic link",
    "It writes nothing through it: the link's owner would choose where the key goes.",
)
def test_a_folder_that_became_a_link_is_not_followed(tmp_path: Path, person_sees: Sees) -> None:
    inner = tmp_path / "app" / "conf"
    inner.mkdir(parents=True)
    sink = a_file_sink(inner / "key")
    deliver(sink)
    (tmp_path / "elsewhere" / "conf").mkdir(parents=True)
    (tmp_path / "app").rename(tmp_path / "before")
    (tmp_path / "app").symlink_to("elsewhere")
    said = {refusal(attempt) for attempt in (sink.check, lambda: deliver(sink))}
    assert len(said) == 1
    person_sees(*said)
    assert sink.contents() == Held.UNREADABLE
    assert list((tmp_path / "elsewhere" / "conf").iterdir()) == []


def test_a_link_on_the_path_that_is_configured_is_resolved_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "current").symlink_to("real")
    sink = a_file_sink(tmp_path / "current" / "key")
    (tmp_path / "current").unlink()
    value = deliver(sink).reveal()
    assert (tmp_path / "real" / "key").read_text() == value


@pytest.mark.fault(
    "Sinks",
    "A symbolic link is swapped in for a file sink's file while it is written",
    "The link is replaced and not followed: what it points to stays as it was. Before the writing a link is refused.",
)
def test_a_link_that_is_swapped_in_is_replaced_and_not_followed(tmp_path: Path, person_sees: Sees) -> None:
    path, victim = tmp_path / "key", tmp_path / "victim"
    victim.write_text("untouched")
    with just_before(WRITTEN, lambda: path.symlink_to(victim)):
        value = deliver(a_file_sink(path)).reveal()
    assert (path.read_text(), path.is_symlink(), victim.read_text()) == (value, False, "untouched")

    path.unlink()
    path.symlink_to(victim)
    person_sees(refusal(lambda: deliver(a_file_sink(path))))
    assert victim.read_text() == "untouched"


@pytest.mark.fault(
    "Sinks",
    "A file sink's file has a second name (a hard link)",
    "No key is created for it: who reads the other name would keep the old key, and fail once that is revoked.",
)
def test_a_file_with_a_second_name_is_refused_before_a_key_is_made(tmp_path: Path, person_sees: Sees) -> None:
    path = tmp_path / "key"
    sink = a_file_sink(path)
    secret = deliver(sink)
    os.link(path, tmp_path / "other")
    said = {refusal(attempt) for attempt in (sink.check, lambda: deliver(sink))}
    person_sees(*said)
    assert sink.contents() == secret.fingerprint  # what it holds is known all the same
    (tmp_path / "other").unlink()
    deliver(sink)


# The folder


def replaced(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.mkdir()


@pytest.mark.fault(
    "Sinks",
    "A file sink's folder is moved away between the writing and the renaming",
    "No receipt: the file is where nobody looks for it. It is written again where the path leads now.",
)
def test_a_folder_that_is_moved_while_it_is_written_gives_no_receipt(tmp_path: Path, person_sees: Sees) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    sink = a_file_sink(folder / "key")
    with just_before(WRITTEN, lambda: replaced(folder)):
        person_sees(refusal(lambda: deliver(sink), TryLater))
    assert list(folder.iterdir()) == []
    value = deliver(sink).reveal()
    assert (folder / "key").read_text() == value


@pytest.mark.parametrize("when", [READ, WRITTEN])
@pytest.mark.fault(
    "Sinks",
    "A file sink's folder is removed while it is written",
    "No receipt, and the key is kept in memory; it is written once the folder is there again.",
)
def test_a_folder_that_is_removed_while_it_is_written(tmp_path: Path, when: str, person_sees: Sees) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    sink = a_file_sink(folder / "key")
    with just_before(when, lambda: shutil.rmtree(folder)):
        person_sees(refusal(lambda: deliver(sink)))
    folder.mkdir()
    deliver(sink)


@needs_root
@pytest.mark.fault(
    "Sinks",
    "A file sink's folder is made read-only while it is written",
    "No receipt; the file holds the old key, whole, and nothing else is left in the folder.",
)
def test_a_folder_that_is_made_read_only_while_it_is_written(open_folder: Path, person_sees: Sees) -> None:
    os.chown(open_folder, NOBODY, NOBODY)
    sink = a_file_sink(open_folder / "key")
    with as_nobody():
        old = deliver(sink).reveal()
        with just_before(READ, lambda: open_folder.chmod(0o555)):
            person_sees(refusal(lambda: deliver(sink)))
    assert (open_folder / "key").read_text() == old
    assert len(list(open_folder.iterdir())) == 1


@needs_root
@pytest.mark.fault(
    "Sinks",
    "A stranger puts a file of his own in a file sink's place, in a folder where everybody may write",
    "No key is created for it: the file would stay his, and he would read the key.",
)
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_strangers_file_in_a_folder_for_everybody_gets_no_key(
    open_folder: Path, mode: int, person_sees: Sees
) -> None:
    open_folder.chmod(mode)
    planted = open_folder / "key"
    planted.touch(mode=0o600)
    os.chown(planted, NOBODY, NOBODY)
    sink = a_file_sink(planted)
    said = {refusal(attempt) for attempt in (sink.check, lambda: deliver(sink))}
    person_sees(*said)
    assert planted.read_text() == ""
    value = deliver(a_file_sink(planted, owner="0")).reveal()  # whose it shall be is beyond doubt
    assert (planted.read_text(), planted.stat().st_uid) == (value, 0)


@needs_root
def test_a_trap_under_the_temporary_name_that_cannot_be_removed_gets_no_key(open_folder: Path) -> None:
    open_folder.chmod(0o1777)
    trap = open_folder / ".key.rotator.tmp"
    trap.touch()
    trap.chmod(0o666)
    with as_nobody():
        assert "cannot be written: Operation not permitted" in refusal(
            lambda: deliver(a_file_sink(open_folder / "key"))
        )
    assert trap.read_text() == ""
    assert [file.name for file in open_folder.iterdir()] == [trap.name]


# The file


@needs_root
def test_a_device_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "null"
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    sink = a_file_sink(path)
    for attempt in (sink.check, lambda: deliver(sink)):
        assert "is not a regular file" in refusal(attempt)
    assert stat.S_ISCHR(path.stat().st_mode)


@needs_root
@pytest.mark.fault(
    "Sinks",
    "A file sink's file is immutable",
    "No receipt; the key is kept in memory and written once the file may be changed.",
)
def test_an_immutable_file_is_told_with_what_to_look_for(tmp_path: Path, person_sees: Sees) -> None:
    path = tmp_path / "key"
    sink = a_file_sink(path)
    old = deliver(sink).reveal()
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", path], capture_output=True).returncode:
        pytest.skip("no immutable files here")
    try:
        person_sees(refusal(lambda: deliver(sink)))
    finally:
        subprocess.run([chattr, "-i", path], check=True)
    assert path.read_text() == old
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


@needs_root
@pytest.mark.fault(
    "Sinks",
    "A file sink's file system cannot flush a folder to the disk",
    "The sink is found not ready before a key is created: a receipt would not outlast a loss of power.",
)
def test_a_folder_that_cannot_be_flushed_is_found_out_before_a_key_is_made(person_sees: Sees) -> None:
    said = refusal(a_file_sink(Path("/proc/neon.key")).check)  # its folder answers as those of some network drives do
    assert said.startswith("the folder of /proc/neon.key cannot be flushed to the disk: Invalid argument; ")
    person_sees(f"sink app is not ready: {said}")


@pytest.mark.fault(
    "Sinks",
    "A file sink's file system has no locks on folders, as NFS",
    "The sink is found not ready before a key is created: writers could undo each other's work.",
)
def test_a_folder_that_cannot_be_locked_is_found_out_before_a_key_is_made(tmp_path: Path, person_sees: Sees) -> None:
    def answer_as_nfs_does() -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with just_before("fcntl.flock", answer_as_nfs_does):
        said = refusal(a_file_sink(tmp_path / "key").check)
    assert said.startswith(f"{tmp_path}/key cannot be locked: Bad file descriptor; put the file on ")
    person_sees(f"sink app is not ready: {said}")


@pytest.mark.parametrize("letter", ["k", "ü"])
def test_the_longest_name_that_a_file_can_have_is_no_obstacle(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    sink = a_file_sink(path)
    sink.check()
    value = deliver(sink).reveal()
    assert path.read_text() == value
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_no_file_can_have_is_found_out_before_a_key_is_made(tmp_path: Path) -> None:
    assert "File name too long" in refusal(a_file_sink(tmp_path / ("k" * 256)).check)


# Others who write the same file, and know of no lock


@pytest.mark.fault(
    "Sinks",
    "Another program changes a dotenv file while a file sink is about to replace it",
    "It reads the file again and changes only its own entry in the new text: no line is lost.",
)
@pytest.mark.parametrize("in_place", [True, False])
def test_what_another_program_writes_meanwhile_is_not_lost(tmp_path: Path, in_place: bool, person_sees: Sees) -> None:
    path = tmp_path / "neon.env"
    path.write_text("A=1\nK=old\n")

    def edit() -> None:
        text = path.read_text() + "B=2\n"
        if in_place:
            path.write_text(text)
        else:
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").rename(path)

    sink = a_file_sink(path, format="dotenv", variable="K")
    with just_before(READ, edit):
        value = deliver(sink).reveal()
    assert path.read_text() == f"A=1\nK={value}\nB=2\n"
    person_sees(path.read_text().replace(value, "(the new key)"))


def test_a_file_that_comes_or_goes_meanwhile_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "neon.env"
    sink = a_file_sink(path, format="dotenv", variable="K")
    with just_before(READ, lambda: path.write_text("A=1\n")):
        value = deliver(sink).reveal()
    assert path.read_text() == f"A=1\nK={value}\n"
    with just_before(READ, path.unlink):
        value = deliver(sink).reveal()
    assert path.read_text() == f"K={value}\n"


@pytest.mark.fault(
    "Sinks",
    "Another program never stops changing a file sink's file",
    "It gives up for now and tries again later, rather than lose a line of the other's.",
)
def test_a_file_that_never_stands_still_is_left_for_later(tmp_path: Path, person_sees: Sees) -> None:
    path = tmp_path / "neon.env"
    path.write_text("")

    def edit() -> None:
        with path.open("a") as file:
            file.write("A=1\n")

    # Every second of these calls takes away what was written for nothing.
    edits = [edit, lambda: None] * 20
    with just_before(READ, *edits):
        person_sees(refusal(lambda: deliver(a_file_sink(path, format="dotenv", variable="K")), TryLater))
    assert path.read_text() == "A=1\n" * 20
    assert list(tmp_path.iterdir()) == [path]


# A disk that is full


@needs_root
@pytest.mark.fault(
    "Sinks",
    "A file sink's disk is full, or its quota used up, in the middle of the writing",
    "The old text stays, whole; what was begun is removed, and it is tried again with growing pauses.",
)
def test_a_disk_that_is_full_in_the_middle_leaves_the_old_text_and_no_half(tmp_path: Path, person_sees: Sees) -> None:
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    program = textwrap.dedent(
        """
        import subprocess, sys
        from pathlib import Path
        sys.path.insert(0, "tests")
        from sinks.builders import a_file_sink, deliver
        from rotator.errors import TryLater

        folder = Path(sys.argv[1])
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", folder], check=True)
        path = folder / "neon.env"
        path.write_text("A=" + "x" * 30_000 + "\\nK=old\\n")
        before = path.read_text()
        (folder / "rest").write_bytes(b"x" * 16_384)
        try:
            deliver(a_file_sink(path, format="dotenv", variable="K"))
        except TryLater as error:
            print(error)
        assert path.read_text() == before
        assert sorted(file.name for file in folder.iterdir()) == ["neon.env", "rest"]
        """
    )
    done = subprocess.run(
        [unshare, "-m", sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    person_sees(done.stdout)


# What a death leaves


def test_what_a_death_in_the_middle_leaves_is_as_closed_as_the_file_and_goes_with_the_next(tmp_path: Path) -> None:
    path, left = tmp_path / "key", tmp_path / ".key.rotator.tmp"
    program = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        sys.path.insert(0, "tests")
        from sinks.builders import a_file_sink, deliver

        sys.addaudithook(lambda event, _: os.kill(os.getpid(), 9) if event == "os.rename" else None)
        os.umask(0)
        deliver(a_file_sink(Path(sys.argv[1]), mode="0640"))
        """
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert mode_of(left) == "0640"
    assert left.read_text().startswith("napi_")
    value = deliver(a_file_sink(path)).reveal()
    assert path.read_text() == value
    assert list(tmp_path.iterdir()) == [path]
