"""Whatever a receiver answers: a receipt where it is one, or one of the documented errors.

`ROTATOR_EXAMPLES` sets how many are tried: ROTATOR_EXAMPLES=5000 python -m pytest tests/sinks/test_bad_answers.py
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_json import MARK, answers

from rotator.errors import NeedsPerson, RotatorError, SinkGone, TryLater

from .builders import SinkFor, a_hand_off, a_raw_server, a_secret

EXAMPLES = int(os.environ.get("ROTATOR_EXAMPLES", "40"))


STATUSES = st.sampled_from([200, 200, 200, 204, 410, 429, 503]) | st.integers(100, 599)


class Answering:
    """A server that gives `said` as its answer to every request."""

    def __init__(self) -> None:
        self.said = b""
        self.sent = 0

    def __call__(self, connection: socket.socket) -> None:
        received = b""
        while b"}}}" not in received and b'"data":{"sink"' not in received:
            piece = connection.recv(65536)
            if not piece:
                return
            received += piece
        for start in range(0, len(self.said), 65536):
            connection.sendall(self.said[start : start + 65536])
            self.sent += 65536


@pytest.fixture
def answering() -> Iterator[tuple[Answering, str]]:
    server = Answering()
    with a_raw_server(server) as port:
        yield server, f"http://127.0.0.1:{port}/hooks"


@pytest.mark.parametrize("receipt", ["status", "fingerprint"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_answer_is_a_receipt_or_a_documented_error(
    receipt: str, data: st.DataObject, answering: tuple[Answering, str], sink_for: SinkFor
) -> None:
    server, url = answering
    secret = a_secret()
    sound = {"fingerprint": data.draw(st.sampled_from(["sha256:0", "THIS"])), "ok": True}
    said = data.draw(answers(sound, STATUSES))
    server.said = said.raw.replace(b'"THIS"', b'"%s"' % secret.fingerprint.encode())
    try:
        sink_for(url, receipt=receipt).deliver(a_hand_off(secret), secret)
    except (TryLater, NeedsPerson, SinkGone) as caught:
        shows_nothing(caught, secret.reveal())
        return
    assert 200 <= said.status < 300
    if receipt == "fingerprint":
        assert b'"THIS"' in said.raw


def shows_nothing(error: RotatorError, secret: str) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error.args)
    for hidden in (secret, MARK, "/hooks"):
        assert hidden not in str(error)
        assert hidden not in shown.replace(__file__, "")
    assert str(error).isprintable()
