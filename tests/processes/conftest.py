"""Stages that are cleared after the test, and the one that commands which only look share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .stage import Stage


@pytest.fixture
def a_stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Makes a stage; takes what `Stage` takes."""
    made: list[Stage] = []

    def make(*arguments: Any, **more: Any) -> Stage:
        made.append(Stage(tmp_path, *arguments, **more))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def stage(a_stage: Callable[..., Stage]) -> Stage:
    """One policy, `ci`, that delivers to a file."""
    return a_stage()
