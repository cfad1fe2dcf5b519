"""A webhook receiver as a user would write one, with nothing but the standard library.

It believes a message when its Standard Webhooks signature is right and its timestamp recent, and keeps the
key that is newest by `created_at`, then by id: a message may come twice, and an old one late.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_TOLERANCE = 300.0
_LARGEST_BODY = 1_000_000


def new_signing_secret() -> str:
    """`whsec_` and the base64 of 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


class Receiver:
    """Listens on a free port of the loopback interface; a context manager.

    status: what a good message is answered with; another than 2xx makes it a receiver that is out of order.
    accepted: how many keys it took; rejected: how many messages were not rightly signed.
    """

    def __init__(self, status: int = HTTPStatus.NO_CONTENT) -> None:
        self.signing_secret = new_signing_secret()
        self.accepted = 0
        self.rejected = 0
        self._status = status
        self._newest: tuple[str, int] | None = None
        self._key: str | None = None
        self._guard = threading.Lock()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Where it wants its messages. Known once it listens."""
        if self._server is None:
            raise RuntimeError("the receiver has no address yet: start it first")
        return f"http://127.0.0.1:{self._server.server_port}/hooks/neon"

    def key(self) -> str | None:
        """The newest key that it was sent, or None."""
        return self._key

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def take(self, headers: Message, body: bytes) -> int:
        """Handle one message; the status to answer with."""
        with self._guard:
            if not is_genuine(self.signing_secret, headers, body, time.time()):
                self.rejected += 1
                return HTTPStatus.UNAUTHORIZED
            message = json.loads(body)
            if message["type"] == "api_key.rotated" and 200 <= self._status < 300:
                self._keep(message["data"]["key"])
            return self._status

    def _keep(self, key: dict[str, Any]) -> None:
        self.accepted += 1
        order = (key["created_at"], key["id"])
        if self._newest is None or order > self._newest:
            self._newest, self._key = order, key["secret"]


def is_genuine(signing_secret: str, headers: Message, body: bytes, now: float) -> bool:
    """Whether one of a message's signatures is made with this secret, not more than five minutes ago."""
    stamp = headers.get("webhook-timestamp", "")
    if not stamp.isdecimal() or abs(now - int(stamp)) > _TOLERANCE:
        return False
    signed = f"{headers.get('webhook-id', '')}.{stamp}.".encode() + body
    key = base64.b64decode(signing_secret.removeprefix("whsec_"))
    ours = f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}".encode()
    theirs = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(ours, each) for each in theirs)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.receiver = receiver


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            status: int = HTTPStatus.BAD_REQUEST
        else:
            status = self.server.receiver.take(self.headers, self.rfile.read(int(length)))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the demo tells what happens."""
