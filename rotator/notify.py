"""Tells webhook sinks what happened: signed, without secrets, at least once, in order.

Events wait in the state, where they were written together with what they are about. Each sink of
`notify` is told in its own pace; one that fails is tried again with growing pauses, and delays neither
a rotation nor another sink.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rotator.errors import RotatorError
from rotator.model import Event
from rotator.store import Notice
from rotator.transitions import pause_after


class Receiver(Protocol):
    """What is asked of a webhook sink."""

    def send(self, message_id: str, body: bytes) -> None: ...


class Notices(Protocol):
    """What is asked of the state."""

    def notices(self, sink: str) -> list[Notice]: ...
    def confirm_notice(self, notice_id: int) -> None: ...


@dataclass
class _Pause:
    failures: int = 0
    until: float = 0.0


class Notifier:
    """`body` makes the message of an event; `tell` logs a failure."""

    def __init__(
        self,
        state: Notices,
        receivers: Callable[[], Mapping[str, Receiver]],
        body: Callable[[Event, datetime], bytes],
        tell: Callable[[Event], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._receivers = receivers
        self._body = body
        self._tell = tell
        self._monotonic = monotonic
        self._pauses: dict[str, _Pause] = {}

    def send_waiting(self) -> None:
        """Tell every sink what it has not confirmed yet. Raises StateUnavailable."""
        for name, receiver in self._receivers().items():
            pause = self._pauses.setdefault(name, _Pause())
            if self._monotonic() >= pause.until:
                self._send_to(name, receiver, pause)

    def _send_to(self, name: str, receiver: Receiver, pause: _Pause) -> None:
        for notice in self._state.notices(name):
            try:
                receiver.send(f"msg_event_{notice.id}_{name}", self._body(notice.event, notice.at))
            except RotatorError as error:
                pause.failures += 1
                wait = pause_after(pause.failures, random.random())  # noqa: S311 - spreads retries, guards nothing
                pause.until = self._monotonic() + wait.total_seconds()
                if pause.failures == 1:
                    self._tell(
                        Event("notice.failed", f"sink {name} did not take the event {notice.event.name}: {error}")
                    )
                return
            pause.failures = 0
            self._state.confirm_notice(notice.id)
