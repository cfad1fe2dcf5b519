"""How a record changes when something was decided or happened, and what the history says of it. Pure.

Each function takes the record as it stands in the state and answers with a `Change`: the new record
and the events, which the store commits together. The engine never edits a record in any other way,
so everything that a death between two lines can leave behind is one of these records.

The argument `lot` is a random number in [0, 1), drawn by the engine; `now` is Neon's time.
"""

from __future__ import annotations

from rotator.transitions.change import Change, pause_after
from rotator.transitions.creation import (
    adopt,
    close_intent,
    created,
    hand_over,
    intend,
    not_created,
    outcome_unknown,
    recover,
    stand_in,
)
from rotator.transitions.hand_off import SinkFailure, abandon, checked, go_live, offer, offer_failed, receipted
from rotator.transitions.orders import lapse, obey, pause, retry_now
from rotator.transitions.retirement import forget, hold, release, revoke_failed, revoked, revoking

__all__ = [
    "Change",
    "SinkFailure",
    "abandon",
    "adopt",
    "checked",
    "close_intent",
    "created",
    "forget",
    "go_live",
    "hand_over",
    "hold",
    "intend",
    "lapse",
    "not_created",
    "obey",
    "offer",
    "offer_failed",
    "outcome_unknown",
    "pause",
    "pause_after",
    "receipted",
    "recover",
    "release",
    "retry_now",
    "revoke_failed",
    "revoked",
    "revoking",
    "stand_in",
]
