"""Neon's API through the adapter, over real HTTP against the sandbox: what works, and what is understood."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from neon_bench import Bench, RudeServer, a_bench, a_reference, says

from rotator.clock import NeonClock
from rotator.errors import KeyNotFound, KeyRefused, NeedsPerson, OutcomeUnknown, TryLater
from rotator.fields import SecretRef
from rotator.model import Check, Key, Scope
from rotator.neon import Account, Neon
from rotator.rate import RateLimit
from rotator.sandbox import Sandbox
from rotator.secret import Secret

ORG = "org-sandbox"
PROJECT = "sandbox-project"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def bench(sandbox: Sandbox, tmp_path: Path) -> Bench:
    return a_bench(sandbox.url, tmp_path, sandbox.management_key)


def sent(sandbox: Sandbox) -> list[tuple[str, str, int | None]]:
    return [(record.method, record.path, record.status) for record in sandbox.requests]


class TestCalls:
    @pytest.mark.parametrize("scope", [Scope(), Scope(ORG), Scope(ORG, PROJECT)], ids=str)
    def test_a_key_lives_from_its_creation_to_its_revocation(
        self, sandbox: Sandbox, bench: Bench, scope: Scope
    ) -> None:
        key, secret = bench.neon.create_key(scope, "ci-20261123T040550Z-d233f1")
        assert secret == Secret(sandbox.secret_of(key.id))
        assert (key.name, key.project) == ("ci-20261123T040550Z-d233f1", scope.project)
        listed = bench.neon.list_keys(scope.account)
        assert listed.account == scope.account
        assert listed.keys[key.id] == key
        assert bench.neon.check_key(secret) is Check.PASSED
        used = bench.neon.list_keys(scope.account).keys[key.id]
        assert used.last_used_from == ("127.0.0.1",)
        assert used.last_used_at is not None
        bench.neon.revoke_key(scope.account, key.id)
        assert key.id not in bench.neon.list_keys(scope.account).keys
        assert bench.neon.check_key(secret) is Check.REFUSED

    def test_the_routes_are_neons_own(self, sandbox: Sandbox, bench: Bench) -> None:
        for account in ("personal", ORG):
            key, _ = bench.neon.create_key(Scope(None if account == "personal" else ORG), "a")
            bench.neon.revoke_key(account, key.id)
            base = "/api_keys" if account == "personal" else f"/organizations/{ORG}/api_keys"
            assert sent(sandbox)[-2:] == [("POST", base, 200), ("DELETE", f"{base}/{key.id}", 200)]

    def test_whoami_tells_whose_key_it_is(self, bench: Bench) -> None:
        account = bench.neon.whoami()
        assert account.auth_method == "api_key_user"
        assert account.account_id

    def test_a_revoked_key_is_not_found(self, sandbox: Sandbox, bench: Bench) -> None:
        key = sandbox.create_key("gone")
        bench.neon.revoke_key("personal", key.id)
        with pytest.raises(KeyNotFound, match=f"no key {key.id} in personal"):
            bench.neon.revoke_key("personal", key.id)

    def test_a_name_that_is_taken_means_that_an_earlier_request_may_have_worked(
        self, sandbox: Sandbox, bench: Bench
    ) -> None:
        sandbox.create_key("taken")
        with pytest.raises(OutcomeUnknown, match="the name taken is taken"):
            bench.neon.create_key(Scope(), "taken")

    def test_thousands_of_keys_are_one_list(self, sandbox: Sandbox, bench: Bench) -> None:
        for number in range(2000):
            sandbox.create_key(f"key-{number}", organization=ORG)
        assert len(bench.neon.list_keys(ORG).keys) == 2000

    def test_calls_from_many_threads_do_not_disturb_each_other(self, sandbox: Sandbox, bench: Bench) -> None:
        made: list[tuple[Key, Secret]] = []

        def work(number: int) -> None:
            made.append(bench.neon.create_key(Scope(), f"thread-{number}"))
            bench.neon.list_keys("personal")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 8
        for key, secret in made:
            assert Secret(sandbox.secret_of(key.id)) == secret

    def test_every_request_is_counted_by_method_and_outcome(self, sandbox: Sandbox, bench: Bench) -> None:
        sandbox.fault("unavailable", on="list")
        sandbox.fault("lost_answer", on="create")
        bench.neon.list_keys("personal")
        with pytest.raises(OutcomeUnknown):
            bench.neon.create_key(Scope(), "a")
        assert bench.neon.calls == {("GET", 503): 1, ("GET", 200): 1, ("POST", "broken"): 1}


class TestTheRequest:
    """What goes over the wire, and what does not."""

    def heads(self, tmp_path: Path) -> list[bytes]:
        with RudeServer(says(b"[]", "200 OK", "Set-Cookie: a=b; Path=/")) as server:
            bench = a_bench(server.url, tmp_path, "napi_short")
            bench.neon.list_keys("personal")
            bench.neon.list_keys("personal")
            with pytest.raises(OutcomeUnknown):
                bench.neon.create_key(Scope(ORG, PROJECT), "na\u00efve")
            return server.requests

    def test_it_names_the_program_and_keeps_no_cookies(self, tmp_path: Path) -> None:
        for request in self.heads(tmp_path):
            assert b"\r\nUser-Agent: rotator/0." in request
            assert b"cookie" not in request.lower()

    def test_a_netrc_does_not_replace_the_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login other password wrong\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for request in self.heads(tmp_path):
            assert request.count(b"Authorization:") == 1
            assert b"\r\nAuthorization: Bearer napi_short\r\n" in request

    def test_a_project_is_asked_for_in_the_body(self, tmp_path: Path) -> None:
        body = self.heads(tmp_path)[-1].partition(b"\r\n\r\n")[2]
        assert json.loads(body) == {"key_name": "na\u00efve", "project_id": PROJECT}

    def test_a_proxy_of_the_environment_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with RudeServer(says(b"[]")) as proxy:
            monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
            monkeypatch.setenv("no_proxy", "")
            a_bench("http://neon.invalid/api/v2/", tmp_path, "napi_short").neon.list_keys("personal")
            assert proxy.requests[0].startswith(b"GET http://neon.invalid/api/v2/api_keys HTTP/1.1\r\n")

    def test_an_account_cannot_leave_its_place_in_the_path(self, tmp_path: Path) -> None:
        with RudeServer(says(b"[]")) as server:
            a_bench(server.url, tmp_path, "napi_short").neon.list_keys("../../x?y")
            assert server.requests[0].startswith(b"GET /api/v2/organizations/..%2F..%2Fx%3Fy/api_keys HTTP/1.1\r\n")


class TestTime:
    """A list carries the time at which it was asked for, and our own uses are known, all in Neon's time."""

    def test_the_first_list_is_in_neons_time_though_it_was_asked_for_before_that_was_known(
        self, sandbox: Sandbox, bench: Bench
    ) -> None:
        sandbox.set_clock(-86_400)
        listed = bench.neon.list_keys("personal")
        assert timedelta(0) <= sandbox.clock() - listed.requested_at < timedelta(seconds=3)
        assert bench.clock.distrust == ""
        assert bench.clock.skew() is not None

    def test_a_slow_answer_does_not_make_the_list_younger(self, sandbox: Sandbox, bench: Bench) -> None:
        bench.neon.whoami()
        before = bench.clock.now()
        sandbox.fault("slow", on="list", seconds=1.2)
        listed = bench.neon.list_keys("personal")
        assert listed.requested_at - before < timedelta(seconds=1)
        assert bench.clock.now() - listed.requested_at >= timedelta(seconds=1.2)

    def test_a_list_asked_for_after_a_creation_says_so(self, bench: Bench) -> None:
        bench.neon.create_key(Scope(), "a")
        ended = bench.clock.now()
        assert bench.neon.list_keys("personal").requested_at >= ended

    def test_a_jump_of_neons_clock_is_distrusted(self, sandbox: Sandbox, bench: Bench) -> None:
        bench.neon.whoami()
        sandbox.set_clock(7200)
        for distrusted in (True, True, False):
            bench.neon.whoami()
            assert bool(bench.clock.distrust) is distrusted

    def test_the_date_of_a_server_error_is_nobodys_time(self, sandbox: Sandbox, bench: Bench) -> None:
        bench.neon.whoami()
        sandbox.set_clock(7200)
        sandbox.fault("error_before", on="list", times=3)
        with pytest.raises(TryLater):
            bench.neon.list_keys("personal")
        assert bench.clock.distrust == ""

    def test_our_own_last_three_uses_contain_the_last_use_that_neon_lists(self, sandbox: Sandbox, bench: Bench) -> None:
        for _ in range(5):
            bench.neon.whoami()
        keys = bench.neon.list_keys("personal").keys
        uses = bench.neon.own_uses
        last = keys[sandbox.management_key_id].last_used_at
        assert last is not None
        assert len(uses) == 3
        assert any(start.replace(microsecond=0) <= last <= end for start, end in uses)
        assert list(uses) == sorted(uses)

    def test_a_call_that_may_not_have_counted_displaces_none_that_did(self, sandbox: Sandbox, bench: Bench) -> None:
        for _ in range(3):
            bench.neon.whoami()
        known = bench.neon.own_uses
        sandbox.fault("error_before", on="list", times=3)
        with pytest.raises(TryLater):
            bench.neon.list_keys("personal")
        assert bench.neon.own_uses[:3] == known
        assert len(bench.neon.own_uses) == 6
        for _ in range(3):
            bench.neon.whoami()
        assert len(bench.neon.own_uses) == 3

    def test_a_check_of_another_key_is_no_use_of_ours(self, sandbox: Sandbox, bench: Bench) -> None:
        other = sandbox.create_key("other")
        bench.neon.whoami()
        bench.neon.check_key(Secret(sandbox.secret_of(other.id)))
        assert len(bench.neon.own_uses) == 1


class TestTheManagementKey:
    """It is read again when its file changes, and when it is refused."""

    def another(self, sandbox: Sandbox) -> str:
        return sandbox.secret_of(sandbox.create_key("another").id)

    def test_nothing_is_read_before_the_first_call(self, tmp_path: Path) -> None:
        time_ = threading.Event()
        neon = Neon("http://x", a_reference(tmp_path / "absent"), NeonClock(), RateLimit(60, time_), time_)
        with pytest.raises(NeedsPerson, match="absent cannot be read: No such file"):
            neon.whoami()
        assert not neon.key_changed()
        neon.close()

    def test_a_changed_file_is_taken_up_before_the_next_request(self, sandbox: Sandbox, bench: Bench) -> None:
        bench.neon.whoami()
        another = self.another(sandbox)
        bench.key_file.write_text(another)
        sandbox.revoke_key(sandbox.management_key_id)
        bench.neon.whoami()
        assert bench.neon.management_key == Secret(another)
        assert [status for *_, status in sent(sandbox)] == [200, 200]

    def test_key_changed_says_whether_it_is_another(self, sandbox: Sandbox, bench: Bench) -> None:
        assert bench.neon.management_key == Secret(sandbox.management_key)
        assert not bench.neon.key_changed()
        bench.key_file.write_text(f"\n{sandbox.management_key}\n\n")
        assert not bench.neon.key_changed()
        bench.key_file.write_text(self.another(sandbox))
        assert bench.neon.key_changed()
        assert not bench.neon.key_changed()

    def test_a_new_key_has_no_uses_yet(self, sandbox: Sandbox, bench: Bench) -> None:
        bench.neon.whoami()
        bench.key_file.write_text(self.another(sandbox))
        assert bench.neon.key_changed()
        assert bench.neon.own_uses == ()

    @pytest.mark.parametrize("how", ["gone", "empty", "not text", "two words"])
    def test_a_file_that_cannot_be_read_for_the_moment_changes_nothing(
        self, sandbox: Sandbox, bench: Bench, how: str
    ) -> None:
        bench.neon.whoami()
        if how == "gone":
            bench.key_file.unlink()
        else:
            bench.key_file.write_bytes({"empty": b"", "not text": b"\xff\xfe", "two words": b"a b"}[how])
        bench.neon.whoami()
        bench.key_file.write_text(self.another(sandbox))
        assert bench.neon.key_changed()

    def test_a_refused_key_is_read_again_once_and_the_new_one_tried_at_once(
        self, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NEON_KEY", sandbox.management_key)
        reference = SecretRef.model_validate({"env": "NEON_KEY"})
        stop = threading.Event()
        neon = Neon(sandbox.url, reference, NeonClock(), RateLimit(600, stop), stop)
        neon.whoami()
        sandbox.revoke_key(sandbox.management_key_id)
        with pytest.raises(KeyRefused, match=r"management key \(environment variable NEON_KEY\)"):
            neon.create_key(Scope(), "a")
        assert [status for *_, status in sent(sandbox)] == [200, 401]
        monkeypatch.setenv("NEON_KEY", self.another(sandbox))
        neon.create_key(Scope(), "a")
        assert [status for *_, status in sent(sandbox)] == [200, 401, 401, 200]

    def test_a_new_key_that_is_refused_too_is_not_tried_for_ever(self, tmp_path: Path) -> None:
        writes = iter(range(1000))
        with Sandbox(observer=lambda _: (tmp_path / "neon-key").write_text(f"napi_{next(writes)}")) as sandbox:
            bench = a_bench(sandbox.url, tmp_path, "napi_wrong")
            with pytest.raises(KeyRefused):
                bench.neon.whoami()
            assert [status for *_, status in sent(sandbox)] == [401, 401]

    def test_an_organization_key_cannot_create_and_the_message_says_which_key_can(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        key = sandbox.create_key("org", organization=ORG)
        bench = a_bench(sandbox.url, tmp_path, sandbox.secret_of(key.id))
        assert len(bench.neon.list_keys(ORG).keys) == 1
        assert bench.neon.whoami() == Account(ORG, "api_key_org")
        with pytest.raises(NeedsPerson, match=r"neon\.api_key is an organization key; use a personal key"):
            bench.neon.create_key(Scope(ORG), "a")
        with pytest.raises(NeedsPerson, match=r"neon\.api_key is an organization key"):
            bench.neon.revoke_key("personal", sandbox.management_key_id)

    def test_a_project_key_can_do_nothing_and_a_404_to_a_delete_is_not_success(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        key = sandbox.create_key("project", organization=ORG, project=PROJECT)
        bench = a_bench(sandbox.url, tmp_path, sandbox.secret_of(key.id))
        for call in (bench.neon.list_keys, lambda account: bench.neon.revoke_key(account, key.id)):
            with pytest.raises(NeedsPerson, match="confined to one project"):
                call(ORG)

    def test_an_unknown_organization_asks_for_its_id(self, bench: Bench) -> None:
        with pytest.raises(NeedsPerson, match=r"check .* the ids of organization and project"):
            bench.neon.list_keys("org-unknown")


class TestCheck:
    def test_a_refusal_counts_when_repeated_over_some_seconds(self, sandbox: Sandbox, bench: Bench) -> None:
        assert bench.neon.check_key(Secret("napi_wrong")) is Check.REFUSED
        assert bench.time.waited == [1.0, 1.5, 2.5]
        assert len(sandbox.requests) == 4

    def test_a_key_that_works_after_a_moment_passes(self, sandbox: Sandbox, bench: Bench) -> None:
        sandbox.fault("refused", on="auth", times=3)
        assert bench.neon.check_key(Secret(sandbox.management_key)) is Check.PASSED

    def test_stopping_leaves_it_inconclusive(self, sandbox: Sandbox, bench: Bench) -> None:
        bench.time.set()
        assert bench.neon.check_key(Secret("napi_wrong")) is Check.INCONCLUSIVE
        assert not sandbox.requests
