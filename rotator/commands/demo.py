"""`rotator demo`: the whole story in half a minute."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

DEFAULT_SECONDS = 22
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--seconds", type=int, default=DEFAULT_SECONDS, show_default=True, help="For how long, at least.")
def demo(seconds: int) -> int:
    """Show the whole story in half a minute, without an account.

    Runs the real service against a local Neon, with short durations, while two consumers call Neon ten
    times a second with the keys that they are handed. Needs no network, and leaves nothing behind. Exits with
    1 if a call failed or anything else was not as it should be.
    """
    from rotator.demo.stage import EVERY, GRACE, LEAST_SECONDS

    if seconds < LEAST_SECONDS:
        every = max(EVERY.values())
        raise click.UsageError(
            f"--seconds {seconds} is too short to see a key revoked: one is replaced after {every} s and revoked "
            f"{GRACE} s later; give it at least {LEAST_SECONDS}"
        )
    stop = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])  # whoever asks twice is not made to wait

    ending = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in ending}
    try:
        from rotator.demo.play import play
        from rotator.demo.view import view_for_this_output

        return play(seconds, view_for_this_output(), stop).exit_status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
