"""HTTP for the sandbox: sockets in, `Request` to the `Sandbox`, `Answer` out.

One thread per connection, HTTP/1.1 with keep-alive. No answer (`None`) means that the connection is closed
at once, which a client sees as a lost answer. Nothing is logged. `Listener.close` leaves neither a socket
nor a thread behind: it shuts every open connection, which wakes the threads that wait on an idle one.

Imported only when a sandbox starts, because `http.server` takes its time to load.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import uuid
from contextlib import suppress
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv6Address, ip_address
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from rotator.sandbox import control
from rotator.sandbox.api import Answer, Request, error

if TYPE_CHECKING:
    from rotator.sandbox.server import Sandbox

LARGEST_BODY = 1_000_000
SECONDS_BETWEEN_LOOKS_AT_STOP = 0.02
SECONDS_TO_WAIT_FOR_A_THREAD = 5.0


class Listener(TCPServer):
    """Accepts connections in a thread of its own, and serves each in another."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], sandbox: Sandbox) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sandbox = sandbox
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._guard = threading.Lock()
        super().__init__(address, Handler)
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(SECONDS_BETWEEN_LOOKS_AT_STOP,), name="neon-sandbox", daemon=True
        )
        self._acceptor.start()

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="neon-sandbox-connection", daemon=True
        )
        with self._guard:
            self._connections[thread] = request
        thread.start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  # a connection's end: shown by handle_error, ends nothing else
            self.handle_error(request, client_address)
        finally:
            # Out of the table first: what `close` finds in there must be open still.
            with self._guard:
                self._connections.pop(threading.current_thread(), None)
                self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our business; anything else is our mistake, and shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop listening, cut every connection, and wait for the threads to end."""
        self.shutdown()
        self._acceptor.join()
        self.server_close()
        with self._guard:
            threads = list(self._connections)
            for connection in self._connections.values():
                _cut(connection)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(SECONDS_TO_WAIT_FOR_A_THREAD)


class Handler(BaseHTTPRequestHandler):
    """Translates between HTTP and `Request` and `Answer`."""

    server: Listener
    protocol_version = "HTTP/1.1"
    server_version = "neon-sandbox"
    sys_version = ""
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        self._request_id = str(uuid.uuid4())
        body = self._read_body()
        if body is None:
            self._send(error(400, "the request body is too long, or of unknown length", self._request_id))
            return
        path = self.path.partition("?")[0]
        answer = self._control(path, body) if path.startswith(control.BASE_PATH) else self._api(path, body)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    def _api(self, path: str, body: bytes) -> Answer | None:
        request = Request(
            method=self.command,
            path=path,
            secret=_bearer(self.headers.get("Authorization", "")),
            address=self._caller_address(),
            body=body,
        )
        return self.server.sandbox.handle(request, self._request_id)

    def _control(self, path: str, body: bytes) -> Answer:
        if not _is_loopback(self.client_address[0]):
            return error(403, "the control API answers on loopback only", self._request_id)
        return control.answer(self.server.sandbox, self.command, path, body, self._request_id)

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = _answer  # noqa: N815  # the base class looks these up

    def _read_body(self) -> bytes | None:
        """The body; None, and the connection to be closed, when it cannot be told where it ends."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def _caller_address(self) -> str:
        """The peer; or `client` or `client,proxy` of X-Forwarded-For, so that tests can be somebody else."""
        forwarded = self.headers.get("X-Forwarded-For", "")
        parts = [part.strip() for part in forwarded.split(",") if part.strip()]
        return ",".join(parts) or str(self.client_address[0])

    def _send(self, answer: Answer) -> None:
        if answer.raw is None:
            kind, body = "application/json; charset=utf-8", json.dumps(answer.body).encode()
        else:
            kind, body = "text/html", answer.raw
        self.send_response(answer.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-neon-ret-request-id", self._request_id)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class calls for a request that is not HTTP; its own page would repeat the request.

        501 is what it says of a method that nobody serves, such as TRACE: a route that does not exist.
        """
        self._request_id = str(uuid.uuid4())
        self.close_connection = True
        self._send(error(404 if code == 501 else code, "the request is not understood", self._request_id))

    def date_time_string(self, timestamp: float | None = None) -> str:
        """For the Date header: the sandbox's clock."""
        return format_datetime(self.server.sandbox.clock(), usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _bearer(authorization: str) -> str | None:
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _is_loopback(text: str) -> bool:
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)
