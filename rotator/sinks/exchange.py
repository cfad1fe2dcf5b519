"""One HTTP request and its answer, within one time-out, and to be ended at any moment.

Time-outs of sockets are for a single read or write: a peer that sends a byte now and then is never too
late, and looking up a name has no time-out at all. So the exchange happens in a thread of its own. Who
wants the answer waits for it as long as he likes, then shuts the socket down, which ends the thread, or
leaves it to the name server; a connection that comes about after that is not used any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rotator.errors import NeedsPerson, RotatorError, TryLater

if TYPE_CHECKING:
    import socket

LARGEST_ANSWER = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """What is looked at of an answer. `body` holds its first 64 KiB. It shows nothing of what the receiver said."""

    status: int
    retry_after: str | None = field(repr=False)
    body: bytes = field(repr=False)


NO_ANSWER = Answer(0, None, b"")


class Exchange:
    """A POST to a URL; without headers only the look-up of its host. Made for one `run`."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._netloc = parts.netloc
        self._resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = headers
        self._body = body
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._outcome: Answer | RotatorError | None = None
        self._socket: socket.socket | None = None
        self._seconds = 0.0
        self._deadline = 0.0

    def run(self, seconds: float) -> Answer:
        """The answer. Raises TryLater or NeedsPerson in own words, which hold nothing but the host."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        threading.Thread(target=self._work, daemon=True, name=f"webhook {self._host}").start()
        if not self._over.wait(seconds):
            self._settle(self._too_late())
        outcome = self._outcome
        if isinstance(outcome, Answer):
            return outcome
        raise outcome or TryLater(f"the exchange with {self._host} ended without an answer")

    def end(self, why: str) -> None:
        """Let `run` raise TryLater with these words, unless it has its answer already."""
        self._settle(TryLater(why))

    def _too_late(self) -> TryLater:
        return TryLater(f"{self._host} did not answer within {self._seconds:g} s")

    def _settle(self, outcome: Answer | RotatorError) -> None:
        """Take the first outcome there is; whoever is still talking to the receiver then stops."""
        import socket
        from contextlib import suppress

        with self._lock:
            if self._outcome is None:
                self._outcome = outcome
            self._over.set()
            if self._socket is not None:
                with suppress(OSError):
                    # Not the method of an SSLSocket, which would take away what the other thread is using.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _work(self) -> None:
        import http.client
        import socket
        import ssl

        try:
            outcome: Answer | RotatorError = self._talk()
        except TimeoutError:
            outcome = self._too_late()
        except socket.gaierror as error:
            outcome = TryLater(f"the host {self._host} cannot be resolved: {error.strerror}", "see whether it is right")
        except ssl.SSLCertVerificationError as error:
            outcome = NeedsPerson(
                f"the TLS certificate of {self._host} is not accepted: {error.verify_message.rstrip('.')}",
                "let the receiver have a valid one, or name its authority in SSL_CERT_FILE",
            )
        except ssl.SSLError:
            outcome = TryLater(f"no TLS connection with {self._host} came about", "see whether it speaks TLS there")
        except ConnectionRefusedError:
            outcome = TryLater(f"{self._host} refused the connection")
        except (OSError, ValueError, http.client.HTTPException):
            # ValueError is what host names and answers raise that the standard library cannot make out.
            outcome = TryLater(f"the connection with {self._host} failed before its answer was complete")
        except BaseException:
            self._settle(TryLater(f"the exchange with {self._host} failed in an unforeseen way"))
            raise
        self._settle(outcome)

    def _talk(self) -> Answer:
        import http.client
        import socket

        if self._headers is None:
            socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            return NO_ANSWER
        connected = self._connect()
        try:
            connection = http.client.HTTPConnection(self._host, self._port)
            connection.sock = connected
            headers = {"Host": self._netloc, "Connection": "close", **self._headers}
            connection.request("POST", self._resource, self._body, headers)
            with connection.getresponse() as response:
                body = response.read(LARGEST_ANSWER)
                if response.length and len(body) < LARGEST_ANSWER:
                    raise http.client.IncompleteRead(b"", response.length)  # else it would pass for an answer
                return Answer(response.status, response.getheader("Retry-After"), body)
        finally:
            with self._lock:
                self._socket = None
            connected.close()

    def _connect(self) -> socket.socket:
        """A connection with the first address that takes one, its TLS verified."""
        import socket

        failure: OSError = ConnectionRefusedError()
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            plain = self._use(socket.socket(family, kind, protocol))
            try:
                plain.connect(address)
            except OSError as error:
                plain.close()
                failure = error
                continue
            return self._secured(plain) if self._tls else self._use(plain)
        raise failure

    def _secured(self, plain: socket.socket) -> socket.socket:
        import ssl

        try:
            context = ssl.create_default_context()
            # The handshake comes after `_use`, so that it can be ended, too.
            secured = context.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        self._use(secured)
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return self._use(secured)

    def _use(self, connection: socket.socket) -> socket.socket:
        """Go on with this connection, if there is time and somebody still waits for the answer."""
        left = self._deadline - time.monotonic()
        with self._lock:
            if self._outcome is not None or left <= 0:
                connection.close()
                raise TimeoutError
            connection.settimeout(left)
            self._socket = connection
        return connection
