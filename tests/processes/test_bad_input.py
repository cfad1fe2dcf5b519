"""What is missing, unreadable, too new, in use or out of reach: told by name with what to do, and nothing is changed.

Exit status 2 is for the command line and the configuration, 1 for everything else. The service stays up where
waiting helps: while Neon or its key are out of order (see test_service.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .stage import BOUND, ONE_POLICY, Stage, a_free_port

ASKING = (["check", "--online"], ["plan"], ["keys"])  # these ask Neon and only look; the last two in the same way
ACTING = (["apply", "--timeout", "5s"], ["rotate", "ci"])
READING = (["status"], ["why", "ci"], ["history"])  # from the state alone
SERVING = (["run"],)
bound = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which(BOUND[0]) is None, reason="root reads everything, and setpriv is not there"
)


@dataclass(frozen=True)
class Trouble:
    """How to make it, which commands meet it, and what each of them must say. `bound`: as one whom modes bind."""

    make: Callable[[Stage], object]
    says: Sequence[str]
    commands: Sequence[Sequence[str]]
    status: int = 1
    bound: bool = False


def meets(stage: Stage, trouble: Trouble) -> None:
    """Each command says what it must, ends as it must, and changes nothing."""
    trouble.make(stage)
    before, keys = kept(stage), stage.neon.keys()
    for words in trouble.commands:
        ended = stage.rotator(*words, bound=trouble.bound)
        assert ended.status == trouble.status, (words, ended)
        for said in trouble.says:
            assert said.format(folder=stage.folder) in ended.err, (words, ended.err)
        assert "this is a bug" not in ended.err
        assert kept(stage) == before, words
        assert [key.id for key in stage.neon.keys()] == [key.id for key in keys]
    assert stage.created() == stage.revocations() == 0


def kept(stage: Stage) -> dict[str, tuple[int, bytes]]:
    """All files but the lock, and what SQLite keeps beside the state."""
    return {
        name: found
        for name, found in stage.files().items()
        if not name.endswith((".lock", "-wal", "-shm", "rotator.db"))
        or (name == "rotator.db" and b"planted" in found[1])
    }


# The configuration


@pytest.mark.parametrize("words", [*ASKING, *ACTING, *READING, *SERVING, ["pause"], ["revoke", "1"]], ids=" ".join)
def test_a_configuration_that_is_not_there_is_told(stage: Stage, words: list[str]) -> None:
    """By every command, and nothing is made in its place."""
    stage.config.unlink()
    before = stage.files()
    ended = stage.rotator(*words)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"{stage.config}:")
    assert "No such file" in ended.err or "not there" in ended.err
    assert stage.files() == before


@pytest.mark.parametrize("how", [pytest.param("unreadable", marks=bound), "a folder", "not text", "empty"])
def test_a_configuration_that_cannot_be_read_is_told(stage: Stage, how: str) -> None:
    if how == "unreadable":
        stage.config.chmod(0)
    elif how == "a folder":
        stage.config.unlink()
        stage.config.mkdir()
    else:
        stage.config.write_bytes(b"\xff\xfe\x00\x81" if how == "not text" else b"")
    for words in (["check"], ["run"], ["apply"]):
        ended = stage.rotator("-c", str(stage.config), *words, config=stage.folder, bound=True)
        assert (ended.status, ended.out) == (2, ""), ended
        assert ended.err.startswith(f"{stage.config}:")
    assert not stage.state.exists()


LAUGHS = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop"))


def no_configuration(name: str, does: str, make: Callable[[Path], object], says: str) -> Any:
    mark = pytest.mark.fault("Input", name, f"It {does}, and ends with 2.")
    return pytest.param(make, says, id=name, marks=mark)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        no_configuration(
            "The configuration is a file of 10 MB",
            "reads 4 MiB and no more",
            lambda file: file.write_text("neon: {}\n#" + "x" * 10_000_000),
            "larger than 4 MiB",
        ),
        no_configuration(
            "The configuration is small and unfolds into a billion values",
            "unfolds nothing",
            lambda file: file.write_text(LAUGHS),
            "an anchor (&name) is not taken",
        ),
        no_configuration(
            "The configuration is a nest of a million brackets",
            "looks 32 levels deep",
            lambda file: file.write_text("[" * 1_000_000),
            "nested more than 32 levels",
        ),
        no_configuration(
            "The configuration is saved as UTF-16",
            "guesses at nothing",
            lambda file: file.write_text("neon: {}", "utf-16"),
            "not UTF-8",
        ),
        no_configuration(
            "The configuration holds a NUL",
            "says where it is",
            lambda file: file.write_text("neon: \0"),
            "control character U+0000",
        ),
        no_configuration(
            "The configuration is a named pipe that nobody writes to",
            "does not wait",
            lambda file: os.mkfifo(file),
            "the file is empty",
        ),
        no_configuration(
            "The configuration never ends",
            "reads 4 MiB and no more",
            lambda file: file.symlink_to("/dev/zero"),
            "larger than 4 MiB",
        ),
    ],
)
def test_what_is_no_configuration_at_all_is_told(
    stage: Stage, make: Callable[[Path], object], says: str, person_sees: Callable[[str], None]
) -> None:
    """At once, with its place, and without reading or unfolding all of it."""
    stage.config.unlink()
    make(stage.config)
    ended = stage.rotator("check", within=20)
    assert (ended.status, ended.out) == (2, "")
    assert re.match(rf"{re.escape(str(stage.config))}:\d+:\d+: ", ended.err)
    assert says in ended.err
    person_sees(next(line for line in ended.err.splitlines() if says in line))


@pytest.mark.fault(
    "Input",
    "The configuration has faults, and a secret stands in it",
    "It tells every fault at once with its place, repeats no secret, and ends with 2.",
)
def test_every_fault_of_a_configuration_is_told_at_once_with_its_place(
    stage: Stage, person_sees: Callable[[str], None]
) -> None:
    """As FILE:LINE:COLUMN, in the order of the file, also as JSON; a secret in it is not repeated."""
    secret = "napi_" + "s3cret" * 8
    stage.config.write_text(
        f"""neon:
  api_key: {secret}
  api_kye_id: 7
sinks:
  app: {{type: file, path: app.env, mode: 0640}}
  hook: {{type: webhok, url: x}}
policies:
  ci: {{rotate: {{every: soon}}, deliver_to: [ap], grace_period: 40d}}
  CI!: {{rotate: {{cron: "* *"}}, deliver_to: []}}
surprise: true
"""
    )
    ended = stage.rotator("check")
    assert (ended.status, ended.out) == (2, "")
    assert "s3cret" not in ended.err
    lines = ended.err.splitlines()
    places = [re.match(rf"{re.escape(str(stage.config))}:(\d+):(\d+): (\S+): .+[;?]", line) for line in lines]
    assert all(places), ended.err
    assert [int(place[1]) for place in places if place] == sorted(int(place[1]) for place in places if place)
    told = {place[3] for place in places if place}
    assert told >= {
        *("neon.api_key", "neon.api_kye_id", "sinks.app.mode", "sinks.hook.type", "policies.ci.rotate.every"),
        *("policies.ci.deliver_to[0]", "policies.CI!", "surprise"),
    }
    problems = stage.rotator("check", "--json")
    assert problems.status == 2
    assert problems.json["ok"] is False
    for problem, line in zip(problems.json["problems"], lines, strict=True):
        assert line.startswith("{file}:{line}:{column}: {path}: ".format(**problem))
        assert problem["problem"] in line
    for words in (["run"], ["apply"], ["status"], ["keys"]):
        assert (stage.rotator(*words).status, stage.rotator(*words).err) == (2, ended.err)
    person_sees(lines[0])


# The management key


def test_a_key_file_that_is_not_there(stage: Stage) -> None:
    says = ["file {folder}/key cannot be read: No such file or directory", "create it with the secret in it"]
    meets(stage, Trouble(lambda s: s.key_file.unlink(), says, [ASKING[1], *ACTING]))
    says = [f"{stage.config}:2:12: neon.api_key: file {{folder}}/key is not there; create it with the secret in it"]
    meets(stage, Trouble(lambda _: None, says, [["check"], ASKING[0]], status=2))


@bound
def test_a_key_file_that_may_not_be_read(stage: Stage) -> None:
    says = ["file {folder}/key cannot be read: Permission denied", "readable by this user"]
    meets(stage, Trouble(lambda s: s.key_file.chmod(0), says, [*ASKING[:2], ACTING[0]], bound=True))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty; put the secret in it"),
        ("two words", "holds more than one word; put the secret alone in it"),
        ("x" * 100_000, "is larger than 4096 bytes; put the secret alone in it"),
    ],
    ids=["empty", "two words", "not a key at all"],
)
def test_a_key_file_without_a_key(stage: Stage, content: str, says: str) -> None:
    meets(
        stage,
        Trouble(lambda s: s.write_key(content), ["file {folder}/key " + says], [["check", "--online"], ["apply"]]),
    )


def test_a_key_file_that_never_ends_or_never_begins(stage: Stage) -> None:
    """Neither fills the memory, nor is it waited for."""

    def endless(stage: Stage) -> None:
        stage.key_file.unlink()
        stage.key_file.symlink_to("/dev/zero")

    def never_written(stage: Stage) -> None:
        stage.key_file.unlink()
        os.mkfifo(stage.key_file)

    meets(stage, Trouble(endless, ["file {folder}/key is larger than 4096 bytes"], [["check", "--online"]]))
    meets(stage, Trouble(never_written, ["file {folder}/key is empty"], [["check", "--online"]]))


def test_a_key_that_neon_refuses(stage: Stage) -> None:
    """Nothing is ordered that nobody could carry out."""
    says = ["Neon refused the management key (file {folder}/key)", "put a valid personal key there"]
    meets(stage, Trouble(lambda s: s.write_key("wrong-but-well-formed"), says, [*ASKING, *ACTING]))
    assert orders(stage) == 0


def test_an_organization_key_where_a_personal_one_is_needed(stage: Stage) -> None:
    """Neon accepts it, but not for this."""

    def make(stage: Stage) -> None:
        key = stage.neon.create_key("of-the-organization", organization="org-sandbox")
        stage.write_key(stage.neon.secret_of(key.id))

    says = ["neon.api_key is an organization key; use a personal key of an organization's admin"]
    meets(stage, Trouble(make, says, [*ASKING, *ACTING]))
    assert orders(stage) == 0


# Neon


def test_a_neon_that_cannot_be_reached(stage: Stage) -> None:
    """Before the first word with it nothing is ordered either."""
    port = a_free_port()
    says = [f"127.0.0.1:{port} refused the connection", "network"]
    meets(
        stage,
        Trouble(lambda s: s.configure(ONE_POLICY, api_url=f"http://127.0.0.1:{port}/api/v2"), says, [*ASKING, *ACTING]),
    )
    assert orders(stage) == 0


def orders(stage: Stage) -> int:
    """How many orders were ever recorded."""
    with contextlib.closing(sqlite3.connect(stage.state)) as connection:
        return int(connection.execute("SELECT count(*) FROM orders").fetchone()[0])


# The state


def test_a_state_folder_that_is_not_there(stage: Stage) -> None:
    """Looking at Neon works without; whatever would keep a state says which folder to create."""

    def make(stage: Stage) -> None:
        stage.configure(f"state: sqlite:///away/rotator.db{ONE_POLICY}")

    meets(
        stage,
        Trouble(make, ["the folder {folder}/away", "the user that rotator runs as"], [*ACTING, *SERVING, ["pause"]]),
    )
    meets(stage, Trouble(make, ["the folder {folder}/away is not there", "create it"], [["check", "--online"]]))
    meets(stage, Trouble(make, ["there is no state at {folder}/away/rotator.db yet"], READING[:2]))
    for words in (["plan"], ["keys"]):
        assert stage.rotator(*words).status == 0
    assert not (stage.folder / "away").exists()


@bound
@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["not writable", "not even to be entered"])
def test_a_state_folder_that_may_not_be_used(stage: Stage, mode: int) -> None:
    def make(stage: Stage) -> None:
        (stage.folder / "locked").mkdir(mode=mode)
        stage.configure(f"state: sqlite:///locked/rotator.db{ONE_POLICY}")

    make(stage)
    try:
        says = ["the folder {folder}/locked"]
        meets(stage, Trouble(lambda _: None, says, [*ACTING, *SERVING, ["check", "--online"], ["pause"]], bound=True))
        if mode == 0:
            meets(stage, Trouble(lambda _: None, ["{folder}/locked"], [["plan"], ["status"]], bound=True))
    finally:
        (stage.folder / "locked").chmod(0o700)
    assert list((stage.folder / "locked").iterdir()) == []


def test_a_state_that_is_no_database(stage: Stage) -> None:
    """It is left as it is."""

    def make(stage: Stage) -> None:
        stage.state.write_bytes(b"planted: this is not a database at all\n" * 20)

    says = ["{folder}/rotator.db", "it is not an SQLite file", "move it away"]
    meets(stage, Trouble(make, says, [*ASKING[:2], *ACTING, READING[0], *SERVING, ["pause"]]))


def test_a_state_that_is_a_folder(stage: Stage) -> None:
    says = ["the state {folder}/rotator.db"]
    meets(
        stage,
        Trouble(lambda s: s.state.mkdir(), says, [["check", "--online"], ["plan"], ["apply"], ["run"], ["status"]]),
    )


@pytest.mark.parametrize("what", ["the whole", "one record"])
def test_a_state_of_a_newer_version(stage: Stage, what: str) -> None:
    """It is not touched, and the message says which version to run."""
    stage.settle()
    made, requests = stage.created(), stage.revocations()
    with contextlib.closing(sqlite3.connect(stage.state)) as connection, connection:
        if what == "the whole":
            connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema'")
        else:
            connection.execute("UPDATE records SET document = json_set(document, '$.document', 99)")
    before = content(stage)
    rest = ([*ASKING[1:], ["rotate", "ci"], ["why", "ci"], ["pause", "ci"]]) if what == "the whole" else []
    for words in (["check", "--online"], ["apply"], *SERVING, ["status"], *rest):
        ended = stage.rotator(*words)
        assert ended.status == 1, (words, ended)
        assert "was written by a newer rotator" in ended.err
        assert "run that version again" in ended.err
    assert content(stage) == before
    assert (stage.created(), stage.revocations()) == (made, requests)
    assert stage.works(stage.app())


def content(stage: Stage) -> list[str]:
    """What stands in the state, but when it was last looked at."""
    with contextlib.closing(sqlite3.connect(stage.state)) as connection:
        return [line for line in connection.iterdump() if "as_of" not in line]


# The sandbox, and addresses in use


@pytest.mark.fault(
    "Process",
    "Another program listens on the address of the service's pages",
    "It ends with 1 before it does anything.",
)
def test_an_address_that_is_in_use(stage: Stage, person_sees: Callable[[str], None]) -> None:
    """Of the sandbox, and of the service's own pages."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = stage.rotator("sandbox", "--listen", address, config=stage.folder)
        assert (ended.status, ended.out) == (1, "")
        assert address in ended.err
        assert "Address already in use" in ended.err
        assert "--listen" in ended.err
        stage.configure(f"listen: {address}{ONE_POLICY}")
        ended = stage.rotator("run")
        assert ended.status == 1
        assert address in ended.err
        assert "Address already in use" in ended.err
    assert stage.created() == 0
    person_sees(ended.err)


@pytest.mark.parametrize(
    "words",
    [["--listen", "nowhere"], ["--listen", "127.0.0.1:99999"], ["--fault", "earthquake"], ["--key", "two words"]],
    ids=" ".join,
)
def test_a_sandbox_that_makes_no_sense_is_a_mistake(stage: Stage, words: list[str]) -> None:
    ended = stage.rotator("sandbox", *words, config=stage.folder)
    assert (ended.status, ended.out) == (2, "")
    assert "Error: " in ended.err


# The command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rotat"], "No such command 'rotat'"),
        (["check", "--onlin"], "No such option '--onlin'"),
        (["check", "extra"], "unexpected extra argument (extra)"),
        (["plan", "--until", "soon"], "expected a duration such as 90s"),
        (["plan", "--until", "99999d"], "at most ten years"),
        (["apply", "--timeout", "5"], "expected a duration such as 90s"),
        (["apply", "--timeout"], "requires an argument"),
        (["revoke"], "Missing argument 'KEY_ID'"),
        (["revoke", "first"], "'first' is not a valid integer"),
        (["why"], "Missing argument 'POLICY|KEY_ID'"),
        (["history", "ci", "web"], "unexpected extra argument (web)"),
        (["demo", "--seconds", "3"], "too short"),
        (["-c"], "requires an argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_told_with_status_2(
    stage: Stage, words: list[str], says: str, tmp_path: Path
) -> None:
    """And with where to read on."""
    ended = stage.rotator(*words, config=tmp_path, environ={"ROTATOR_CONFIG": str(stage.config)})
    assert (ended.status, ended.out) == (2, "")
    assert says in ended.err
    assert "Error: " in ended.err
    assert not stage.state.exists()
