"""`rotator sandbox`: a local Neon key API."""

from __future__ import annotations

import click

from rotator.errors import NeedsPerson

DEFAULT_LISTEN = "127.0.0.1:8788"


@click.command()
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option(
    "--key", "keys", multiple=True, metavar="napi_…", help="A management key that is accepted. Default: a random one."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME:on=CALL,times=N",
    help="A fault from the start on, such as lost_answer:on=create,times=2. May be repeated.",
)
@click.option("--rate-limits", is_flag=True, help="Enforce Neon's documented rate limits.")
def sandbox(listen: str, keys: tuple[str, ...], faults: tuple[str, ...], rate_limits: bool) -> None:
    """Run a local Neon key API to rehearse against.

    It behaves as Neon's does, keeps its keys in memory, and makes trouble on request: POST a fault such
    as {"fault": "lost_answer", "on": "create"} to /_sandbox/faults.
    """
    from rotator.sandbox.server import serve

    try:
        serve(listen, keys, faults, rate_limits)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except BrokenPipeError:
        raise  # nobody reads what it prints
    except OSError as error:
        raise NeedsPerson(f"the sandbox {error.strerror}") from None
