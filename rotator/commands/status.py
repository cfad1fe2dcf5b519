"""`rotator status`: a line a policy, read from the state."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from rotator.commands.common import (
    config_option,
    json_option,
    load_config,
    open_to_read,
    print_json,
    print_table,
    read_state,
    say,
    state_path,
)
from rotator.words import span


@click.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> int:
    """Show how every policy is doing.

    Exits with 1 if a policy is failing, missing, drifted, refused, or holds a key past hold.at_most.
    """
    from rotator.lock import ProcessLock
    from rotator.status import needs_a_person, status_document

    loaded = load_config(config, secrets=False)
    store = open_to_read(loaded)
    try:
        records, outlooks = read_state(loaded, store)
        document = status_document(
            loaded.policies,
            records,
            outlooks,
            as_of=store.as_of(),
            leader=ProcessLock(state_path(loaded)).is_held(),
            head=store.head(),
        )
    finally:
        store.close()
    if as_json:
        print_json(document)
    else:
        _print(document, datetime.now(UTC))
    return 1 if needs_a_person(document) else 0


def _print(document: dict[str, Any], now: datetime) -> None:
    rows = [
        [
            entry["policy"],
            entry["state"],
            _live(entry["live"], now),
            _older(entry["older"]),
            _next(entry["next"], now, document["leader"]),
        ]
        for entry in document["policies"]
    ]
    print_table(["policy", "state", "live key", "older keys", "next"], rows)
    age = f"{span(now - _time(document['as_of']))} ago" if document["as_of"] else "never"
    service = "the service is running" if document["leader"] else "no service is running"
    say("")
    say(f"as of {age}; {service}; history head {document['history_head']}")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _live(live: dict[str, Any] | None, now: datetime) -> str:
    if live is None:
        return "none"
    return f"{live['name']} ({live['id']}), {span(now - _time(live['created_at']))} old"


def _older(older: list[dict[str, Any]]) -> str:
    if not older:
        return "none"
    return ", ".join(f"{old['id']} {old['role']}" for old in older)


def _next(step: dict[str, Any] | None, now: datetime, served: bool) -> str:
    if step is None:
        return "not decided yet" if served else "not decided yet: has the service run?"
    when = ""
    if step["at"]:
        left = _time(step["at"]) - now
        when = f" in {span(left)}" if left.total_seconds() > 0 else " now"
    return f"{step['step']}{when}: {step['why']}"
