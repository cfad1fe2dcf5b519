"""A secret in memory, and the one word about it that may be written down: its fingerprint.

`Secret` has no text of its own: `str`, `repr`, formatting and pickling never show the value,
so a secret that slips into a log line, an error or an f-string prints as `Secret(sha256:…)`.
`reveal()` is the only way in, and is called where the secret leaves for Neon or a sink.

Libraries get the revealed text, and assume that every library talks. So `blank` knows the secrets
that this process holds, beside what looks like one, and takes both out of any text. A secret that is held is
found as it is, in hexadecimal or base64, backwards, escaped as JSON, Python or a URL escape it, and broken over lines;
one that is not held only by its looks and in one piece.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import weakref
from collections.abc import Iterator
from typing import NoReturn

BLANK = "[secret]"
_SHORTEST = 8  # a shorter one would blank out ordinary words
# Where a word may begin: not after a letter or digit, unless that ends an escape of JSON or of a terminal's colours.
_BEGINS = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{4})|(?<=\x1b\[[0-9]m)|(?<=\x1b\[[0-9]{2}m))"
_LOOKS_LIKE = re.compile(
    r"napi_[A-Za-z0-9_]{8,}"  # Neon's keys, also one after the other
    r"|whsec_[A-Za-z0-9+/=_-]{8,}"  # Standard Webhooks' signing secrets
    rf"|{_BEGINS}(?<!sha256:)[a-z0-9]{{64}}(?![A-Za-z0-9])"  # Neon's older keys, which have no prefix
    r"|(?<=(?i:bearer) )[A-Za-z0-9._~+/=-]+"
)
_URL_SAFE = str.maketrans("+/", "-_")
_BREAK = r"(?:\s|\\+[nrt])"
_CODE = re.compile(r"(?:%|\\+(?:u00|x))([0-9A-Fa-f]{2})")
_NOT_SPELT = re.compile(r"\\+[nrt]|%[0-9A-Fa-f]{2}|[^A-Za-z0-9\\%]+|[\\%]")


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
    spelt = _NOT_SPELT.sub("", _CODE.sub(lambda code: chr(int(code[1], 16)), text))
    # A snapshot: other threads make and drop secrets meanwhile. The longest first: one may be a part of another.
    held = [secret.reveal() for reference in _held.valuerefs() if (secret := reference()) is not None]
    for value in sorted((value for value in held if len(value) >= _SHORTEST), key=len, reverse=True):
        for coded in _codes(value):
            if _NOT_SPELT.sub("", coded) in spelt:
                text = _however_written(coded).sub(BLANK, text)
    return _LOOKS_LIKE.sub(BLANK, text)


def _codes(value: str) -> Iterator[str]:
    """A secret as it is, and as others may code it. In base64 it may stand anywhere, also after a user's name."""
    raw = value.encode()
    yield from (value, value[::-1], raw.hex(), raw.hex().upper())
    for before in range(3):
        # Only the characters that are the secret's alone: those at the ends hold bits of its neighbours.
        coded = base64.b64encode(bytes(before) + raw).decode()
        own = coded[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]
        yield from {own, own.translate(_URL_SAFE)}


def _however_written(value: str) -> re.Pattern[str]:
    """Finds a secret also where it is escaped as in JSON, Python or a URL, however often, and broken anywhere."""
    return re.compile(f"{_BREAK}*".join(map(_escaped, value)))


def _escaped(character: str) -> str:
    before = "" if character.isalnum() else r"\\+" if character == "\\" else r"\\*"
    plain = before if character == "\\" else before + re.escape(character)
    return rf"(?:{plain}|(?:%|\\+(?:u00|x))(?i:{ord(character):02x}))"
