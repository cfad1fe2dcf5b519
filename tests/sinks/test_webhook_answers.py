"""A webhook sink, against real receivers: friendly, slow, rude and false ones."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
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


@pytest.mark.parametrize(
    ("status", "header"),
    [
        *((503, "soon"), (503, "-5"), (503, "Wed, 99 Foo 2015"), (500, "5"), (429, "²")),
        (503, "Mon, 23 Nov 2026 04:06:00 -99999999999999999999"),  # which the standard library cannot reckon with
    ],
)
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
@pytest.mark.fault(
    "Sinks",
    "A webhook's host is silent, or drips its answer a byte at a time",
    "The time-out is for the whole exchange: it is ended then, and tried again with growing pauses.",
)
def test_the_time_out_is_for_the_whole_exchange(
    sink_for: SinkFor, talk: Callable[[socket.socket], None], person_sees: Callable[[str], None]
) -> None:
    with a_raw_server(talk) as port:
        begun = time.monotonic()
        failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks", timeout="1s"))
        assert 0.9 < time.monotonic() - begun < 3
    assert isinstance(failed, TryLater)
    person_sees(str(failed))


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


@pytest.mark.fault(
    "Sinks", "Nobody listens where a webhook should be", "The hand-off is tried again, with the same key."
)
def test_nobody_listens(sink_for: SinkFor, person_sees: Callable[[str], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks"))
    assert isinstance(failed, TryLater)
    assert str(failed) == "127.0.0.1 refused the connection"
    person_sees(str(failed))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".example"])
def test_a_host_without_an_address(sink_for: SinkFor, host: str) -> None:
    sink = sink_for(f"https://{host}/hooks")
    for attempt in (sink.check, lambda: deliver(sink)):
        with pytest.raises(TryLater, match=host):
            attempt()


# TLS


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this authority trusted, as an operator would."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.fixture
def tls_receiver() -> Iterator[Callable[[trustme.LeafCert], Receiver]]:
    """Starts a receiver with this certificate."""
    started = []

    def start(certificate: trustme.LeafCert) -> Receiver:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        started.append(Receiver(tls=context))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


TlsReceiver = Callable[[trustme.LeafCert], Receiver]


@pytest.mark.usefixtures("trusted")
def test_an_authority_of_ones_own_is_trusted_by_naming_it(
    authority: trustme.CA, tls_receiver: TlsReceiver, sink_for: SinkFor
) -> None:
    receiver = tls_receiver(authority.issue_cert("127.0.0.1"))
    secret = deliver(sink_for(receiver.url))
    assert receiver.requests[0].json["data"]["key"]["secret"] == secret.reveal()


def refused(receiver: Receiver, sink_for: SinkFor) -> str:
    """What is said of its certificate; not a byte of the message was sent, nor of a check with a signature."""
    sink = sink_for(receiver.url)
    failed = failure_of(sink)
    assert isinstance(failed, NeedsPerson)
    with pytest.raises(NeedsPerson, match=re.escape(str(failed))):
        sink.check(probe=True)
    assert receiver.requests == []
    return str(failed)


@pytest.mark.fault(
    "Sinks",
    "A webhook's certificate is signed by nobody that is trusted",
    "The key is not sent. It is tried again with growing pauses, and a person is told.",
)
def test_a_certificate_that_nobody_trusts_is_refused(
    tls_receiver: TlsReceiver, sink_for: SinkFor, person_sees: Callable[[str], None]
) -> None:
    person_sees(refused(tls_receiver(trustme.CA().issue_cert("127.0.0.1")), sink_for))


@pytest.mark.usefixtures("trusted")
@pytest.mark.fault("Sinks", "A webhook's certificate is for another name", "The key is not sent.")
def test_a_certificate_of_another_name_is_refused(
    authority: trustme.CA, tls_receiver: TlsReceiver, sink_for: SinkFor, person_sees: Callable[[str], None]
) -> None:
    person_sees(refused(tls_receiver(authority.issue_cert("other.example.com", "127.0.0.2")), sink_for))


@pytest.mark.usefixtures("trusted")
@pytest.mark.fault("Sinks", "A webhook's certificate has expired", "The key is not sent.")
def test_a_certificate_that_has_expired_is_refused(
    authority: trustme.CA, tls_receiver: TlsReceiver, sink_for: SinkFor, person_sees: Callable[[str], None]
) -> None:
    expired = authority.issue_cert("127.0.0.1", not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1))
    person_sees(refused(tls_receiver(expired), sink_for))


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_the_future_is_refused(
    authority: trustme.CA, tls_receiver: TlsReceiver, sink_for: SinkFor
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    receiver = tls_receiver(authority.issue_cert("127.0.0.1", not_before=tomorrow))
    assert "certificate is not yet valid" in refused(receiver, sink_for)


@pytest.mark.fault(
    "Sinks",
    "A webhook's host ends the TLS handshake in the middle",
    "The key is not sent; it is tried again with growing pauses.",
)
def test_a_handshake_that_breaks_off_is_tried_again(sink_for: SinkFor, person_sees: Callable[[str], None]) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(64)

    with a_raw_server(talk) as port:
        failed = failure_of(sink_for(f"https://127.0.0.1:{port}/hooks"))
    assert isinstance(failed, TryLater)
    person_sees(str(failed))


@pytest.mark.usefixtures("trusted")
def test_a_connection_that_breaks_off_inside_tls_gives_no_receipt(authority: trustme.CA, sink_for: SinkFor) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def talk(connection: socket.socket) -> None:
        secured = context.wrap_socket(connection, server_side=True)
        secured.recv(10)
        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")
        secured.detach()

    with a_raw_server(talk) as port:
        failed = failure_of(sink_for(f"https://127.0.0.1:{port}/hooks"))
    assert isinstance(failed, TryLater)


@pytest.mark.usefixtures("trusted")
def test_no_older_protocol_than_tls_1_2_is_spoken(
    authority: trustme.CA, tls_receiver: TlsReceiver, sink_for: SinkFor
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    authority.issue_cert("127.0.0.1").configure_cert(context)
    receiver = Receiver(tls=context)
    try:
        assert "no TLS connection with 127.0.0.1 came about" in str(failure_of(sink_for(receiver.url)))
        assert receiver.requests == []
    finally:
        receiver.close()


# Receivers without measure


def stream(connection: socket.socket, first: bytes, again: bytes) -> None:
    """Send the one, then the other as fast as it goes, until nobody listens any more."""
    read_request(connection)
    connection.sendall(first)
    while True:
        connection.sendall(again)


@pytest.mark.fault(
    "Sinks",
    "A webhook's answer has headers without end",
    "It reads a hundred lines of at most 64 KiB and gives up; no memory is filled, and there is no receipt.",
)
@pytest.mark.parametrize("line", [b"X: " + b"y" * 60_000 + b"\r\n", b"y" * 65_536, b"X: y\r\n"])
def test_headers_without_end_are_no_receipt_and_fill_no_memory(
    sink_for: SinkFor, line: bytes, person_sees: Callable[[str], None]
) -> None:
    with a_raw_server(lambda connection: stream(connection, b"HTTP/1.1 200 OK\r\n", line)) as port:
        failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks"))
    assert isinstance(failed, TryLater)
    person_sees(str(failed))


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65_536, id="plain"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", b" " * 65_536, id="very long"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b" " * 1024 + b"\r\n", id="chunks"
        ),
    ],
)
@pytest.mark.fault(
    "Sinks",
    "A webhook's answer never ends, as fast as the line carries it",
    "It reads 64 KiB. The status is the receipt; with `receipt: fingerprint` there is none.",
)
def test_an_answer_that_never_ends_is_read_so_far_and_no_further(
    sink_for: SinkFor, first: bytes, again: bytes, person_sees: Callable[[str], None]
) -> None:
    with a_raw_server(lambda connection: stream(connection, first, again)) as port:
        deliver(sink_for(f"http://127.0.0.1:{port}/hooks"))
        failed = failure_of(sink_for(f"http://127.0.0.1:{port}/hooks", receipt="fingerprint"))
    person_sees(str(failed))


def test_an_answer_to_what_was_not_yet_sent_is_no_receipt_if_it_is_not_a_2xx(sink_for: SinkFor) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 408 Too late\r\nContent-Length: 0\r\n\r\n")
        read_request(connection)

    with a_raw_server(talk) as port:
        assert "answered 408" in str(failure_of(sink_for(f"http://127.0.0.1:{port}/hooks")))


def test_a_receiver_that_does_not_speak_tls(receiver: Receiver, sink_for: SinkFor) -> None:
    failed = failure_of(sink_for(receiver.url.replace("http:", "https:")))
    assert isinstance(failed, TryLater)
    assert "no TLS connection with 127.0.0.1 came about" in str(failed) or "before its answer" in str(failed)
