"""What the judge knows of the world, and what it says when a promise was broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rotator.model import OrderKind, Policy

from .account import Account, Made
from .places import Place

if TYPE_CHECKING:
    from .provider import Provider


class Violation(AssertionError):
    """Something that must always hold did not. `invariant` is its name."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


@dataclass
class Given:
    """An order that an operator gave."""

    kind: OrderKind
    at: float
    key_id: int | None = None
    leaked: bool = False
    now: bool = False
    unmanaged: bool = False
    used: bool = False


@dataclass(eq=False)
class Line:
    """One policy through all its names and configurations.

    `desired` is what the file says of it, `policy` what the running process acts on; None while it is not configured.
    """

    number: int
    name: str
    first: Policy | None = None
    desired: Policy | None = None
    policy: Policy | None = None
    places: dict[str, Place] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    orders: list[Given] = field(default_factory=list)
    paused_since: float | None = None
    changed_at: float = 0.0
    removed_at: float = float("-inf")
    lost: dict[str, float] = field(default_factory=dict)
    mended_at: float = float("-inf")
    begun: bool = False

    def later(self, key: Made) -> list[Made]:
        """Keys of this line that went live and are later than that one."""
        return [other for other in self.made if other.live_at is not None and other.order > key.order]


class Surroundings(Protocol):
    """What the judge has to know of the world."""

    account: Account
    lines: list[Line]
    management: Made
    requests_per_minute: int
    slept_at: float
    doubts: list[float]
    frozen: list[float]
    wrong_dates: list[float]
    clock_mends_within: float

    @property
    def process(self) -> int: ...
    @property
    def provider(self) -> Provider: ...
    @property
    def clock_is_local(self) -> bool: ...

    @property
    def acting(self) -> Line | None: ...
    def decided_at(self) -> float: ...
