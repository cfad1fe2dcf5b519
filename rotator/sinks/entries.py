"""One entry of a text file, found and replaced where it stands. Pure: text in, text out.

A file of somebody else is not parsed and written anew, as that would lose comments, order,
quotation and line ends. Only where the entry's value begins and ends is looked for, and nothing
outside that span changes. An entry that is there more than once is replaced everywhere, so that no
two readers can disagree about which counts; read is the last, as most readers do. An entry that is
not there is put at the end.

Readers of dotenv files agree on little. Here, as in most of them: `export` and blanks around `=` are
allowed, a value may be quoted with ', " or ` over several lines, and an unquoted one ends at the line's
end or before a blank and `#`. Escapes are not resolved: no key has any. A file whose quotation
different readers would take differently is refused rather than guessed at.

In a JSON file the entry belongs to the object at the top, and is a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

RAW, DOTENV, JSON = "raw", "dotenv", "json"
_BOM = "\ufeff"

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?(?P<name>[^\s=#'\"`]+)[ \t]*=")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+=,-]+")
_COMMENT = re.compile(r"[ \t]#")
_TO_LINE_END = re.compile(r"[ \t]*(?:#[^\n]*)?\r?(?=\n|\Z)")
# Quotations that end on their line, in either of the two ways in which ' is read: with escapes, or without.
_QUOTED_ON_ONE_LINE = re.compile(
    r"""(?: '[^'\n]*' | '(?:\\.|[^'\\\n])*' | "(?:\\.|[^"\\\n])*" | `(?:\\.|[^`\\\n])*` )
        (?= [ \t]*(?:\#[^\n]*)?\r?(?:\n|\Z) )""",
    re.VERBOSE,
)
_QUOTATION = re.compile(r"""'[^']*' | "(?:\\.|[^"\\])*" | `(?:\\.|[^`\\])*`""", re.VERBOSE | re.DOTALL)
_BLANKS = re.compile(r"[ \t]*")
_WHITE = re.compile(r"[ \t\n\r]*")


class NotUnderstood(Exception):
    """The text is not what its format says. Its message is a clause that quotes nothing of the text."""


class Span(NamedTuple):
    """Where the value of an entry is, and what it is; None for JSON's null."""

    start: int
    end: int
    value: str | None


def read(text: str, form: str, name: str | None) -> str | None:
    """The entry's value, or None if it is not there. Raises NotUnderstood."""
    if form == RAW:
        return text.strip()
    spans = _spans(text, form, name or "")
    return spans[-1].value if spans else None


def write(text: str, form: str, name: str | None, value: str) -> str:
    """The text with the entry set to `value`, everything else as it was. Raises NotUnderstood."""
    if form == RAW:
        return value
    name = name or ""
    if form == DOTENV and not _PLAIN.fullmatch(value):
        raise NotUnderstood("it is to hold a key with characters that a dotenv file cannot carry unquoted")
    new = value if form == DOTENV else json.dumps(value)
    spans = _spans(text, form, name)
    if spans:
        before = [0, *(span.end for span in spans)]
        kept = [text[start : span.start] for start, span in zip(before, spans, strict=False)]
        changed = "".join(part + new for part in kept) + text[before[-1] :]
    elif form == DOTENV:
        changed = _with_line(text, f"{name}={new}")
    else:
        changed = _with_member(text, name, new)
    if read(changed, form, name) != value:
        raise NotUnderstood(f"its entry {name} stands where it cannot be replaced")
    return changed


def _spans(text: str, form: str, name: str) -> list[Span]:
    if form == DOTENV:
        return [span for found, span in _assignments(text) if found == name]
    if not text.removeprefix(_BOM).strip():
        return []
    spans = []
    for member in _members(text).members:
        if member.name == name:
            value = member.value
            if not isinstance(value, str | None):
                raise NotUnderstood(f"its entry {name} is not a text")
            spans.append(Span(member.start, member.end, value))
    return spans


# dotenv


def _assignments(text: str) -> Iterator[tuple[str, Span]]:
    """Every `NAME=value` of a dotenv file, in order."""
    position = 1 if text.startswith(_BOM) else 0
    while position < len(text):
        assignment = _NAME.match(text, position)
        if assignment:
            span, position = _value(text, assignment.end())
            yield assignment["name"], span
        position = _line_end(text, position) + 1


def _value(text: str, start: int) -> tuple[Span, int]:
    """The value after a `=`, and where what belongs to it ends."""
    first = _skip(_BLANKS, text, start)
    if text[first : first + 1] not in ("'", '"', "`"):
        line_end = _line_end(text, first)
        end = line_end - 1 if text.endswith("\r", first, line_end) else line_end
        comment = _COMMENT.search(text, first, end)
        value = text[first : comment.start() if comment else end].rstrip(" \t")
        only_a_comment = first > start and value.startswith("#")
        if not value or only_a_comment:
            return Span(start, start, ""), first
        return Span(first, first + len(value), value), line_end
    on_one_line = _QUOTED_ON_ONE_LINE.match(text, first)
    if on_one_line:
        end = on_one_line.end()
        return Span(first + 1, end - 1, text[first + 1 : end - 1]), end
    return _quoted(text, first)


def _quoted(text: str, start: int) -> tuple[Span, int]:
    """A value that begins with a quotation, and then goes on as a shell would read it."""
    position, value_end, over_lines = start, 0, False
    while position < len(text) and text[position] != "\n":
        character = text[position]
        if character in "'\"`":
            quotation = _QUOTATION.match(text, position)
            if quotation is None:
                raise NotUnderstood(f"a quotation in its line {_line(text, position)} is not closed")
            over_lines = over_lines or "\n" in quotation[0]
            position = quotation.end()
            if quotation.start() == start and _TO_LINE_END.match(text, position):
                return Span(start + 1, position - 1, text[start + 1 : position - 1]), position
            continue
        if character in " \t\r":
            value_end = value_end or position
            if text[position + 1 : position + 2] == "#":
                position = _line_end(text, position)
                continue
        position += 2 if character == "\\" and text[position + 1 : position + 2] not in ("", "\n") else 1
    if over_lines:
        raise NotUnderstood(f"its line {_line(text, position)} goes on after a quotation of several lines")
    value_end = value_end or position
    return Span(start, value_end, text[start:value_end]), position


def _with_line(text: str, line: str) -> str:
    line_end = "\r\n" if re.match(r"[^\n]*\r\n", text) else "\n"
    missing = "" if text.removeprefix(_BOM) == "" or text.endswith("\n") else line_end
    return f"{text}{missing}{line}{line_end}"


def _skip(what: re.Pattern[str], text: str, position: int) -> int:
    skipped = what.match(text, position)
    return skipped.end() if skipped else position


def _line_end(text: str, position: int) -> int:
    """Where the line ends that this position is in."""
    found = text.find("\n", position)
    return len(text) if found < 0 else found


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


# JSON


@dataclass(frozen=True)
class _Member:
    """A member of the object: its name, where the name and the value begin and end, and the value."""

    name: str
    name_start: int
    name_end: int
    start: int
    end: int
    value: object


@dataclass(frozen=True)
class _Object:
    opened: int  # behind the brace
    members: list[_Member]


def _constant(_: str) -> object:
    raise ValueError("not JSON")


# Numbers are left as they are: a reader of ours would lose digits, or refuse a very long one.
_DECODER = json.JSONDecoder(parse_float=lambda _: 0, parse_int=lambda _: 0, parse_constant=_constant)


def _members(text: str) -> _Object:
    """The members of the object that the text is."""
    try:
        return _scan_object(text)
    except (ValueError, RecursionError):
        raise NotUnderstood("it is not a JSON object") from None


def _scan_object(text: str) -> _Object:
    position = _skip(_WHITE, text, 1 if text.startswith(_BOM) else 0)
    opened = position = _expect(text, position, "{")
    members: list[_Member] = []
    position = _skip(_WHITE, text, position)
    if text[position : position + 1] != "}":
        while True:
            name_start = position
            _expect(text, position, '"')
            name, name_end = _DECODER.raw_decode(text, position)
            start = _skip(_WHITE, text, _expect(text, _skip(_WHITE, text, name_end), ":"))
            value, end = _DECODER.raw_decode(text, start)
            members.append(_Member(name, name_start, name_end, start, end, value))
            position = _skip(_WHITE, text, end)
            if text[position : position + 1] != ",":
                break
            position = _skip(_WHITE, text, position + 1)
    position = _skip(_WHITE, text, _expect(text, position, "}"))
    if position != len(text):
        raise ValueError("more after the object")
    return _Object(opened, members)


def _expect(text: str, position: int, character: str) -> int:
    if text[position : position + 1] != character:
        raise ValueError("not an object")
    return position + 1


def _with_member(text: str, name: str, value: str) -> str:
    """The object with one more member, set out like the one before it."""
    quoted = json.dumps(name)
    if not text.removeprefix(_BOM).strip():
        return f"{text}{{\n  {quoted}: {value}\n}}\n"
    found = _members(text)
    if not found.members:
        return f"{text[: found.opened]}{quoted}: {value}{text[found.opened :]}"
    last = found.members[-1]
    before = found.members[-2].end if len(found.members) > 1 else found.opened
    white = text[before : last.name_start].replace(",", "", 1)
    colon = text[last.name_end : last.start]
    return f"{text[: last.end]},{white}{quoted}{colon}{value}{text[last.end :]}"
