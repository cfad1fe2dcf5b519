"""Whatever is typed after `rotator`: a usage error, or an answer, and never a traceback.

`ROTATOR_EXAMPLES` sets how many are tried of each kind: ROTATOR_EXAMPLES=5000 python -m pytest tests/test_bad_words.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from odd_json import TEXTS
from processes.stage import Stage

from rotator.cli import cli
from rotator.commands.common import print_json, print_table, say
from rotator.errors import RotatorError
from rotator.words import printable

EXAMPLES = int(os.environ.get("ROTATOR_EXAMPLES", "100"))
ODD = [
    *(
        "",
        " ",
        "-",
        "--",
        "---",
        "-1",
        "0",
        "7",
        "²",
        "٣",
        "1.5",
        "1e400",
        "nan",
        "9" * 25,
        "9" * 5000,
        "0x10",
        "-9" * 30,
    ),
    *("ci", "CI", "ci,ci", "ci\n", "\udcff", "\x1b[2J", "../ci", "*", "%s", "{}", "c" * 5000, "--help", "-h", "-V"),
    *("--json", "--yes", "--unused", "--unmanaged", "--verify", "--online", "--leaked", "--now", "--wait", "--until"),
    *("--timeout", "--config=", "--until=0s", "--until=-1d", "--until=1d1", "--until=٣d", "--until=99999999d"),
    *("--timeout=0s", "--timeout=1e9s", "--listen=\udcff:1", "--listen=::", "--listen=:0:x", "--listen=x:99999"),
    *("--key=\udcff", "--fault=", "--fault=lost_answer:times=-1", "--fault=slow:seconds=nan", "--seconds=nan"),
]
# Those that would serve, sell a show, or change something are left to the tests of real processes.
COMMANDS = ["check", "plan", "status", "why", "keys", "history", "schema", "wait", ""]
REFUSING = ["rotate", "revoke", "pause", "resume", "apply", "sandbox", "demo"]
words = st.one_of(st.sampled_from(ODD), st.sampled_from(TEXTS), st.text(max_size=6))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    stage.settle()
    yield stage
    stage.close()


def told(stage: Stage, command: str, *typed: str) -> click.ClickException | RotatorError | None:
    """How the command refused, or None if it did not."""
    config = ["-c", str(stage.config)]
    done = CliRunner().invoke(cli, [*config, command, *typed], prog_name="rotator", standalone_mode=False)
    if isinstance(done.exception, click.exceptions.Exit | click.Abort):
        return None
    if done.exception is not None and not isinstance(done.exception, click.ClickException | RotatorError):
        raise done.exception
    return done.exception


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(command=st.sampled_from(COMMANDS), typed=st.lists(words, max_size=2))
@example(command="why", typed=["²"])
@example(command="why", typed=["9" * 5000])
@example(command="history", typed=["\udcff"])
def test_commands_that_look_answer_or_refuse_whatever_is_typed(command: str, typed: list[str], stage: Stage) -> None:
    refused = told(stage, command, *typed)
    assert refused is None or str(refused)


SENSIBLE = ("ci", "-h", "--help", "-V", "--", "--timeout=0s", "--config=")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(command=st.sampled_from(REFUSING), typed=words.filter(lambda word: word not in SENSIBLE))
@example(command="pause", typed="")
@example(command="sandbox", typed="--listen=\udcff:1")
@example(command="sandbox", typed="--listen=x:" + "9" * 5000)
def test_commands_that_act_do_nothing_for_a_word_that_makes_no_sense(command: str, typed: str, stage: Stage) -> None:
    """Not even for an empty one, which a variable of a script may be."""
    before = stage.events()
    assert told(stage, command, typed) is not None
    assert stage.events() == before


@pytest.mark.fault(
    "Input",
    "A script's variable is empty where the policy to resume is named",
    "It resumes nothing, above all not every policy, and ends with 2.",
)
def test_an_empty_word_is_no_policy_and_not_all_of_them(stage: Stage, person_sees: Callable[[str], None]) -> None:
    before = stage.events()
    for command in ("pause", "resume"):
        refused = told(stage, command, "")
        assert isinstance(refused, click.UsageError)
    assert stage.events() == before
    person_sees(f"Error: {refused}")


class TestNothingThatATerminalActsOn:
    """A key's name is chosen by anybody in the account."""

    NAME = "a\x1b[2J\x9b31m\u202eb\udcff\nc\U000e0001"

    def test_in_a_line_or_a_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        say(self.NAME)
        print_table(["name"], [[self.NAME]])
        said = capsys.readouterr().out.splitlines()
        assert said == [shown := printable(self.NAME), "NAME", shown]
        assert shown == "a\\x1b[2J\\x9b31m\\u202eb\\udcff\\nc\\U000e0001"

    def test_in_json_which_still_says_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_json({"name": self.NAME, "grün": 1})
        text = capsys.readouterr().out
        assert all(line.isprintable() for line in text.splitlines())
        assert json.loads(text) == {"name": self.NAME, "grün": 1}
        assert "grün" in text

    def test_in_the_commands(self, stage: Stage) -> None:
        key = stage.neon.create_key("x\x1b]0;owned\x07")
        for words in (["keys"], ["keys", "--json"]):
            said = CliRunner().invoke(cli, ["-c", str(stage.config), *words], standalone_mode=False).output
            assert str(key.id) in said
            assert all(line.isprintable() for line in said.splitlines())


def test_a_state_with_an_impossible_name_is_told(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    try:
        stage.configure(
            f"state: sqlite:///{'s' * 300}.db\n" + "sinks: {a: {type: file, path: a}}\n"
            "policies: {ci: {rotate: {every: 30d}, deliver_to: [a]}}\n"
        )
        done = CliRunner().invoke(cli, ["-c", str(stage.config), "check", "--online"], standalone_mode=False)
        assert done.exception is None
        assert "cannot be reached: File name too long; change state" in done.output
    finally:
        stage.close()


def test_a_configuration_whose_own_name_is_no_text_is_checked(stage: Stage) -> None:
    """On a file system a name is bytes."""
    odd = stage.folder / os.fsdecode(b"\xff\x1b.yaml")
    odd.write_bytes(stage.config.read_bytes())
    ended = stage.rotator("check", "-c", str(odd), config=stage.folder)
    assert ended.status == 0
    assert "\\udcff\\x1b.yaml: 1 policy" in ended.out
    odd.write_text("neon: [")
    for more in ([], ["--json"]):
        ended = stage.rotator("check", "-c", str(odd), *more, config=stage.folder)
        assert ended.status == 2
        assert "not YAML" in ended.out + ended.err
    odd.unlink()


def test_without_a_configuration_it_is_said_where_one_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROTATOR_CONFIG", raising=False)
    said = str(CliRunner().invoke(cli, ["status"]).exception)
    for place in ("ROTATOR_CONFIG", "config.yaml nor /etc/rotator/config.yaml", "--config"):
        assert place in said
    ended = CliRunner().invoke(cli, ["check", "--json"])
    assert said.endswith(json.loads(ended.output)["problems"][0]["problem"])
    named = str(CliRunner().invoke(cli, ["status", "-c", "config.yaml"]).exception)
    assert named == "config.yaml:1:1: cannot be read: No such file or directory; name a readable file with --config"
