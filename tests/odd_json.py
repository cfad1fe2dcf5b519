"""JSON as no well-behaved program writes it, and HTTP around it: strategies for answers that somebody else gives.

A tree of plain data is changed somewhere and written out by hand, so that keys may be repeated and numbers
may be what no parser makes of them. `answers` wraps such a text in a response, sound or not.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

MARK = "hunter2"  # stands in every text of an answer, and must never be repeated


@dataclass(frozen=True)
class Raw:
    """A value as it is written."""

    text: str


Pairs = list[tuple[str, Any]]

NUMBERS = ["0", "-0", "-1", "1.0", "7.5", "1e400", "-1e400", "9223372036854775807", "9223372036854775808", "9" * 5000]
NO_JSON = ["NaN", "Infinity", "undefined", "'a'", "", "01", "+1", "[" * 100_000, '{"a":' * 100_000, "[1,]"]
TIMES = [
    *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+02:00", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
    *("9999-12-31T23:59:59.999999999-12:00", "10000-01-01T00:00:00Z", "2026-11-23T04:05:60Z", "2016-12-31T23:59:60Z"),
    *("2026-11-23T04:05:50", "2026-11-23 04:05:50+00:00", "2026-11-23T04:05:50.1Z", "2026-11-23T04:05:50,5Z"),
    *("2026-11-23T04:05:50." + "9" * 18 + "Z", "2026-11-23T24:00:00Z", "2026-11-23T04:05:50+24:00", "2026-11-23"),
    *("20261123T040550Z", "2026-W48-1T04:05:50Z", "1763870750", "٢٠٢٦-11-23T04:05:50Z", "2026-11-23T04:05:50Z\n"),
]
TEXTS = [
    *("", " ", "\x00", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\r\n\t", "\u202egnp.exe", "\u2028", "\ufeff", "ä" * 9),
    *("x" * 3000, "napi_" + MARK * 3, "null", "2001:db8::1%eth0", ",,,", "a,b, ,c"),
]
FIELDS = [
    *("id", "name", "created_at", "created_by", "last_used_at", "last_used_from_addr", "project_id", "key", "revoked"),
    *("account_id", "auth_method", "message", "code", "fingerprint"),
]
SURROGATE = Raw('"\\ud800"')

odd_values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([Raw(text) for text in NUMBERS]),
    st.sampled_from(TIMES),
    st.sampled_from([None, True, False, Raw("[]"), Raw("{}"), SURROGATE, *map(Raw, NO_JSON)]),
    st.sampled_from(TEXTS),
    st.text(max_size=8),
    st.integers(),
    st.lists(st.integers(0, 9), max_size=2).map(tuple),
    st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=4), max_size=2).map(lambda found: list(found.items())),
)


def editable(value: object) -> Any:
    """Objects as lists of pairs, so that a key can be repeated; lists as tuples."""
    if isinstance(value, dict):
        return [(key, editable(inner)) for key, inner in value.items()]
    return tuple(map(editable, value)) if isinstance(value, list) else value


def written(value: object) -> str:
    """The JSON text of what `editable` and `mutated` return."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, list):
        return "{" + ", ".join(f"{json.dumps(key)}: {written(inner)}" for key, inner in value) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


@st.composite
def mutated(
    draw: st.DrawFn, value: Any, odd: st.SearchStrategy[Any] = odd_values, names: Sequence[str] = FIELDS
) -> Any:
    """The value with something dropped, repeated, renamed, added or replaced, somewhere in it."""
    if not isinstance(value, (list, tuple)) or not value or draw(st.integers(0, 7)) == 0:
        return draw(odd)
    position = draw(st.integers(0, len(value) - 1))
    item = value[position]
    what = draw(st.sampled_from(["inside", "inside", "inside", "inside", "drop", "repeat", "rename", "add"]))
    if what == "inside":
        inner = draw(mutated(item[1] if isinstance(value, list) else item, odd, names))
        instead: list[Any] = [(item[0], inner) if isinstance(value, list) else inner]
    elif what == "rename" and isinstance(value, list):
        instead = [(draw(st.sampled_from(["", "x", item[0].upper(), *names])), item[1])]
    elif what == "add" and isinstance(value, list):
        instead = [item, (draw(st.sampled_from(names)), draw(odd))]
    elif what == "add":
        instead = [item, draw(odd)]
    else:
        instead = [item] * (0 if what == "drop" else 2)
    return type(value)([*value[:position], *instead, *value[position + 1 :]])


@st.composite
def bodies(draw: st.DrawFn, sound: object) -> bytes:
    """The body of an answer: a sound one with up to three changes, and perhaps not even the text of one."""
    value = editable(sound)
    for _ in range(draw(st.integers(0, 3))):
        value = draw(mutated(value))
    text = written(value)
    how = draw(
        st.sampled_from(["plain", "plain", "plain", "plain", "utf-16", "latin-1", "bom", "cut", "junk", "bytes"])
    )
    if how in ("utf-16", "latin-1"):
        return text.encode(how, "replace")
    body = text.encode("utf-8", "replace")
    if how == "bom":
        return b"\xef\xbb\xbf" + body
    if how == "cut":
        return body[: draw(st.integers(0, min(len(body), 300)))]
    if how == "junk":
        at = draw(st.integers(0, min(len(body), 300)))
        return body[:at] + draw(st.binary(max_size=4)) + body[at:]
    return draw(st.binary(max_size=60)) if how == "bytes" else body


DATES = [
    "",
    "yesterday",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Mon, 23 Nov 2026 04:06:60 GMT",
    "Mon, 23 Nov 2026 04:06:00 +99999999999",
    "Mon, 23 Nov 2026 04:06:00 -99999999999999999999",
    "Mon, 23 Nov 2026 04:06:00 -2359",
    "Mon, 23 Nov 99999 04:06:00 GMT",
    "\xff\xfe",
]
AFTERS = ["0", "3", "1e9", "-5", "9" * 400, "soon", *DATES]
RARE = [*range(100, 104), 226, *range(300, 309), *range(400, 432), 451, 499, *range(500, 512), 599]
STATUSES = st.one_of(st.just(200), st.just(200), st.sampled_from(RARE), st.integers(100, 599))


@dataclass(frozen=True)
class Said:
    """A response as it goes over the wire. `whole` if its framing is sound, so that its body is what is judged."""

    status: int
    raw: bytes
    whole: bool


@st.composite
def answers(draw: st.DrawFn, sound: object, statuses: st.SearchStrategy[int] = STATUSES) -> Said:
    """A response with a body as `bodies` makes it of the sound one."""
    body = draw(bodies(sound))
    status = draw(statuses)
    kinds = ["application/json", "application/json; charset=utf-16", "text/html", "application/JSON;;;", "\xff"]
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {draw(st.sampled_from(kinds))}"]
    for name, texts in (("Date", DATES), ("Retry-After", AFTERS)):
        if draw(st.booleans()):
            head.append(f"{name}: {draw(st.sampled_from(texts))}")
    frames = ["length", "length", "length", "length", "end", "chunks", "gzip", "gzip twice", "no gzip", "half gzip"]
    frame = draw(st.sampled_from([*frames, "short", "long", "no length", "bad chunks", "half chunks", "two lengths"]))
    whole = frame in frames[:8]
    if "gzip" in frame:
        body = gzip.compress(body, mtime=0) if frame != "no gzip" else body + b"x"
        body = gzip.compress(body, mtime=0) if frame == "gzip twice" else body
        body = body[:-5] if frame == "half gzip" else body
        head.append("Content-Encoding: gzip" + (", gzip" if frame == "gzip twice" else ""))
    lengths = {"short": ["1"], "long": [str(len(body) + 9)], "no length": ["many"], "two lengths": ["1", "2"]}
    if "chunks" in frame:
        head.append("Transfer-Encoding: chunked")
        size = b"zz" if frame == "bad chunks" else f"{len(body):x}".encode()
        end = b"" if frame == "half chunks" else b"\r\n0\r\n\r\n"
        body = size + b"\r\n" + body + end if body or frame != "chunks" else b"0\r\n\r\n"
    elif frame != "end":
        head += [f"Content-Length: {length}" for length in lengths.get(frame, [str(len(body))])]
    return Said(status, "\r\n".join([*head, "", ""]).encode("latin-1") + body, whole)
