"""`rotator run`: the service."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import click

from rotator.commands.common import config_option, load_config, state_path


@click.command()
@config_option
def run(config: Path) -> None:
    """Run the service.

    SIGHUP loads the configuration again, SIGTERM ends the service: the step in hand is finished first.
    """
    # Until the service heeds them itself: it has begun nothing, and is about to load what SIGHUP would load.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    loaded = load_config(config)
    from rotator import log
    from rotator.assembly import assemble
    from rotator.daemon import Service
    from rotator.lock import ProcessLock

    if loaded.listen is not None:
        from rotator.web import Web

    with ProcessLock(state_path(loaded)) as lock:
        lock.acquire("run")
        log.setup()
        assembly = assemble(loaded, threading.Event(), check=lock.check)
        service = Service(assembly, lambda: load_config(config))
        web = Web(assembly, service.alive) if loaded.listen is not None else None
        try:
            if web is not None:
                web.start()
            service.run()
        finally:
            if web is not None:
                web.stop()
            assembly.close()
