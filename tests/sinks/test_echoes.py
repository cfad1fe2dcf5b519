"""Answers that repeat the secret, from Neon and from receivers: none of it is in an error, its causes, or a log.

Nothing of an answer is ever told. So it must not matter where in an answer the secret is, how it is spelt, and what
libraries make of an answer that they cannot read.
"""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from canaries import Canaries, spellings
from neon_bench import Behaviour, RudeServer, a_bench

from rotator.errors import RotatorError
from rotator.model import Check, Scope
from rotator.neon import Neon
from rotator.secret import Secret

from .builders import SinkFor, a_hand_off, a_raw_server, a_secret

# `{}` is the secret; each of these is one whole answer.
ANSWERS = {
    "the status line": "HTTP/1.1 500 {}\r\nContent-Length: 0\r\n\r\n",
    "a status that is none": "HTTP/1.1 {} no\r\n\r\n",
    "another protocol": "{}\r\n",
    "a header": "HTTP/1.1 403 No\r\nX-Echo: {}\r\nSet-Cookie: key={}\r\nx-neon-ret-request-id: {}\r\n"
    "Content-Length: 0\r\n\r\n",
    "a header's name": "HTTP/1.1 403 No\r\n{}: x\r\nContent-Length: 0\r\n\r\n",
    "a header that is none": "HTTP/1.1 403 No\r\nX: y\r\n{}\r\nContent-Length: 0\r\n\r\n",
    "headers with a meaning": "HTTP/1.1 503 No\r\nRetry-After: {}\r\nDate: {}\r\nContent-Type: application/json; {}\r\n"
    "Content-Length: 0\r\n\r\n",
    "a length": "HTTP/1.1 500 No\r\nContent-Length: {}\r\n\r\n",
    "a coding": "HTTP/1.1 500 No\r\nContent-Encoding: {}\r\nTransfer-Encoding: {}\r\nContent-Length: 2\r\n\r\n{}",
    "a redirect": "HTTP/1.1 302 Found\r\nLocation: https://{}@{}.example.com/{}?key={}#{}\r\nContent-Length: 0\r\n\r\n",
    "a message": 'HTTP/1.1 400 No\r\nContent-Type: application/json\r\n\r\n{"message": "{}", "code": "{}"}',
    "a page": "HTTP/1.1 401 No\r\nContent-Type: text/html\r\n\r\n<html><title>{}</title><a href='/?{}'>{}</a></html>",
    "a chunk that is none": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
    "JSON of another shape": 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n["{}", {"{}": "{}"}]',
    "JSON of the shape": 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"id": "{}", "fingerprint": "{}", '
    '"key": 7, "name": "{}", "created_at": "{}", "account_id": 7, "auth_method": ["{}"]}',
    "JSON that breaks off": 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{"{}',
}


def repeating(shape: str, secret: str) -> Behaviour:
    """The answer, with the secret spelt in every way one after the other; on one line where it must be."""
    words = " ".join(spellings(secret)) if shape.partition("\r\n\r\n")[2] else ";".join(spellings(secret))
    head, gap, body = shape.partition("\r\n\r\n")
    head = head.replace("{}", words.replace("\n", " "))
    return lambda connection: connection.sendall((head + gap + body.replace("{}", words)).encode())


def told_by(error: BaseException) -> Iterator[str]:
    """All that an exception can say for itself and those that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)), repr(getattr(one, "__notes__", ())))
        yield "".join(traceback.format_exception(one))
        waiting += [one.__cause__, one.__context__]


CALLS: dict[str, Callable[[Neon, Secret], object]] = {
    "list": lambda neon, _: neon.list_keys("personal"),
    "create": lambda neon, _: neon.create_key(Scope(), "ci-20261123T040550Z-d233f1"),
    "revoke": lambda neon, _: neon.revoke_key("personal", 2291515),
    "whoami": lambda neon, _: neon.whoami(),
    "check": lambda neon, key: neon.check_key(key),
}


@pytest.mark.parametrize("shape", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("call", CALLS)
def test_nothing_that_neon_repeats_is_told(
    call: str, shape: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    management, new = a_secret(), a_secret()
    repeated = new if call == "check" else management
    with RudeServer(repeating(shape, repeated.reveal())) as server:
        bench = a_bench(server.url, tmp_path, management.reveal())
        try:
            outcome = CALLS[call](bench.neon, new)
            assert isinstance(outcome, Check), "a success of what is none"
            said = repr(outcome)
        except RotatorError as error:
            said = "\n".join(told_by(error))
            said += repr(vars(error))
    said += repr(bench.neon.calls) + "".join(capfd.readouterr())
    canaries = Canaries({"the key": repeated.reveal()})
    assert canaries.found_in(said) == set()
    # urllib3 quotes headers that it cannot read; it has no say in the service's log (tests/test_log.py).
    told = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("urllib3"))
    assert canaries.found_in(told) == set()


@pytest.mark.parametrize("shape", ANSWERS.values(), ids=ANSWERS.keys())
def test_nothing_that_a_receiver_repeats_is_told(
    shape: str, sink_for: SinkFor, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = a_secret()

    def talk(connection: socket.socket) -> None:
        received = b""
        while b"api_key.rotated" not in received:
            received += connection.recv(65536) or b"api_key.rotated"
        repeating(shape, secret.reveal())(connection)

    with a_raw_server(talk) as port:
        sink = sink_for(f"http://127.0.0.1:{port}/hooks", receipt="fingerprint")
        with pytest.raises(RotatorError) as failed:
            sink.deliver(a_hand_off(secret), secret)
    said = "\n".join(told_by(failed.value)) + "".join(capfd.readouterr()) + caplog.text + repr(sink.ref)
    assert Canaries({"the key": secret.reveal()}).found_in(said) == set()
