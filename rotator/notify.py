"""Tells webhook sinks what happened: signed, without secrets, at least once, in order.

Events wait in the state, where they were written together with what they are about. Each sink of
`notify` is told in its own pace; one that fails is tried again with growing pauses, and delays neither
a rotation nor another sink. The id of a message stays over its attempts; its time and number make it
one that was not given before, even by a state that was lost and begun anew.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from rotator.errors import RotatorError, StateUnavailable
from rotator.model import Event
from rotator.store import Notice
from rotator.transitions import pause_after

_STATE_AGAIN = 15.0


class Receiver(Protocol):
    """What is asked of a webhook sink."""

    def send(self, message_id: str, body: bytes) -> None: ...


class Notices(Protocol):
    """What is asked of the state."""

    def notices(self, sink: str) -> list[Notice]: ...
    def confirm_notice(self, notice_id: int) -> None: ...


@dataclass
class _Pause:
    """How often in a row this receiver failed, and until when it is left alone, in monotonic seconds.

    taken: the notice that it took, though the state may not know that yet.
    """

    receiver: Receiver
    failures: int = 0
    until: float = 0.0
    taken: int = 0


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
        self._talking: set[str] = set()
        self._guard = threading.Lock()

    def send_waiting(self) -> None:
        """Tell every sink what it has not confirmed yet, each in a thread of its own. Raises StateUnavailable.

        A sink that was changed in the configuration is not left alone for the failures that it had before.
        """
        self._start(threading.Event())

    def send_for(self, seconds: float) -> None:
        """As `send_waiting`, but return when every sink has taken all or failed, or after so many seconds.

        Then nothing more is sent; what was not confirmed stays in the state.
        """
        give_up = time.monotonic() + seconds
        over = threading.Event()
        for thread in self._start(over):
            thread.join(max(0.0, give_up - time.monotonic()))
        over.set()

    def _start(self, over: threading.Event) -> list[threading.Thread]:
        threads = []
        for name, receiver in self._receivers().items():
            pause = self._pauses.get(name)
            if pause is None or pause.receiver is not receiver:
                pause = self._pauses[name] = _Pause(receiver)
            if self._monotonic() >= pause.until and self._state.notices(name) and self._begin(name):
                thread = threading.Thread(
                    target=self._talk, args=(name, pause, over), daemon=True, name=f"notify {name}"
                )
                thread.start()
                threads.append(thread)
        return threads

    def _begin(self, name: str) -> bool:
        with self._guard:
            if name in self._talking:
                return False
            self._talking.add(name)
            return True

    def _talk(self, name: str, pause: _Pause, over: threading.Event) -> None:
        try:
            while notices := self._state.notices(name):
                for notice in notices:
                    if over.is_set() or self._receivers().get(name) is not pause.receiver:
                        return
                    if notice.id != pause.taken and not self._send(notice, pause):
                        return
                    pause.taken = notice.id
                    self._state.confirm_notice(notice.id)
        except StateUnavailable as error:
            pause.until = self._monotonic() + _STATE_AGAIN
            self._tell(Event("state.unavailable", str(error)))
        finally:
            with self._guard:
                self._talking.discard(name)

    def _send(self, notice: Notice, pause: _Pause) -> bool:
        message_id = f"msg_event_{notice.at:%Y%m%dT%H%M%SZ}_{notice.id}_{notice.sink}"
        try:
            pause.receiver.send(message_id, self._body(notice.event, notice.at))
        except RotatorError as error:
            pause.failures += 1
            left_alone = pause_after(pause.failures, random.random())  # noqa: S311 - spreads retries, guards nothing
            pause.until = self._monotonic() + left_alone.total_seconds()
            if pause.failures == 1:
                problem = f"sink {notice.sink} did not take the event {notice.event.name}: {error}"
                self._tell(Event("notice.failed", problem))
            return False
        pause.failures = 0
        return True
