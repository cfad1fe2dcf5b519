"""Every call against every fault: what the caller is told, and how many requests were sent.

The sandbox plays the faults of Neon and the network, a raw socket what it cannot. Pauses take no time here.
"""

from __future__ import annotations

import gzip
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from neon_bench import Behaviour, Bench, RudeServer, a_bench, drips, pours, resets, says, sends
from sinks.builders import Receiver

from rotator.errors import KeyRefused, NeedsPerson, OutcomeUnknown, RotatorError, TryLater
from rotator.model import Check, Scope
from rotator.neon import Neon
from rotator.sandbox import Sandbox
from rotator.secret import Secret

KEY = "napi_management"
SECRET = "napi_" + "s3cr3t" * 4
CREATED = b'{"id": 7, "name": "a", "created_at": "2026-11-23T04:05:50Z", "key": "%s"}' % SECRET.encode()
REVOKED = b'{"id": 7, "revoked": true}'

EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"  # of a gzip stream: more input, and still no output

CALLS: dict[str, Callable[[Neon], object]] = {
    "list": lambda neon: neon.list_keys("personal"),
    "whoami": lambda neon: neon.whoami(),
    "check": lambda neon: neon.check_key(Secret(SECRET)),
    "create": lambda neon: neon.create_key(Scope(), "a"),
    "revoke": lambda neon: neon.revoke_key("personal", 7),
}

# What the caller is told, and after how many requests: for the two reading calls, the check, POST and DELETE.
Ends = type[RotatorError] | Check
Row = tuple[tuple[Ends, int], tuple[Ends, int], tuple[Ends, int], tuple[Ends, int]]

PASSING: Row = ((TryLater, 3), (Check.INCONCLUSIVE, 1), (TryLater, 3), (TryLater, 3))
BROKEN: Row = ((TryLater, 3), (Check.INCONCLUSIVE, 1), (OutcomeUnknown, 1), (OutcomeUnknown, 1))
UNREADABLE: Row = ((TryLater, 1), (Check.INCONCLUSIVE, 1), (OutcomeUnknown, 1), (OutcomeUnknown, 1))
REFUSED: Row = ((NeedsPerson, 1), (Check.INCONCLUSIVE, 1), (NeedsPerson, 1), (NeedsPerson, 1))
UNSURE: Row = ((NeedsPerson, 1), (Check.INCONCLUSIVE, 1), (OutcomeUnknown, 1), (OutcomeUnknown, 1))
NOT_THE_KEY: Row = ((KeyRefused, 1), (Check.REFUSED, 4), (KeyRefused, 1), (KeyRefused, 1))

SANDBOX_FAULTS: dict[str, tuple[dict[str, object], Row]] = {
    "a lost answer": ({"fault": "lost_answer"}, BROKEN),
    "a lost request": ({"fault": "lost_request"}, BROKEN),
    "500 before the effect": ({"fault": "error_before"}, BROKEN),
    "500 after the effect": ({"fault": "error_after"}, BROKEN),
    "502": ({"fault": "error_after", "status": 502}, BROKEN),
    "504": ({"fault": "error_after", "status": 504}, BROKEN),
    "423": ({"fault": "locked"}, PASSING),
    "429": ({"fault": "rate_limited"}, PASSING),
    "429 with Retry-After": ({"fault": "rate_limited", "retry_after": 3}, PASSING),
    "503": ({"fault": "unavailable"}, PASSING),
    "503 with Retry-After": ({"fault": "unavailable", "retry_after": 3}, PASSING),
    "503 with a Retry-After that is none": ({"fault": "unavailable", "retry_after": "soon"}, PASSING),
    "429 with a Retry-After of an hour": (
        {"fault": "rate_limited", "retry_after": 3600},
        ((TryLater, 1), (Check.INCONCLUSIVE, 1), (TryLater, 1), (TryLater, 1)),
    ),
    "HTML in place of JSON": ({"fault": "malformed"}, UNREADABLE),
    "wrong types": ({"fault": "wrong_type"}, UNREADABLE),
    "401": ({"fault": "refused"}, NOT_THE_KEY),
    "400": ({"fault": "error_before", "status": 400}, REFUSED),
    "403": ({"fault": "error_before", "status": 403}, REFUSED),
    "404 that says something else": ({"fault": "error_before", "status": 404}, REFUSED),
    "422": ({"fault": "error_before", "status": 422}, REFUSED),
    "408": ({"fault": "error_before", "status": 408}, UNREADABLE),
    "409": ({"fault": "error_before", "status": 409}, UNSURE),
    "no answer in time": ({"fault": "slow", "seconds": 0.8}, BROKEN),
}

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
RAW_FAULTS: dict[str, tuple[Behaviour, Row]] = {
    "a reset in place of an answer": (resets(), BROKEN),
    "a reset in the headers": (resets(HEAD), BROKEN),
    "a reset in the body": (resets(HEAD + b"Content-Length: 400\r\n\r\n[{"), BROKEN),
    "a body cut short": (sends(HEAD + b"Content-Length: 400\r\n\r\n[{"), BROKEN),
    "a chunk cut short": (sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n[{"), BROKEN),
    "a chunk of nonsense": (sends(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n[{"), BROKEN),
    "an end without a length": (sends(HEAD + b"\r\n[{"), UNREADABLE),
    "nonsense": (sends(b"\x00\x01\x02 nonsense\r\n\r\n"), BROKEN),
    "headers without end": (sends(HEAD + b"X: y\r\n" * 200), BROKEN),
    "what calls itself gzip": (says(b"[]", "200 OK", "Content-Encoding: gzip"), BROKEN),
    "an empty answer": (says(b""), UNREADABLE),
    "204": (says(b"", "204 No Content"), UNREADABLE),
    "not UTF-8": (says(b'[{"name": "\xff"}]'), UNREADABLE),
    "a number that is none": (says(b'{"id": NaN}'), UNREADABLE),
    "a number without end": (says(b'{"id": %s}' % (b"9" * 100_000)), UNREADABLE),
    "a nest without end": (says(b"[" * 500_000), UNREADABLE),
    "a redirect": (says(b"", "302 Found", "Location: http://127.0.0.1:1/"), REFUSED),
    "a redirect to nowhere": (says(b"", "307 Temporary Redirect", "Location: http://[::"), REFUSED),
    "a redirect after the effect": (says(b"", "303 See Other", "Location: /"), UNSURE),
    "404 of a web server": (says(b"<html>Not Found</html>", "404 Not Found"), REFUSED),
    "a broken 503": (sends(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 99\r\n\r\n"), PASSING),
    "a broken 401": (sends(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 99\r\n\r\n"), NOT_THE_KEY),
    "a broken 404": (sends(b"HTTP/1.1 404 Not Found\r\nContent-Length: 99\r\n\r\n"), BROKEN),
}


def matrix(faults: Mapping[str, tuple[object, Row]]) -> list[object]:
    place = {"list": 0, "whoami": 0, "check": 1, "create": 2, "revoke": 3}
    return [
        pytest.param(call, how, *row[place[call]], id=f"{call}: {fault}")
        for fault, (how, row) in faults.items()
        for call in CALLS
    ]


def chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    for inner in (error.__cause__, error.__context__):
        if inner is not None:
            yield from chain(inner)


def expect(bench: Bench, call: str, ends: Ends) -> None:
    """Make the call; it must end so, say what is wrong, and show no secret."""
    if isinstance(ends, Check):
        assert CALLS[call](bench.neon) is ends
        return
    with pytest.raises(ends) as caught:
        CALLS[call](bench.neon)
    assert type(caught.value) is ends
    assert [type(error) for error in chain(caught.value)] == [ends]
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value) + repr(caught.value.args)
    assert not any(word in shown for word in (KEY, SECRET, "s3cr3t", "Bearer", "<html", "internal server"))
    assert caught.value.problem
    assert caught.value.hint
    assert any(word in str(caught.value) for word in ("Neon", "127.0.0.1"))


@pytest.mark.parametrize(("call", "fault", "ends", "requests"), matrix(SANDBOX_FAULTS))
def test_fault(call: str, fault: dict[str, object], ends: Ends, requests: int, tmp_path: Path) -> None:
    with Sandbox([KEY, SECRET]) as sandbox:
        sandbox.fault(**{"times": None, **fault})  # type: ignore[arg-type]
        patience = 0.2 if fault["fault"] == "slow" else 5
        expect(a_bench(sandbox.url, tmp_path, KEY, timeout=(5, patience)), call, ends)
        sandbox.stop()
        assert len(sandbox.requests) == requests


@pytest.mark.parametrize(("call", "fault", "ends", "requests"), matrix(RAW_FAULTS))
def test_rude_fault(call: str, fault: Behaviour, ends: Ends, requests: int, tmp_path: Path) -> None:
    with RudeServer(fault) as server:
        expect(a_bench(server.url, tmp_path, KEY), call, ends)
        assert len(server.requests) == requests


@pytest.mark.parametrize("call", ["list", "whoami", "create"])
@pytest.mark.parametrize("passing", ["locked", "rate_limited", "unavailable"])
def test_a_fault_that_passes_is_not_even_noticed(call: str, passing: str, tmp_path: Path) -> None:
    with Sandbox([KEY]) as sandbox:
        sandbox.fault(passing, times=2)
        CALLS[call](a_bench(sandbox.url, tmp_path, KEY).neon)
        assert len(sandbox.requests) == 3
        assert len(sandbox.keys()) == (2 if call == "create" else 1)


@pytest.mark.parametrize("passing", ["locked", "rate_limited", "unavailable"])
def test_nor_in_a_revocation(passing: str, tmp_path: Path) -> None:
    with Sandbox([KEY]) as sandbox:
        key = sandbox.create_key("old")
        sandbox.fault(passing, times=2)
        a_bench(sandbox.url, tmp_path, KEY).neon.revoke_key("personal", key.id)
        assert [key.name for key in sandbox.revoked()] == ["old"]


def test_a_created_key_whose_answer_is_lost_is_created_once(tmp_path: Path) -> None:
    for fault in ("lost_answer", "error_after", "malformed", "wrong_type"):
        with Sandbox([KEY]) as sandbox:
            sandbox.fault(fault, on="create", times=None)
            expect(a_bench(sandbox.url, tmp_path, KEY), "create", OutcomeUnknown)
            assert [key.name for key in sandbox.keys()] == ["a", "management"]


class TestUnreachable:
    """Nothing was sent, and that is known."""

    def expect_all(self, url: str, tmp_path: Path, why: str) -> None:
        for call in CALLS:
            bench = a_bench(url, tmp_path, KEY, timeout=(0.5, 0.5))
            expect(bench, call, Check.INCONCLUSIVE if call == "check" else TryLater)
            if call == "create":
                with pytest.raises(TryLater, match=why):
                    CALLS[call](bench.neon)
            assert bench.neon.own_uses == ()

    def test_nobody_listens(self, tmp_path: Path) -> None:
        with Sandbox() as sandbox:
            url = sandbox.url
        self.expect_all(url, tmp_path, r"127\.0\.0\.1:\d+ refused the connection")

    def test_a_name_without_address(self, tmp_path: Path) -> None:
        self.expect_all("http://neon.invalid/api/v2", tmp_path, r"neon\.invalid has no address")

    def test_a_host_that_takes_no_connection(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            address = full.getsockname()
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            bench = a_bench(f"http://127.0.0.1:{address[1]}/api/v2", tmp_path, KEY, timeout=(0.2, 0.2))
            with pytest.raises(TryLater, match=r"did not take the connection within 0\.2 s"):
                bench.neon.create_key(Scope(), "a")
            for filler in fillers:
                filler.close()

    def test_no_tls_where_tls_is_expected(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            done = threading.Event()

            def answer_in_plain() -> None:
                listener.settimeout(0.1)
                while not done.is_set():
                    try:
                        connection, _ = listener.accept()
                    except TimeoutError:
                        continue
                    with connection:
                        connection.recv(65536)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=answer_in_plain)
            thread.start()
            try:
                url = f"https://127.0.0.1:{listener.getsockname()[1]}/api/v2"
                self.expect_all(url, tmp_path, "does not speak TLS as expected")
            finally:
                done.set()
                thread.join()

    @pytest.mark.parametrize("known", [False, True])
    @pytest.mark.fault(
        "Neon",
        "Something with a wrong certificate answers in Neon's place",
        "The management key is not sent. It is tried again with growing pauses, and nothing is created or revoked.",
    )
    def test_a_certificate_that_is_wrong(
        self, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, person_sees: Callable[[str], None]
    ) -> None:
        """Of an authority that nobody trusts, or for another name."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.2" if known else "127.0.0.1").configure_cert(context)
        if known:
            authority.cert_pem.write_to_path(tmp_path / "authority.pem")
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
        impostor = Receiver(tls=context)
        try:
            self.expect_all(
                f"https://127.0.0.1:{impostor.port}/api/v2", tmp_path, "TLS certificate that is not trusted"
            )
            with pytest.raises(TryLater) as failed:
                a_bench(f"https://127.0.0.1:{impostor.port}/api/v2", tmp_path, KEY).neon.list_keys("personal")
        finally:
            impostor.close()
        assert impostor.requests == []
        person_sees(str(failed.value))

    def test_a_proxy_that_refuses_the_tunnel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with RudeServer(says(b"no", "407 Proxy Authentication Required")) as proxy:
            monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@{proxy.address}")
            monkeypatch.setenv("no_proxy", "")
            self.expect_all("https://neon.invalid/api/v2", tmp_path, "cannot be reached through the proxy")

    def test_an_address_that_is_none(self, tmp_path: Path) -> None:
        self.expect_all("htp://127.0.0.1/api/v2", tmp_path, "could not be asked")


class TestTheDeadline:
    """A server that always sends a little in time for the next read does not hold a thread."""

    @pytest.mark.parametrize(
        "dripping",
        [
            drips(HEAD + b"X: "),
            drips(b""),
            drips(HEAD, b"X: y\r\n"),
            drips(HEAD + b"\r\n["),
            drips(HEAD + b"Content-Length: 100000\r\n\r\n["),
            drips(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            drips(HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"")[:10], EMPTY_BLOCK),
        ],
        ids=["a header", "the status", "headers", "the body", "a measured body", "chunks", "gzip"],
    )
    def test_it_ends_a_drip(self, dripping: Behaviour, tmp_path: Path) -> None:
        with RudeServer(dripping) as server:
            began = time.monotonic()
            expect(a_bench(server.url, tmp_path, KEY, timeout=(0.2, 0.2)), "create", OutcomeUnknown)
            assert time.monotonic() - began < 5
            assert len(server.requests) == 1

    def test_a_list_that_drips_is_to_be_tried_later(self, tmp_path: Path) -> None:
        with RudeServer(drips(HEAD + b"\r\n[")) as server:
            expect(a_bench(server.url, tmp_path, KEY, timeout=(0.1, 0.2)), "list", TryLater)
            assert len(server.requests) == 3

    def test_no_timer_outlives_its_call(self, tmp_path: Path) -> None:
        with Sandbox([KEY]) as sandbox:
            a_bench(sandbox.url, tmp_path, KEY, timeout=(5, 3600)).neon.whoami()
            timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
            assert all(timer.join(5) is None and not timer.is_alive() for timer in timers)  # type: ignore[func-returns-value]


class TestSize:
    @pytest.mark.parametrize(("call", "ends"), [("whoami", TryLater), ("create", OutcomeUnknown), ("list", TryLater)])
    def test_an_answer_that_is_too_large_is_not_read_to_its_end(self, call: str, ends: Ends, tmp_path: Path) -> None:
        with RudeServer(pours(80)) as server:
            expect(a_bench(server.url, tmp_path, KEY), call, ends)

    def test_nor_is_one_that_is_too_large_once_unpacked(self, tmp_path: Path) -> None:
        packed = gzip.compress(b"[" + b" " * (100 * 2**20))
        with RudeServer(says(packed, "200 OK", "Content-Encoding: gzip")) as server:
            bench = a_bench(server.url, tmp_path, KEY)
            with pytest.raises(OutcomeUnknown, match="answered with more than 1048576 bytes"):
                bench.neon.create_key(Scope(), "a")

    def test_a_large_list_that_is_one_is_read(self, tmp_path: Path) -> None:
        with RudeServer(
            says(gzip.compress(b"[" + b" " * (50 * 2**20) + b"]"), "200 OK", "Content-Encoding: gzip")
        ) as s:
            assert a_bench(s.url, tmp_path, KEY).neon.list_keys("personal").keys == {}


class TestSurprises:
    """A success that does not say what it should."""

    @pytest.mark.parametrize(
        ("call", "body"),
        [
            ("create", CREATED.replace(b'"id"', b'"ID"')),
            ("create", CREATED.replace(b'"key"', b'"Key"')),
            ("create", CREATED.replace(b"2026-11-23", b"today")),
            ("create", CREATED[:-1] + b', "project_id": "another"}'),
            ("create", b'{"message": "choose another unique name for api key"}'),
            ("revoke", b'{"id": 8, "revoked": true}'),
            ("revoke", b'{"id": 7, "revoked": false}'),
            ("revoke", b'{"id": 7}'),
        ],
    )
    def test_is_an_outcome_unknown(self, call: str, body: bytes, tmp_path: Path) -> None:
        with RudeServer(says(body)) as server:
            expect(a_bench(server.url, tmp_path, KEY), call, OutcomeUnknown)

    @pytest.mark.parametrize("status", ["400 Bad Request", "409 Conflict", "422 Unprocessable Entity", "404 Not Found"])
    def test_a_taken_name_is_an_outcome_unknown_whatever_the_status(self, status: str, tmp_path: Path) -> None:
        body = b'{"message": "Choose another unique name for API key", "code": ""}'
        with RudeServer(says(body, status)) as server:
            expect(a_bench(server.url, tmp_path, KEY), "create", OutcomeUnknown)

    def test_what_is_not_asked_for_is_ignored(self, tmp_path: Path) -> None:
        with RudeServer(says(CREATED[:-1] + b', "project_id": null, "x": [{}]}')) as server:
            key, secret = a_bench(server.url, tmp_path, KEY).neon.create_key(Scope("o", "p"), "a")
            assert (key.id, key.project, secret) == (7, None, Secret(SECRET))
        with RudeServer(says(REVOKED)) as server:
            a_bench(server.url, tmp_path, KEY).neon.revoke_key("personal", 7)


class TestTheRateLimit:
    def test_every_request_takes_a_turn(self, tmp_path: Path) -> None:
        with Sandbox([KEY]) as sandbox:
            sandbox.fault("unavailable", times=2)
            bench = a_bench(sandbox.url, tmp_path, KEY, per_minute=19)  # one in some 3 s, and no burst
            bench.neon.whoami()
            assert sum(bench.time.waited) >= 2 * 3

    def test_patience_bounds_the_wait_for_a_turn(self, tmp_path: Path) -> None:
        with Sandbox([KEY]) as sandbox:
            bench = a_bench(sandbox.url, tmp_path, KEY, per_minute=1)
            bench.neon.whoami()
            with pytest.raises(TryLater, match="limit of requests") as refusal:
                bench.neon.revoke_key("personal", 7, patience=2)
            assert refusal.value.retry_after is not None
            assert len(sandbox.requests) == 1

    def test_a_429_holds_back_everybody(self, tmp_path: Path) -> None:
        with Sandbox([KEY]) as sandbox:
            sandbox.fault("rate_limited", on="create", retry_after=40)
            bench = a_bench(sandbox.url, tmp_path, KEY)
            with pytest.raises(TryLater) as refusal:
                bench.neon.create_key(Scope(), "a")
            assert refusal.value.retry_after == timedelta(seconds=40)
            with pytest.raises(TryLater, match="asked for a pause"):
                bench.neon.revoke_key("personal", 7, patience=30)
            bench.neon.whoami()
            assert sum(bench.time.waited) >= 39

    def test_a_retry_after_of_ten_seconds_is_waited_for(self, tmp_path: Path) -> None:
        for fault in ("rate_limited", "unavailable"):
            with Sandbox([KEY]) as sandbox:
                sandbox.fault(fault, retry_after=10)
                bench = a_bench(sandbox.url, tmp_path, KEY)
                bench.neon.create_key(Scope(), "a")
                assert sum(bench.time.waited) >= 9.9

    @pytest.mark.parametrize("call", ["list", "create", "revoke"])
    def test_stopping_ends_the_pauses(self, call: str, tmp_path: Path) -> None:
        with Sandbox([KEY]) as sandbox:
            sandbox.fault("unavailable", times=None)
            bench = a_bench(sandbox.url, tmp_path, KEY)
            bench.time.wait = lambda timeout=None: bench.time.set() or True  # type: ignore[method-assign,func-returns-value]
            with pytest.raises(TryLater, match="the service is stopping"):
                CALLS[call](bench.neon)
            assert len(sandbox.requests) == 1


def test_what_the_libraries_log_holds_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Sandbox([KEY, SECRET]) as sandbox:
        sandbox.fault("lost_answer", on="create")
        bench = a_bench(sandbox.url, tmp_path, KEY)
        for call in ("list", "check", "whoami"):
            CALLS[call](bench.neon)
        expect(bench, "create", OutcomeUnknown)
    assert KEY not in caplog.text
    assert SECRET not in caplog.text
