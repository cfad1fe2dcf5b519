"""The few words that systemd understands: ready, reloading, stopping, still alive. See sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> None:
    """Tell the service manager, if one listens. Never fails: nobody depends on being heard."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if state == "RELOADING=1":
        state += f"\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError:
        return


def watchdog_interval() -> float | None:
    """How often to say that the service lives, in seconds: half of what the manager allows; None if it does not ask."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(allowed) / 2_000_000
