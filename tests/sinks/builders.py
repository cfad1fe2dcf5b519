"""What the tests of the sinks are made of: secrets, hand-offs, receivers, and waiting for something to be so."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rotator.errors import RotatorError
from rotator.model import HandOff
from rotator.secret import Secret
from rotator.sinks import Sink
from rotator.sinks.command import CommandSink
from rotator.sinks.file import FileSink
from rotator.sinks.webhook import WebhookSink

T = TypeVar("T")
# For mypy a nested class is no class variable, so it does not see the protocol in the classes that come with us.
AnySink = Sink | FileSink | WebhookSink | CommandSink
SinkFor = Callable[..., WebhookSink]
AS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root can give files away")
CREATED = datetime(2026, 11, 23, 4, 5, 50, tzinfo=UTC)
NOBODY = 65534


def a_secret() -> Secret:
    """A key that looks like Neon's; made when the test runs, so that none stands in the source."""
    return Secret("napi_" + secrets.token_hex(32))


def a_hand_off(secret: Secret, sink: str = "here", key_id: int = 2291515, **changes: Any) -> HandOff:
    told: dict[str, Any] = {
        "policy": "ci-pipeline",
        "generation": 7,
        "key_id": key_id,
        "key_name": "ci-pipeline-20261123T040550Z-d233f1",
        "created_at": CREATED,
        "fingerprint": secret.fingerprint,
        "sink": sink,
        "replaces_id": 2291506,
        "replaces_name": "ci-pipeline-20261024T040550Z-a1b2c3",
    }
    return HandOff(**(told | changes))


def deliver(sink: AnySink, secret: Secret | None = None) -> Secret:
    """Deliver a secret, a new one if none is given, and return it."""
    secret = secret or a_secret()
    sink.deliver(a_hand_off(secret, sink=sink.ref.name), secret)
    return secret


def failure_of(sink: AnySink) -> RotatorError:
    """How a delivery fails. Whatever it says, it says nothing of the secret, or of the rest of a URL."""
    secret = a_secret()
    with pytest.raises(RotatorError) as failed:
        deliver(sink, secret)
    said = repr(failed.value) + str(failed.value)
    assert secret.reveal() not in said
    assert "/hooks" not in said
    return failed.value


def a_file_sink(path: Path, **settings: Any) -> FileSink:
    return FileSink("app", FileSink.Settings.model_validate({"path": str(path), **settings}))


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def a_signing_secret(length: int = 32) -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(length)).decode()


def until(look: Callable[[], T], limit: float = 15) -> T:
    """What `look` returns, once that is true."""
    give_up = time.monotonic() + limit
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.01)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Receiver:
    """A real HTTP server that keeps what it gets and answers as `reply` says."""

    def __init__(self, tls: Any = None) -> None:
        self.requests: list[Request] = []
        self.reply: Callable[[Request], Reply] = lambda _: Reply()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length))
                receiver.requests.append(request)
                reply = receiver.reply(request)
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in reply.headers:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                self.close_connection = True

            do_GET = do_PUT = do_POST  # also what somebody who follows a redirect would send

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that goes away, which some tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/hooks/neon"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def a_raw_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does as `talk` does with each connection; yields its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights inside, if the tests run as root; else as they run."""
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def forget_our_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the variables that steer this suite out of the environment."""
    for name in [name for name in os.environ if name.startswith("ROTATOR_")]:
        monkeypatch.delenv(name)
