"""A sink of another package, held to the promises of `Sink`.

Foreign exceptions stop here, as they do in our own sinks: the engine knows only TryLater and NeedsPerson.
Whatever else such a sink raises counts as a failed attempt, is tried again like one, and is told with its type
and its place alone, since its words, and its frames, may hold the secret; but for KeyboardInterrupt, which is a
person's. Of an error of ours every word goes on, but for secrets: a receiver's answer may be repeated in it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rotator.errors import NeedsPerson, RotatorError, SinkGone, TryLater
from rotator.fields import Settings
from rotator.model import HandOff, SinkRef
from rotator.secret import Secret, blank

if TYPE_CHECKING:
    from rotator.sinks import Sink

_Answer = TypeVar("_Answer")
_OUR_CODE = Path(__file__).parent.parent
_TELL_THEM = "tell those who made it"


def load(kind: str, module: str, name: str) -> type[Sink]:
    """The class of a type of sinks. Raises NeedsPerson, saying what is wrong with it."""
    try:
        loaded = getattr(import_module(module), name, None)
        settings = getattr(loaded, "Settings", None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - somebody else's code runs here
        raise NeedsPerson(f"sinks of type {kind} cannot be loaded: {_not_imported(module, error)}") from None
    if not isinstance(loaded, type):
        raise NeedsPerson(
            f"sinks of type {kind} cannot be loaded: the module {module} has no class {name or 'for them'}",
            f"install its package again, or {_TELL_THEM}",
        )
    if not isinstance(settings, type) or not issubclass(settings, Settings):
        raise NeedsPerson(
            f"sinks of type {kind} cannot be loaded: {module}:{name} has no Settings that is a subclass of "
            "rotator.fields.Settings",
            _TELL_THEM,
        )
    return loaded


def _not_imported(module: str, error: BaseException) -> str:
    """What is wrong, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if f"{module}.".startswith(f"{error.name}."):
            return f"there is no module {error.name}; install its package again"
        return f"its module {module} needs {error.name}, which is not there; install that"
    return f"its module {module} cannot be imported: {type(error).__name__}{_place(error)}; {_TELL_THEM}"


def _place(error: BaseException) -> str:
    """Where in somebody else's code, if it was reached."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<frozen ") and not Path(frame.filename).is_relative_to(_OUR_CODE):
            return f" at {PurePath(frame.filename).name}:{frame.lineno}"
    return ""


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
            self._sink = self._guarded("making it", make)
            self._ref = self._guarded("ref", lambda: self._sink.ref)
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
        self._guarded("check", lambda: self._sink.check(probe=probe))

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        """See `Sink`."""
        self._guarded("deliver", lambda: self._sink.deliver(hand_off, secret))

    def contents(self) -> str:
        """See `Sink`."""
        held: object = self._guarded("contents", lambda: self._sink.contents())
        if not isinstance(held, str):
            raise TryLater(f"a sink of type {self._kind} does not say what it holds")
        return held

    def stop(self) -> None:
        """See `Sink`. Nothing hangs on it, and other sinks are to be stopped too."""
        try:
            self._guarded("stop", lambda: self._sink.stop())
        except RotatorError:
            return

    def _guarded(self, doing: str, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the words may hold the secret
            failure = self._ours(doing, error)
        raise failure  # here, where it has no context: that would be what was caught, with the secret in its frames

    def _ours(self, doing: str, error: BaseException) -> RotatorError:
        if isinstance(error, (TryLater, NeedsPerson)):
            said: list[object] = [getattr(error, name, None) for name in ("problem", "hint", "retry_after")]
            match said:
                case [str(problem), str(hint), (timedelta() | None) as asked]:
                    return _again(error, blank(problem), blank(hint), asked)
        place = _place(error) or f" in {doing}, before any of its own lines"
        return TryLater(f"the code of sinks of type {self._kind} failed with {type(error).__name__}{place}", _TELL_THEM)


def _again(error: TryLater | NeedsPerson, problem: str, hint: str, asked: timedelta | None) -> RotatorError:
    """An error of ours with these words, and nothing else of what was raised."""
    if isinstance(error, TryLater):
        return TryLater(problem, hint, asked)
    return SinkGone(problem, hint) if isinstance(error, SinkGone) else NeedsPerson(problem, hint)
