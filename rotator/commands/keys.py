"""`rotator keys`: every key of the account."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rotator.commands.common import config_option, json_option, load_config, print_json, print_table, state_path

if TYPE_CHECKING:
    from rotator.usage import KeyReport


@click.command()
@config_option
@click.option("--unused", is_flag=True, help="Only keys that are flagged as unused.")
@click.option("--unmanaged", is_flag=True, help="Only keys that no policy owns.")
@json_option
def keys(config: Path, unused: bool, unmanaged: bool, as_json: bool) -> None:
    """List every key of the account: owner, role, age, last use and from where, flags.

    With --unmanaged also the line of YAML that would let a policy adopt each key.
    """
    from rotator.glance import glance
    from rotator.usage import Role

    loaded = load_config(config)
    seen = glance(loaded, state_path(loaded))
    reports = [
        report
        for report in seen.inventory()
        if (report.unused or not unused) and (report.role is Role.UNMANAGED or not unmanaged)
    ]
    if as_json:
        print_json([_as_json(report) for report in reports])
        return
    columns = ["id", "name", "role", "policy", "scope", "age", "last used", "from", "why"]
    rows = [_row(report, seen.now, unmanaged) for report in reports]
    print_table(columns, rows)


def scope_of(report: KeyReport) -> str:
    """The scope as the configuration would name it."""
    from rotator.model import PERSONAL, Scope

    return str(Scope(None if report.account == PERSONAL else report.account, report.key.project))


def _as_json(report: KeyReport) -> dict[str, Any]:
    from rotator.status import instant

    key = report.key
    return {
        "id": key.id,
        "name": key.name,
        "scope": scope_of(report),
        "policy": report.policy,
        "role": report.role.value,
        "generation": report.generation,
        "created_at": instant(key.created_at),
        "last_used_at": instant(key.last_used_at),
        "last_used_from": list(key.last_used_from),
        "unused": report.unused,
        "why": report.why,
    }


def _row(report: KeyReport, now: datetime, unmanaged: bool) -> list[str]:
    from rotator.words import span

    key = report.key
    used = f"{span(now - key.last_used_at)} ago" if key.last_used_at else "never"
    flag = "unused: " if report.unused else ""
    why = f"{flag}{report.why}"
    if unmanaged:
        why += f"; to take it over: adopt: {key.id}"
    return [
        str(key.id),
        key.name,
        report.role.value,
        report.policy or "-",
        scope_of(report),
        span(now - key.created_at),
        used,
        ", ".join(key.last_used_from) or "-",
        why,
    ]
