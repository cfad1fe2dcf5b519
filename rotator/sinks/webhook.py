"""A receiver that is told over HTTP, as Standard Webhooks says.

A message is signed with every configured signing secret, so that a receiver can change its own
secret without missing one. The id stays the same over all attempts of one hand-off, so that the
receiver can tell a repetition; the timestamp is the attempt's. The bytes that were signed are sent.

One attempt is one exchange over one connection, in a thread of its own (`_Exchange`), with the
standard library's http.client and not with requests: the time-out is for the whole of it, whatever
drips (a name server, a handshake, headers, a body), and an attempt can be ended from outside by shutting its
socket down. And nothing around the process can change what is sent or to whom: no `~/.netrc`,
no proxy from the environment (a receiver behind a proxy needs the command sink), no redirect.

TLS is always verified, against the system's certificates, or those of `SSL_CERT_FILE` and
`SSL_CERT_DIR`, which is how a receiver with a certificate of one's own is trusted.

An answer may echo the secret, and a URL may hold a token. So of an answer only the status,
`Retry-After` and `fingerprint` are looked at, and messages name the host alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from rotator import __version__, fields
from rotator.errors import NeedsPerson, RotatorError, SinkGone, TryLater
from rotator.fields import SecretRef
from rotator.model import Event, HandOff, Held, SinkRef
from rotator.secret import Secret
from rotator.sinks.exchange import Answer, Exchange
from rotator.sinks.process import TimeOut

LONGEST_RETRY_AFTER = timedelta(hours=1)
URL_EXPECTED = "expected a URL such as https://ci.example.com/hooks/neon"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(value: str) -> str:
    """The URL as it was given. A message never repeats it: it may hold a token."""
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError(f"{URL_EXPECTED}, in ASCII and without spaces")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(URL_EXPECTED) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(URL_EXPECTED)
    if "@" in parts.netloc:
        raise ValueError("expected a URL without a user or a password in it")
    if "#" in value:
        raise ValueError("expected a URL without a fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("expected https; http is only for a loopback host such as 127.0.0.1")
    return value


class _OneOrMore:
    """Lets one value stand for a list of one, in the JSON Schema as in the file."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


class WebhookSink:
    """Sends signed events to one URL."""

    class Settings(fields.Settings):
        """What the configuration says of a webhook sink."""

        url: Annotated[str, AfterValidator(_url), Field(json_schema_extra={"pattern": "^https?://"})] = Field(
            description="Where the key is sent; http is only for a loopback host."
        )
        signing_secret: Annotated[
            list[SecretRef],
            BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
            Field(min_length=1),
            _OneOrMore(),
        ] = Field(description="Where the secret is that signs the messages; a list while it is being replaced.")
        receipt: Literal["status", "fingerprint"] = Field(
            default="status", description="What confirms a hand-off: any 2xx, or an answer with the fingerprint."
        )
        timeout: TimeOut = Field(default=timedelta(seconds=15), description="How long the whole exchange may take.")

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self._parts = urlsplit(settings.url)
        self._host = self._parts.hostname or ""
        self._lock = threading.Lock()
        self._stopping = False
        self._exchanges: set[Exchange] = set()

    @property
    def ref(self) -> SinkRef:
        """The target names the host; of the rest of the URL, which may be a token, it holds a digest."""
        url = self.settings.url
        return SinkRef(
            name=self.name,
            target=f"webhook:{self._parts.scheme}://{self._parts.netloc}/#{hashlib.sha256(url.encode()).hexdigest()[:16]}",
            settings=hashlib.sha256(self.settings.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16],
            pause=self.settings.timeout,
        )

    def check(self, *, probe: bool = False) -> None:
        """The signing secrets can be read and the host has an address; a probe must be answered with 2xx."""
        if probe:
            at = datetime.now(UTC)
            self.send(f"msg_check_{self.name}_{secrets.token_hex(8)}", _body("sink.check", at, {"sink": self.name}))
            return
        self._signing_keys()
        self._run(Exchange(self.settings.url))

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        """Send `api_key.rotated`. The receipt is a 2xx that does not tell of another key."""
        replaces = {"id": hand_off.replaces_id, "name": hand_off.replaces_name}
        body = _body(
            "api_key.rotated",
            hand_off.created_at,
            {
                "policy": hand_off.policy,
                "generation": hand_off.generation,
                "key": {
                    "id": hand_off.key_id,
                    "name": hand_off.key_name,
                    "created_at": _text(hand_off.created_at),
                    "secret": secret.reveal(),
                    "fingerprint": secret.fingerprint,
                },
                "replaces": None if hand_off.replaces_id is None else replaces,
            },
        )
        answer = self._send(f"msg_{hand_off.key_id}_{hand_off.sink}", body)
        held = _fingerprint_in(answer.body)
        if held is None and self.settings.receipt == "fingerprint":
            raise TryLater(
                f"{self._host} answered {answer.status} without the fingerprint of the key",
                'it must answer {"fingerprint": "sha256:…"}, or the sink be set to `receipt: status`',
            )
        if held is not None and held != secret.fingerprint:
            raise TryLater(f"{self._host} answered {answer.status}, but holds another key")

    def send(self, message_id: str, body: bytes) -> None:
        """Send a signed message without a secret. Returns if the answer is a 2xx, else raises as `deliver` does."""
        self._send(message_id, body)

    def contents(self) -> str:
        """What a receiver holds cannot be asked."""
        return Held.UNREADABLE

    def stop(self) -> None:
        """End the attempts under way; nothing is sent afterwards."""
        with self._lock:
            self._stopping = True
            for exchange in self._exchanges:
                exchange.end("the service is stopping")

    def _send(self, message_id: str, body: bytes) -> Answer:
        """One attempt. Returns an answer that is a 2xx."""
        timestamp = str(int(time.time()))
        signed = f"{message_id}.{timestamp}.".encode() + body
        signatures = [hmac.digest(key, signed, hashlib.sha256) for key in self._signing_keys()]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"rotator/{__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures),
        }
        answer = self._run(Exchange(self.settings.url, headers, body))
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        return answer

    def _run(self, exchange: Exchange) -> Answer:
        with self._lock:
            if self._stopping:
                raise TryLater("the service is stopping")
            self._exchanges.add(exchange)
        try:
            return exchange.run(self.settings.timeout.total_seconds())
        finally:
            with self._lock:
                self._exchanges.discard(exchange)

    def _refusal(self, answer: Answer) -> RotatorError:
        """What an answer means that is not a 2xx."""
        said = f"{self._host} answered {answer.status}"
        if 300 <= answer.status < 400:
            return NeedsPerson(f"{said}; redirects are not followed", "set `url` to where the receiver really is")
        if answer.status == 410:
            return SinkGone(f"{said}: it wants no more messages", "change the sink, or order `rotate` if it is back")
        wait = _retry_after(answer.retry_after, datetime.now(UTC)) if answer.status in (429, 503) else None
        hint = (
            "see the receiver's own log; most often its signing secret differs" if answer.status in (401, 403) else ""
        )
        return TryLater(said, hint, retry_after=wait)

    def _signing_keys(self) -> list[bytes]:
        """The keys to sign with, read anew each time. Raises NeedsPerson."""
        return [_signing_key(reference) for reference in self.settings.signing_secret]


def event_body(event: Event, at: datetime) -> bytes:
    """The message that `notify` sends about an event. There is no secret in it."""
    key = None if event.key_id is None else {"id": event.key_id, "name": event.key_name}
    data = {"policy": event.policy, "generation": event.generation, "key": key, "why": event.why, "at": _text(at)}
    return _body(event.name, at, data)


def _body(kind: str, at: datetime, data: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "timestamp": _text(at), "data": data}, separators=(",", ":")).encode()


def _text(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`, in whole seconds as Neon's times are."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _signing_key(reference: SecretRef) -> bytes:
    """The bytes that a `whsec_` secret stands for. Raises NeedsPerson, naming the reference only."""
    encoded = reference.read().reveal()
    try:
        key = base64.b64decode(encoded.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not encoded.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise NeedsPerson(
            f"the signing secret in {reference} is not one of Standard Webhooks",
            "it must be whsec_ and the base64 of 24 to 64 random bytes",
        )
    return key


def _fingerprint_in(body: bytes) -> object:
    """The `fingerprint` of an answer that is a JSON object, or None."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer.get("fingerprint") if isinstance(answer, dict) else None


def _retry_after(value: str | None, now: datetime) -> timedelta | None:
    """How long the receiver asks to be left alone: seconds, or until a date. At most an hour."""
    from email.utils import parsedate_to_datetime

    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        wait = timedelta(seconds=int(value))
    else:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):  # the latter for a zone that is far beyond the world
            return None
        wait = (until if until.tzinfo else until.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), LONGEST_RETRY_AFTER)
