"""The command line: names the commands, and turns every fault into a message and an exit status.

Each command lives in a module of its own under `commands/`, imported only when it is called, so that
`--help` and `check` do not pay for a database or a scheduler. Exit status 0: fine; 1: something failed
or needs a person; 2: usage or configuration.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from io import StringIO

import click

from rotator import __version__
from rotator.errors import ConfigError, RotatorError
from rotator.memory import keep_private
from rotator.secret import blank
from rotator.words import printable

COMMANDS = {
    "check": ("check", "Check the configuration; with --online also the key, the sinks and the state."),
    "plan": ("plan", "Show what would happen when, and why. Changes nothing."),
    "run": ("run", "Run the service."),
    "apply": ("apply", "Do everything that is due now, then exit. For cron and jobs."),
    "status": ("status", "Show how every policy is doing."),
    "why": ("why", "Explain one policy or key in full sentences."),
    "keys": ("keys", "List every key of the account."),
    "rotate": ("orders", "Order a rotation."),
    "revoke": ("orders", "Revoke one key now."),
    "pause": ("orders", "Stop creating and revoking keys."),
    "resume": ("orders", "Undo pause."),
    "history": ("history", "Show what was done."),
    "sandbox": ("sandbox", "Run a local Neon key API to rehearse against."),
    "demo": ("demo", "Show the whole story in half a minute, without an account."),
    "schema": ("schema", "Print the configuration's JSON Schema, for editors."),
}


class _Commands(click.Group):
    """Loads a command's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"rotator.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="rotator", message="%(prog)s %(version)s")
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="The configuration. Default: $ROTATOR_CONFIG, ./config.yaml, /etc/rotator/config.yaml.",
)
@click.pass_context
def cli(ctx: click.Context, config: str | None) -> None:
    """Rotate Neon API keys on a schedule without breaking whoever uses them."""
    ctx.obj = config


def main() -> None:
    """Run a command and exit with its status."""
    keep_private()
    sys.exit(_status())


def _status() -> int:
    try:
        result = cli(prog_name="rotator", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        _show(error)
        return 2
    except click.Abort:
        _say("rotator: stopped; nothing was done")
        return 1
    except click.ClickException as error:
        _show(error)
        return 1
    except ConfigError as error:
        for problem in error.problems:
            _say(printable(str(problem)))
        return 2
    except RotatorError as error:
        _say(f"rotator: {printable(str(error))}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        return 1
    except Exception:  # noqa: BLE001 - a fault of ours: the secret must not be in its report
        _say(traceback.format_exc().rstrip())
        _say("rotator: this is a bug; please report it with the lines above")
        return 1
    return result if isinstance(result, int) else 0


def _show(error: click.ClickException) -> None:
    """What click says of a mistake, which repeats what was typed: somebody may have typed a secret."""
    said = StringIO()
    error.show(said)
    _say(said.getvalue().rstrip("\n"))


def _say(text: str) -> None:
    click.echo(blank(text), err=True)


if __name__ == "__main__":
    main()
