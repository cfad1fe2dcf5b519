"""Everything that is due now, and then an end: for `apply`, and for orders without a service.

A hand-off that failed is tried again until the deadline, for its secret would be lost with the process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from rotator.assembly import Assembly

_AT_ONCE = 8
_LONGEST_NAP = 1.0
_DUE_SOON = timedelta(seconds=1)


def carry_out(assembly: Assembly, names: Iterable[str], timeout: timedelta) -> bool:
    """Take turns of these policies until nothing is under way. False if the time ran out before."""
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
    return True
