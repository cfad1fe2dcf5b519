"""`rotator history`: what was done, and whether the record of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rotator.commands.common import (
    config_option,
    json_option,
    load_config,
    open_to_read,
    policy_named,
    print_json,
    print_table,
    say,
)
from rotator.status import instant
from rotator.words import when

if TYPE_CHECKING:
    from rotator.store import Verdict


@click.command()
@click.argument("policy", required=False)
@config_option
@click.option("--verify", is_flag=True, help="Recompute the chain of hashes and show where it breaks.")
@json_option
def history(policy: str | None, config: Path, verify: bool, as_json: bool) -> int:
    """Show what was done, of one POLICY or of all.

    Each entry carries a hash of the one before, so a changed or missing entry shows. The newest hash,
    which status prints, kept elsewhere also shows a cut end. The newest 100,000 entries are kept, and the
    chain says from where on.
    """
    loaded = load_config(config, secrets=False)
    store = open_to_read(loaded)
    try:
        if verify:
            return _verify(store.verify(), as_json)
        if policy is not None and not policy.isascii():
            policy_named(loaded, policy)  # no policy ever had such a name, and not every text can be looked for
        entries = store.history(policy)
        if policy is not None and not entries:
            policy_named(loaded, policy)
    finally:
        store.close()
    if as_json:
        print_json(
            [
                {
                    "seq": entry.seq,
                    "at": instant(entry.at),
                    "policy": entry.policy,
                    "event": entry.event,
                    "key_id": entry.key_id,
                    "generation": entry.generation,
                    "why": entry.why,
                    "hash": entry.hash,
                }
                for entry in entries
            ]
        )
        return 0
    rows = [
        [
            str(entry.seq),
            when(entry.at),
            entry.policy or "-",
            entry.event,
            str(entry.key_id) if entry.key_id is not None else "-",
            entry.why,
        ]
        for entry in entries
    ]
    print_table(["seq", "at", "policy", "event", "key", "why"], rows)
    return 0


def _verify(found: Verdict, as_json: bool) -> int:
    broken = found.broken_at
    if as_json:
        print_json(
            {
                "ok": broken is None,
                "entries": found.entries,
                "history_head": found.head,
                "broken_at": broken,
                "pruned_to": found.pruned_to,
            }
        )
    elif broken is None:
        pruned = f" (those up to {found.pruned_to} were pruned)" if found.pruned_to else ""
        say(f"{found.entries} entries{pruned}, and each follows from the one before; the newest hash is {found.head}")
    else:
        say(f"the history breaks at entry {broken}: it was changed or removed after it was written", err=True)
    return 0 if broken is None else 1
