"""Every command as a user meets it: what it prints, for people and for programs, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sinks.builders import Reply, Request, until

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
        assert stage.rotator("apply").status == 0
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
        assert stage.rotator("apply").status == 0
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
        assert stage.rotator("apply").status == 0
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

    def test_a_plan_that_needs_a_person_ends_with_1(self, stage: Stage) -> None:
        """As when the state was lost: nothing would be minted."""
        assert stage.rotator("apply").status == 0
        for file in stage.folder.glob("rotator.db*"):
            file.unlink()
        ended = stage.rotator("plan")
        assert ended.status == 1
        assert "refuse" in ended.out
        assert f"adopt: {stage.ours[0]}" in ended.out


class TestApply:
    def test_what_is_due_is_done_and_then_it_ends(self, stage: Stage) -> None:
        """A second one has nothing to do."""
        ended = stage.rotator("apply")
        assert (ended.status, ended.out) == (0, "")
        (key,) = stage.ours
        assert stage.app() == stage.neon.secret_of(key)
        assert stage.policy()["state"] == "ok"
        assert stage.rotator("apply").status == 0
        assert stage.ours == [key]

    def test_a_sink_that_is_down_is_retried_until_the_time_is_over(self, a_stage: Callable[..., Stage]) -> None:
        """Then it ends with 1, and nothing is lost: the next one, with the sink up again, mends it."""
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = lambda _: Reply(500)
        stage.configure(a_hook(receiver.url))
        began = time.monotonic()
        ended = stage.rotator("apply", "--timeout", "5s")
        assert ended.status == 1
        assert 5 <= time.monotonic() - began < PATIENCE
        assert len(receiver.requests) >= 2
        assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
        (lost,) = stage.ours
        policy = stage.policy()
        assert (policy["state"], policy["live"], policy["waiting_for"]) == ("failing", None, ["hook"])
        assert "127.0.0.1 answered 500" in policy["last_error"]

        receiver.reply = lambda _: Reply(204)
        ended = stage.rotator("apply", "--timeout", "30s")
        assert ended.status == 0
        newest = stage.ours[-1]
        assert receiver.requests[-1].json["data"]["key"]["id"] == newest != lost
        assert stage.policy()["live"]["id"] == newest

    def test_a_sink_that_comes_back_in_time_gets_the_same_key(self, a_stage: Callable[..., Stage]) -> None:
        """The secret is kept in hand while it is retried."""
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = lambda _: Reply(503 if len(receiver.requests) < 3 else 204)
        stage.configure(a_hook(receiver.url))
        assert stage.rotator("apply", "--timeout", "1m").status == 0
        assert len(receiver.requests) == 3
        assert len(stage.ours) == 1

    def test_a_sink_that_is_plainly_down_costs_no_key(self, stage: Stage) -> None:
        """As a folder that is not there."""
        stage.configure(ONE_POLICY.replace("app.env", "nowhere/app.env"))
        ended = stage.rotator("apply", "--timeout", "2s")
        assert ended.status == 1
        assert "sink app is not ready" in ended.err
        assert "create its folder" in ended.err
        assert stage.created() == 0

    @pytest.mark.parametrize("how", ["refuses", "hangs"])
    def test_sigterm_ends_it_soon_and_its_retries_with_it(self, a_stage: Callable[..., Stage], how: str) -> None:
        """What it had begun is settled by the next one."""
        stage = a_stage()
        receiver = stage.receiver()
        go_on = threading.Event()

        def reply(_: Request) -> Reply:
            if how == "hangs":
                go_on.wait(PATIENCE)
            return Reply(500)

        receiver.reply = reply
        stage.configure(a_hook(receiver.url, "60s"))
        process = stage.start("apply", "--timeout", "10m")
        until(lambda: receiver.requests, PATIENCE)
        began = time.monotonic()
        process.terminate()
        assert stage.finish(process).status == 1
        assert time.monotonic() - began < 10
        go_on.set()

    def test_beside_a_service_it_gives_way(self, stage: Stage) -> None:
        """It names the process that holds the state."""
        service = stage.serve()
        ended = stage.rotator("apply")
        assert (ended.status, ended.out) == (1, "")
        assert f"process {service.pid} " in ended.err
        assert "rotator run" in ended.err


def a_hook(url: str, timeout: str = "2s", rest: str = "") -> str:
    """A configuration whose policy `ci` delivers to this webhook."""
    return f"""
sinks:
  hook: {{type: webhook, url: "{url}", signing_secret: {{file: signing}}, timeout: {timeout}}}
policies:
  ci: {{rotate: {{every: 30d}}, deliver_to: [hook]}}
{rest}"""


class TestRotate:
    def test_without_a_service_it_does_the_work(self, stage: Stage) -> None:
        """And says which key is live now."""
        assert stage.rotator("apply").status == 0
        (old,) = stage.ours
        ended = stage.rotator("rotate", "ci")
        assert ended.status == 0
        new = stage.ours[-1]
        assert re.fullmatch(rf"ci-\S+ \(id {new}\) is live\n", ended.out)
        assert stage.ours == [old, new]
        assert stage.app() == stage.neon.secret_of(new)

    def test_beside_a_service_it_returns_when_the_order_is_taken(self, stage: Stage) -> None:
        """Which takes no longer than five seconds, beside what a command takes anyway."""
        service = stage.serve()
        began = time.monotonic()
        ended = stage.rotator("rotate", "ci")
        assert (ended.status, ended.out, ended.err) == (0, "the service has begun the rotation\n", "")
        assert time.monotonic() - began < 5 + 2 + 3
        service.wait_for("rotation.live", times=2)
        assert stage.app() == stage.neon.secret_of(stage.ours[-1])

    def test_with_wait_it_returns_when_the_new_key_is_live(self, a_stage: Callable[..., Stage]) -> None:
        """However long the sink takes."""
        stage = a_stage()
        receiver = stage.receiver()
        stage.configure(a_hook(receiver.url))
        stage.serve()
        receiver.reply = lambda _: Reply(500 if len(receiver.requests) < 3 else 204)
        ended = stage.rotator("rotate", "ci", "--wait")
        assert ended.status == 0
        assert ended.out.endswith(f"(id {stage.ours[-1]}) is live\n")
        assert len(receiver.requests) == 3

    def test_with_wait_it_does_not_wait_for_a_service_that_is_gone(self, a_stage: Callable[..., Stage]) -> None:
        """The order stands, and it says what became of it."""
        stage = a_stage()
        receiver = stage.receiver()
        stage.configure(a_hook(receiver.url))
        service = stage.serve()
        receiver.reply = lambda _: Reply(500)
        process = stage.start("rotate", "ci", "--wait")
        service.wait_for("rotation.failed")
        service.kill()
        ended = stage.finish(process)
        assert (ended.status, ended.out) == (1, "")
        assert "the service has ended" in ended.err

    def test_with_wait_it_does_not_wait_for_what_needs_a_person(self, a_stage: Callable[..., Stage]) -> None:
        """As a sink that wants no more keys."""
        stage = a_stage()
        receiver = stage.receiver()
        stage.configure(a_hook(receiver.url))
        stage.serve()
        receiver.reply = lambda _: Reply(410)
        ended = stage.rotator("rotate", "ci", "--wait")
        assert (ended.status, ended.out) == (1, "")
        assert "sink hook answered 410 Gone" in ended.err
        assert "change or remove it in the configuration" in ended.err

    def test_an_order_that_the_service_cannot_begin_ends_with_1(self, stage: Stage) -> None:
        """It says why, and that the order stands; which is so."""
        folder = stage.folder / "away"
        folder.mkdir()
        stage.configure(ONE_POLICY.replace("app.env", "away/app.env"))
        service = stage.serve()
        folder.rename(stage.folder / "moved")
        ended = stage.rotator("rotate", "ci")
        assert (ended.status, ended.out) == (1, "")
        assert "the order is recorded, but the service has not begun" in ended.err
        assert "sink app is not ready" in ended.err
        (stage.folder / "moved").rename(folder)
        service.signal(signal.SIGHUP)
        service.wait_for("rotation.live", times=2)

    def test_leaked_revokes_the_old_key_at_the_last_receipt(self, stage: Stage) -> None:
        """Not before: whoever uses it is not left without one."""
        assert stage.rotator("apply").status == 0
        ended = stage.rotator("rotate", "ci", "--leaked")
        assert ended.status == 0
        (new,) = stage.ours
        assert stage.app() == stage.neon.secret_of(new)
        assert [r.method for r in stage.neon.requests if r.method in ("POST", "DELETE")] == ["POST", "POST", "DELETE"]

    def test_a_leaked_key_that_is_not_revoked_yet_is_not_passed_over(self, stage: Stage) -> None:
        """The new key is live, and the one that leaked still works: that is a failure."""
        assert stage.rotator("apply").status == 0
        (old,) = stage.ours
        stage.neon.fault("error_before", on="revoke", times=None)
        ended = stage.rotator("rotate", "ci", "--leaked")
        assert ended.status == 1
        assert f"key {old}" in ended.err.splitlines()[-1]
        assert "not revoked yet" in ended.err.splitlines()[-1]

    def test_leaked_now_needs_a_yes(self, stage: Stage) -> None:
        """Without a terminal it is a mistake to leave it out; with it, the old key goes first."""
        assert stage.rotator("apply").status == 0
        (old,) = stage.ours
        ended = stage.rotator("rotate", "ci", "--leaked", "--now")
        assert ended.status == 2
        assert "--yes" in ended.err
        assert stage.ours == [old]
        assert stage.rotator("rotate", "ci", "--leaked", "--now", "--yes").status == 0
        assert [r.method for r in stage.neon.requests if r.method in ("POST", "DELETE")] == ["POST", "DELETE", "POST"]
        assert stage.app() == stage.neon.secret_of(stage.ours[0])

    def test_leaked_now_works_beside_a_service(self, stage: Stage) -> None:
        """The service does it in that order."""
        stage.serve()
        assert stage.rotator("rotate", "ci", "--leaked", "--now", "--yes", "--wait").status == 0
        assert [r.method for r in stage.neon.requests if r.method in ("POST", "DELETE")] == ["POST", "DELETE", "POST"]
        assert stage.app() == stage.neon.secret_of(stage.ours[0])

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["cii"], "there is no policy cii; there are: ci"),
            (["ci", "--now"], "--now belongs to --leaked"),
            ([], "Missing argument 'POLICY'"),
            (["ci", "web"], "unexpected extra argument (web)"),
        ],
        ids=["unknown policy", "now alone", "no policy", "two policies"],
    )
    def test_a_mistake_is_told_and_changes_nothing(self, stage: Stage, words: list[str], says: str) -> None:
        before = stage.files()
        ended = stage.rotator("rotate", *words)
        assert (ended.status, ended.out) == (2, "")
        assert says in ended.err
        assert stage.files() == before
        assert stage.neon.requests == []


class TestRevoke:
    def test_a_policys_old_key_is_revoked_without_a_service(self, stage: Stage) -> None:
        """It says who used it last, and what depends on it."""
        assert stage.rotator("apply").status == 0
        old = stage.app() or ""
        assert stage.rotator("rotate", "ci").status == 0
        stage.neon.use(old, "203.0.113.7")
        first, second = stage.ours
        ended = stage.rotator("revoke", str(first), "--yes")
        assert ended.status == 0
        assert ended.out == f"key {first} ({name_of(stage, first)}) is revoked\n"
        assert "203.0.113.7" in ended.err
        assert "policy ci owns it: replaced, in its grace period" in ended.err
        assert stage.ours == [second]

    def test_a_revoked_live_key_makes_a_rotation_due(self, stage: Stage) -> None:
        """It says so before, and does it after."""
        assert stage.rotator("apply").status == 0
        (old,) = stage.ours
        ended = stage.rotator("revoke", str(old), "--yes")
        assert ended.status == 0
        assert "fails until the rotation that becomes due has ended" in ended.err
        (new,) = stage.ours
        assert new != old
        assert stage.app() == stage.neon.secret_of(new)

    def test_beside_a_service_it_is_done_when_the_command_returns(self, stage: Stage) -> None:
        """For a policy's key and for nobody's."""
        stage.serve()
        nobodys = stage.neon.create_key("by-hand").id
        (live,) = [key for key in stage.ours if key != nobodys]
        assert stage.rotator("revoke", str(nobodys), "--unmanaged", "--yes").status == 0
        assert nobodys not in stage.ours
        assert stage.rotator("revoke", str(live), "--yes").status == 0
        assert live not in stage.ours
        until(lambda: stage.works(stage.app()), PATIENCE)

    def test_a_key_of_nobody_is_revoked_only_if_that_is_said(self, stage: Stage) -> None:
        """Without --unmanaged it is refused, and nothing happens."""
        assert stage.rotator("apply").status == 0
        nobodys = stage.neon.create_key("by-hand").id
        ended = stage.rotator("revoke", str(nobodys), "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert f"no policy owns key {nobodys} (by-hand); add --unmanaged" in ended.err
        assert nobodys in stage.ours
        ended = stage.rotator("revoke", str(nobodys), "--unmanaged", "--yes")
        assert (ended.status, ended.out) == (0, f"key {nobodys} (by-hand) is revoked\n")
        assert nobodys not in stage.ours

    @pytest.mark.parametrize("known", [True, False], ids=["by its id", "by its use"])
    def test_the_management_key_is_never_revoked(self, stage: Stage, known: bool) -> None:
        """Whatever is said besides."""
        if not known:
            stage.config.write_text(re.sub(r"  api_key_id: .*\n", "", stage.config.read_text()))
        management = stage.neon.management_key_id
        ended = stage.rotator("revoke", str(management), "--unmanaged", "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert "is the management key" in ended.err
        assert stage.revocations() == 0

    def test_a_key_that_is_not_there_cannot_be_revoked(self, stage: Stage) -> None:
        ended = stage.rotator("revoke", "7", "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert "there is no key 7" in ended.err
        assert "rotator keys" in ended.err

    def test_without_a_terminal_it_needs_a_yes(self, stage: Stage) -> None:
        """It still says what it would have revoked."""
        assert stage.rotator("apply").status == 0
        (key,) = stage.ours
        ended = stage.rotator("revoke", str(key))
        assert (ended.status, ended.out) == (2, "")
        assert f"Key {key} " in ended.err
        assert "--yes" in ended.err
        assert stage.ours == [key]

    @pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1), ("", 1)], ids=["yes", "no", "nothing"])
    def test_on_a_terminal_it_asks(self, stage: Stage, answer: str, status: int) -> None:
        """Only a yes revokes."""
        nobodys = stage.neon.create_key("by-hand").id
        ended = stage.on_a_terminal("revoke", str(nobodys), "--unmanaged", answer=answer or "\n")
        assert ended.status == status, ended.out
        assert "Go on? [y/N]" in ended.out
        assert "it was never used" in ended.out
        assert (nobodys in stage.ours) is (status == 1)
        assert ("nothing was done" in ended.out) is (status == 1)

    def test_what_neon_does_not_confirm_is_told_as_not_done(self, stage: Stage) -> None:
        """With the reason, not with the order."""
        assert stage.rotator("apply").status == 0
        (key,) = stage.ours
        stage.neon.fault("error_before", on="revoke", times=None)
        ended = stage.rotator("revoke", str(key), "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert f"key {key} is not revoked yet: Neon did not confirm" in ended.err.splitlines()[-1]

    def test_a_key_of_nobody_that_the_service_cannot_revoke_is_told_at_once(self, stage: Stage) -> None:
        """The order has lapsed, so there is nothing to wait for."""
        stage.serve()
        nobodys = stage.neon.create_key("by-hand").id
        stage.neon.fault("error_before", on="revoke", times=None)
        began = time.monotonic()
        ended = stage.rotator("revoke", str(nobodys), "--unmanaged", "--yes")
        assert ended.status == 1
        assert f"key {nobodys} is not revoked" in ended.err
        assert "order it again" in ended.err
        assert time.monotonic() - began < 20


def name_of(stage: Stage, key_id: int) -> str:
    return next(key.name for key in (*stage.neon.keys(), *stage.neon.revoked()) if key.id == key_id)


class TestPause:
    def test_nothing_is_made_while_a_policy_is_paused(self, stage: Stage) -> None:
        """Until it is resumed; without a service as well."""
        ended = stage.rotator("pause", "ci")
        assert (ended.status, ended.out) == (0, "paused: ci\n")
        stage.rotator("apply")
        assert stage.created() == 0
        assert stage.policy()["state"] == "paused"
        ended = stage.rotator("rotate", "ci")
        assert (ended.status, ended.out) == (1, "")
        assert "rotator resume ci" in ended.err
        assert stage.rotator("resume", "ci").out == "resumed: ci\n"
        assert stage.rotator("apply").status == 0
        assert len(stage.ours) == 1

    def test_nothing_is_revoked_while_a_policy_is_paused(self, stage: Stage) -> None:
        """An order says so at once, and leaves nothing behind that would take effect later."""
        assert stage.rotator("apply").status == 0
        assert stage.rotator("pause").out == "paused: ci\n"
        (key,) = stage.ours
        ended = stage.rotator("revoke", str(key), "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert "policy ci is paused" in ended.err
        assert "rotator resume ci" in ended.err
        assert stage.rotator("resume").out == "resumed: ci\n"
        assert stage.rotator("apply").status == 0
        assert stage.ours == [key]

    def test_a_service_stops_and_goes_on_within_seconds(self, a_stage: Callable[..., Stage]) -> None:
        """One policy or all; the others go on meanwhile."""
        stage = a_stage(
            """
sinks:
  app: {type: file, path: app.env, format: dotenv, variable: NEON_API_KEY}
  raw: {type: file, path: raw.key}
policies:
  ci: {rotate: {every: 2s}, grace_period: 1s, hold: {while_old_key_used_within: 0s}, deliver_to: [app]}
  web: {rotate: {every: 2s}, grace_period: 1s, hold: {while_old_key_used_within: 0s}, deliver_to: [raw]}
"""
        )
        service = stage.serve()
        service.wait_for("api_key.revoked", policy="ci")
        assert stage.rotator("pause", "ci").status == 0
        service.wait_for("rotation.live", times=len(service.told("rotation.live", policy="web")) + 2, policy="web")
        quiet = counts(stage, "ci")
        service.wait_for("api_key.revoked", times=len(service.told("api_key.revoked", policy="web")) + 2, policy="web")
        assert counts(stage, "ci") == quiet
        assert stage.rotator("pause").out == "paused: ci, web\n"
        assert stage.rotator("resume", "ci").status == 0
        made = quiet[0]
        until(lambda: counts(stage, "ci")[0] >= made + 2, PATIENCE)

    def test_a_hand_off_under_way_is_ended_while_paused(self, a_stage: Callable[..., Stage]) -> None:
        """Pausing stops creations and revocations, not what somebody already waits for."""
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = lambda _: Reply(500)
        stage.configure(a_hook(receiver.url))
        service = stage.serve(ready=False)
        until(lambda: receiver.requests, PATIENCE)
        assert stage.rotator("pause", "ci").status == 0
        receiver.reply = lambda _: Reply(204)
        service.wait_for("rotation.live")

    def test_what_the_configuration_paused_stays_paused(self, stage: Stage) -> None:
        """`resume` says so, and ends with 1."""
        stage.configure(ONE_POLICY.replace("deliver_to", "paused: true, deliver_to"))
        ended = stage.rotator("resume", "ci")
        assert ended.status == 1
        assert "paused: true in the configuration" in ended.err

    def test_an_unknown_policy_is_a_mistake(self, stage: Stage) -> None:
        for command in ("pause", "resume"):
            ended = stage.rotator(command, "cii")
            assert ended.status == 2
            assert "there is no policy cii; there are: ci" in ended.err
        assert not stage.state.exists()


def counts(stage: Stage, policy: str) -> tuple[int, int]:
    """How many keys of a policy were created and revoked so far."""
    made = [key for key in (*stage.neon.keys(), *stage.neon.revoked()) if key.name.startswith(f"{policy}-")]
    return len(made), sum(1 for key in made if key.revoked_at is not None)


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
        assert stage.rotator("apply").status == 0
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
