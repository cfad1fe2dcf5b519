"""`rotator history`: what was done, and whether the record of it is whole."""

from __future__ import annotations

from pathlib import Path

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


@click.command()
@click.argument("policy", required=False)
@config_option
@click.option("--verify", is_flag=True, help="Recompute the chain of hashes and show where it breaks.")
@json_option
def history(policy: str | None, config: Path, verify: bool, as_json: bool) -> int:
    """Show what was done, of one POLICY or of all.

    Each entry carries a hash of the one before, so a changed or missing entry shows. The newest hash,
    which status prints, kept elsewhere also shows a cut end.
    """
    loaded = load_config(config)
    store = open_to_read(loaded)
    try:
        if verify:
            return _verify(store.broken_at(), store.head(), store.length(), as_json)
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


def _verify(broken: int | None, head: str, count: int, as_json: bool) -> int:
    if as_json:
        print_json({"ok": broken is None, "entries": count, "history_head": head, "broken_at": broken})
    elif broken is None:
        say(f"{count} entries, and each follows from the one before; the newest hash is {head}")
    else:
        say(f"the history breaks at entry {broken}: it was changed or removed after it was written", err=True)
    return 0 if broken is None else 1
