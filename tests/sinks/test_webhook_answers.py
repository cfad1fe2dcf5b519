"""A webhook sink, against real receivers: friendly, slow, rude and false ones."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from rotator.errors import NeedsPerson, RotatorError, SinkGone, TryLater

from .builders import (
    Receiver,
    Reply,
    Request,
    SinkFor,
    a_raw_server,
    deliver,
    failure_of,
    until,
)

# The receipt


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_receipt(receiver: Receiver, sink_for: SinkFor, status: int) -> None:
    receiver.reply = lambda _: Reply(status)
    deliver(sink_for(receiver.url))


def test_an_ordinary_server_of_somebody_else_gives_its_receipt(httpserver: HTTPServer, sink_for: SinkFor) -> None:
    httpserver.expect_oneshot_request("/hooks/neon", method="POST").respond_with_json({"ok": True})
    deliver(sink_for(httpserver.url_for("/hooks/neon").replace("localhost", "127.0.0.1")))
    httpserver.check()


def echo_fingerprint(request: Request) -> Reply:
    return Reply(200, {}, json.dumps({"fingerprint": request.json["data"]["key"]["fingerprint"]}).encode())


def says(body: bytes) -> Callable[[Request], Reply]:
    return lambda _: Reply(200, {"Content-Type": "application/json"}, body)


@pytest.mark.parametrize(
    ("reply", "by_status", "by_fingerprint"),
    [
        pytest.param(echo_fingerprint, "", "", id="the key's"),
        pytest.param(says(b'{"fingerprint": "sha256:0123456789abcdef"}'), "another key", "another key", id="another's"),
        pytest.param(says(b'{"fingerprint": 7}'), "another key", "another key", id="a number"),
        pytest.param(says(b'{"ok": true}'), "", "without the fingerprint", id="none"),
        pytest.param(says(b'["fingerprint"]'), "", "without the fingerprint", id="no object"),
        pytest.param(says(b"thank you"), "", "without the fingerprint", id="no JSON"),
        pytest.param(says(b"[" * 60_000), "", "without the fingerprint", id="very deep JSON"),
        pytest.param(says(b"\xff\xfe"), "", "without the fingerprint", id="no text"),
        pytest.param(says(b" " * 200_000), "", "without the fingerprint", id="very long"),
        pytest.param(lambda _: Reply(204), "", "without the fingerprint", id="nothing"),
    ],
)
def test_a_fingerprint_in_the_answer_must_be_the_keys(
    receiver: Receiver, sink_for: SinkFor, reply: Callable[[Request], Reply], by_status: str, by_fingerprint: str
) -> None:
    receiver.reply = reply
    for receipt, problem in (("status", by_status), ("fingerprint", by_fingerprint)):
        sink = sink_for(receiver.url, receipt=receipt)
        if not problem:
            deliver(sink)
            continue
        failed = failure_of(sink)
        assert isinstance(failed, TryLater)
        assert problem in str(failed)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, sink_for: SinkFor, status: int) -> None:
    elsewhere = Receiver()
    receiver.reply = lambda _: Reply(status, {"Location": elsewhere.url})
    failed = failure_of(sink_for(receiver.url))
    elsewhere.close()
    assert isinstance(failed, NeedsPerson)
    assert "redirects are not followed" in str(failed)
    assert elsewhere.requests == []
    assert len(receiver.requests) == 1


def test_410_says_that_the_receiver_is_gone(receiver: Receiver, sink_for: SinkFor) -> None:
    receiver.reply = lambda _: Reply(410)
    assert isinstance(failure_of(sink_for(receiver.url)), SinkGone)
    with pytest.raises(SinkGone):
        sink_for(receiver.url).check(probe=True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 502, 503])
def test_every_other_answer_is_tried_again_and_named_by_its_status(
    receiver: Receiver, sink_for: SinkFor, status: int
) -> None:
    receiver.reply = lambda request: Reply(status, {"X-Echo": request.body.decode()}, request.body)
    failed = failure_of(sink_for(receiver.url))
    assert isinstance(failed, TryLater)
    assert f"127.0.0.1 answered {status}" in str(failed)
    assert failed.retry_after is None


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        pytest.param(lambda: "120", 120, 120, id="seconds"),
        pytest.param(lambda: "0", 0, 0, id="at once"),
        pytest.param(lambda: "999999999", 3600, 3600, id="longer than an hour"),
        pytest.param(
            lambda: format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True), 290, 300, id="date"
        ),
        pytest.param(lambda: "Wed, 21 Oct 2015 07:28:00 GMT", 0, 0, id="a date that has passed"),
        pytest.param(lambda: "Wed, 21 Oct 2215 07:28:00 -0000", 3600, 3600, id="a date far away, without a zone"),
    ],
)
def test_retry_after_is_respected_up_to_an_hour(
    receiver: Receiver, sink_for: SinkFor, status: int, header: Callable[[], str], least: int, most: int
) -> None:
    receiver.reply = lambda _: Reply(status, {"Retry-After": header()})
    failed = failure_of(sink_for(receiver.url))
    assert isinstance(failed, TryLater)
    assert failed.retry_after is not None
    assert least <= failed.retry_after.total_seconds() <= most


@pytest.mark.parametrize(("status", "header"), [(503, "soon"), (503, "-5"), (503, "Wed, 99 Foo 2015"), (500, "5")])
def test_a_retry_after_that_means_nothing_is_none(
    receiver: Receiver, sink_for: SinkFor, status: int, header: str
) -> None:
    receiver.reply = lambda _: Reply(status, {"Retry-After": header})
    failed = failure_of(sink_for(receiver.url))
    assert isinstance(failed, TryLater)
    assert failed.retry_after is None


# Receivers that are slow, or talk nonsense


def read_request(connection: socket.socket) -> None:
    received = b""
    while b"api_key.rotated" not in received:
        received += connection.recv(65536) or b"api_key.rotated"


def drip(connection: socket.socket, first: bytes, dripping: bytes) -> None:
    """Send the one, then the other in small pieces for much longer than anybody waits."""
    read_request(connection)
    connection.sendall(first)
    for _ in range(600):
        connection.sendall(dripping)
        time.sleep(0.05)


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(silent, id="silence"),
        pytest.param(lambda c: drip(c, b"", b"H"), id="a dripping status line"),
        pytest.param(lambda c: drip(c, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), id="dripping headers"),
        pytest.param(lambda c: drip(c, b"HTTP/1.1 200 OK\r\nX:", b"y"), id="a dripping header"),
        pytest.param(lambda c: drip(c, b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="dripping interim answers"),
        pytest.param(lambda c: drip(c, b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b" "), id="a dripping body"),
        pytest.param(lambda c: drip(c, b"HTTP/1.1 200 OK\r\n\r\n", b" "), id="a dripping body without a length"),
        pytest.param(
            lambda c: drip(c, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"), id="chunks"
        ),
    ],
)
def test_the_time_out_is_for_the_whole_exchange(sink_for: SinkFor, talk: Callable[[socket.socket], None]) -> None:
    with a_raw_server(talk) as port:
        begun = time.monotonic()
        failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks", timeout="1s"))
        assert 0.9 < time.monotonic() - begun < 3
    assert isinstance(failed, TryLater)
    assert "127.0.0.1 did not answer within 1 s" in str(failed)


def test_a_handshake_that_never_ends_is_ended(sink_for: SinkFor) -> None:
    with a_raw_server(silent) as port:
        begun = time.monotonic()
        assert "did not answer within 1 s" in str(failure_of(sink_for(f"https://127.0.0.1:{port}/hooks", timeout="1s")))
        assert time.monotonic() - begun < 3


def test_a_receiver_that_takes_no_connections_is_given_up(sink_for: SinkFor) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = []
        for _ in range(3):  # until the queue of those who wait to be accepted is full
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        begun = time.monotonic()
        failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks", timeout="1s"))
        assert time.monotonic() - begun < 3
        assert isinstance(failed, TryLater)
        for one in waiting:
            one.close()


@pytest.mark.parametrize("tls", [False, True])
def test_stopping_ends_an_attempt(sink_for: SinkFor, tls: bool) -> None:
    connected = threading.Event()

    def talk(connection: socket.socket) -> None:
        connected.set()
        silent(connection)

    with a_raw_server(talk) as port:
        sink = sink_for(f"http{'s' if tls else ''}://127.0.0.1:{port}/hooks", timeout="60s")
        failures: list[RotatorError] = []
        delivering = threading.Thread(target=lambda: failures.append(failure_of(sink)))
        delivering.start()
        assert connected.wait(10)
        sink.stop()
        delivering.join(5)
        assert not delivering.is_alive()
        assert "the service is stopping" in str(failures[0])
        assert "the service is stopping" in str(failure_of(sink))
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("webhook")])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 OK\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", id="a body that breaks off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", id="a chunk that breaks off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", id="a chunk of no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, id="a header without an end"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", id="very many headers"),
    ],
)
def test_an_answer_that_cannot_be_made_out_is_no_receipt(sink_for: SinkFor, answer: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    with a_raw_server(talk) as port:
        failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks"))
    assert isinstance(failed, TryLater)
    assert "failed before its answer was complete" in str(failed)


def test_nobody_listens(sink_for: SinkFor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks"))
    assert isinstance(failed, TryLater)
    assert str(failed) == "127.0.0.1 refused the connection"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".example"])
def test_a_host_without_an_address(sink_for: SinkFor, host: str) -> None:
    sink = sink_for(f"https://{host}/hooks")
    for attempt in (sink.check, lambda: deliver(sink)):
        with pytest.raises(TryLater, match=host):
            attempt()


# TLS


def openssl(*words: str) -> None:
    program = shutil.which("openssl")
    if not program:
        pytest.skip("no openssl here to make certificates with")
    subprocess.run([program, *words], capture_output=True, check=True)


@pytest.fixture
def certificate(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A certificate that signs itself, with its key, for the names of the parameter."""
    names = getattr(request, "param", "IP:127.0.0.1")
    both = tmp_path / "certificate.pem"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=receiver"),
        *("-addext", f"subjectAltName={names}", "-keyout", str(tmp_path / "key.pem"), "-out", str(both)),
    )
    return both


@pytest.fixture
def tls_receiver(certificate: Path, tmp_path: Path) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    receiver = Receiver(tls=context)
    yield receiver
    receiver.close()


def test_a_certificate_that_nobody_trusts_is_refused(tls_receiver: Receiver, sink_for: SinkFor) -> None:
    failed = failure_of(sink_for(tls_receiver.url))
    assert isinstance(failed, NeedsPerson)
    assert "the TLS certificate of 127.0.0.1 is not accepted: self" in str(failed)
    assert tls_receiver.requests == []


def test_a_certificate_of_ones_own_is_trusted_by_naming_it(
    tls_receiver: Receiver, sink_for: SinkFor, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secret = deliver(sink_for(tls_receiver.url))
    assert tls_receiver.requests[0].json["data"]["key"]["secret"] == secret.reveal()


@pytest.mark.parametrize("certificate", ["DNS:other.example.com"], indirect=True)
def test_a_certificate_of_another_name_is_refused(
    tls_receiver: Receiver, sink_for: SinkFor, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    failed = failure_of(sink_for(tls_receiver.url))
    assert isinstance(failed, NeedsPerson)
    assert "certificate is not valid for '127.0.0.1'" in str(failed)
    assert tls_receiver.requests == []


def test_a_receiver_that_does_not_speak_tls(receiver: Receiver, sink_for: SinkFor) -> None:
    failed = failure_of(sink_for(receiver.url.replace("http:", "https:")))
    assert isinstance(failed, TryLater)
    assert "no TLS connection with 127.0.0.1 came about" in str(failed) or "before its answer" in str(failed)
