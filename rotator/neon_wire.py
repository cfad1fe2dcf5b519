"""One HTTP exchange with Neon, and what is known of it afterwards. The only module of Neon's that knows requests.

`exchange` sends one request once and returns an `Answer`, whatever happens: a foreign exception holds the
request, headers and all, so none leaves this module, and what went wrong is a value with own words.

**A connection of its own for every exchange, and no `Session`.** A `Session` follows redirects, keeps cookies,
reads ~/.netrc (which silently replaces an Authorization header) and reads a redirect's body whole; and
a connection kept alive is likely to be dead at the next poll, minutes later, which shows only after a POST was
written to it: an outcome unknown, for nothing. So the adapter below a `Session` is used directly, with nothing
shared between threads and nothing to close later. Proxies and certificates are taken from the environment as
requests does (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE). urllib3 resends nothing: its `Retry` is at zero.

**Whether anything was sent** decides between "nothing happened" and "outcome unknown", and exceptions do not tell:
the same SSLError comes from a handshake and from a broken answer. So the connection itself says when it is up
(resolved, connected, past the TLS handshake and a proxy's CONNECT) and the request begins to leave.

**A deadline for the whole exchange.** The time-outs of requests are per read, so a server that drips would hold a
thread for hours, in the headers already. A timer shuts the socket down; reads in progress end at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies

from rotator import __version__
from rotator.neon_answers import parse_date
from rotator.secret import Secret

NETWORK = "check the network between here and there"
PROXY = "check HTTPS_PROXY and NO_PROXY"

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """What came back.

    `status` is None if no answer came; `sent` is False if provably nothing was sent. `flaw` says why
    there is no whole answer, `hint` what to do about it, `fault` is the flaw in a word, for metrics.
    """

    status: int | None
    received: float  # monotonic, when the headers were there or the attempt ended
    sent: bool = True
    body: bytes = field(default=b"", repr=False)
    date: datetime | None = None
    retry_after: str | None = field(default=None, repr=False)
    is_json: bool = False
    flaw: str = ""
    hint: str = ""
    fault: str = ""


class _Bearer(AuthBase):
    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._secret.reveal()}"
        return request


class _Wire(HTTPAdapter):
    """The connection of one exchange: knows whether the request left, and can be cut from another thread."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.sent = False
        self.cut = False
        self._over = False
        self._socket: Any = None
        self._lock = threading.Lock()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """The pool that the one connection comes from, made to tell when the request begins to leave."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        plain = pool.ConnectionCls

        def request(connection: Any, *args: Any, **kwargs: Any) -> None:
            if connection.sock is None:
                connection.connect()  # https is connected already, plain http would connect while sending
            self._leaves(connection.sock)
            plain.request(connection, *args, **kwargs)

        pool.ConnectionCls = type("Telling", (plain,), {"request": request})
        return pool

    def _leaves(self, sock: Any) -> None:
        with self._lock:
            if self.cut:
                raise TimeoutError
            self.sent, self._socket = True, sock

    def expire(self) -> None:
        """End the exchange now: every read that waits sees the end of the stream."""
        with self._lock:
            self.cut = True
            if self._socket is not None and not self._over:
                # Below TLS, whose own shutdown would wait for the peer; inside a proxy's TLS it is one further down.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(getattr(self._socket, "socket", self._socket), socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._over = True  # the descriptor may be another's from now on
        super().close()


def exchange(
    method: str,
    url: str,
    secret: Secret,
    *,
    body: Mapping[str, str] | None,
    timeout: tuple[float, float],
    deadline: float,
    largest: int,
    monotonic: Callable[[], float],
) -> Answer:
    """Send one request once, and wait for the whole answer until `deadline` seconds have passed.

    `timeout` is for connecting and for each read, in seconds; an answer of more than `largest` bytes is flawed.
    """
    answer = Answer(status=None, received=0)
    wire = _Wire()
    timer = threading.Timer(deadline, wire.expire)
    timer.daemon = True
    timer.start()
    try:
        prepared = _prepare(method, url, secret, body)
        verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        response = wire.send(prepared, stream=True, timeout=timeout, verify=verify, proxies=get_environ_proxies(url))
        with contextlib.closing(response):
            answer = _head(response, monotonic())
            answer = _with_content(answer, response, largest)
    except Exception as error:  # noqa: BLE001  (whatever it is, the request may have left, and its frames hold the key)
        answer = _flawed(answer, *_words(error, wire.sent, timeout))
    finally:
        timer.cancel()
        wire.close()
    if wire.cut and wire.sent:
        answer = _flawed(answer, f"did not finish its answer within {deadline:g} s", NETWORK, "timeout")
    if answer.status is None:
        answer = replace(answer, received=monotonic(), sent=wire.sent)
    return answer


def _prepare(method: str, url: str, secret: Secret, body: Mapping[str, str] | None) -> requests.PreparedRequest:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "Connection": "close",
        "User-Agent": f"rotator/{__version__}",
    }
    return requests.Request(method, url, headers=headers, json=body, auth=_Bearer(secret)).prepare()


def _head(response: requests.Response, received: float) -> Answer:
    return Answer(
        status=response.status_code,
        received=received,
        date=parse_date(response.headers.get("Date")),
        retry_after=response.headers.get("Retry-After"),
        is_json="json" in response.headers.get("Content-Type", "").lower(),
    )


def _with_content(answer: Answer, response: requests.Response, largest: int) -> Answer:
    """The answer with its whole body, unpacked."""
    content = bytearray()
    for piece in response.iter_content(_CHUNK):
        content += piece
        if len(content) > largest:
            hint = "check neon.api_url: this may not be Neon"
            return _flawed(answer, f"answered with more than {largest} bytes", hint, "too_large")
    return replace(answer, body=bytes(content))


def _flawed(answer: Answer, flaw: str, hint: str, fault: str) -> Answer:
    return replace(answer, body=b"", flaw=flaw, hint=hint, fault=fault)


def _words(error: Exception, sent: bool, timeout: tuple[float, float]) -> tuple[str, str, str]:
    """What went wrong, what to do, and a word for it; by the exception's type, as its text may hold anything."""
    causes = tuple(_causes(error))

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if sent and is_a(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return f"did not answer within {timeout[1]:g} s", NETWORK, "timeout"
    if sent:
        return "broke off the connection before its answer was whole", NETWORK, "broken"
    if is_a(requests.exceptions.ProxyError):
        return "cannot be reached through the proxy", PROXY, "unreachable"
    if is_a(ssl.SSLCertVerificationError):
        hint = "check this machine's clock, and REQUESTS_CA_BUNDLE if a proxy has its own certificates"
        return "showed a TLS certificate that is not trusted", hint, "tls"
    if is_a(requests.exceptions.SSLError):
        return "does not speak TLS as expected", "check neon.api_url, and that no proxy interferes", "tls"
    if is_a(urllib3.exceptions.NameResolutionError):
        return "has no address", "check the spelling of neon.api_url and this machine's DNS", "unreachable"
    if is_a(requests.ConnectTimeout, TimeoutError):
        return f"did not take the connection within {timeout[0]:g} s", NETWORK, "unreachable"
    if is_a(ConnectionRefusedError):
        return "refused the connection", NETWORK, "unreachable"
    if is_a(requests.ConnectionError):
        return "cannot be reached", NETWORK, "unreachable"
    return f"could not be asked ({type(error).__name__})", "check neon.api_url", "unsent"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it wraps: requests keeps that in `args`, urllib3 in `reason` and `original_error`."""
    yield error
    wrapped = getattr(error, "reason", None), getattr(error, "original_error", None), *error.args, error.__cause__
    for each in wrapped:
        if isinstance(each, BaseException) and each is not error:
            yield from _causes(each)
