"""Every command that looks, as a user meets it: what it prints, for people and for programs, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sinks.builders import until

from .stage import ONE_POLICY, PATIENCE, Stage, has_colours, without_escapes

COMMANDS = (  # in the order of the contract
    *("check", "plan", "run", "apply", "status", "why", "keys", "rotate"),
    *("revoke", "pause", "resume", "history", "sandbox", "demo", "schema"),
)
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
HASH = re.compile(r"sha256:[0-9a-f]{64}")
FINGERPRINT = re.compile(r"sha256:[0-9a-f]{16}")
TWO_POLICIES = """
sinks:
  app: {type: file, path: app.env, format: dotenv, variable: NEON_API_KEY}
  raw: {type: file, path: raw.key}
policies:
  ci: {rotate: {every: 30d}, deliver_to: [app]}
  web:
    rotate: {every: 30d}
    grace_period: 1s
    hold: {while_old_key_used_within: 2h}
    deliver_to: [raw]
unused_keys: {after: 45d, ignore: ["terraform-*"]}
"""
DAY = 86_400


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """`ci` has a live and a retiring key, `web` one that is held; two keys of nobody are old. Only to look at."""
    stage = Stage(tmp_path_factory.mktemp("settled"), TWO_POLICIES)
    try:
        stage.neon.set_clock(-60 * DAY)
        stage.neon.create_key("by-hand")
        stage.neon.create_key("terraform-state")
        stage.neon.set_clock(0)
        stage.settle()
        stage.neon.set_clock(10)  # a use in the second of our own check would not be told apart
        assert stage.neon.use(stage.app("raw.key") or "", "203.0.113.7")
        for policy in ("ci", "web"):
            assert stage.rotator("rotate", policy).status == 0
        until(lambda: stage.rotator("apply").status == 0 and stage.policy("web")["state"] == "held", PATIENCE)
        yield stage
    finally:
        stage.close()


def named(stage: Stage, name: str) -> int:
    """The id of a living key."""
    return next(key.id for key in stage.neon.keys() if key.name == name)


def has(document: dict[str, Any], fields: str) -> bool:
    """Whether an object has all of these fields. It may have more."""
    return set(fields.split()) <= set(document)


class TestLooking:
    """Commands that change nothing."""

    def test_status_tells_a_program_everything(self, settled: Stage) -> None:
        """With the fields of the contract, times with a Z, and null for what is absent."""
        ended = settled.rotator("status", "--json")
        assert (ended.status, ended.err) == (0, "")
        document = ended.json
        assert has(document, "as_of leader history_head policies")
        assert INSTANT.fullmatch(document["as_of"])
        assert document["leader"] is False
        assert HASH.fullmatch(document["history_head"])
        ci, web = document["policies"]
        for policy in (ci, web):
            assert has(policy, "policy state live older waiting_for next failures last_error")
            assert has(policy["live"], "id name generation since fingerprint")
            assert INSTANT.fullmatch(policy["live"]["since"])
            assert FINGERPRINT.fullmatch(policy["live"]["fingerprint"])
            assert has(policy["next"], "step at why")
            assert policy["next"]["step"] in ("mint", "deliver", "revoke", "wait", "refuse")
            assert INSTANT.fullmatch(policy["next"]["at"])
            assert (policy["waiting_for"], policy["failures"], policy["last_error"]) == ([], 0, None)
            (old,) = policy["older"]
            assert has(old, "id name generation role revoke_at held")
            assert INSTANT.fullmatch(old["revoke_at"])
            assert (old["generation"], policy["live"]["generation"]) == (1, 2)
        assert (ci["policy"], ci["state"], ci["older"][0]["role"], ci["older"][0]["held"]) == (
            "ci",
            "retiring",
            "retiring",
            None,
        )
        held = web["older"][0]["held"]
        assert (web["policy"], web["state"], web["older"][0]["role"]) == ("web", "held", "held")
        assert has(held, "since why last_used_at addresses")
        assert INSTANT.fullmatch(held["since"])
        assert INSTANT.fullmatch(held["last_used_at"])
        assert held["addresses"] == ["203.0.113.7"]

    def test_status_tells_a_person_a_line_a_policy(self, settled: Stage) -> None:
        """Live key, age, what is retiring or held, the next step, when and why; the age of all this; the head."""
        ended = settled.rotator("status")
        assert (ended.status, ended.err) == (0, "")
        head, ci, web, empty, last = ended.out.splitlines()
        assert head.split() == ["POLICY", "STATE", "LIVE", "KEY", "OLDER", "KEYS", "NEXT"]
        assert re.match(r"ci +retiring +ci-\S+ \(\d+\), \d+\w old +\d+ retiring +revoke in [^:]+: the grace", ci)
        assert re.match(r"web +held +web-\S+ \(\d+\), .* old +\d+ held +revoke in [^:]+: .*203\.0\.113\.7", web)
        assert empty == ""
        assert re.fullmatch(r"as of .* ago; no service is running; history head sha256:[0-9a-f]{64}", last)

    def test_keys_tells_a_program_of_every_key(self, settled: Stage) -> None:
        """Each with its role, whose it is, and who used it last."""
        ended = settled.rotator("keys", "--json")
        assert (ended.status, ended.err) == (0, "")
        for key in ended.json:
            fields = "id name scope policy role generation created_at last_used_at last_used_from unused why"
            assert has(key, fields)
            assert INSTANT.fullmatch(key["created_at"])
            assert isinstance(key["last_used_from"], list)
            assert (key["scope"], bool(key["why"])) == ("personal", True)
        told = {key["name"].partition("-2")[0]: key for key in ended.json if key["generation"] != 1}
        assert {name: key["role"] for name, key in told.items()} == {
            "management": "management",
            "by-hand": "unmanaged",
            "terraform-state": "unmanaged",
            "ci": "live",
            "web": "live",
        }
        assert {key["role"] for key in ended.json if key["generation"] == 1} == {"retiring", "held"}
        assert (told["ci"]["policy"], told["by-hand"]["policy"]) == ("ci", None)
        assert {name for name, key in told.items() if key["unused"]} == {"by-hand"}
        assert told["by-hand"]["last_used_at"] is None
        held = next(key for key in ended.json if key["role"] == "held")
        assert held["last_used_from"] == ["203.0.113.7"]

    def test_keys_shows_only_what_is_unused_or_nobodys_if_asked(self, settled: Stage) -> None:
        """For a person also how long it was unused, and how a policy would take a key over."""
        assert [key["name"] for key in settled.rotator("keys", "--unused", "--json").json] == ["by-hand"]
        nobodys = [key["name"] for key in settled.rotator("keys", "--unmanaged", "--json").json]
        assert nobodys == ["by-hand", "terraform-state"]
        head, row = settled.rotator("keys", "--unused", "--unmanaged").out.splitlines()
        assert head.split() == ["ID", "NAME", "ROLE", "POLICY", "SCOPE", "AGE", "LAST", "USED", "FROM", "WHY"]
        assert re.match(r"\d+ +by-hand +unmanaged +- +personal +60d.* never +- +unused: never used", row)
        assert row.endswith(f"adopt: {named(settled, 'by-hand')}")

    def test_plan_tells_what_would_happen_when_and_why(self, settled: Stage) -> None:
        """In order, up to the time asked for; what is held stands there as what is waited for."""
        ended = settled.rotator("plan", "--until", "40d", "--json")
        assert (ended.status, ended.err) == (0, "")
        assert all(has(entry, "at policy step why") and INSTANT.fullmatch(entry["at"]) for entry in ended.json)
        assert [entry["at"] for entry in ended.json] == sorted(entry["at"] for entry in ended.json)
        ci = [entry["step"] for entry in ended.json if entry["policy"] == "ci"]
        assert ci == ["revoke", "mint", "deliver", "revoke"]
        assert [entry["step"] for entry in settled.rotator("plan", "--until", "1s", "--json").json] == ["wait"] * 2
        head, first, *_ = settled.rotator("plan").out.splitlines()
        assert head.split() == ["AT", "POLICY", "STEP", "WHY"]
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC +(ci|web) +revoke +a later key is live", first)

    def test_history_tells_what_was_done(self, settled: Stage) -> None:
        """All of it, or that of one policy, each entry with the hash that chains it to the one before."""
        ended = settled.rotator("history", "--json")
        assert (ended.status, ended.err) == (0, "")
        entries = ended.json
        assert all(has(entry, "seq at policy event key_id generation why hash") for entry in entries)
        assert all(INSTANT.fullmatch(entry["at"]) and HASH.fullmatch(entry["hash"]) for entry in entries)
        assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
        assert entries[-1]["hash"] == settled.status()["history_head"]
        assert next(entry["key_id"] for entry in entries if entry["event"] == "key.intended") is None
        ci = settled.rotator("history", "ci", "--json").json
        assert {entry["policy"] for entry in ci} == {"ci"}
        assert [entry["event"] for entry in ci][:3] == ["key.intended", "key.created", "key.checked"]
        head, first, *_ = settled.rotator("history", "ci").out.splitlines()
        assert head.split() == ["SEQ", "AT", "POLICY", "EVENT", "KEY", "WHY"]
        assert re.match(r"\d+ +\S+ \S+ UTC +ci +key.intended +- +the policy has no live key", first)

    def test_history_of_a_policy_that_never_was_is_a_mistake(self, settled: Stage) -> None:
        """An empty table would say that nothing was done."""
        ended = settled.rotator("history", "cii")
        assert (ended.status, ended.out) == (2, "")
        assert "there is no policy cii; there are: ci, web" in ended.err

    def test_why_explains_a_policy(self, settled: Stage) -> None:
        """In sentences, for programs too."""
        ended = settled.rotator("why", "web")
        assert (ended.status, ended.err) == (0, "")
        assert "Policy web rotates a key of scope personal every 30d, hands it to raw" in ended.out
        assert "203.0.113.7" in ended.out
        document = settled.rotator("why", "web", "--json").json
        assert has(document, "policy key_id sentences")
        assert (document["policy"], document["key_id"]) == ("web", None)
        assert all(sentence.endswith(".") for sentence in document["sentences"])

    def test_why_explains_a_key(self, settled: Stage) -> None:
        """One of a policy, one of nobody, and the one that this program itself uses."""
        old = settled.policy("ci")["older"][0]["id"]
        document = settled.rotator("why", str(old), "--json").json
        assert (document["policy"], document["key_id"]) == ("ci", old)
        assert "retiring since" in " ".join(document["sentences"])
        for name in ("by-hand", "terraform-state"):  # the first was flagged as unused
            nobodys = settled.rotator("why", str(named(settled, name)), "--json").json
            assert nobodys["policy"] is None
            assert "No policy owns key" in nobodys["sentences"][0]
        ours = settled.rotator("why", str(settled.neon.management_key_id)).out
        assert "management key" in ours

    def test_why_of_nothing_that_is_there_is_a_mistake(self, settled: Stage) -> None:
        """It names the policies that there are."""
        ended = settled.rotator("why", "nobody")
        assert (ended.status, ended.out) == (2, "")
        assert "there is no policy nobody; there are: ci, web" in ended.err

    def test_check_says_that_all_is_well(self, settled: Stage) -> None:
        """Without a network, and with --online after asking everybody."""
        ended = settled.rotator("check")
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.startswith(f"{settled.config}: 2 policies, 2 sinks: ")
        ended = settled.rotator("check", "--online")
        assert ended.status == 0
        assert ended.out == f"{settled.config}: 2 policies, 2 sinks: all is well\n"
        assert "accepted by Neon" in ended.err
        assert settled.rotator("check", "--json").json == {"ok": True, "problems": []}
        assert settled.rotator("check", "--online", "--json").json == {"ok": True, "problems": []}

    def test_looking_changes_nothing(self, settled: Stage) -> None:
        """Neither in the folder nor in Neon."""
        before = {name: kept for name, kept in settled.files().items() if not name.startswith("rotator.db-")}
        made, gone = settled.created(), settled.revocations()
        for words in (["plan"], ["keys"], ["check", "--online"], ["status"], ["history", "--verify"], ["why", "ci"]):
            assert settled.rotator(*words).status == 0
        assert {name: kept for name, kept in settled.files().items() if not name.startswith("rotator.db-")} == before
        assert (settled.created(), settled.revocations()) == (made, gone)

    def test_colours_are_for_terminals_that_want_them(self, settled: Stage) -> None:
        """With NO_COLOR there are none; a table has the same words everywhere."""
        shown = settled.on_a_terminal("status")
        plain = settled.on_a_terminal("status", environ={"NO_COLOR": "1"})
        assert (shown.status, plain.status) == (0, 0)
        assert not has_colours(plain.out)
        assert re.search(r"web +held +web-", without_escapes(shown.out))

    @pytest.mark.parametrize("words", [["status"], ["history", "--json"], ["plan"], ["keys"], ["--help"]], ids=str)
    def test_a_reader_that_goes_away_is_no_fault_of_ours(self, settled: Stage, words: list[str]) -> None:
        """The other end of the pipe is closed before the first byte, and nothing is said of it."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "rotator", "-c", str(settled.config), *words],
                env=settled.variables({}),
                stdout=writing,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                timeout=PATIENCE,
                check=False,
            )
        finally:
            os.close(writing)
        assert (ended.returncode, ended.stderr) == (1, "")


class TestFindingTheConfiguration:
    def test_it_may_be_named_before_or_after_the_command(self, settled: Stage, tmp_path: Path) -> None:
        """Or by a variable, or be where it is looked for."""
        elsewhere = tmp_path  # a folder: no option is given
        assert settled.rotator("-c", str(settled.config), "check", config=elsewhere).status == 0
        assert settled.rotator("check", "--config", str(settled.config), config=elsewhere).status == 0
        variable = {"ROTATOR_CONFIG": str(settled.config)}
        assert settled.rotator("check", environ=variable, config=elsewhere).status == 0
        assert settled.rotator("check", config=elsewhere).out.startswith("config.yaml: ")

    def test_the_nearer_one_counts(self, settled: Stage, tmp_path: Path) -> None:
        """The option after the command before the one before it, and both before the variable."""
        (tmp_path / "faulty.yaml").write_text("policies: []")
        wrong, right = str(tmp_path / "faulty.yaml"), str(settled.config)
        ended = settled.rotator("-c", wrong, "check", "-c", right, config=tmp_path, environ={"ROTATOR_CONFIG": wrong})
        assert ended.status == 0
        ended = settled.rotator("-c", wrong, "check", config=tmp_path, environ={"ROTATOR_CONFIG": right})
        assert ended.status == 2
        assert wrong in ended.err

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, settled: Stage, command: str, tmp_path: Path) -> None:
        """Also where there is no configuration."""
        ended = settled.rotator(command, "--help", config=tmp_path)
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.startswith(f"Usage: rotator {command} [OPTIONS]")
        assert "--help" in ended.out
        if command not in ("sandbox", "demo", "schema"):
            assert "-c, --config FILE" in ended.out

    def test_the_help_names_every_command(self, settled: Stage, tmp_path: Path) -> None:
        """In the order of the contract; without a command it is shown too, as a mistake."""
        ended = settled.rotator("--help", config=tmp_path)
        assert ended.status == 0
        assert re.findall(r"^  ([a-z]+)  ", ended.out.partition("Commands:")[2], re.MULTILINE) == [*COMMANDS]
        bare = settled.rotator(config=tmp_path)
        assert (bare.status, bare.out) == (2, "")
        assert "Commands:" in bare.err

    def test_the_version_and_the_schema_need_no_configuration(self, settled: Stage, tmp_path: Path) -> None:
        assert re.fullmatch(r"rotator \d+\.\d+\S*\n", settled.rotator("--version", config=tmp_path).out)
        assert "policies" in settled.rotator("schema", config=tmp_path).json["properties"]


class TestHistoryVerify:
    def test_a_whole_history_is_told_so(self, settled: Stage) -> None:
        """With the newest hash, which status prints."""
        head = settled.status()["history_head"]
        ended = settled.rotator("history", "--verify")
        assert (ended.status, ended.err) == (0, "")
        assert f"the newest hash is {head}" in ended.out
        document = settled.rotator("history", "--verify", "--json").json
        assert (document["ok"], document["broken_at"], document["history_head"]) == (True, None, head)

    @pytest.mark.parametrize(
        ("tampering", "at"),
        [
            ("UPDATE history SET why = 'nothing happened' WHERE seq = 3", 3),
            ("DELETE FROM history WHERE seq = 4", 4),
            ("UPDATE history SET key_id = key_id + 1 WHERE seq = 2", 2),
        ],
        ids=["changed words", "a removed entry", "another key"],
    )
    def test_a_history_that_was_tampered_with_breaks_there(self, stage: Stage, tampering: str, at: int) -> None:
        """`check --online` notices it too."""
        stage.settle()
        tamper(stage, tampering)
        ended = stage.rotator("history", "--verify")
        assert (ended.status, ended.out) == (1, "")
        assert f"the history breaks at entry {at}" in ended.err
        assert stage.rotator("history", "--verify", "--json").json["broken_at"] == at
        ended = stage.rotator("check", "--online", "--json")
        assert ended.status == 1
        (problem,) = ended.json["problems"]
        assert (problem["path"], problem["line"]) == ("state", None)
        assert f"entry {at}" in problem["problem"]

    def test_a_cut_end_shows_in_the_head(self, stage: Stage) -> None:
        """Which is why it is to be kept elsewhere."""
        stage.settle()
        head = stage.status()["history_head"]
        tamper(stage, "DELETE FROM history WHERE seq = (SELECT max(seq) FROM history)")
        assert stage.rotator("history", "--verify").status == 0
        assert stage.status()["history_head"] != head


def tamper(stage: Stage, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(stage.state)) as connection, connection:
        connection.execute(statement)


class TestPlan:
    def test_planning_leaves_no_trace(self, stage: Stage) -> None:
        """Where nothing was done yet there is no state afterwards either, and Neon was asked to create nothing."""
        before = stage.files()
        ended = stage.rotator("plan", "--json")
        assert ended.status == 0
        assert [entry["step"] for entry in ended.json][:2] == ["mint", "deliver"]
        assert stage.files() == before
        assert stage.created() == 0
        assert stage.ours == []

    def test_a_plan_that_is_cut_says_so(self, stage: Stage) -> None:
        """Beside the JSON, which stays an array of entries."""
        stage.configure(ONE_POLICY.replace("every: 30d}", "every: 1d}, grace_period: 1h"))
        ended = stage.rotator("plan", "--json", "--until", "2000d")
        assert (ended.status, len(ended.json)) == (0, 200)
        said = r"ci: only the first 200 steps are shown, up to \S+ \S+ UTC; a shorter --until shows all of its time\n"
        assert re.fullmatch(said, ended.err)

    def test_a_plan_that_needs_a_person_ends_with_1(self, stage: Stage) -> None:
        """As when the state was lost: nothing would be minted."""
        stage.settle()
        for file in stage.folder.glob("rotator.db*"):
            file.unlink()
        ended = stage.rotator("plan")
        assert ended.status == 1
        assert "refuse" in ended.out
        assert f"adopt: {stage.ours[0]}" in ended.out


class TestStatusOfAService:
    def test_status_says_that_a_service_runs(self, stage: Stage) -> None:
        """And ends with 1 while a policy needs a person, 0 when none does."""
        service = stage.serve()
        ended = stage.rotator("status")
        assert ended.status == 0
        assert "the service is running" in ended.out
        assert stage.status()["leader"] is True
        (stage.folder / "app.env").write_text("NEON_API_KEY=somebody-else\n")
        service.wait_for("sink.drifted")
        ended = stage.rotator("status", "--json")
        assert (ended.status, ended.json["policies"][0]["state"]) == (1, "drifted")
        assert ended.json["policies"][0]["next"]["step"] in ("wait", "refuse", "mint")

    def test_a_policy_that_was_taken_out_is_told_as_abandoned(self, stage: Stage) -> None:
        """Its key is left alone, and `keys` says whose it was."""
        stage.settle()
        (key,) = stage.ours
        stage.configure(ONE_POLICY.replace("ci:", "other:"))
        ended = stage.rotator("status", "--json")
        assert ended.status == 0
        states = {entry["policy"]: entry["state"] for entry in ended.json["policies"]}
        assert states["ci"] == "abandoned"
        told = next(entry for entry in stage.rotator("keys", "--json").json if entry["id"] == key)
        assert (told["role"], told["policy"]) == ("abandoned", "ci")
        assert stage.ours == [key]


def test_times_in_json_are_those_of_neon(stage: Stage) -> None:
    """Neon's clock rules, however far this machine's is off."""
    stage.neon.set_clock(3 * 3600)
    assert stage.rotator("apply").status == 0
    ahead = datetime.fromisoformat(stage.status()["as_of"]) - datetime.now().astimezone()
    assert 2.9 * 3600 < ahead.total_seconds() < 3.1 * 3600
