"""Where secrets go: files, webhooks and commands that keep their promises, and are down for days at times.

A *place* is what stays when the configuration changes: the file, the receiver, the vault. It holds one key for each
line of policies that delivers to it. A *sink* is what a configuration calls it: name, settings, and the product's
`Sink` protocol.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from rotator.errors import NeedsPerson, SinkGone, TryLater
from rotator.model import HandOff, Held, SinkRef
from rotator.secret import Secret, fingerprint

from .account import Account, Made
from .pace import Pace
from .troubles import Trouble

SCRIBBLE = "somebody wrote something else here"


@dataclass(eq=False)
class Place:
    """A receiver. `holds` says which key of which line it has now; `kind` is `file`, `webhook` or `command`.

    `orders_by_age` receivers ignore a key that is older than the one they hold. `scribbled` files hold what somebody
    else wrote. `excused` are the lines that need not hold a key that works, until the next one is confirmed.
    """

    name: str
    kind: str
    timeout: float
    after_write: bool = False
    holds: dict[int, Made | None] = field(default_factory=dict)
    scribbled: bool = False
    down_until: float = 0.0
    unreadable_until: float = 0.0
    gone: bool = False
    excused: set[int] = field(default_factory=set)
    touched: float = -1.0

    @property
    def orders_by_age(self) -> bool:
        return self.kind == "webhook"

    @property
    def reads_back(self) -> bool:
        return self.kind == "file"

    def take(self, line: int, key: Made) -> bool:
        """The secret arrives. Whether it is what the place holds now."""
        before = self.holds.get(line)
        if self.orders_by_age and before is not None and (before.created_at, before.id) > (key.created_at, key.id):
            return False
        self.holds[line] = key
        self.scribbled = False
        return True


@dataclass(frozen=True)
class SinkHooks:
    """What the world does around a hand-off."""

    boundary: Callable[[str], None]
    meanwhile: Callable[[], None]
    trouble: Callable[[str], Trouble | None]
    line_of: Callable[[str], int]
    delivering: Callable[[Place, Made, int], None]
    arrived: Callable[[Place, Made, int], None]
    receipted: Callable[[Place, Made, int], None]
    failed: Callable[[tuple[str, int | str, str], timedelta | None], None]
    process: Callable[[], int]


class SimulatedSink:
    """A place as one configuration knows it. `version` changes with its settings."""

    Settings = None

    def __init__(self, name: str, place: Place, version: int, account: Account, lots: random.Random) -> None:
        self.name = name
        self.place = place
        self.hooks: SinkHooks
        self._account = account
        self._pace: Pace = account.pace
        self._lots = lots
        pause = timedelta(0) if place.kind == "file" and not place.after_write else timedelta(seconds=place.timeout)
        settings = hashlib.sha256(f"{name} {version}".encode()).hexdigest()[:16]
        self.ref = SinkRef(name, f"{place.kind}:{place.name}", settings, pause, place.reads_back)

    def stop(self) -> None:
        pass

    def check(self, *, probe: bool = False) -> None:
        trouble = self.hooks.trouble("sink check")
        place = self.place
        down = self._pace.seconds < place.down_until
        if trouble is not None or (down and (place.kind != "webhook" or probe)):
            raise TryLater(f"sink {self.name} is down")
        if place.kind == "webhook" and probe:
            self._pace.advance(0.2)
            if place.gone:
                raise SinkGone(f"sink {self.name} answered 410")

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        try:
            self._deliver(hand_off, secret)
        except (TryLater, NeedsPerson) as error:
            asked = error.retry_after if isinstance(error, TryLater) else None
            self.hooks.failed(("deliver", hand_off.key_id, self.place.name), asked)
            raise

    def _deliver(self, hand_off: HandOff, secret: Secret) -> None:
        place, pace = self.place, self._pace
        trouble = self.hooks.trouble("deliver")
        kind, lot = (trouble.kind, trouble.lot) if trouble else ("", 0.0)
        key = self._account.by_secret[secret.reveal()]
        line = self.hooks.line_of(hand_off.policy)
        began, process = pace.seconds, self.hooks.process()
        what = f"deliver {key.id} to {self.name}"
        self.hooks.boundary(f"before {what}")
        self.hooks.delivering(place, key, line)
        key.offered.setdefault(place.name, pace.seconds)

        def arrive() -> None:
            # A request on its way arrives although its sender died; a command ends with the service.
            if (place.kind == "webhook" or process == self.hooks.process()) and place.take(line, key):
                self.hooks.arrived(place, key, line)

        pace.advance(0.05 + self._lots.random())
        if place.gone or kind == "deliver gone":
            place.gone = place.gone or place.kind == "webhook"
            if place.kind == "webhook":
                raise SinkGone(f"sink {self.name} answered 410")
        if pace.seconds < place.down_until or kind in ("deliver fails before", "deliver later please", "deliver gone"):
            asked = timedelta(seconds=10 ** (lot * 4.5)) if kind == "deliver later please" else None
            raise TryLater(f"sink {self.name} failed", retry_after=asked)
        if kind == "deliver late":  # it arrives, at the latest when its time is over; no answer
            if place.kind == "file":
                arrive()
            else:
                pace.at(began + place.timeout * (0.2 + 0.79 * lot), arrive)
            self.hooks.meanwhile()
            self.hooks.boundary(f"amidst {what}")
            pace.advance_to(began + place.timeout)
            raise TryLater(f"sink {self.name} did not answer within {place.timeout:g} s")
        arrive()
        self.hooks.meanwhile()
        pace.advance(0.05 + self._lots.random())
        self.hooks.boundary(f"after {what}")
        if kind == "deliver fails after":
            raise TryLater(f"sink {self.name} answered 500 after it took the key")
        if place.reads_back and (place.holds.get(line) is not key or place.scribbled):
            raise TryLater(f"sink {self.name} does not hold what was written")
        self.hooks.receipted(place, key, line)

    def contents(self) -> str:
        place = self.place
        if self._pace.seconds < place.unreadable_until:
            return Held.UNREADABLE.value
        if place.scribbled:
            return fingerprint(SCRIBBLE)
        held = next(iter(place.holds.values()), None)
        return fingerprint(held.secret) if held is not None else Held.NOTHING.value
