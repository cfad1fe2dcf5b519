"""The configuration: from a YAML file to what the program works with, or to every fault at once.

    YAML ──yaml_places──▶ data with places ──settings──▶ checked mappings ──contradictions──▶ Config

`load` goes on behind a fault wherever something can still be said: each policy, each sink and each of
the other parts is checked by itself, then the contradictions between those that were understood. It
reads the one file and resolves symbolic links, and nothing else: no host and no owner is looked up, and
of a secret only whether it is there, where the caller needs it: whoever only reads the state or gives an
order has not the service's environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rotator import contradictions, yaml_places
from rotator.config_faults import Faults, did_you_mean
from rotator.config_schema import json_schema
from rotator.errors import ConfigError, NeedsPerson, RotatorError
from rotator.fields import SecretRef
from rotator.model import Policy
from rotator.settings import NAME_EXPECTED, NAME_PATTERN, Document, NeonSettings, PolicySettings, UnusedKeys
from rotator.sinks import Sink, sink_class, sink_types

__all__ = ["Config", "NeonSettings", "UnusedKeys", "json_schema", "load"]

_WHERE_A_FILE_SINK_WRITES = frozenset({"path", "format", "variable"})


@dataclass(frozen=True)
class Config:
    """A configuration without a fault.

    `file` is absolute, and so is the path in `state`. `secret_variables` are the environment variables
    that its secrets come from, and those of the ones before it: programs that are run for a hand-off do not
    get to see them.
    """

    file: Path
    neon: NeonSettings
    state: str
    listen: tuple[str, int] | None
    sinks: Mapping[str, Sink]
    policies: Mapping[str, Policy]
    unused_keys: UnusedKeys
    notify: tuple[str, ...]
    secret_variables: frozenset[str] = frozenset()

    def after(self, before: Config) -> Config:
        """This one in the place of another: its variables still hold secrets, that may well be valid."""
        variables = self.secret_variables | before.secret_variables
        _withhold(self.sinks, variables)
        return replace(self, secret_variables=variables)


def load(path: Path, environ: Mapping[str, str] | None = os.environ, *, files: bool = False) -> Config:
    """Read and check a configuration. Raises ConfigError with every fault, in the order of the file.

    The variables that secrets come from must be in `environ`, unless it is None; the files, if `files` is set.
    """
    file = path.absolute()
    root, known = yaml_places.read(path)
    faults = Faults(str(path), root, known, {"base": file.parent, "environ": environ, "files": files})
    if not isinstance(root.value, dict):
        faults.add((), "not a mapping; expected the keys neon, sinks and policies at the top")
        raise ConfigError(faults.problems)
    document = faults.check(Document, (), root.value)
    neon = faults.check(NeonSettings, ("neon",), root.value["neon"]) if _is_mapping(root.value, "neon") else None
    sinks = _Sinks(faults)
    for name, value in _named(root.value, "sinks", faults):
        sinks.add(name, value)
    found = {
        name: faults.check(PolicySettings, ("policies", name), value)
        for name, value in _named(root.value, "policies", faults)
    }
    policies = {name: checked for name, checked in found.items() if checked}
    draft = contradictions.Draft(file, document, neon, sinks.kinds, sinks.built, frozenset(found), policies)
    for check in contradictions.ALL:
        for where, problem in check(draft):
            faults.add(where, problem)
    faults.add_odd()
    if faults.problems or document is None or neon is None:
        raise ConfigError(faults.problems)
    refs = {name: sink.ref for name, sink in sinks.built.items()}
    variables = sinks.variables.union(_variables(neon.settings))
    _withhold(sinks.built, variables)
    return Config(
        file=file,
        neon=neon.settings,
        state=document.settings.state,
        listen=document.settings.listen,
        sinks=sinks.built,
        policies={name: checked.settings.policy(name, refs) for name, checked in policies.items()},
        unused_keys=document.settings.unused_keys,
        notify=document.settings.notify,
        secret_variables=variables,
    )


def _withhold(sinks: Mapping[str, Sink], variables: frozenset[str]) -> None:
    for sink in sinks.values():
        if withhold := getattr(sink, "withhold", None):  # only a sink that runs programs has it
            withhold(variables)


def _is_mapping(value: dict[str, Any], key: str) -> bool:
    return isinstance(value.get(key), dict)


def _named(value: dict[str, Any], key: str, faults: Faults) -> Iterator[tuple[str, Any]]:
    """The sinks or policies by name. A name that cannot be is a fault; what it names is checked all the same."""
    for name, inner in value[key].items() if _is_mapping(value, key) else ():
        if not re.fullmatch(NAME_PATTERN, name):
            faults.add((key, name), f"not a name for one of the {key}; {NAME_EXPECTED}", at_key=True)
        yield name, inner


class _Sinks:
    """Builds the sinks. Those that have a fault elsewhere than in their file's place still take part in the checks."""

    def __init__(self, faults: Faults) -> None:
        self.kinds: dict[str, str | None] = {}
        self.built: dict[str, Sink] = {}
        self.variables: frozenset[str] = frozenset()
        self._faults = faults
        self._types = sink_types()

    def add(self, name: str, value: object) -> None:
        """Check a sink's settings and build it if they let it be built."""
        path = ("sinks", name)
        self.kinds[name] = None
        types = ", ".join(sorted(self._types))
        if not isinstance(value, dict):
            self._faults.add(path, f"not a mapping; expected type ({types}) and what belongs to it")
            return
        kind = value.get("type")
        if "type" not in value:
            self._faults.add((*path, "type"), f"missing; expected one of {types}")
        elif not isinstance(kind, str):
            self._faults.add((*path, "type"), f"not a word; expected one of {types}")
        elif kind not in self._types:
            self._faults.add((*path, "type"), f"no sink is of this type; {did_you_mean(kind, self._types)}")
        else:
            self.kinds[name] = kind
            self._build(name, kind, value)

    def _build(self, name: str, kind: str, value: dict[str, Any]) -> None:
        path = ("sinks", name)
        try:
            found = sink_class(kind)
        except NeedsPerson as error:
            self._faults.add((*path, "type"), str(error))
            return
        checked = self._faults.check(found.Settings, path, {key: kept for key, kept in value.items() if key != "type"})
        if checked is None or (checked.faulty and (kind != "file" or checked.faulty & _WHERE_A_FILE_SINK_WRITES)):
            return
        self.variables = self.variables.union(_variables(checked.settings))
        try:
            self.built[name] = found(name, checked.settings)
        except RotatorError as error:
            self._faults.add(path, str(error))
        except (OSError, RuntimeError):  # what pathlib raises for links that lead back to themselves
            self._faults.add((*path, "path"), "its symbolic links lead nowhere; expected the path of a file")


def _variables(value: object) -> Iterator[str]:
    """The environment variables that settings take secrets from."""
    if isinstance(value, SecretRef):
        if value.env is not None:
            yield value.env
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _variables(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _variables(item)
