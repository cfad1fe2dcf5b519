"""What every test may use: `person_sees`, which holds a fault's test against `docs/fault-matrix.md`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import fault_matrix
import pytest
from fault_matrix import DOCUMENT, SECTIONS, Row, masked

_OPTION = "--write-fault-matrix"
_ROWS = pytest.StashKey[dict[str, Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(_OPTION, action="store_true", help="write what the tests saw into docs/fault-matrix.md")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(section, fault, does, command=''): proves a row of the fault matrix")
    config.stash[_ROWS] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marked = item.get_closest_marker("fault") is not None
        if marked != ("person_sees" in getattr(item, "fixturenames", ())):
            raise pytest.UsageError(f"{item.nodeid}: the mark `fault` and the fixture `person_sees` go together")


@pytest.fixture
def person_sees(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Call it once with what a person saw of the fault that the test is marked with."""
    mark = request.node.get_closest_marker("fault")
    section, fault, does = mark.args
    assert section in SECTIONS
    proof = request.node.nodeid.partition("[")[0]
    config, said = request.config, list[str]()

    def sees(text: str) -> None:
        said.append(text)
        row = Row(section, fault, does, masked(text), proof, mark.kwargs.get("command", ""))
        if config.getoption(_OPTION):
            config.stash[_ROWS][fault] = row
            return
        document = fault_matrix.read(DOCUMENT.read_text(encoding="utf-8"))
        assert document.get(fault) == row, f"if this is as it should be: pytest -m fault {_OPTION}"

    yield sees
    outcome = getattr(request.node, "_person_saw_outcome", None)
    assert said or outcome != "passed", "the test never called person_sees"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item._person_saw_outcome = report.outcome  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for row in json.loads(node.workeroutput.get("fault_rows", "[]")):
        node.config.stash[_ROWS][row["fault"]] = Row(**row)


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    seen = config.stash[_ROWS]
    if not seen:
        return
    if hasattr(config, "workeroutput"):
        config.workeroutput["fault_rows"] = json.dumps([asdict(row) for row in seen.values()])
        return
    document = fault_matrix.read(DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(fault_matrix.written(fault_matrix.renewed(document, seen.values())), encoding="utf-8")
