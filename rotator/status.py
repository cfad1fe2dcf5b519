"""What a person or a program is told of a policy: derived from its record and its last decision. Pure.

The same document is printed by `status`, with `--json` or as a line, and stands behind the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rotator.model import Do, Generation, Policy, Record
from rotator.standing import is_missing, lacking, live, older, unfinished
from rotator.usage import role_of
from rotator.words import listed


class PolicyState(StrEnum):
    """In the order of urgency: the first that applies is told."""

    MISSING = "missing"
    DRIFTED = "drifted"
    REFUSED = "refused"
    FAILING = "failing"
    PAUSED = "paused"
    ROTATING = "rotating"
    HELD = "held"
    RETIRING = "retiring"
    ABANDONED = "abandoned"
    OK = "ok"


NEEDS_A_PERSON = frozenset({PolicyState.MISSING, PolicyState.DRIFTED, PolicyState.REFUSED, PolicyState.FAILING})
_STEPS = {Do.MINT: "mint", Do.DELIVER: "deliver", Do.REVOKE: "revoke"}


def instant(moment: datetime | None) -> str | None:
    """RFC 3339 with `Z`, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment is not None else None


def state_of(policy: Policy | None, record: Record, outlook: Mapping[str, Any]) -> PolicyState:
    """The one word for how a policy is doing."""
    if policy is None:
        return PolicyState.ABANDONED
    current = live(record)
    old = older(record)
    facts = (
        (PolicyState.MISSING, current is not None and is_missing(current)),
        (PolicyState.DRIFTED, bool(record.drifted)),
        (PolicyState.REFUSED, outlook.get("do") == Do.REFUSE),
        (PolicyState.FAILING, failures_of(record)[0] > 0),
        (PolicyState.PAUSED, policy.paused or record.paused),
        (PolicyState.ROTATING, bool(record.intent or record.rotation or unfinished(record) or current is None)),
        (PolicyState.HELD, any(g.held for g in old)),
        (PolicyState.RETIRING, bool(old)),
    )
    return next((state for state, applies in facts if applies), PolicyState.OK)


def outlook_now(policy: Policy | None, record: Record, outlook: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last decision, or what is being done since then: while a key is on its way nothing else is decided."""
    coming, intent = max(unfinished(record), key=lambda g: g.number, default=None), record.intent
    if coming is not None:
        began, do = coming.recorded_at, Do.DELIVER
        without = listed(sink.name for sink in lacking(policy, coming)) if policy else ""
        missing = f"; it has no receipt from {without} yet" if without else ""
        why = f"{coming.name} is on its way to the sinks{missing}"
    elif intent is not None:
        began, do, why = intent.at, Do.MINT, f"whether Neon created {intent.name} is not known yet"
    else:
        return outlook
    if policy is None or (outlook and datetime.fromisoformat(outlook["decided_at"]) >= began):
        return outlook
    return {"do": do.value, "why": why}


def failures_of(record: Record) -> tuple[int, str | None]:
    """How many attempts failed in a row, of the creation, the hand-off or a revocation, and what the last said."""
    offers = [o for g in unfinished(record) for o in g.offers.values() if o.failures]
    if offers:
        worst = max(offers, key=lambda offer: offer.failures)
        return worst.failures, worst.error
    if record.failure is not None:
        return record.failure.count, record.failure.why
    if record.lost_retry_at is not None:
        return record.lost, "the new key, or Neon's answer to its creation, was lost before it went live"
    asked = [g.revocation for g in record.generations if g.revocation is not None and g.revocation.failures]
    if asked:
        slowest = max(asked, key=lambda revocation: revocation.failures)
        return slowest.failures, slowest.error
    return 0, None


def policy_status(name: str, policy: Policy | None, record: Record, outlook: Mapping[str, Any]) -> dict[str, Any]:
    """One policy, as `status --json` shows it. `outlook` is its last decision as the state keeps it, or empty."""
    current = live(record)
    coming = max(unfinished(record), key=lambda g: g.number, default=None)
    failures, error = failures_of(record)
    return {
        "policy": name,
        "state": state_of(policy, record, outlook).value,
        "live": _live(current) if current is not None else None,
        "older": [_older(policy, record, generation) for generation in older(record)],
        "waiting_for": [s.name for s in lacking(policy, coming)] if policy and coming else [],
        "next": _next(outlook_now(policy, record, outlook)),
        "failures": failures,
        "last_error": error,
    }


def status_document(
    policies: Mapping[str, Policy],
    records: Mapping[str, Record],
    outlooks: Mapping[str, Mapping[str, Any]],
    *,
    as_of: datetime | None,
    leader: bool,
    head: str,
) -> dict[str, Any]:
    """Everything that `status --json` shows. Policies that are gone are told only while they have keys."""
    gone = [name for name, record in records.items() if name not in policies and (record.generations or record.intent)]
    names = [*policies, *sorted(gone)]
    return {
        "as_of": instant(as_of),
        "leader": leader,
        "history_head": head,
        "policies": [
            policy_status(name, policies.get(name), records.get(name, Record(policy=name)), outlooks.get(name, {}))
            for name in names
        ],
    }


def needs_a_person(document: Mapping[str, Any]) -> bool:
    """Whether `status` exits with 1: something failed, is missing, drifted, refused, or is held too long."""
    return any(
        entry["state"] in NEEDS_A_PERSON or any(old["held"] and old["held"]["overdue"] for old in entry["older"])
        for entry in document["policies"]
    )


def _live(generation: Generation) -> dict[str, Any]:
    return {
        "id": generation.key_id,
        "name": generation.name,
        "generation": generation.number,
        "created_at": instant(generation.created_at),
        "since": instant(generation.live_since),
        "fingerprint": generation.fingerprint,
    }


def _older(policy: Policy | None, record: Record, generation: Generation) -> dict[str, Any]:
    retiring = generation.retiring_since
    ends = retiring + policy.grace_period if retiring is not None and policy is not None else None
    held = generation.held
    return {
        "id": generation.key_id,
        "name": generation.name,
        "generation": generation.number,
        "role": role_of(record, generation).value,
        "revoke_at": instant(ends),
        "held": None
        if held is None
        else {
            "since": instant(held.since),
            "why": held.why,
            "overdue": held.overdue,
            "last_used_at": instant(generation.last_used_at),
            "addresses": list(generation.last_used_from),
        },
    }


def _next(outlook: Mapping[str, Any]) -> dict[str, Any] | None:
    if not outlook:
        return None
    do, coming = Do(outlook["do"]), outlook.get("coming")
    step = "refuse" if do is Do.REFUSE else _STEPS.get(Do(coming), "wait") if coming else _STEPS.get(do, "wait")
    until = outlook.get("until") if do is not Do.REFUSE else None  # that of something else: a person has no time
    return {
        "step": step,
        "at": instant(datetime.fromisoformat(until)) if until else None,
        "why": outlook["why"],
    }
