"""`rotator apply`: everything that is due now, then an end."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import click

from rotator.commands.common import config_option, load_config, state_path
from rotator.fields import parse_duration


def duration(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    """An option's duration."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@config_option
@click.option(
    "--timeout",
    default="5m",
    show_default=True,
    callback=duration,
    help="How long failed hand-offs are retried, and events sent.",
)
def apply(config: Path, timeout: timedelta) -> int:
    """Do everything that is due now, then exit. For cron and jobs.

    Exits with 1 if something failed, is still under way, or needs a person.
    """
    loaded = load_config(config)
    from rotator import log
    from rotator.assembly import assemble
    from rotator.lock import ProcessLock
    from rotator.oneshot import carry_out, ended_by_signals, send_notices
    from rotator.status import needs_a_person, status_document

    with ProcessLock(state_path(loaded)) as lock:
        lock.acquire("apply")
        log.setup()
        assembly = assemble(loaded, threading.Event(), check=lock.check)
        try:
            deadline = time.monotonic() + timeout.total_seconds()
            with ended_by_signals(assembly):
                ended = carry_out(assembly, {*loaded.policies, *assembly.store.records()}, timeout)
                if not assembly.stop.is_set():
                    assembly.rounds.obey()
                send_notices(assembly, deadline)
                assembly.rounds.prune()
            document = status_document(
                loaded.policies,
                assembly.store.records(),
                assembly.store.outlooks(),
                as_of=assembly.clock.now(),
                leader=True,
                head=assembly.store.head(),
            )
        finally:
            assembly.close()
    return 1 if not ended or needs_a_person(document) else 0
