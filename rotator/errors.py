"""The project's own exceptions, split by what the caller has to do about them.

Adapters (Neon, sinks, the state) turn every foreign exception into one of these, so that
nothing outside an adapter knows requests, SQLAlchemy or subprocess. A message says what is
wrong and where; the hint says what a person can do. Neither ever holds a secret or the text
of somebody else's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


class RotatorError(Exception):
    """Anything that a user can meet. `problem` is a sentence, `hint` what to do, or empty."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}; {self.hint}" if self.hint else self.problem


class TryLater(RotatorError):
    """Nothing happened outside, and the same call may succeed later.

    `retry_after` is what the other side asked for, or None.
    """

    def __init__(self, problem: str, hint: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(problem, hint)
        self.retry_after = retry_after


class NeedsPerson(RotatorError):
    """Nothing happened outside, and nothing will until a person changes something."""


class KeyRefused(NeedsPerson):
    """Neon answered 401 to the key that was sent."""


class SinkGone(NeedsPerson):
    """A webhook answered 410: it wants no more deliveries."""


class KeyNotFound(RotatorError):
    """Neon answered 404 to a revocation. Not yet a proof that the key is gone: ask the list."""


class OutcomeUnknown(RotatorError):
    """The effect may have happened or not: only a later look can tell."""


class StateUnavailable(RotatorError):
    """The state cannot be read or written now."""


class AlreadyRunning(RotatorError):
    """Another process holds the state."""


@dataclass(frozen=True)
class ConfigProblem:
    """One fault of a configuration file: where it is (1-based), and what is wrong there."""

    file: str
    line: int
    column: int
    path: str
    problem: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return where + (f"{self.path}: {self.problem}" if self.path else self.problem)


class ConfigError(RotatorError):
    """Every fault of a configuration at once, in the order of the file."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
