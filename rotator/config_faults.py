"""Faults of a configuration, in words and with their places.

Pydantic finds most faults and says where in its own terms: a path through the data. `Faults` follows
that path through the tree of `yaml_places.py` to a line and a column, and says in plain words what is
wrong there and what is expected. It never repeats a value, with one exception: what YAML made of an
unquoted `0640` cannot be explained without it, and it is left out where a secret belongs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rotator.cadence import WEEKDAYS
from rotator.errors import ConfigProblem
from rotator.fields import SECRET_EXPECTED, Settings
from rotator.secret import blank
from rotator.yaml_places import Node, Odd, Part, dotted, odd_nodes, shown

S = TypeVar("S", bound=Settings)
Path = tuple[Part, ...]

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "mapping_type": "a mapping",
}
_REPEAT_THE_VALUE = ("union_tag_invalid", "url_parsing", "url_scheme", "uuid_parsing")
_MANY = 12


@dataclass(frozen=True)
class Checked(Generic[S]):
    """A mapping that was checked. At its `faulty` keys it holds defaults or examples: do not look there."""

    settings: S
    faulty: frozenset[str] = frozenset()


class Faults:
    """Collects the faults of one file."""

    def __init__(self, file: str, root: Node, known: Iterable[ConfigProblem], context: Mapping[str, Any]) -> None:
        self._file = file
        self._root = root
        self._context = dict(context)
        self._found = dict.fromkeys(known)

    @property
    def problems(self) -> list[ConfigProblem]:
        """What was found, in the order of the file."""
        return sorted(self._found, key=lambda problem: (problem.line, problem.column, problem.path))

    def node(self, path: Path) -> Node | None:
        """The value at a path, if there is one."""
        node = self._root
        for part in path:
            if part not in node.children:
                return None
            node = node.children[part]
        return node

    def add(self, path: Path, problem: str, *, at_key: bool = False) -> None:
        """Note a fault at a path, unless something that it hangs on is known to be faulty."""
        node, depth = self._nearest(path)
        if any(self._nearest(path[:end])[0].spoilt for end in range(depth + 1)):
            return
        line, column = node.key if at_key and node.key else node.place
        self._found[ConfigProblem(self._file, line, column, dotted(path), blank(problem))] = None

    def check(self, model: type[S], path: Path, value: object) -> Checked[S] | None:
        """The value as settings, as far as it goes; its faults are noted. None if nothing can be said."""
        try:
            return Checked(model.model_validate(value, context=self._context))
        except ValidationError as error:
            details = error.errors(include_input=False, include_context=False, include_url=False)
        for detail in details:
            self._note(model, path, detail)
        faulty = frozenset(str(detail["loc"][0]) for detail in details if detail["loc"])
        if not isinstance(value, dict) or not faulty:
            return None
        sound = {key: kept for key, kept in value.items() if key not in faulty}
        for key, field in _fields(model).items():
            if key in faulty and field.is_required() and field.examples:
                sound[key] = field.examples[0]
        try:
            return Checked(model.model_validate(sound, context=self._context), faulty)
        except ValidationError:
            return None

    def add_odd(self) -> None:
        """Note every `Odd` that no setting refused, because it takes anything."""
        noted = {problem.path for problem in self._found}
        for path, odd in odd_nodes(self._root):
            if not noted & {dotted(path[:end]) for end in range(1, len(path) + 1)}:
                self.add(path, f"{odd}; put it in quotes")

    def _nearest(self, path: Path) -> tuple[Node, int]:
        """The deepest value on the way, and how far that is."""
        node = self._root
        for depth, part in enumerate(path):
            if part not in node.children:
                return node, depth
            node = node.children[part]
        return node, len(path)

    def _note(self, model: type[Settings], base: Path, detail: ErrorDetails) -> None:
        loc: Path = tuple(detail["loc"])
        node, depth = self._nearest((*base, *loc))
        kind = detail["type"]
        if kind == "missing":
            if not node.incomplete:
                self.add((*base, *loc), f"missing; {_wanted(model, loc)}")
        elif kind == "extra_forbidden":
            self.add((*base, *loc), _unknown(model, loc), at_key=True)
        else:
            # What lies beyond the values of the file is pydantic's own: a branch of a union, "[key]".
            self.add((*base, *loc)[:depth], _wording(kind, detail["msg"], node))


def _wording(kind: str, message: str, node: Node) -> str:
    """What is wrong; what is expected."""
    expected = _expected(kind, message)
    if message.endswith(SECRET_EXPECTED):
        return f"not a reference to a secret; {SECRET_EXPECTED}" if expected.startswith("expected") else expected
    if misread := _misread(node):
        if kind in ("int_type", "float_type"):
            return f"{misread}; expected a plain number in decimal"
        if kind == "literal_error":
            return f"{misread}; {expected}"
        return f"{misread}; put it in quotes" + ("" if kind == "string_type" else f" ({expected})")
    if kind == "string_type" and isinstance(node.value, (bool, int, float)):
        return f"{_is(node)}; expected text, put it in quotes"
    if kind in ("bool_type", "int_type", "float_type") and isinstance(node.value, str):
        return f"{_is(node)}; {expected}, without quotes"
    if kind in _KINDS or node.value is None:
        return f"{_is(node)}; {expected}"
    if expected.startswith("expected"):
        if kind.startswith(("greater_than", "less_than")):
            return f"out of range; {expected}"
        return f"{'not understood' if isinstance(node.value, str) else _is(node)}; {expected}"
    return expected


def _misread(node: Node) -> str:
    """What YAML made of an unquoted value, if that is not what it looks like."""
    if isinstance(node.value, bool) and node.text and node.text.lower() not in ("true", "false"):
        return f"{node.text} without quotes is {str(node.value).lower()} in YAML"
    return str(node.value) if isinstance(node.value, Odd) else ""


def _expected(kind: str, message: str) -> str:
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}"
    if kind in _REPEAT_THE_VALUE:
        return "expected one of the values that the schema names"
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if bound := re.fullmatch(r"Input should be (greater|less) than (or equal to )?(\S+)", message):
        least = {"greater": "at least", "less": "at most"}[bound[1]] if bound[2] else f"{bound[1]} than"
        return f"expected a number of {least} {bound[3]}" if bound[2] else f"expected a number {least} {bound[3]}"
    if shorter := re.fullmatch(r"(?:String|List|Tuple) should have at least 1 (\w+).*", message):
        return f"expected at least one {shorter[1]}"
    message = re.sub(r"^(Input|String|Value|List|Tuple) should (be |have )?", "expected ", message)
    return message if kind in ("value_error", "assertion_error") else message[:1].lower() + message[1:]


def _is(node: Node) -> str:
    match node.value:
        case None:
            return "nothing is given"
        case bool():
            return "this is true or false"
        case int() | float():
            return "this is a number"
        case list():
            return "this is a list"
        case dict():
            return "this is a mapping"
        case _:
            return "this is text"


def _unknown(model: type[Settings], loc: Path) -> str:
    key = str(loc[-1])
    known = _keys_at(model, loc[:-1])
    if "days" in known and key in WEEKDAYS:
        return 'unknown key; expected days in quotes, as in days: "mon,wed"'
    return f"unknown key; {did_you_mean(key, known)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean …?`, or which words there are."""
    words = sorted(known)
    if close := get_close_matches(word[:60], words, n=1, cutoff=0.7):
        return f"did you mean {shown(close[0])}?"
    if not words:
        return "expected none"
    return f"expected one of {', '.join(map(shown, words[:_MANY]))}" + (", …" if len(words) > _MANY else "")


def _wanted(model: type[Settings], loc: Path) -> str:
    key = str(loc[-1])
    field = _keys_at(model, loc[:-1]).get(key)
    if field is None or not field.examples:
        return f"add {key}:"
    example = yaml.safe_dump({key: field.examples[0]}, default_flow_style=True, width=10_000).strip()
    return f"add it, for example {example[1:-1]}"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _keys_at(model: type[BaseModel], loc: Path) -> dict[str, FieldInfo]:
    """The keys that a mapping somewhere in a model may have."""
    models = [model]
    for part in loc:
        fields = [found for one in models for key, found in _fields(one).items() if key == part]
        models = (
            [inner for field in fields for inner in _models_in(field.annotation)] if isinstance(part, str) else models
        )
    return {key: field for one in models for key, field in _fields(one).items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
