"""Every command that acts: `apply`, `rotate`, `revoke`, `pause` and `resume`, beside a service and without one."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable

import pytest
from sinks.builders import Reply, Request, until

from .stage import ONE_POLICY, PATIENCE, Stage

RAW = "  raw: {type: file, path: raw.key}\n  app:"


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

    @pytest.mark.fault(
        "Sinks",
        "A webhook answers 500",
        "The hand-off is tried again with the same key; a key whose secret is lost with the process is replaced.",
    )
    def test_a_sink_that_is_down_is_retried_until_the_time_is_over(
        self, a_stage: Callable[..., Stage], person_sees: Callable[[str], None]
    ) -> None:
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
        person_sees(policy["last_error"])

    def test_a_sink_that_comes_back_in_time_gets_the_same_key(self, a_stage: Callable[..., Stage]) -> None:
        """The secret is kept in hand while it is retried."""
        stage = a_stage()
        receiver = stage.receiver()
        receiver.reply = lambda _: Reply(503 if len(receiver.requests) < 3 else 204)
        stage.configure(a_hook(receiver.url))
        assert stage.rotator("apply", "--timeout", "1m").status == 0
        assert len(receiver.requests) == 3
        assert len(stage.ours) == 1

    @pytest.mark.fault("Sinks", "A file sink's folder is not there", "It is found out before Neon is asked for a key.")
    def test_a_sink_that_is_plainly_down_costs_no_key(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """As a folder that is not there."""
        stage.configure(ONE_POLICY.replace("app.env", "nowhere/app.env"))
        ended = stage.rotator("apply", "--timeout", "2s")
        assert ended.status == 1
        assert "sink app is not ready" in ended.err
        assert "create its folder" in ended.err
        assert stage.created() == 0
        person_sees(stage.policy()["last_error"])

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

    @pytest.mark.fault(
        "People",
        "Two configurations with different policies are used with one state in turn",
        "The other's policies are abandoned while it is away: their keys are left alone, and taken up again after.",
    )
    def test_two_configurations_with_one_state(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """At the same time they cannot be used: the second is refused as a second service is."""
        stage.settle()
        (first,) = stage.ours
        stage.configure(ONE_POLICY.replace("  ci:", "  web:").replace("app.env", "web.env"))
        stage.settle()
        assert stage.works(stage.app())
        abandoned = next(entry for entry in stage.status()["policies"] if entry["policy"] == "ci")
        assert abandoned["live"]["id"] == first
        person_sees(f"{abandoned['policy']} {abandoned['state']}: {abandoned['next']['why']}")
        stage.configure(ONE_POLICY)
        stage.settle()
        assert stage.policy()["state"] == "ok"
        assert stage.policy()["live"]["id"] == first
        assert len(stage.ours) == 2

    @pytest.mark.fault(
        "Sinks",
        "A receiver of `notify` is slow to take what waits for it while apply runs",
        "What is due is done; it ends soon after its time, with 0, and what was not told stays in the state.",
    )
    def test_a_slow_receiver_of_events_does_not_keep_it(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        receiver = stage.receiver()
        go_on = threading.Event()

        def reply(_: Request) -> Reply:
            go_on.wait(PATIENCE)
            return Reply(204)

        receiver.reply = reply
        ops = f'  ops: {{type: webhook, url: "{receiver.url}", signing_secret: {{file: signing}}, timeout: 1m}}'
        stage.configure(ONE_POLICY.replace("policies:", f"{ops}\nnotify: [ops]\npolicies:"))
        began = time.monotonic()
        assert stage.rotator("apply", "--timeout", "1s").status == 0
        assert time.monotonic() - began < 30, "the receiver may take a minute"
        assert stage.works(stage.app())
        go_on.set()
        taken = len(receiver.requests)
        assert stage.rotator("apply").status == 0
        until(lambda: len(receiver.requests) > taken)
        person_sees(receiver.requests[-1].json["data"]["why"])

    @pytest.mark.fault("Process", "apply is run beside a running service", "It ends with 1 before it does anything.")
    def test_beside_a_service_it_gives_way(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """It names the process that holds the state."""
        service = stage.serve()
        ended = stage.rotator("apply")
        assert (ended.status, ended.out) == (1, "")
        assert f"process {service.pid} " in ended.err
        assert "rotator run" in ended.err
        person_sees(ended.err)


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
        stage.settle()
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

    @pytest.mark.fault(
        "People",
        "The service dies while rotate --wait waits for it",
        "The command ends with 1; the rotation is taken up at the next start.",
    )
    def test_with_wait_it_does_not_wait_for_a_service_that_is_gone(
        self, a_stage: Callable[..., Stage], person_sees: Callable[[str], None]
    ) -> None:
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
        person_sees(ended.err)

    @pytest.mark.fault(
        "Sinks",
        "A webhook answers 410",
        "No key is made for it any more until its settings change or a rotation is ordered.",
    )
    def test_with_wait_it_does_not_wait_for_what_needs_a_person(
        self, a_stage: Callable[..., Stage], person_sees: Callable[[str], None]
    ) -> None:
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
        person_sees(ended.err)

    @pytest.mark.fault(
        "People",
        "A rotation is ordered of a policy that the running service has not loaded",
        "The order is refused with 1 and what to do; nothing is recorded.",
    )
    def test_a_policy_that_the_service_has_not_loaded(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """As when the file was edited without a reload. Once it is loaded, the order is taken."""
        service = stage.serve()
        stage.configure(f"{ONE_POLICY}  web: {{rotate: {{every: 30d}}, deliver_to: [raw]}}\n".replace("  app:", RAW))
        ended = stage.rotator("rotate", "web", "--wait")
        assert (ended.status, ended.out) == (1, "")
        person_sees(ended.err)
        service.signal(signal.SIGHUP)
        service.wait_for("rotation.live", policy="web")
        assert stage.rotator("rotate", "web", "--wait").status == 0

    @pytest.mark.fault(
        "People",
        "A rotation is ordered that cannot begin now",
        "The order stands for an hour, and the command ends with 1.",
    )
    def test_an_order_that_the_service_cannot_begin_ends_with_1(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
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
        person_sees(ended.err)

    def test_leaked_revokes_the_old_key_at_the_last_receipt(self, stage: Stage) -> None:
        """Not before: whoever uses it is not left without one."""
        stage.settle()
        ended = stage.rotator("rotate", "ci", "--leaked")
        assert ended.status == 0
        (new,) = stage.ours
        assert stage.app() == stage.neon.secret_of(new)
        assert [r.method for r in stage.neon.requests if r.method in ("POST", "DELETE")] == ["POST", "POST", "DELETE"]

    @pytest.mark.fault(
        "Neon",
        "Neon answers 500 to the revocation of a leaked key",
        "The command ends with 1, though the new key is live; it is tried again for ever.",
    )
    def test_a_leaked_key_that_is_not_revoked_yet_is_not_passed_over(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
        """The new key is live, and the one that leaked still works: that is a failure."""
        stage.settle()
        (old,) = stage.ours
        stage.neon.fault("error_before", on="revoke", times=None)
        ended = stage.rotator("rotate", "ci", "--leaked")
        assert ended.status == 1
        assert f"key {old}" in ended.err.splitlines()[-1]
        assert "not revoked yet" in ended.err.splitlines()[-1]
        person_sees(ended.err.splitlines()[-1])

    def test_leaked_now_needs_a_yes(self, stage: Stage) -> None:
        """Without a terminal it is a mistake to leave it out; with it, the old key goes first."""
        stage.settle()
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
        stage.settle()
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
        stage.settle()
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

    def test_a_policy_that_the_service_does_not_know_by_its_new_name_yet(self, stage: Stage) -> None:
        """The order reaches the service under the name that it knows."""
        stage.serve()
        (live,) = stage.ours
        stage.config.write_text(stage.config.read_text().replace("  ci: {", "  other: {renamed_from: ci, "))
        ended = stage.rotator("revoke", str(live), "--yes")
        assert ended.status == 0
        assert "policy other owns it: the live key" in ended.err
        assert live not in stage.ours

    def test_a_key_of_nobody_is_revoked_only_if_that_is_said(self, stage: Stage) -> None:
        """Without --unmanaged it is refused, and nothing happens."""
        stage.settle()
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

    @pytest.mark.fault("People", "A key that is not there is to be revoked", "Nothing happens, with 1.")
    def test_a_key_that_is_not_there_cannot_be_revoked(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        ended = stage.rotator("revoke", "7", "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert "there is no key 7" in ended.err
        assert "rotator keys" in ended.err
        person_sees(ended.err)

    @pytest.mark.fault(
        "People", "A key is to be revoked without a terminal and without --yes", "Nothing happens, with 2."
    )
    def test_without_a_terminal_it_needs_a_yes(self, stage: Stage, person_sees: Callable[[str], None]) -> None:
        """It still says what it would have revoked."""
        stage.settle()
        (key,) = stage.ours
        ended = stage.rotator("revoke", str(key))
        assert (ended.status, ended.out) == (2, "")
        assert f"Key {key} " in ended.err
        assert "--yes" in ended.err
        assert stage.ours == [key]
        person_sees(ended.err.splitlines()[-1])

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
        stage.settle()
        (key,) = stage.ours
        stage.neon.fault("error_before", on="revoke", times=None)
        ended = stage.rotator("revoke", str(key), "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert f"key {key} is not revoked yet: Neon did not confirm" in ended.err.splitlines()[-1]

    def test_a_key_that_was_taken_for_gone_once_is_not_told_as_revoked(self, stage: Stage) -> None:
        """When it was found again, and Neon refuses to revoke it."""
        stage.settle()
        (old,) = stage.ours
        assert stage.rotator("rotate", "ci").status == 0

        def has_settled(event: str) -> bool:
            stage.settle()
            return event in stage.events()

        stage.neon.fault("partial_list", on="list", omit=[old], times=None)
        until(lambda: has_settled("key.gone"), PATIENCE)
        stage.neon.clear_faults()
        until(lambda: has_settled("key.orphaned"), PATIENCE)
        stage.neon.fault("error_before", on="revoke", times=None)
        ended = stage.rotator("revoke", str(old), "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert f"key {old} is not revoked yet: Neon did not confirm" in ended.err.splitlines()[-1]
        assert old in stage.ours

    @pytest.mark.fault(
        "Neon",
        "Neon answers 500 to an ordered revocation of a key that no policy owns",
        "The order lapses at once, with 1: nobody else would know of it.",
    )
    def test_a_key_of_nobody_that_the_service_cannot_revoke_is_told_at_once(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
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
        person_sees(ended.err.splitlines()[-1])


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

    @pytest.mark.fault(
        "People",
        "A key of a paused policy is to be revoked",
        "Nothing happens, with 1, and nothing is left that would take effect later.",
    )
    def test_nothing_is_revoked_while_a_policy_is_paused(
        self, stage: Stage, person_sees: Callable[[str], None]
    ) -> None:
        """An order says so at once, and leaves nothing behind that would take effect later."""
        stage.settle()
        assert stage.rotator("pause").out == "paused: ci\n"
        (key,) = stage.ours
        ended = stage.rotator("revoke", str(key), "--yes")
        assert (ended.status, ended.out) == (1, "")
        assert "policy ci is paused" in ended.err
        assert "rotator resume ci" in ended.err
        assert stage.rotator("resume").out == "resumed: ci\n"
        assert stage.rotator("apply").status == 0
        assert stage.ours == [key]
        person_sees(ended.err.splitlines()[-1])

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
