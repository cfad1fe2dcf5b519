"""Everything that is due now, and then an end: for `apply`, and for orders without a service.

A hand-off that failed is tried again until the deadline, for its secret would be lost with the process. What `notify`
is slow to take stays in the state, for the next process.
SIGTERM and SIGINT end the work as they end the service: no step is begun any more, the steps in hand are
finished, and a sink that hangs is given a few seconds.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from queue import SimpleQueue

from rotator.assembly import Assembly

_AT_ONCE = 8
_LONGEST_NAP = 1.0
_DUE_SOON = timedelta(seconds=1)
_SINKS_STOP_AFTER = 5.0
_NOTICES_AT_LEAST = 5.0


@contextmanager
def ended_by_signals(assembly: Assembly) -> Iterator[None]:
    """Inside, signals end the work in good order. Only for the main thread."""
    asked: SimpleQueue[int] = SimpleQueue()  # what a signal handler may use whatever it interrupts
    over = threading.Event()

    def watch() -> None:
        asked.get()
        assembly.stop.set()
        if not over.wait(_SINKS_STOP_AFTER):
            assembly.stop_sinks()

    threading.Thread(target=watch, daemon=True, name="signals").start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.put(received))
    try:
        yield
    finally:
        over.set()


def carry_out(assembly: Assembly, names: Iterable[str], timeout: timedelta) -> bool:
    """Take turns of these policies until nothing is under way.

    False if the time ran out before, or if Neon's lists could not be read: then nobody knows what is due.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    engine, clock = assembly.engine, assembly.clock
    assembly.rounds.poll()
    pending = sorted(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while pending:
            wakes = dict(zip(pending, pool.map(engine.turn, pending), strict=True))
            soon = clock.now() + _DUE_SOON
            pending = [name for name, at in wakes.items() if engine.in_hand(name) or (at is not None and at <= soon)]
            if not pending:
                break
            left = deadline - time.monotonic()
            if left <= 0 or assembly.stop.is_set():
                return False
            waits = [(at - clock.now()).total_seconds() for name in pending if (at := wakes[name]) is not None]
            assembly.stop.wait(max(0.0, min([_LONGEST_NAP, left, *waits])))
    return not engine.outside.lists.troubles()


def send_notices(assembly: Assembly, until: float) -> None:
    """Tell `notify` what waits, until then in monotonic seconds, or for some seconds at least. The rest stays."""
    assembly.notifier.send_for(max(_NOTICES_AT_LEAST, until - time.monotonic()))
