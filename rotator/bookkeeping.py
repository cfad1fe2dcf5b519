"""The transitions of steps that change nothing outside. Pure.

The engine applies them to the record in the state, `foresee` to one that it imagines.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from rotator import transitions
from rotator.model import Do, Key, Keys, Policy, Record, Step
from rotator.transitions import Change


def bookkeeping(policy: Policy, keys: Keys, step: Step, now: datetime) -> Callable[[Record], Change]:
    """The transition of a step that changes nothing outside."""
    key_id, why = step.key_id or 0, step.why

    def listed(account: str) -> Key:
        return keys.lists[account].keys[key_id]

    def close(record: Record) -> Change:
        key = listed(record.intent.scope.account) if step.key_id and record.intent else None
        return transitions.close_intent(record, key, why, now)

    table: dict[Do, Callable[[Record], Change]] = {
        Do.CLOSE_INTENT: close,
        Do.RECOVER: lambda r: transitions.recover(r, listed(step.account or ""), why, now),
        Do.ADOPT: lambda r: transitions.adopt(r, policy, listed(policy.scope.account), why, now),
        Do.ABANDON: lambda r: transitions.abandon(r, key_id, why, step.gone, now),
        Do.HOLD: lambda r: transitions.hold(r, key_id, why, step.overdue, now),
        Do.RELEASE: lambda r: transitions.release(r, key_id, why),
        Do.FORGET: lambda r: transitions.forget(r, key_id, why, now),
        Do.OBEY: lambda r: transitions.obey(r, step.order or 0, keys.in_hand, why),
        Do.LAPSE: lambda r: transitions.lapse(r, step.order or 0, why),
    }
    return table[step.do]
