"""What commands share: finding the configuration, opening the state, printing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rotator.errors import ConfigError, ConfigProblem
from rotator.secret import blank
from rotator.words import printable

if TYPE_CHECKING:
    from rotator.config import Config
    from rotator.model import Record
    from rotator.renames import Former
    from rotator.store import Store

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILES = ("config.yaml", "/etc/rotator/config.yaml")
NOWHERE = Path(DEFAULT_FILES[0])  # this very object: the file was not named, and none was found


def config_option(command: F) -> F:
    """`-c/--config FILE`, also given before the command's name."""
    return click.option(
        "-c",
        "--config",
        metavar="FILE",
        callback=lambda ctx, _, value: find_config(value or _outer(ctx)),
        help="The configuration. Default: $ROTATOR_CONFIG, ./config.yaml, /etc/rotator/config.yaml.",
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _outer(ctx: click.Context) -> str | None:
    return ctx.parent.obj if ctx.parent is not None and isinstance(ctx.parent.obj, str) else None


def find_config(named: str | None) -> Path:
    """The file that is named, or the first default that is there, or the first default."""
    named = named or os.environ.get("ROTATOR_CONFIG")
    if named:
        return Path(named)
    return next((Path(name) for name in DEFAULT_FILES if Path(name).exists()), NOWHERE)


def load_config(path: Path, *, secrets: bool = True, files: bool = False) -> Config:
    """Read the configuration. Raises ConfigError.

    Without `secrets`, the variables that they are in may be unset; with `files`, their files must be there.
    """
    from rotator.config import load

    if path is NOWHERE and not path.exists():
        looked = " nor ".join(DEFAULT_FILES)
        problem = f"no configuration: ROTATOR_CONFIG is not set, and neither {looked} is there; name one with --config"
        raise ConfigError([ConfigProblem(str(path), 1, 1, "", problem)])
    return load(path, os.environ if secrets else None, files=files)


def open_to_read(config: Config) -> Store:
    """The state, for a command that changes nothing. Raises NeedsPerson if there is none yet."""
    from rotator.store import Store

    return Store(config.state, create=False)


def read_state(config: Config, store: Store) -> tuple[dict[str, Record], dict[str, dict[str, Any]]]:
    """The records and the last decisions, by the names that the configuration gives the policies.

    A policy that is renamed there is told with the record that it takes over, also before the service has done it.
    """
    from rotator import renames

    records, outlooks = store.records(), store.outlooks()
    waiting = renames.pending(former_names(config, store), records)
    decided = {new: outlooks[old] for new, old in waiting.items() if old in outlooks}
    return renames.taken_over(records, waiting), {**decided, **outlooks}


def former_names(config: Config, store: Store) -> Former:
    """The names that the records of the configuration's policies may still have."""
    from rotator import renames

    return renames.wanted(config.policies, renames.read(store.meta(renames.META)))


def state_path(config: Config) -> Path:
    """The state's file."""
    return Path(config.state.removeprefix("sqlite:///"))


def policy_named(config: Config, name: str) -> str:
    """The name, if it is that of a policy. Raises UsageError with the names there are."""
    if name in config.policies:
        return name
    raise click.UsageError(f"there is no policy {name}; there are: {', '.join(config.policies)}")


def say(text: str, *, err: bool = False) -> None:
    """A line on standard output, or on standard error.

    Whatever Neon or an operator put into it, it holds no secret, and nothing that a terminal would act on.
    """
    click.echo(printable(blank(text)), err=err)


def print_json(document: Any) -> None:
    """One JSON document on standard output, with what is not printable as JSON's escapes."""
    text = blank(json.dumps(document, indent=2, ensure_ascii=False))
    click.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: drawn on a terminal, aligned text elsewhere."""
    rows = [[printable(blank(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for row in rows:
            table.add_row(*(_plain(cell) for cell in row))
        Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False, markup=False).print(table)
        return
    lines = [[column.upper() for column in columns], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)
