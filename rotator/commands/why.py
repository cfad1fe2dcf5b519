"""`rotator why`: the whole reasoning behind one policy or key."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rotator.commands.common import config_option, json_option, load_config, open_to_read, print_json, read_state, say

if TYPE_CHECKING:
    from rotator.config import Config
    from rotator.model import Record
    from rotator.rhythm import Sample
    from rotator.store import Store

_GONE = ("api_key.revoked", "key.gone")


@click.command()
@click.argument("what", metavar="POLICY|KEY_ID")
@config_option
@json_option
def why(what: str, config: Path, as_json: bool) -> int:
    """Explain one policy or key in full sentences, from the state."""
    loaded = load_config(config, secrets=False)
    store = open_to_read(loaded)
    try:
        key_id = int(what) if re.fullmatch("[0-9]{1,19}", what) else None
        policy, sentences = _about_key(loaded, store, key_id) if key_id is not None else _about(loaded, store, what)
    finally:
        store.close()
    if as_json:
        print_json({"policy": policy, "key_id": key_id, "sentences": sentences})
    else:
        for sentence in sentences:
            say(sentence)
    return 0


def _about(config: Config, store: Store, name: str) -> tuple[str, list[str]]:
    from rotator.explain import explain_policy
    from rotator.model import Record

    records, outlooks = read_state(config, store)
    if name not in config.policies and name not in records:
        raise click.UsageError(f"there is no policy {name}; there are: {', '.join(config.policies)}")
    record = records.get(name, Record(policy=name))
    outlook = outlooks.get(name, {})
    policy, now = config.policies.get(name), datetime.now(UTC)
    return name, explain_policy(name, policy, record, outlook, now, _samples(store, record))


def _samples(store: Store, record: Record) -> dict[int, list[Sample]]:
    return {generation.key_id: store.samples(generation.key_id) for generation in record.generations}


def _about_key(config: Config, store: Store, key_id: int) -> tuple[str | None, list[str]]:
    from rotator.explain import explain_generation, explain_policy
    from rotator.standing import find
    from rotator.words import when

    records, _ = read_state(config, store)
    for record in records.values():
        if any(generation.key_id == key_id for generation in record.generations):
            policy = config.policies.get(record.policy)
            if policy is None:
                return record.policy, explain_policy(record.policy, None, record, {}, datetime.now(UTC))
            sentence = explain_generation(
                policy, record, find(record, key_id), datetime.now(UTC), _samples(store, record)
            )
            return record.policy, [f"Key {key_id} belongs to policy {record.policy}.", sentence]
    past = store.history(key_id=key_id)
    if past:
        told = [f"{when(entry.at)}: {entry.event}: {entry.why}." for entry in past]
        if past[-1].event in _GONE:
            return past[-1].policy, [f"Key {key_id} is no longer there. What was done with it:", *told]
        return None, [f"No policy owns key {key_id}; it is only listed. What is known of it:", *told]
    if key_id == config.neon.api_key_id:
        return None, [f"Key {key_id} is the management key (neon.api_key_id says so); it is never revoked by order."]
    oldest = store.oldest()
    pruned = f", which begins at {when(oldest.at)}," if oldest is not None and oldest.seq > 1 else ""
    return None, [
        f"No policy owns key {key_id}, and the history{pruned} does not know it; so nothing ever happens to it. "
        "rotator keys --unmanaged lists such keys."
    ]
