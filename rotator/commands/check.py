"""`rotator check`: is the configuration sound, and with `--online`, does what it names work?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rotator.commands.common import config_option, json_option, load_config, print_json, say
from rotator.errors import ConfigError, RotatorError

if TYPE_CHECKING:
    from rotator.config import Config
    from rotator.model import KeyList
    from rotator.neon import Neon


@click.command()
@config_option
@click.option("--online", is_flag=True, help="Also ask Neon, the sinks and the state.")
@json_option
def check(config: Path, online: bool, as_json: bool) -> int:
    """Check the configuration; with --online also the key, the sinks and the state."""
    try:
        loaded = load_config(config, files=True)
    except ConfigError as error:
        if as_json:
            print_json({"ok": False, "problems": [_as_json(problem) for problem in error.problems]})
            return 2
        raise
    problems = list(_online(loaded)) if online else []
    if as_json:
        found = [{"file": str(config), "line": None, "column": None, "path": w, "problem": p} for w, p in problems]
        print_json({"ok": not problems, "problems": found})
    else:
        for where, problem in problems:
            say(f"{where}: {problem}", err=True)
        policies, sinks = len(loaded.policies), len(loaded.sinks)
        counted = f"{policies} {'policy' if policies == 1 else 'policies'}, {sinks} {'sink' if sinks == 1 else 'sinks'}"
        say(f"{config}: {counted}: {_verdict(problems, online)}")
    return 1 if problems else 0


def _verdict(problems: list[Any], online: bool) -> str:
    if problems:
        return f"the file is sound, but {len(problems)} of the things it names do not work"
    return "all is well" if online else "the file is sound; --online also asks Neon, the sinks and the state"


def _as_json(problem: Any) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("file", "line", "column", "path", "problem")}


def _online(config: Config) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    problems += _neon_problems(config)
    for name, sink in config.sinks.items():
        try:
            sink.check()
        except RotatorError as error:
            problems.append((f"sinks.{name}", str(error)))
    problems += _state_problems(config)
    return problems


def _neon_problems(config: Config) -> list[tuple[str, str]]:
    import threading

    from rotator.assembly import new_neon
    from rotator.clock import NeonClock
    from rotator.rate import RateLimit
    from rotator.words import span

    clock = NeonClock()
    stop = threading.Event()
    neon = new_neon(config, clock, RateLimit(config.neon.requests_per_minute, stop), stop)
    problems = []
    try:
        account = neon.whoami()
        say(f"neon.api_key: accepted by Neon ({account.auth_method}, account {account.account_id})", err=True)
    except RotatorError as error:
        return [("neon.api_key", str(error))]
    lists = []
    for name in sorted({policy.scope.account for policy in config.policies.values()}):
        try:
            lists.append(neon.list_keys(name))
        except RotatorError as error:
            where = next(p.name for p in config.policies.values() if p.scope.account == name)
            problems.append((f"policies.{where}.scope", str(error)))
    problems += _id_problems(config, neon, lists)
    skew = clock.skew()
    if skew is not None and abs(skew.total_seconds()) > 60:
        word = "ahead of" if skew.total_seconds() > 0 else "behind"
        say(f"clock: this machine is {span(skew)} {word} Neon; decisions use Neon's time", err=True)
    return problems


def _id_problems(config: Config, neon: Neon, lists: list[KeyList]) -> list[tuple[str, str]]:
    from rotator.commands.common import state_path
    from rotator.glance import own_of, records_of
    from rotator.observe import wrong_id

    try:
        records, _ = records_of(config, state_path(config))
    except RotatorError:  # told by itself
        records = {}
    wrong = wrong_id(config.neon.api_key_id, own_of(config, neon, records, lists), lists)
    return [("neon.api_key_id", wrong)] if wrong else []


def _state_problems(config: Config) -> list[tuple[str, str]]:
    from rotator.commands.common import state_path
    from rotator.store import Store
    from rotator.store_file import guard

    try:
        path = state_path(config)
        obstacle = _obstacle(path)
        if obstacle is not None:
            return [("state", obstacle)]
        guard(path)
        if path.exists():
            store = Store(config.state, create=False)
            store.records()
            broken = store.broken_at()
            store.close()
            if broken is not None:
                return [("state", f"the history breaks at entry {broken}; see rotator history --verify")]
    except RotatorError as error:
        return [("state", str(error))]
    return []


def _obstacle(state: Path) -> str | None:
    """Why this user could not keep a state there, or None."""
    import os

    folder = state.parent
    owned = f"make it and what is in it belong to the user that rotator runs as, who is {os.geteuid()} now"
    try:
        there = folder.is_dir()
    except OSError as error:
        return f"the folder {folder} cannot be reached: {error.strerror}; {owned}"
    if not there:
        return f"the folder {folder} is not there; create it, writable for this user"
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return f"the folder {folder} cannot be written; {owned}"
    try:
        kept = state.exists()
    except OSError as error:
        return f"the state {state} cannot be reached: {error.strerror}; change state"
    if kept and not os.access(state, os.R_OK | os.W_OK, effective_ids=True):
        return f"the state {state} cannot be written; {owned}"
    return None
