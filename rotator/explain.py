"""The reasoning behind a policy or a key, in full sentences. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rotator.model import Every, Generation, Policy, Record
from rotator.rhythm import Sample, mover_words, rhythm_words
from rotator.standing import WHOLE_SECOND, foreign_use, is_missing, lacking, live, older, quiet_period, unfinished
from rotator.status import failures_of, outlook_now
from rotator.words import listed, span, when

Samples = Mapping[int, Sequence[Sample]]
_NO_SAMPLES: Samples = {}


def explain_policy(
    name: str,
    policy: Policy | None,
    record: Record,
    outlook: Mapping[str, Any],
    now: datetime,
    samples: Samples = _NO_SAMPLES,
) -> list[str]:
    """What holds for a policy, what is missing, and when it will be decided again.

    `samples` are those of its keys' uses, by key id.
    """
    if policy is None:
        keys = listed(f"{g.name} (id {g.key_id})" for g in record.generations) or "no key"
        return [f"Policy {name} is no longer in the configuration; it left {keys}. Another policy may adopt them."]
    sentences = [_declared(policy)]
    current = live(record)
    sentences.append(_live(current, now) if current else f"Policy {name} has no live key yet.")
    for generation in unfinished(record):
        without = listed(sink.name for sink in lacking(policy, generation))
        missing = f"it has no receipt from {without} yet" if without else "every sink has receipted it"
        sentences.append(f"{generation.name} (id {generation.key_id}) is on its way; {missing}.")
    sentences += [explain_generation(policy, record, generation, now, samples) for generation in older(record)]
    if record.intent is not None:
        sentences.append(f"Whether Neon created {record.intent.name} is not known yet; the next list tells.")
    failures, error = failures_of(record)
    if failures:
        attempts = "The last attempt failed" if failures == 1 else f"The last {failures} attempts failed, the last one"
        sentences.append(f"{attempts} with: {error}.")
    if policy.paused or record.paused:
        sentences.append("It is paused: nothing is created or revoked until it is resumed.")
    sentences.append(_next(outlook_now(policy, record, outlook)))
    return sentences


def explain_generation(
    policy: Policy, record: Record, generation: Generation, now: datetime, samples: Samples = _NO_SAMPLES
) -> str:
    """Why one of a policy's keys is still there, how it is used, and by whom still."""
    sentence = _standing(policy, record, generation, now)
    current = live(record)
    uses = _by_others(generation, samples)
    if rhythm := rhythm_words(uses, now):
        sentence += f" It was {rhythm}."
    if current is not None and generation is not current:
        who_moved = mover_words(uses, _by_others(current, samples))
        if who_moved:
            sentence += f" Of its users, {who_moved}."
    return sentence


def _by_others(generation: Generation, samples: Samples) -> list[Sample]:
    """The samples without this program's own check of the key."""
    checked = generation.checked_at
    known = samples.get(generation.key_id, ())
    return [s for s in known if checked is None or s.used_at > checked + WHOLE_SECOND]


def _standing(policy: Policy, record: Record, generation: Generation, now: datetime) -> str:
    who = f"{generation.name} (id {generation.key_id}, generation {generation.number})"
    if generation is live(record):
        return _live(generation, now)
    if generation.orphan is not None:
        had = "some sink may have it" if generation.offers else "no sink was offered it, so it is revoked at once"
        return f"{who} is an orphan since {when(generation.orphan.since)}: {generation.orphan.why}; {had}."
    if generation.retiring_since is None:
        return f"{who} is on its way to the sinks."
    ends = generation.retiring_since + policy.grace_period
    used = foreign_use(generation)
    where = f" from {listed(generation.last_used_from)}" if generation.last_used_from else ""
    use = f"it was last used at {when(used)}{where}" if used else "no use of it by others is known"
    tense = "ended" if ends <= now else "ends"
    text = (
        f"{who} is retiring since {when(generation.retiring_since)}; its grace period {tense} at {when(ends)}; {use}."
    )
    if generation.held is not None:
        text += f" It is held since {when(generation.held.since)}: {generation.held.why}."
    elif used is not None and used + quiet_period(policy, generation) > now:
        text += f" It must have been unused for {span(quiet_period(policy, generation))} before it is revoked."
    return text


def _declared(policy: Policy) -> str:
    if isinstance(policy.rotate, Every):
        often = f"every {span(policy.rotate.interval)}"
    else:
        often = f"at {policy.rotate.expression!r} ({policy.rotate.timezone})"
    sinks = listed(sink.name for sink in policy.deliver_to)
    jitter = f", with up to {span(policy.jitter)} of jitter" if policy.jitter > timedelta(0) else ""
    return (
        f"Policy {policy.name} rotates a key of scope {policy.scope} {often}{jitter}, hands it to {sinks}, and revokes "
        f"the old one {span(policy.grace_period)} later."
    )


def _live(generation: Generation, now: datetime) -> str:
    age = span(now - generation.created_at)
    origin = "adopted" if generation.adopted else f"generation {generation.number}"
    text = f"The live key is {generation.name} (id {generation.key_id}, {origin}), {age} old"
    if is_missing(generation):
        return f"{text}; it is gone from Neon's list, so its consumers cannot use it."
    return f"{text}."


def _next(outlook: Mapping[str, Any]) -> str:
    if not outlook:
        return "Nothing was decided yet: the service has not run with this policy."
    until = outlook.get("until")
    at = f" It is decided again at {when(datetime.fromisoformat(until))}." if until else ""
    return f"Next: {outlook['why']}.{at}"
