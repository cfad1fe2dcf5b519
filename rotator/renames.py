"""Policies that have yet to take over the record of a policy that they were.

A record gets its new name at the policy's next turn, when no other turn holds it. Until then the old names are
kept, in the state too: the configuration may be loaded again before that turn, or the process may die, and then
it names only the name before, which no record ever had. A command may meanwhile know the new names from a
configuration that the service has not loaded, so it looks a record up under the name that it still has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from rotator.errors import StateUnavailable
from rotator.model import Policy, Record
from rotator.ports import Transition
from rotator.transitions import Change

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


def pending(former: Former, records: Mapping[str, Record]) -> dict[str, str]:
    """The names that records still have which policies are to take over, by the policies' names."""
    there = {
        new: next((old for old in names if old in records), None)
        for new, names in former.items()
        if not _has_begun(records.get(new))
    }
    return {new: old for new, old in there.items() if old is not None}


def taken_over(records: Mapping[str, Record], pending: Mapping[str, str]) -> dict[str, Record]:
    """The records under the names that they are to have."""
    found = {name: record for name, record in records.items() if name not in pending.values()}
    for new, old in pending.items():
        paused = records[old].paused or (new in records and records[new].paused)
        found[new] = replace(records[old], policy=new, paused=paused)
    return found


def changing(name: str, former: Former, records: Mapping[str, Record], transition: Transition) -> dict[str, Transition]:
    """A change of a policy's record, under whichever name the state has it in the transaction that changes it.

    `records` may be older than that: a policy that has begun does not become one that has not.
    """
    found = False

    def before(record: Record) -> Change | None:
        nonlocal found
        if record == Record(policy=record.policy):
            return None
        found = True
        return transition(record)

    def own(record: Record) -> Change | None:
        return None if found and record == Record(policy=name) else transition(record)

    olds = () if _has_begun(records.get(name)) else former.get(name, ())
    return {**dict.fromkeys(olds, before), name: own}


def _has_begun(record: Record | None) -> bool:
    """Whether a policy has had keys of its own: then it takes over no other's."""
    return record is not None and (record.next_generation > 1 or bool(record.generations))
