"""A sink of another package, held to the promises of `Sink`.

Foreign exceptions stop here, as they do in our own sinks: the engine knows only TryLater and NeedsPerson.
Whatever else such a sink raises counts as a failed attempt, is tried again like one, and is told with its type
and its place alone, since its words, and its frames, may hold the secret. Of an error of ours every word goes on,
but for secrets: a receiver's answer may be repeated in it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rotator.errors import NeedsPerson, RotatorError, SinkGone, TryLater
from rotator.fields import Settings
from rotator.model import HandOff, SinkRef
from rotator.secret import Secret, blank

if TYPE_CHECKING:
    from rotator.sinks import Sink

_Answer = TypeVar("_Answer")


def held_to_promises(kind: str, made: type[Sink]) -> type[Sink]:
    """The class that stands in for a foreign one."""

    class Guarded(_ForeignSink):
        Settings: ClassVar[type[Settings]] = made.Settings

        def __init__(self, name: str, settings: Any) -> None:
            super().__init__(kind, lambda: made(name, settings), name)

    return Guarded


class _ForeignSink:
    def __init__(self, kind: str, make: Callable[[], Sink], name: str) -> None:
        """Raises NeedsPerson if it cannot be made, or is no sink."""
        self._kind = kind
        try:
            self._sink = self._guarded(make)
            self._ref = self._guarded(lambda: self._sink.ref)
        except TryLater as error:
            raise NeedsPerson(error.problem, error.hint) from None
        if not isinstance(self._ref, SinkRef) or self._ref.name != name:
            raise NeedsPerson(f"a sink of type {kind} does not say what it is", "install another version of it")

    @property
    def ref(self) -> SinkRef:
        """See `Sink`."""
        return self._ref

    def check(self, *, probe: bool = False) -> None:
        """See `Sink`."""
        self._guarded(lambda: self._sink.check(probe=probe))

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        """See `Sink`."""
        self._guarded(lambda: self._sink.deliver(hand_off, secret))

    def contents(self) -> str:
        """See `Sink`."""
        held: object = self._guarded(lambda: self._sink.contents())
        if not isinstance(held, str):
            raise TryLater(f"a sink of type {self._kind} does not say what it holds")
        return held

    def stop(self) -> None:
        """See `Sink`. Nothing hangs on it, and other sinks are to be stopped too."""
        try:
            self._guarded(lambda: self._sink.stop())
        except RotatorError:
            return

    def _guarded(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the words may hold the secret
            failure = self._ours(error)
        raise failure  # here, where it has no context: that would be what was caught, with the secret in its frames

    def _ours(self, error: BaseException) -> RotatorError:
        asked = error.retry_after if isinstance(error, TryLater) else None
        if isinstance(error, (TryLater, NeedsPerson)) and isinstance(asked, (timedelta, type(None))):
            problem, hint = blank(str(error.problem)), blank(str(error.hint))
            if isinstance(error, TryLater):
                return TryLater(problem, hint, asked)
            return SinkGone(problem, hint) if isinstance(error, SinkGone) else NeedsPerson(problem, hint)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return TryLater(
            f"the code of sinks of type {self._kind} failed with {type(error).__name__} at "
            f"{PurePath(frame.filename).name}:{frame.lineno}",
            "tell those who made it",
        )
