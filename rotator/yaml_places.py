"""A YAML file as plain data in which every value knows its line and column.

The file is read as libyaml's stream of events, not through a loader, for three reasons. Events are
flat, so that a file of a million brackets meets a limit here and not the interpreter's stack. They
still hold what a loader throws away: where a key stands, that it stands there twice, and how a value
was written before YAML made a number of it. And nothing is ever constructed from a tag.

Anchors, aliases, merge keys, tags and second documents are faults: each value of a configuration
stands where it is used, so that its place is one place, and a small file cannot unfold into a large
one. Reading goes on behind such a fault with a value that is marked as spoilt, about which nobody
complains again. Behind a fault of syntax nothing can be read.

Keys are always text, whatever they look like. A value that YAML 1.1 reads in a way that hardly
anybody means (`0640` is 416, `22:22` is 1342, `2026-01-01` is a date) becomes an `Odd`: no setting
accepts one, and the message says what YAML made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rotator.errors import ConfigError, ConfigProblem
from rotator.fields import read_start

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 200_000  # keys and values; some 5,000 policies have as many
Part = str | int

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_TAG = "tag:yaml.org,2002:"
_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # as YAML 1.1 has it
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_LONGEST_NUMBER = 40
_SECRET = re.compile(r"napi_|whsec_", re.IGNORECASE)
_BOOLEANS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_resolver: Any = yaml.resolver.Resolver()
_constructor: Any = yaml.constructor.SafeConstructor()


@dataclass(frozen=True)
class Odd:
    """A plain value that YAML reads as something else than was probably meant. `meaning` says as what."""

    text: str = field(repr=False)
    meaning: str

    def __str__(self) -> str:
        return f"{self.text if len(self.text) <= 20 else 'this'} without quotes is {self.meaning} in YAML"


@dataclass(slots=True)
class Node:
    """One value: its data, its place (1-based) and its key's, and its children if it has any.

    `text` is how an unquoted value was written. `spoilt` says that a fault here is known already, and
    `incomplete` that a key was dropped with a fault, so that none is to be missed.
    """

    value: Any
    line: int
    column: int
    text: str | None = None
    block: bool = False
    spoilt: bool = False
    incomplete: bool = False
    key: tuple[int, int] | None = None
    children: dict[Part, Node] = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int]:
        """Where to look for what is wrong with it: a block hangs under its key."""
        return self.key if self.block and self.key else (self.line, self.column)


def shown(key: str) -> str:
    """A key as a message may repeat it: short, printable, and nothing that could be a secret."""
    return key if 0 < len(key) <= 40 and key.isprintable() and not _SECRET.search(key) else "…"


def dotted(path: tuple[Part, ...]) -> str:
    """`policies.ci.deliver_to[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in path)
    return text.removeprefix(".")


def read(path: Path) -> tuple[Node, list[ConfigProblem]]:
    """The file's value, and the faults that do not stop the reading. Raises ConfigError for those that do."""
    file = str(path)
    try:
        content = read_start(path, MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
        raise _end(file, 1, 1, f"cannot be read: {why}; name a readable file with --config") from None
    if len(content) > MAX_BYTES:
        raise _end(file, 1, 1, f"larger than {MAX_BYTES >> 20} MiB; expected a configuration")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place_of(content[: error.start].decode("utf-8-sig", errors="replace"))
        raise _end(file, line, column, "not UTF-8; save the file as UTF-8 text") from None
    if character := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line, column = _place_of(text[: character.start()])
        raise _end(file, line, column, f"the control character U+{ord(character.group()):04X}; remove it")
    reader = _Reader(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        line, column, problem = _syntax(error, text)
        raise ConfigError([*reader.problems, ConfigProblem(file, line, column, "", problem)]) from None
    except yaml.YAMLError:
        raise _end(file, 1, 1, "not YAML; expected the keys neon, sinks and policies") from None
    if reader.root is None or (reader.root.value is None and not reader.problems):
        raise _end(file, 1, 1, "the file is empty; expected the keys neon, sinks and policies")
    return reader.root, reader.problems


def _end(file: str, line: int, column: int, problem: str) -> ConfigError:
    return ConfigError([ConfigProblem(file, line, column, "", problem)])


def _place_of(before: str) -> tuple[int, int]:
    """The place behind this text."""
    lines = _LINE_END.split(before)
    return len(lines), len(lines[-1]) + 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> tuple[int, int, str]:
    """The place of a fault of syntax, and what to do about it. Never repeats the file's text."""
    context, problem = error.context or "", error.problem or "not YAML"
    mark = error.problem_mark or error.context_mark
    if "scanning an alias" in context or "scanning an anchor" in context or "quoted scalar" in context:
        mark = error.context_mark or mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    lines = _LINE_END.split(text)
    if line > len(lines):  # where a file ends without a line end, libyaml sees one more line
        line, column = len(lines), len(lines[-1]) + 1
    first = lines[line - 1][column - 1 : column]
    if "scanning an alias" in context:
        return line, column, 'a value that begins with * is an alias in YAML; put it in quotes, as in cron: "* * * * *"'
    if "scanning an anchor" in context:
        return line, column, "a value that begins with & is an anchor in YAML; put it in quotes"
    if "quoted scalar" in context and "end of stream" in problem:
        return line, column, "a quote is opened here and never closed; close it"
    if "cannot start any token" in problem:
        if first == "\t":
            return line, column, "a tab in the indentation; YAML wants spaces"
        return line, column, f"a value cannot begin with {first or 'this'}; put it in quotes"
    if "mapping values are not allowed" in problem:
        return (
            line,
            column,
            "a second `: ` in one line, or a line indented too far; put the value in quotes or align it",
        )
    if "did not find expected key" in problem:
        return line, column, "this does not line up with the keys above; align it with them"
    return (
        line,
        column,
        f"not YAML: {' '.join(filter(None, (context, problem)))}; correct what stands here or just before",
    )


@dataclass(slots=True)
class _Open:
    """A mapping or list that has not ended. `key` waits for its value; `skip` drops that value."""

    node: Node
    path: tuple[Part, ...]
    key: str | None = None
    key_place: tuple[int, int] = (0, 0)
    skip: bool = False


class _Reader:
    """Builds the tree from the events."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[ConfigProblem] = []
        self.root: Node | None = None
        self._open: list[_Open] = []
        self._documents = 0
        self._values = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event. Raises ConfigError where going on makes no sense."""
        self._values += isinstance(event, yaml.NodeEvent)
        if self._values > MAX_VALUES:
            self._fault(event, f"more than {MAX_VALUES} keys and values; expected a configuration", path=())
            raise ConfigError(self.problems[-1:])
        if isinstance(event, yaml.ScalarEvent):
            self._attach(self._scalar(event))
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.AliasEvent):
            self._fault(event, "an alias (*name) is not taken; write the value out")
            self._attach(self._node(event, None, spoilt=True))
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fault(event, "a second document begins; expected one document without ---")
                raise ConfigError(self.problems)

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        spoilt = self._marked(event)
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        node = self._node(event, value, spoilt=spoilt)
        node.block = not event.flow_style
        path = self._path()
        self._attach(node)
        self._open.append(_Open(node, path))
        if len(self._open) > MAX_DEPTH:
            self._fault(event, f"nested more than {MAX_DEPTH} levels deep; expected a configuration", path=())
            raise ConfigError(self.problems)

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        node = self._node(event, event.value, spoilt=self._marked(event))
        if event.implicit[0]:
            node.text = event.value
            if not self._key_is_next():
                node.value = _plain(event.value)
        return node

    def _attach(self, node: Node) -> None:
        """Put a value where the next one belongs: as root, in a list, as a key, or behind its key."""
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node.value, list):
            parent.node.children[len(parent.node.value)] = node
            parent.node.value.append(node.value)
        elif parent.key is None:
            self._attach_key(parent, node)
        else:
            if not parent.skip:
                node.key = parent.key_place
                parent.node.children[parent.key] = node
                parent.node.value[parent.key] = node.value
            parent.key, parent.skip = None, False

    def _attach_key(self, parent: _Open, node: Node) -> None:
        key = node.value if isinstance(node.value, str) else ""
        parent.key, parent.key_place = key, (node.line, node.column)
        parent.skip = True
        if not isinstance(node.value, str):
            if not node.spoilt:
                self._problem(node, parent.path, "a key that is not a word; expected a word, a colon and a value")
            parent.node.incomplete = True
        elif key == "<<" and node.text is not None:
            self._problem(node, (*parent.path, key), "a merge key is not taken; write the keys out")
            parent.node.incomplete = True
        elif key in parent.node.children:
            first = parent.node.children[key].key or (0, 0)
            where = f"it stands in line {first[0]} already; keep one of the two"
            self._problem(node, (*parent.path, key), f"repeated key; {where}")
        else:
            parent.skip = False

    def _marked(self, event: yaml.NodeEvent) -> bool:
        """Report an anchor or a tag; true if the value cannot be judged because of it."""
        if event.anchor is not None:
            self._fault(event, "an anchor (&name) is not taken; write the value out where it is used")
        tag = getattr(event, "tag", None)
        if tag is None or tag == "!":
            return False
        self._fault(event, "a tag (!name) is not taken; write the plain value, in quotes if it is text")
        return True

    def _key_is_next(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and self._open[-1].key is None

    def _path(self) -> tuple[Part, ...]:
        """The path of the value that comes next."""
        if not self._open:
            return ()
        parent = self._open[-1]
        part: Part | None = len(parent.node.value) if isinstance(parent.node.value, list) else parent.key
        return parent.path if part is None else (*parent.path, part)

    @staticmethod
    def _node(event: yaml.Event, value: Any, *, spoilt: bool) -> Node:
        return Node(value, *_where(event), spoilt=spoilt)

    def _fault(self, event: yaml.Event, problem: str, path: tuple[Part, ...] | None = None) -> None:
        where = self._path() if path is None else path
        self.problems.append(ConfigProblem(self.file, *_where(event), dotted(where), problem))

    def _problem(self, node: Node, path: tuple[Part, ...], problem: str) -> None:
        self.problems.append(ConfigProblem(self.file, node.line, node.column, dotted(path), problem))


def _where(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _plain(text: str) -> object:
    """What YAML 1.1 makes of an unquoted value, or an `Odd` where that is a trap."""
    tag = str(_resolver.resolve(yaml.ScalarNode, text, (True, False))).removeprefix(_TAG)
    if tag == "null":
        return None
    if tag == "bool":
        return _BOOLEANS[text.lower()]
    if tag == "int":
        return int(text) if _DECIMAL.fullmatch(text) else Odd(text, _number(text))
    if tag == "float" and ":" not in text:
        return _constructor.construct_yaml_float(yaml.ScalarNode(_TAG + tag, text))
    if tag == "float":
        return Odd(text, "a number to the base of 60")
    if tag == "timestamp":
        return Odd(text, "a date")
    return text


def _number(text: str) -> str:
    if len(text) > _LONGEST_NUMBER:  # to the base of 60 it would be reckoned for minutes
        return "a number"
    try:
        return f"the number {_constructor.construct_yaml_int(yaml.ScalarNode(_TAG + 'int', text))}"
    except ValueError:
        return "a number"


def odd_nodes(node: Node, path: tuple[Part, ...] = ()) -> Iterator[tuple[tuple[Part, ...], Odd]]:
    """Every `Odd` at and under a node, with its path."""
    if isinstance(node.value, Odd):
        yield path, node.value
    for part, child in node.children.items():
        yield from odd_nodes(child, (*path, part))
