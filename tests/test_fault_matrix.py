"""The fault matrix is what its tests saw. (Each row is compared by the test that proves it.)"""

from __future__ import annotations

import pytest
from fault_matrix import DOCUMENT, Row, is_proven, masked, read, renewed, written

TEXT = DOCUMENT.read_text(encoding="utf-8")
ROWS = read(TEXT)


def test_the_document_is_as_it_is_written() -> None:
    assert written(ROWS.values()) == TEXT


@pytest.mark.parametrize("fault", ROWS)
def test_every_row_names_a_test_that_is_there(fault: str) -> None:
    assert is_proven(ROWS[fault])


def test_what_differs_between_runs_is_masked() -> None:
    said = (
        "the key ci-20261123T040550Z-d233f1 (key 2291515) at /some/where/app.env was used\n at 2026-11-23 04:05:50 UTC "
        "from 203.0.113.7, 12s ago, by http://127.0.0.1:43211/api/v2 in 0.25 s"
    )
    assert masked(said) == (
        "the key ci-TIME-NONCE (key N) at /…/app.env was used at TIME "
        "from 203.0.113.7, Ns ago, by http://127.0.0.1:N/api/v2 in N s"
    )


def test_a_row_with_a_bar_in_it_reads_as_it_was_written() -> None:
    row = Row("State", "a | b", "c", "d | e", "tests/test_x.py::test_y", "X=1 pytest")
    assert read(written([row])) == {"a | b": row}


def test_a_row_whose_test_is_gone_goes_with_the_next_writing() -> None:
    gone = Row("State", "gone", "c", "d", "tests/test_fault_matrix.py::test_gone")
    there = Row(
        "State",
        "gone",
        "c",
        "d",
        "tests/test_fault_matrix.py::test_a_row_whose_test_is_gone_goes_with_the_next_writing",
    )
    new = Row("State", "new", "c", "d", "tests/test_x.py::test_y")
    assert renewed({"gone": gone}, [new]) == [new]
    assert renewed({"gone": there}, [new]) == [new, there]
