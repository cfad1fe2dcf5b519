"""A file sink, on real files: what it writes and when, how it knows, and what runs after it."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rotator.errors import NeedsPerson, TryLater
from rotator.model import Held
from rotator.secret import fingerprint
from rotator.sinks.file import FileSink

from .builders import (
    AS_ROOT,
    NOBODY,
    a_file_sink,
    a_hand_off,
    a_secret,
    deliver,
    forget_our_own_variables,
    is_alive,
    mode_of,
)

# What the configuration may say


@pytest.mark.parametrize(
    ("settings", "place", "problem"),
    [
        pytest.param({"path": "/"}, "path", "of a file, not of a folder", id="no file"),
        pytest.param({"path": "/etc/.."}, "path", "of a file, not of a folder", id="a way up"),
        pytest.param({"format": "yaml"}, "format", "'raw', 'dotenv' or 'json'", id="format"),
        pytest.param({"format": "dotenv"}, "variable", "needs the name of the entry", id="dotenv without an entry"),
        pytest.param({"format": "json", "variable": ""}, "variable", "needs the name of the entry", id="no name"),
        pytest.param({"variable": "K"}, "variable", "a raw file has no entries", id="raw with an entry"),
        pytest.param({"format": "dotenv", "variable": "2K"}, "variable", "no digit first", id="no variable's name"),
        pytest.param({"format": "dotenv", "variable": "K="}, "variable", "letters, digits and _", id="a sign in it"),
        pytest.param({"mode": 416}, "mode", "quote it", id="a mode that YAML made a number of"),
        pytest.param({"mode": "rw-"}, "mode", "in octal", id="a mode in letters"),
        pytest.param({"mode": "4600"}, "mode", "in octal", id="setuid"),
        pytest.param({"mode": "0602"}, "mode", "anybody can write", id="writable for all"),
        pytest.param({"mode": "0240"}, "mode", "the owner must be able to read", id="unreadable"),
        pytest.param({"mode": "0700"}, "mode", "not to be executed", id="executable"),
        pytest.param({"owner": 1000}, "owner", "in quotes", id="a number as owner"),
        pytest.param({"group": "a:b"}, "group", "a name or a number", id="two names"),
        pytest.param({"after_write": []}, "after_write", "at least 1", id="no command"),
        pytest.param({"after_write": ["a", ""]}, "after_write", "not empty", id="an empty word"),
        pytest.param({"after_write": "reload"}, "after_write", "list", id="a command line"),
        pytest.param({"timeout": "0s"}, "timeout", "longer than 0s", id="no time"),
        pytest.param({"timeout": "30d"}, "timeout", "at most 1d", id="too much time"),
        pytest.param({"encoding": "latin-1"}, "encoding", "not permitted", id="something unknown"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_where_it_stands(
    settings: dict[str, Any], place: str, problem: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        FileSink.Settings.model_validate({"path": "neon.env"} | settings)
    (fault,) = refused.value.errors()
    assert fault["loc"] == (place,)
    assert problem in fault["msg"]


def test_the_target_is_the_resolved_file_and_its_entry(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    settings = FileSink.Settings.model_validate(
        {
            "path": "link/../link/neon.env",
            "format": "dotenv",
            "variable": "K",
            "after_write": ["true"],
            "timeout": "9s",
        },
        context={"base": tmp_path},
    )
    ref = FileSink("app", settings).ref
    assert ref.target == f"file:{tmp_path.resolve()}/real/neon.env#K"
    assert ref.reads_back
    assert ref.pause == timedelta(seconds=9)


def test_a_raw_file_has_no_entry_in_its_target_and_needs_no_pause(tmp_path: Path) -> None:
    sink = a_file_sink(tmp_path / "key")
    assert sink.ref.target == f"file:{tmp_path.resolve()}/key"
    assert sink.ref.pause == timedelta(0)
    assert (sink.path, sink.format, sink.variable) == (tmp_path.resolve() / "key", "raw", None)


def test_any_setting_changes_the_digest_but_not_the_target(tmp_path: Path) -> None:
    refs = [a_file_sink(tmp_path / "key", **more).ref for more in ({}, {"mode": "0640"}, {"timeout": "5s"})]
    assert len({ref.settings for ref in refs}) == 3
    assert len({ref.target for ref in refs}) == 1


# What is written


def test_a_new_file_gets_the_secret_alone_and_is_for_its_owner(tmp_path: Path) -> None:
    value = deliver(a_file_sink(tmp_path / "key")).reveal()
    assert (tmp_path / "key").read_bytes() == value.encode()
    assert mode_of(tmp_path / "key") == "0600"


def test_the_umask_is_of_no_account(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        deliver(a_file_sink(tmp_path / "key", mode="0644"))
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "key") == "0644"


def test_other_entries_stay_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "neon.env"
    path.write_bytes(b"# the app\r\nA='x\r\ny'\r\nexport K=\"old\" # ours\r\nB=\xc3\xa4")
    value = deliver(a_file_sink(path, format="dotenv", variable="K")).reveal()
    assert path.read_bytes() == b"# the app\r\nA='x\r\ny'\r\nexport K=\"" + value.encode() + b'" # ours\r\nB=\xc3\xa4'


def test_a_json_file_keeps_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "neon.json"
    path.write_text('{\n   "n": 1.50,\n   "K": "old",\n   "n": 2e3\n}')
    value = deliver(a_file_sink(path, format="json", variable="K")).reveal()
    assert path.read_text() == f'{{\n   "n": 1.50,\n   "K": "{value}",\n   "n": 2e3\n}}'


def test_an_existing_file_gets_the_mode_that_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o666)
    deliver(a_file_sink(path))
    assert mode_of(path) == "0600"


def test_a_reader_sees_the_old_text_or_the_new_and_never_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "neon.env"
    sink = a_file_sink(path, format="dotenv", variable="K")
    written = {deliver(sink).reveal()}
    path.write_text(path.read_text() + "A=" + "x" * 200_000 + "\n")
    seen, over = set(), threading.Event()

    def read() -> None:
        while not over.is_set():
            text = path.read_text()
            seen.add((text.split("\n")[0], len(text)))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(7):
        written.add(deliver(sink).reveal())
    over.set()
    reader.join()
    assert {line for line, _ in seen} <= {f"K={value}" for value in written}
    assert len({size for _, size in seen}) == 1


def test_what_a_crash_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "key"
    (tmp_path / ".key.rotator.tmp").write_text("a secret of before")
    (tmp_path / ".other.rotator.tmp").write_text("another's")
    (tmp_path / ".key.swp").write_text("an editor's")
    deliver(a_file_sink(path))
    assert sorted(each.name for each in tmp_path.iterdir()) == [".key.swp", ".other.rotator.tmp", "key"]


def test_a_trap_under_the_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / ".key.rotator.tmp").symlink_to(tmp_path / "elsewhere")
    deliver(a_file_sink(tmp_path / "key"))
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_nothing_but_the_file_is_left_behind(tmp_path: Path) -> None:
    deliver(a_file_sink(tmp_path / "key"))
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_the_mode_and_the_owner_are_set_before_the_secret_is_in_the_file(open_folder: Path) -> None:
    path, temporary = open_folder / "neon.env", open_folder / ".neon.env.rotator.tmp"
    path.write_text("A=" + "x" * 1_000_000 + "\n")
    owner = NOBODY if AS_ROOT else os.geteuid()
    sink = a_file_sink(path, format="dotenv", variable="K", mode="0640", owner=str(owner))
    seen, over = set(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            with suppress(FileNotFoundError):
                status = temporary.lstat()
                if status.st_size:
                    seen.add((stat.S_IMODE(status.st_mode), status.st_uid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    give_up = time.monotonic() + 10
    while not seen and time.monotonic() < give_up:
        deliver(sink)
    over.set()
    watcher.join()
    if not seen:
        pytest.skip("this file system is too fast to be watched")
    assert seen == {(0o640, owner)}


# The receipt


def test_a_file_is_read_back_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "key"
    sink = a_file_sink(path)
    value = deliver(sink).reveal()
    path.write_text(f"{value}\n")
    assert sink.contents() == fingerprint(value)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("raw", ""),
        ("raw", " \n"),
        ("dotenv", ""),
        ("dotenv", "OTHER=x\n"),
        ("dotenv", "K=\n"),
        ("dotenv", 'K=""\n'),
        ("json", ""),
        ("json", "{}"),
        ("json", '{"K": ""}'),
        ("json", '{"K": null}'),
    ],
)
def test_an_entry_that_is_missing_or_empty_is_nothing(tmp_path: Path, form: str, text: str) -> None:
    path = tmp_path / "held"
    sink = a_file_sink(path, format=form, **({} if form == "raw" else {"variable": "K"}))
    assert sink.contents() == Held.NOTHING
    path.write_text(text)
    assert sink.contents() == Held.NOTHING


def test_another_value_is_told_by_its_fingerprint(tmp_path: Path) -> None:
    sink = a_file_sink(tmp_path / "held", format="json", variable="K")
    deliver(sink)
    (tmp_path / "held").write_text('{"K": "something else"}')
    assert sink.contents() == fingerprint("something else")
    (tmp_path / "held").write_text('{"K": "\\ud800"}')
    assert sink.contents() == Held.UNREADABLE


# after_write


def test_after_write_runs_once_the_file_is_there_and_knows_the_key_but_not_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEON_ADMIN", a_secret().reveal())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    forget_our_own_variables(monkeypatch)
    script = f'cat - {tmp_path}/key > {tmp_path}/copy; env > {tmp_path}/env; echo "$0 $* in $PWD" > {tmp_path}/words'
    sink = a_file_sink(tmp_path / "key", after_write=["sh", "-c", script, "reload", "app"])
    sink.withhold({"NEON_ADMIN"})
    value = deliver(sink).reveal()
    assert (tmp_path / "copy").read_text() == value
    assert (tmp_path / "words").read_text() == "reload app in /\n"
    variables = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert value not in variables.values()
    assert not variables.keys() & {"NEON_ADMIN", "CREDENTIALS_DIRECTORY"}
    assert {name: known for name, known in variables.items() if name.startswith("ROTATOR_")} == {
        "ROTATOR_POLICY": "ci-pipeline",
        "ROTATOR_KEY_ID": "2291515",
        "ROTATOR_KEY_NAME": "ci-pipeline-20261123T040550Z-d233f1",
        "ROTATOR_GENERATION": "7",
    }


@pytest.mark.fault(
    "Sinks", "A file sink's after_write fails", "That is no receipt: the hand-off is tried again, until it succeeds."
)
def test_an_after_write_that_fails_is_no_receipt_and_its_output_is_not_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], person_sees: Callable[[str], None]
) -> None:
    sink = a_file_sink(
        tmp_path / "key", after_write=["sh", "-c", f"cat {tmp_path}/key; cat {tmp_path}/key >&2; exit 7"]
    )
    secret = a_secret()
    with pytest.raises(TryLater) as failed:
        sink.deliver(a_hand_off(secret), secret)
    assert str(failed.value) == "the program sh ended with exit status 7; its own log may say why"
    assert "".join(capfd.readouterr()) == ""
    assert sink.contents() == secret.fingerprint
    person_sees(str(failed.value))


def test_an_after_write_that_hangs_is_killed_at_the_time_out(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid; sleep 600"
    sink = a_file_sink(tmp_path / "key", after_write=["sh", "-c", script], timeout="1s")
    with pytest.raises(TryLater, match="did not end within 1 s"):
        deliver(sink)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_an_after_write_that_is_not_there_is_found_out_before(tmp_path: Path) -> None:
    with pytest.raises(NeedsPerson, match="the program no-such-program is not there"):
        a_file_sink(tmp_path / "key", after_write=["no-such-program"]).check()
