"""Policies that have yet to take over the record of a policy that they were.

A record gets its new name at the policy's next turn, when no other turn holds it. Until then the old names are
kept, in the state too: the configuration may be loaded again before that turn, or the process may die, and then
it names only the name before, which no record ever had.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from rotator.errors import StateUnavailable
from rotator.model import Policy

META = "renames"
Former = dict[str, tuple[str, ...]]  # by a policy's name, the names that its record may have, the oldest first


def wanted(policies: Mapping[str, Policy], undone: Former) -> Former:
    """What this configuration asks for, and what was not done yet of those before."""
    asked = {policy.name: policy.renamed_from for policy in policies.values() if policy.renamed_from is not None}
    return {new: (*undone.get(old, ()), old) for new, old in asked.items()}


def written(former: Former) -> str:
    """As it is kept in the state."""
    return json.dumps(former)


def read(text: str | None) -> Former:
    """As it was kept. Raises StateUnavailable for what is damaged."""
    try:
        return {str(new): tuple(str(name) for name in names) for new, names in json.loads(text or "{}").items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise StateUnavailable(
            "what the state says of renamed policies is damaged", "restore the state from a backup"
        ) from None
