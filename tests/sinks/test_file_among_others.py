"""A file sink, on real files: whose they are, what is in its way, and who else writes them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from rotator.errors import NeedsPerson, RotatorError, TryLater
from rotator.model import Held

from .builders import (
    NOBODY,
    a_file_sink,
    as_nobody,
    deliver,
    mode_of,
    needs_root,
    until,
)

# Whose file it is


@needs_root
def test_the_owner_of_a_file_stays_its_owner(open_folder: Path) -> None:
    path = open_folder / "key"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    open_folder.chmod(0o755)
    deliver(a_file_sink(path))
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@needs_root
@pytest.mark.parametrize("owner", ["65534", "nobody"])
def test_owner_and_group_are_set_by_name_or_number(open_folder: Path, owner: str) -> None:
    path = open_folder / "key"
    sink = a_file_sink(path, owner=owner, group="4321", mode="0640")
    sink.check()
    deliver(sink)
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (NOBODY, 4321, "0640")


@needs_root
@pytest.mark.parametrize("configured", [True, False])
def test_a_file_that_cannot_stay_somebody_elses_is_not_taken_from_him(open_folder: Path, configured: bool) -> None:
    path = open_folder / "key"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    path.chmod(0o644)
    os.chown(open_folder, NOBODY, NOBODY)
    open_folder.chmod(0o755)
    sink = a_file_sink(path, **({"owner": "1234"} if configured else {}))
    with as_nobody():
        for attempt in (sink.check, lambda: deliver(sink)):
            with pytest.raises(NeedsPerson, match=r"may not make .* belong to user 1234 .*CAP_CHOWN"):
                attempt()
    assert path.read_text() == "old"
    assert [each.name for each in open_folder.iterdir()] == ["key"]


def test_one_who_is_not_root_writes_what_is_his_own(open_folder: Path) -> None:
    with as_nobody():
        sink = a_file_sink(open_folder / "key", owner=str(os.geteuid()))
        sink.check()
        deliver(sink)
        deliver(sink)
        assert (open_folder / "key").stat().st_uid == os.geteuid()


@pytest.mark.parametrize(("setting", "kind"), [("owner", "user"), ("group", "group")])
def test_nobody_of_that_name(tmp_path: Path, setting: str, kind: str) -> None:
    sink = a_file_sink(tmp_path / "key", **{setting: "no-such-account"})
    for attempt in (sink.check, lambda: deliver(sink)):
        with pytest.raises(NeedsPerson, match=f"there is no {kind} no-such-account"):
            attempt()
    assert list(tmp_path.iterdir()) == []


# What is in the way


def a_link(path: Path) -> None:
    (path.parent / "real").write_text("old")
    path.symlink_to("real")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    ("put", "problem"),
    [
        pytest.param(a_link, "is a symbolic link", id="a symbolic link"),
        pytest.param(a_dangling_link, "is a symbolic link", id="a dangling link"),
        pytest.param(lambda path: path.mkdir(), "is not a regular file", id="a folder"),
        pytest.param(os.mkfifo, "is not a regular file", id="a named pipe"),
        pytest.param(a_socket, "is not a regular file", id="a socket"),
        pytest.param(lambda path: path.write_bytes(b"K=\xff\n"), "is not UTF-8 text", id="not UTF-8"),
        pytest.param(lambda path: path.write_text("A" * (1 << 21)), "is larger than 1 MiB", id="huge"),
        pytest.param(lambda path: path.write_text("A='x\n"), "a quotation in its line 1", id="not understood"),
    ],
)
def test_what_is_not_the_file_that_was_meant_is_left_alone(tmp_path: Path, put: Any, problem: str) -> None:
    path = tmp_path / "k"
    put(path)
    before = path.lstat()
    sink = a_file_sink(path, format="dotenv", variable="K")
    for attempt in (sink.check, lambda: deliver(sink)):
        with pytest.raises(NeedsPerson, match=problem):
            attempt()
    assert sink.contents() == Held.UNREADABLE
    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    if path.is_symlink() and path.exists():
        assert path.read_text() == "old"


def test_a_json_file_that_is_none_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "neon.json"
    path.write_text("[1, 2]")
    sink = a_file_sink(path, format="json", variable="K")
    for attempt in (sink.check, lambda: deliver(sink)):
        with pytest.raises(NeedsPerson, match="is not changed: it is not a JSON object"):
            attempt()
    assert path.read_text() == "[1, 2]"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    sink = a_file_sink(tmp_path / "no" / "key")
    for attempt in (sink.check, lambda: deliver(sink)):
        with pytest.raises(NeedsPerson, match="cannot be reached: No such file or directory; create its folder"):
            attempt()
    assert sink.contents() == Held.NOTHING


def test_a_folder_that_may_not_be_written(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with as_nobody():
        sink = a_file_sink(open_folder / "key")
        for attempt in (sink.check, lambda: deliver(sink)):
            with pytest.raises(NeedsPerson, match="cannot be written: Permission denied; let this user"):
                attempt()
    assert list(open_folder.iterdir()) == []


def test_a_folder_of_a_file_system_without_unnamed_files_is_judged_by_its_permissions() -> None:
    with as_nobody(), pytest.raises(NeedsPerson, match="cannot be written: Permission denied"):
        a_file_sink(Path("/proc/neon-key")).check()


@needs_root
def test_a_file_that_this_process_may_not_read(open_folder: Path) -> None:
    path = open_folder / "key"
    path.write_text("old")
    path.chmod(0o600)
    sink = a_file_sink(path)
    with as_nobody():
        for attempt in (sink.check, lambda: deliver(sink)):
            with pytest.raises(NeedsPerson, match="cannot be read: Permission denied"):
                attempt()
        assert sink.contents() == Held.UNREADABLE


@needs_root
def test_a_single_file_that_is_mounted_is_found_out_before(tmp_path: Path) -> None:
    unshare, mount = shutil.which("unshare"), shutil.which("mount")
    if not unshare or not mount or subprocess.run([unshare, "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    (tmp_path / "outside").write_text("old")
    (tmp_path / "my key").touch()
    script = textwrap.dedent(
        """
        import subprocess, sys
        from pathlib import Path
        from rotator.errors import NeedsPerson
        from rotator.sinks.file import FileSink

        folder = Path(sys.argv[1])
        subprocess.run(["mount", "--bind", folder / "outside", folder / "my key"], check=True)
        sink = FileSink("app", FileSink.Settings(path=folder / "my key"))
        try:
            sink.check()
        except NeedsPerson as error:
            print(error)
        """
    )
    done = subprocess.run(
        [unshare, "-m", sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "cannot be replaced: Device or resource busy; it is mounted as a single file" in done.stdout


# Taking turns

WRITER = textwrap.dedent(
    """
    import sys
    from datetime import UTC, datetime
    from rotator.model import HandOff
    from rotator.secret import Secret
    from rotator.sinks.file import FileSink

    path, form, variable, rounds = sys.argv[1:]
    settings = FileSink.Settings.model_validate({"path": path, "format": form, "variable": variable})
    sink = FileSink("app", settings)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(rounds)):
        secret = Secret(f"{variable}-{number}")
        sink.deliver(HandOff("p", 1, 1, "n", datetime.now(UTC), secret.fingerprint, "app"), secret)
    """
)


@pytest.mark.parametrize("form", ["dotenv", "json"])
def test_processes_that_write_entries_of_one_file_do_not_undo_each_others_work(tmp_path: Path, form: str) -> None:
    path = tmp_path / "shared"
    names = ["A", "B", "C"]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), form, name, "25"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in names
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.communicate(b"go\n")
        assert writer.returncode == 0
    sinks = {name: a_file_sink(path, format=form, variable=name) for name in names}
    text = path.read_text()
    held = json.loads(text) if form == "json" else dict(line.split("=") for line in text.splitlines())
    assert held == {name: f"{name}-24" for name in sinks}


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file_and_nothing_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    rest = "A=" + "x" * 100_000 + "\n"
    path.write_text(rest + "K=old\n")
    for _ in range(6):
        before = path.read_text()
        words = [sys.executable, "-c", WRITER, str(path), "dotenv", "K", "1000000"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            try:
                assert writer.stdin
                writer.stdin.write(b"go\n")
                writer.stdin.flush()
                until(lambda before=before: path.read_text() != before)  # type: ignore[misc]
            finally:
                writer.kill()
        first, second, end = path.read_text().split("\n")
        assert (first + "\n", second.rstrip("0123456789"), end) == (rest, "K=K-", "")
    value = deliver(a_file_sink(path, format="dotenv", variable="K")).reveal()
    assert path.read_text() == f"{rest}K={value}\n"
    assert [each.name for each in tmp_path.iterdir()] == ["shared"]


def test_threads_that_write_entries_of_one_file_through_several_sinks(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    sinks = [a_file_sink(path, format="dotenv", variable=f"K{number}") for number in range(6)]
    threads = [threading.Thread(target=lambda sink=sink: [deliver(sink) for _ in range(10)]) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_text().splitlines()) == 6
    assert all(sink.contents().startswith("sha256:") for sink in sinks)


def test_who_waits_for_his_turn_stops_when_the_service_stops(tmp_path: Path) -> None:
    sink = a_file_sink(tmp_path / "key")
    errors: list[RotatorError] = []

    def attempt() -> None:
        try:
            deliver(sink)
        except RotatorError as error:
            errors.append(error)

    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        waiting = threading.Thread(target=attempt)
        waiting.start()
        assert not (tmp_path / "key").exists()
        sink.stop()
        until(lambda: not waiting.is_alive(), limit=5)
    finally:
        os.close(folder)
    assert isinstance(errors[0], TryLater)
    assert "stopping" in str(errors[0])
    assert not (tmp_path / "key").exists()
