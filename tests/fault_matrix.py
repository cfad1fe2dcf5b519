"""The fault matrix: `docs/fault-matrix.md`, written from what tests saw and held against it in every run.

A test that proves a row is marked `fault(section, fault, does)` and calls the fixture `person_sees` with what a
person really saw: a line of the log, of `status`, of a command. Numbers, times and paths that differ between
runs are masked. What was seen must be what the document says, so the document cannot drift from the program;
`pytest -m fault --write-fault-matrix` writes the rows of the tests that ran.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "fault-matrix.md"
SECTIONS = {
    "Process": "The process dies, hangs, or is there twice",
    "State": "The state cannot be written, read or trusted",
    "Neon": "Neon fails, or what it says cannot be believed",
    "Sinks": "A sink fails, or its surroundings are hostile",
    "Clock": "Time jumps",
    "Keys": "Keys vanish, appear or are used when they should not be",
    "People": "Orders and configurations that do harm, or seem to",
    "Input": "Input that nobody should send",
}
HEAD = """# Fault matrix

What can go wrong, what the service does then, what a person sees, and the test that proves it. The third
column is what the program said in that test, so the table is as true as the tests: each of them compares
it with what it saw, and fails if the program says something else. `N`, `TIME`, `NONCE`, `HOST` and `…` stand for
what differs from run to run. After a change of the program, write it anew:

```sh
python -m pytest -m fault --write-fault-matrix
```
"""
_COLUMNS = "| Fault | What the service does | What a person sees | Proof |\n| --- | --- | --- | --- |\n"
_MASKS = (
    (r"\d{8}T\d{6}Z-[a-z0-9]{6}", "TIME-NONCE"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z|\+00:00)?", "TIME"),
    (r"sha256:[0-9a-f]+", "sha256:…"),
    (r"(?<![\w:/.~-])/(?:[\w.@+~-]+/)+", "/…/"),
    (r"(?<=127\.0\.0\.1:)\d+|(?<=localhost:)\d+", "N"),
    (r"\b(?<!127\.)(?<!\.)\d+\.\d+\b(?!\.)", "N"),
    (r"\b\d+(?=m?s\b)", "N"),
    (r"\b\d{4,}\b", "N"),
    (r"(?<=\bkey )\d+|(?<=\bprocess )\d+|(?<=\bpid )\d+", "N"),
    (r"(?<=\bprocess N on )[\w.-]+\b", "HOST"),
)


@dataclass(frozen=True)
class Row:
    """One fault. `proof` is the test: its file and its name."""

    section: str
    fault: str
    does: str
    sees: str
    proof: str
    command: str = ""

    def text(self) -> str:
        """The row as it stands in the document."""
        cells = (self.fault, self.does, self.sees, f"`{self.proof}`" + (f" `{self.command}`" if self.command else ""))
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def masked(text: str) -> str:
    """On one line, without what differs from run to run."""
    text = " ".join(text.split())
    for pattern, word in _MASKS:
        text = re.sub(pattern, word, text)
    return text


def read(document: str) -> dict[str, Row]:
    """The rows of the document, by fault."""
    rows: dict[str, Row] = {}
    section = ""
    titles = {title: name for name, title in SECTIONS.items()}
    for line in document.splitlines():
        if line.startswith("## "):
            section = titles[line.removeprefix("## ")]
        elif line.startswith("| ") and not line.startswith(("| Fault |", "| --- |")):
            cells = [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\) \| ", line[2:-2])]
            proof, _, command = cells[3].replace("`", "").partition(" ")
            fault, does, sees = cells[:3]
            rows[fault] = Row(section, fault, does, sees, proof, command)
    return rows


def written(rows: Iterable[Row]) -> str:
    """The document with these rows: by section, then by proof."""
    rows = sorted(rows, key=lambda row: (row.proof, row.fault))
    parts = [HEAD]
    for name, title in SECTIONS.items():
        of_section = [row.text() for row in rows if row.section == name]
        if of_section:
            parts.append(f"\n## {title}\n\n{_COLUMNS}{''.join(of_section)}")
    return "".join(parts)


def is_proven(row: Row) -> bool:
    """Whether the test is there, and names this fault."""
    file, *_, name = row.proof.split("::")
    path = ROOT / file
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return name in tests and row.fault in texts


def renewed(document: Mapping[str, Row], seen: Iterable[Row]) -> list[Row]:
    """The document's rows that are still proven, with those that were seen now in their place."""
    new = {row.fault: row for row in seen}
    return [*new.values(), *(row for row in document.values() if row.fault not in new and is_proven(row))]
