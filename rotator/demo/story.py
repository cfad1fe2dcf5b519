"""What became of every key, as the service's log tells it.

The log is the same that an operator reads: one JSON object a line, with an event's name, what it is about
and why. Of what goes as planned only what changes a key's life is worth a stranger's time; trouble always is.
Times are seconds since the service was started, taken when a line arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_TOLD = {
    "key.created": "created",
    "sink.receipted": "handed over",
    "rotation.live": "live",
    "api_key.revoked": "revoked",
    "key.orphaned": "orphaned",
    "revocation.held": "held",
    "revocation.released": "released",
    "rotation.failed": "failed",
}
_TROUBLE = ("warning", "error", "critical")


class Phase(StrEnum):
    """Where a key stands in its life."""

    CREATED = "created"
    LIVE = "live"
    RETIRING = "retiring"
    ORPHANED = "orphaned"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Moment:
    """Something worth telling. `what` is a word, `why` the service's own sentence."""

    at: float
    policy: str
    what: str
    why: str
    key_name: str | None = None
    key_id: int | None = None
    trouble: bool = False

    @property
    def sentence(self) -> str:
        """What happened and why. What a library says has no reason."""
        return f"{self.what}: {self.why}" if self.why else self.what


@dataclass
class Life:
    """One key, and when it became what."""

    key_id: int
    name: str
    policy: str
    created: float
    live: float | None = None
    retiring: float | None = None
    orphaned: float | None = None
    revoked: float | None = None

    @property
    def phase(self) -> Phase:
        """The last thing that it became."""
        if self.revoked is not None:
            return Phase.REVOKED
        if self.orphaned is not None:
            return Phase.ORPHANED
        if self.retiring is not None:
            return Phase.RETIRING
        return Phase.CREATED if self.live is None else Phase.LIVE


@dataclass
class Story:
    """Everything that was heard so far."""

    lives: dict[int, Life] = field(default_factory=dict)
    hand_offs: int = 0
    newest: Moment | None = None
    _reasons: dict[tuple[str, int], str] = field(default_factory=dict)

    def hear(self, line: Mapping[str, Any], at: float) -> Moment | None:
        """Take in one line of the log; what it tells, if that is worth telling."""
        event, policy, why = str(line.get("event", "")), str(line.get("policy", "")), str(line.get("why", ""))
        key_id, name = line.get("key_id"), line.get("key_name")
        about = (policy, int(line.get("generation") or 0))
        if event == "key.intended":
            self._reasons[about] = why
        if isinstance(key_id, int):
            self._live_on(event, key_id, str(name), policy, at)
        if event == "sink.receipted":
            self.hand_offs += 1
        trouble = line.get("level") in _TROUBLE
        if event not in _TOLD and not trouble:
            return None
        if event == "key.created":
            why = self._reasons.pop(about, why)  # "Neon created it" says less than why it was asked to
        self.newest = Moment(
            at, policy, _TOLD.get(event, event), why or str(line.get("exception", "")), name, key_id, trouble
        )
        return self.newest

    def _live_on(self, event: str, key_id: int, name: str, policy: str, at: float) -> None:
        if event in ("key.created", "key.orphaned"):  # the latter alone, if Neon's answer was lost
            self.lives.setdefault(key_id, Life(key_id, name, policy, at))
        life = self.lives.get(key_id)
        if life is None:
            return
        if event == "rotation.live":
            for other in self.of(policy):
                if other.phase is Phase.LIVE:
                    other.retiring = at
            life.live = at
        elif event == "key.orphaned":
            life.orphaned = at
        elif event == "api_key.revoked":
            life.revoked = at

    def of(self, policy: str) -> list[Life]:
        """A policy's keys, oldest first."""
        return [life for life in self.lives.values() if life.policy == policy]

    def has_revoked(self, policy: str) -> bool:
        """Whether a key of this policy has been through its whole life."""
        return any(life.phase is Phase.REVOKED for life in self.of(policy))

    def is_quiet(self, policy: str, every: float, now: float, margin: float) -> bool:
        """Whether the policy has a live key and nothing else, and nothing to do within the margin, in seconds."""
        there = [life for life in self.of(policy) if life.phase is not Phase.REVOKED]
        return len(there) == 1 and there[0].phase is Phase.LIVE and now < there[0].created + every - margin
