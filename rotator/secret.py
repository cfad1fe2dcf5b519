"""A secret in memory, and the one word about it that may be written down: its fingerprint.

`Secret` has no text of its own: `str`, `repr`, formatting and pickling never show the value,
so a secret that slips into a log line, an error or an f-string prints as `Secret(sha256:…)`.
`reveal()` is the only way in, and is called where the secret leaves for Neon or a sink.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn


def fingerprint(value: str) -> str:
    """`sha256:` and the first 16 hexadecimal digits of the SHA-256 of the UTF-8 text."""
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16]


class Secret:
    """A secret that does not print itself."""

    __slots__ = ("_value", "fingerprint")

    def __init__(self, value: str) -> None:
        self._value = value
        self.fingerprint = fingerprint(value)

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
