"""One line an event: JSON, or plain text on a terminal. No secret in any of them.

Everything that this process says goes through one function, `_write`, which blanks secrets in the
finished line: structlog's events, what libraries log through the standard library, warnings, and
exceptions that nobody caught. So it does not matter which of them put a secret where. Tracebacks are printed
without the values of variables.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from rotator.model import Event
from rotator.secret import blank
from rotator.words import printable

_ERRORS = {"turn.endless", "state.unavailable", "management_key.refused", "api_key.missing", "revocation.overdue"}
_WARNINGS = {
    "rotation.failed",
    "revocation.failed",
    "revocation.held",
    "sink.drifted",
    "key.orphaned",
    "orphan.handed_on",
    "list.unreadable",
    "management_key.id_wrong",
    "order.lapsed",
    "api_key.unused",
    "policy.refused",
    "key.gone",
    "config.refused",
    "notice.failed",
    "state.repaired",
}
_LOUDER = ("apscheduler.scheduler", "apscheduler.executors")
# Their warnings quote what the other side sent, in whatever spelling. The adapters tell it all in their own words.
_SILENT = ("urllib3", "requests")


def setup(stream: TextIO | None = None) -> None:
    """Send every line to `stream` (standard error), and catch what would be printed otherwise."""
    out = stream or sys.stderr
    terminal = out.isatty()
    renderer: Any = structlog.processors.JSONRenderer(sort_keys=False)
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(
            colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain_exception,
            *([_printable_values] if terminal else []),  # JSON escapes what it must by itself
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _Lines(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(logging.INFO)
    for name in _LOUDER:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def tell(event: Event) -> None:
    """Log an event of the program, with what it is about and why."""
    about = {
        name: value
        for name, value in (
            ("policy", event.policy),
            ("key_id", event.key_id),
            ("key_name", event.key_name),
            ("generation", event.generation),
        )
        if value is not None
    }
    level = "error" if event.name in _ERRORS else "warning" if event.name in _WARNINGS else "info"
    getattr(structlog.get_logger(), level)(event.name, **about, why=event.why)


def crash(error: BaseException) -> None:
    """Log an exception that nobody expected, with its traceback."""
    _uncaught(type(error), error, error.__traceback__)


class _Lines:
    """A structlog logger that writes whole lines, one at a time."""

    _lock = threading.RLock()  # what a collected object says at its end may come in the middle of a line

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        line = blank(message)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return  # nobody is left to tell: the terminal or the pipe was closed

    debug = info = warning = error = critical = exception = msg


class _Bridge(logging.Handler):
    """Standard library records, as lines of the same kind."""

    def emit(self, record: logging.LogRecord) -> None:
        level = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        extra = {"exc_info": record.exc_info} if record.exc_info else {}
        getattr(structlog.get_logger(), level)(_message_of(record), logger=record.name, **extra)


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a library's slip in its own log call must not fail what it was doing
        return str(record.msg)


def _plain_exception(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0] is not None:
        event["exception"] = "".join(traceback.format_exception(*info)).rstrip()
    return event


def _printable_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Nothing that a terminal would act on: names of keys are chosen by anybody in the account."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = printable(value)
    return event


def _uncaught(kind: type[BaseException], value: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, (KeyboardInterrupt, SystemExit)):
        return
    structlog.get_logger().error("crash", exc_info=(kind, value, trace))
