"""A secret in memory, and the one word about it that may be written down: its fingerprint.

`Secret` has no text of its own: `str`, `repr`, formatting and pickling never show the value,
so a secret that slips into a log line, an error or an f-string prints as `Secret(sha256:…)`.
`reveal()` is the only way in, and is called where the secret leaves for Neon or a sink.

Libraries get the revealed text, and assume that every library talks. So `blank` knows the secrets
that this process holds, beside what looks like one, and takes both out of any text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import weakref
from typing import NoReturn

BLANK = "[secret]"
_SHORTEST = 8  # a shorter one would blank out ordinary words
_LOOKS_LIKE = re.compile(
    r"napi_[A-Za-z0-9]{8,}"  # Neon's keys
    r"|whsec_[A-Za-z0-9+/=]{8,}"  # Standard Webhooks' signing secrets
    r"|(?<![A-Za-z0-9:])[a-z0-9]{64}(?![A-Za-z0-9])"  # Neon's older keys, which have no prefix
    r"|(?<=Bearer )\S+"
)


def fingerprint(value: str) -> str:
    """`sha256:` and the first 16 hexadecimal digits of the SHA-256 of the UTF-8 text."""
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16]


class Secret:
    """A secret that does not print itself."""

    __slots__ = ("__weakref__", "_value", "fingerprint")

    def __init__(self, value: str) -> None:
        self._value = value
        self.fingerprint = fingerprint(value)
        _held[id(self)] = self

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")


_held: weakref.WeakValueDictionary[int, Secret] = weakref.WeakValueDictionary()


def blank(text: str) -> str:
    """The text without the secrets that this process holds, and without what looks like one."""
    for secret in list(_held.values()):
        value = secret.reveal()
        if len(value) >= _SHORTEST and value in text:
            text = text.replace(value, BLANK)
    return _LOOKS_LIKE.sub(BLANK, text)
