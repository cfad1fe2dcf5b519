"""Who may import whom: the arrows of the design, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "rotator"

# From the bottom up: a module may import from its own row and from the rows above it in this list.
ROWS: tuple[tuple[str, ...], ...] = (
    ("", "errors", "secret", "words"),
    ("model", "fields"),
    ("schedule", "cadence", "standing", "transitions", "lasting", "systemd", "lock", "log", "rate", "clock", "memory"),
    ("due", "revocation", "decide", "bookkeeping", "observe", "usage", "lag", "rhythm"),
    ("foresee", "status", "explain"),
    ("sinks", "neon", "neon_wire", "neon_answers", "store", "store_file", "store_history", "store_tables"),
    ("ports", "renames", "lists", "outside", "engine", "rounds", "notify"),
    ("config", "settings", "yaml_places", "contradictions", "config_faults", "config_schema"),
    ("assembly",),
    ("glance", "oneshot", "daemon", "web"),
    ("commands", "demo"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(ROWS) for name in names}
ADAPTERS = {"sinks", "neon", "neon_wire", "neon_answers", "store", "store_file", "store_history", "store_tables"}
PURE = {
    *("model", "words", "schedule", "standing", "transitions", "due", "revocation", "decide"),
    *("bookkeeping", "observe", "usage", "lag", "rhythm", "foresee", "status", "explain", "lasting"),
}
IMPURE_LIBRARIES = {
    *("os", "sys", "io", "time", "random", "secrets", "socket", "subprocess", "threading", "logging"),
    *("pathlib", "requests", "sqlalchemy", "structlog", "apscheduler", "yaml", "click", "rich"),
}
HOMES = {
    "requests": {"neon_wire"},
    "sqlalchemy": {"store", "store_history", "store_tables"},
    "apscheduler": {"daemon"},
    "structlog": {"log"},
    "yaml": {"yaml_places", "config_faults"},
    "cronsim": {"schedule", "cadence", "settings", "contradictions"},
    "click": {"cli", "commands", "demo"},
    "rich": {"commands", "demo"},
    "prometheus_client": {"web"},
}


def _files() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "sandbox" not in path.parts)


def _home(path: Path) -> str:
    """The module's place in the table: its file, or the package that it is in."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py").replace("__init__", "") if first != "__main__.py" else "__main__"


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "rotator":
            yield from (f"rotator.{alias.name}" if alias.name != "__version__" else "rotator" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def _own(path: Path) -> set[str]:
    return {([*name.split("."), ""])[1] for name in _imports(path) if name.split(".")[0] == "rotator"}


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_one_way(path: Path) -> None:
    home = _home(path)
    assert home in RANK, f"{home} has no place in the table yet"
    above = {name for name in _own(path) if name != "sandbox" and RANK[name] > RANK[home]}
    assert not above, f"{home} reaches up to {sorted(above)}"


def test_the_core_is_all_there() -> None:
    assert {_home(path) for path in _files()} >= PURE


@pytest.mark.parametrize(
    "path", [path for path in _files() if _home(path) in PURE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_core_imports_nothing_that_acts(path: Path) -> None:
    libraries = {module.split(".")[0] for module in _imports(path)}
    assert not libraries & IMPURE_LIBRARIES
    assert _own(path) <= PURE | {"errors", ""}


def test_a_library_is_imported_where_it_lives() -> None:
    for path in _files():
        for module in _imports(path):
            homes = HOMES.get(module.split(".")[0])
            assert homes is None or _home(path) in homes, f"{path.name} imports {module}"


def test_adapters_do_not_know_each_other() -> None:
    families = {
        "neon": {"neon", "neon_wire", "neon_answers", "rate", "clock"},
        "sinks": {"sinks"},
        "store": {"store", "store_file", "store_history", "store_tables"},
    }
    for path in _files():
        if _home(path) in ADAPTERS:
            family = families[_home(path).split("_")[0]]
            strangers = _own(path) & (ADAPTERS | {"rate", "clock"}) - family
            assert not strangers, f"{path.name} imports {sorted(strangers)}"


def test_the_sandbox_stands_alone() -> None:
    for path in (ROOT / "sandbox").rglob("*.py"):
        assert all(name.startswith("rotator.sandbox") for name in _imports(path) if name.split(".")[0] == "rotator")


def test_only_the_sandbox_command_and_the_demo_know_the_sandbox() -> None:
    for path in _files():
        if "sandbox" in _own(path):
            assert path.relative_to(ROOT).parts[0] == "demo" or path.name == "sandbox.py", path


def test_modules_stay_small() -> None:
    long = {path.name: n for path in ROOT.rglob("*.py") if (n := len(path.read_text().splitlines())) > 520}
    assert not long
