"""`rotator plan`: what would happen when, and why."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from rotator.commands.apply import duration
from rotator.commands.common import (
    config_option,
    json_option,
    load_config,
    print_json,
    print_table,
    say,
    state_path,
)


@click.command()
@config_option
@click.option("--until", default="90d", show_default=True, callback=duration, help="How far to look ahead.")
@json_option
def plan(config: Path, until: timedelta, as_json: bool) -> int:
    """Show what would happen when, and why. Changes nothing.

    It asks Neon for the keys, and assumes that every creation, hand-off and revocation succeeds at once
    and that nobody uses an old key any more.
    """
    from rotator.foresee import MOST, foresee
    from rotator.glance import glance
    from rotator.model import Record
    from rotator.status import instant
    from rotator.words import when

    loaded = load_config(config)
    seen = glance(loaded, state_path(loaded))
    foreseen = {
        name: foresee(
            policy, seen.records.get(name, Record(policy=name)), seen.keys(policy), seen.now, seen.now + until
        )
        for name, policy in loaded.policies.items()
    }
    planned = sorted((entry for some in foreseen.values() for entry in some), key=lambda e: (e.at, e.policy))
    if as_json:
        print_json([{"at": instant(e.at), "policy": e.policy, "step": e.step, "why": e.why} for e in planned])
    else:
        print_table(["at", "policy", "step", "why"], [[when(e.at), e.policy, e.step, e.why] for e in planned])
    for name, some in foreseen.items():
        if len(some) == MOST:
            told = f"{name}: only the first {MOST} steps are shown, up to {when(some[-1].at)}"
            say(f"{told}; a shorter --until shows all of its time", err=True)
    return 1 if any(entry.step == "refuse" for entry in planned) else 0
