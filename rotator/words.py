"""Times and durations as sentences use them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta


def when(moment: datetime) -> str:
    """`2026-11-23 04:05:50 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(duration: timedelta) -> str:
    """The two largest units: `3d 4h`, `5m 10s`, `0s`."""
    seconds = round(abs(duration.total_seconds()))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0s"


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(items)
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def printable(text: str) -> str:
    """The text with everything that a terminal would act on, or nobody could see, as an escape such as `\\x1b`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
