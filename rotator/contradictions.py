"""What no single key gets wrong, but two of them together.

Each check is a small function from everything that was understood to faults, a path and a sentence
each; `ALL` names them. They see a configuration that may have faults elsewhere, so that everything is
reported at once, and keep silent about what hangs on a faulty key. File names are compared with
every symbolic link resolved: two names of one file are one file.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from rotator import cadence
from rotator.config_faults import Checked, did_you_mean
from rotator.settings import CronSettings, Document, EverySettings, NeonSettings, PolicySettings, sqlite_file
from rotator.sinks.file import FileSink
from rotator.words import span
from rotator.yaml_places import Part

Fault = tuple[tuple[Part, ...], str]


@dataclass(frozen=True)
class Draft:
    """A configuration as far as it was understood. `kinds` has every sink, `names` every policy, also faulty ones."""

    file: Path
    document: Checked[Document] | None
    neon: Checked[NeonSettings] | None
    kinds: Mapping[str, str | None]
    sinks: Mapping[str, object]
    names: frozenset[str]
    policies: Mapping[str, Checked[PolicySettings]]

    def with_sound(self, *keys: str) -> Iterator[tuple[str, PolicySettings]]:
        """The policies of which none of these keys is faulty."""
        for name, checked in self.policies.items():
            if not checked.faulty.intersection(keys):
                yield name, checked.settings

    @cached_property
    def files(self) -> dict[str, tuple[FileSink, str]]:
        """The file sinks, each with the real path of its file."""
        return {
            name: (sink, os.path.realpath(sink.path)) for name, sink in self.sinks.items() if isinstance(sink, FileSink)
        }

    @cached_property
    def management_file(self) -> str | None:
        """The real path of the file that the management key is read from."""
        if self.neon is None or "api_key" in self.neon.faulty:
            return None
        path = self.neon.settings.api_key.path
        return os.path.realpath(path) if path else None

    @cached_property
    def handed(self) -> list[tuple[str, int, str, FileSink, str]]:
        """Every use of a file sink: policy, position in `deliver_to`, sink, and the file's real path."""
        return [
            (policy, position, sink, *self.files[sink])
            for policy, settings in self.with_sound("deliver_to")
            for position, sink in enumerate(settings.deliver_to)
            if sink in self.files
        ]


def sinks_of_policies(draft: Draft) -> Iterator[Fault]:
    """A policy without a sink, with an unknown one, with one twice."""
    for name, settings in draft.with_sound("deliver_to"):
        if not settings.deliver_to:
            yield ("policies", name, "deliver_to"), "no sink; expected at least one, or the key has no receiver"
        for position, sink in enumerate(settings.deliver_to):
            path = ("policies", name, "deliver_to", position)
            if sink not in draft.kinds:
                yield path, f"no sink has this name; {did_you_mean(sink, draft.kinds)}"
            elif sink in settings.deliver_to[:position]:
                yield path, f"the sink {sink} is named twice; name it once"


def sinks_of_events(draft: Draft) -> Iterator[Fault]:
    """An event for something that cannot take one."""
    if draft.document is None or "notify" in draft.document.faulty:
        return
    names = draft.document.settings.notify
    webhooks = [name for name, kind in draft.kinds.items() if kind == "webhook"]
    for position, sink in enumerate(names):
        path = ("notify", position)
        if sink not in draft.kinds:
            yield path, f"no sink has this name; {did_you_mean(sink, webhooks)}"
        elif draft.kinds[sink] not in ("webhook", None):
            yield path, f"the sink {sink} takes no events; expected a sink of type webhook"
        elif sink in names[:position]:
            yield path, f"the sink {sink} is named twice; name it once"


def one_entry_one_policy(draft: Draft) -> Iterator[Fault]:
    """Two policies that overwrite each other's key."""
    first: dict[tuple[str, str | None], str] = {}
    for policy, position, sink, file, real in draft.handed:
        owner = first.setdefault((real, file.variable), policy)
        if owner != policy:
            what = f"the entry {file.variable} of {file.path}" if file.variable else str(file.path)
            yield (
                ("policies", policy, "deliver_to", position),
                f"the sink {sink} writes {what}, which policy {owner} writes too; give each policy an entry of its own",
            )


def one_file_one_format(draft: Draft) -> Iterator[Fault]:
    """Files that are written whole by one sink and in part by another."""
    sharing: dict[str, list[str]] = defaultdict(list)
    for _, _, sink, _, real in draft.handed:
        if sink not in sharing[real]:
            sharing[real].append(sink)
    for sinks in sharing.values():
        first = draft.files[sinks[0]][0]
        for name in sinks[1:]:
            other = draft.files[name][0]
            where = f"{other.path} is the file of the sink {sinks[0]} too"
            if "raw" in (other.format, first.format):
                yield (
                    ("sinks", name, "path"),
                    f"{where}, and a raw file holds one key alone; give each a file of its own",
                )
            elif other.format != first.format:
                yield ("sinks", name, "format"), f"{where}, as {first.format}; expected one format for one file"


def files_of_our_own(draft: Draft) -> Iterator[Fault]:
    """A sink that overwrites this file, or the state."""
    own = {os.path.realpath(draft.file): "this configuration itself"}
    if draft.document and "state" not in draft.document.faulty:
        own[os.path.realpath(sqlite_file(draft.document.settings.state))] = "rotator's own state"
    for name, (_, real) in draft.files.items():
        if real in own:
            yield ("sinks", name, "path"), f"this file is {own[real]}; expected a file that only holds keys"


def the_management_key(draft: Draft) -> Iterator[Fault]:
    """At most one policy may overwrite the file of the management key, and only if it says so."""
    first = ""
    for name, settings in draft.with_sound("management_key"):
        if not settings.management_key:
            continue
        path: tuple[Part, ...] = ("policies", name, "management_key")
        if first:
            yield path, f"policy {first} rotates the management key already; expected one such policy"
        first = first or name
        faulty = draft.policies[name].faulty
        if "scope" not in faulty and settings.scope != "personal":
            yield ("policies", name, "scope"), "the management key is a personal key; expected scope: personal"
        if draft.neon and "api_key" not in draft.neon.faulty and draft.neon.settings.api_key.file is None:
            yield path, "neon.api_key is not a file, so nobody can replace it; expected neon.api_key: {file: PATH}"
        elif "deliver_to" not in faulty and draft.management_file and not _is_delivered(draft, settings):
            yield (
                ("policies", name, "deliver_to"),
                "this is not where the management key is read; expected one sink, a raw file with neon.api_key's path",
            )
    for policy, position, sink, file, real in draft.handed:
        checked = draft.policies[policy]
        if (
            real == draft.management_file
            and not checked.settings.management_key
            and "management_key" not in checked.faulty
        ):
            yield (
                ("policies", policy, "deliver_to", position),
                f"the sink {sink} would overwrite the management key in {file.path}; expected another file, or "
                "management_key: true",
            )


def _is_delivered(draft: Draft, settings: PolicySettings) -> bool:
    """Whether the management key goes to its own file and nowhere else. A faulty sink has the benefit of the doubt."""
    if len(settings.deliver_to) != 1:
        return not settings.deliver_to
    sink = settings.deliver_to[0]
    if sink not in draft.files:
        return sink not in draft.sinks
    file, real = draft.files[sink]
    return file.format == "raw" and real == draft.management_file


def one_key_one_policy(draft: Draft) -> Iterator[Fault]:
    """A key that two policies would replace."""
    first: dict[int, str] = {}
    own = draft.neon.settings.api_key_id if draft.neon and "api_key_id" not in draft.neon.faulty else None
    for name, settings in draft.with_sound("adopt"):
        if settings.adopt is None:
            continue
        path = ("policies", name, "adopt")
        owner = first.setdefault(settings.adopt, name)
        if owner != name:
            yield path, f"policy {owner} adopts this key too; a key belongs to one policy"
        elif settings.adopt == own and not settings.management_key:
            yield (
                path,
                "this is the management key (neon.api_key_id); only a policy with management_key: true adopts it",
            )


def times(draft: Draft) -> Iterator[Fault]:
    """A grace period, a jitter or a window that the cadence leaves no room for."""
    for name, settings in draft.with_sound("rotate"):
        faulty = draft.policies[name].faulty
        if "grace_period" not in faulty:
            yield from _grace(name, settings)
        if "jitter" not in faulty:
            yield from _jitter(name, settings)
    for name, settings in draft.with_sound("window"):
        yield from _window(name, settings, draft.policies[name].faulty)


def _grace(name: str, settings: PolicySettings) -> Iterator[Fault]:
    if isinstance(settings.rotate, CronSettings):
        gap = cadence.shortest_gap(settings.rotate.cron, settings.rotate.timezone, down_to=settings.grace_period)
    else:
        gap = settings.rotate.every
    if settings.grace_period >= gap:
        default = "" if "grace_period" in settings.model_fields_set else ", the default,"
        yield (
            ("policies", name, "grace_period"),
            f"{span(settings.grace_period)} of grace{default} are not over when the next rotation comes after "
            f"{span(gap)}; expected a shorter grace_period or rarer rotations",
        )


def _jitter(name: str, settings: PolicySettings) -> Iterator[Fault]:
    path = ("policies", name, "jitter")
    if isinstance(settings.rotate, EverySettings):
        if settings.jitter >= settings.rotate.every:
            yield path, f"not shorter than the {span(settings.rotate.every)} between two rotations; expected less"
    elif settings.jitter:
        yield path, "a cron expression names exact times and has no jitter; leave it out or use every"


def _window(name: str, settings: PolicySettings, faulty: frozenset[str]) -> Iterator[Fault]:
    window = settings.window
    if window is None:
        return
    if window.start == window.end:
        yield ("policies", name, "window", "to"), "the window closes when it opens; expected another time than `from`"
        return
    start, end = (timedelta(hours=time.hour, minutes=time.minute) for time in (window.start, window.end))
    closed = cadence.shortest_closed(window.days, start, end)
    if "rotate" in faulty:
        return
    rotate = settings.rotate
    gap = rotate.every if isinstance(rotate, EverySettings) else cadence.longest_gap(rotate.cron)
    if closed > gap:
        yield (
            ("policies", name, "window"),
            f"stays closed for at least {span(closed)}, so it never opens within the {span(gap)} between two "
            "rotations; expected a wider window or rarer rotations",
        )


def renames(draft: Draft) -> Iterator[Fault]:
    """A record that two policies would take."""
    first: dict[str, str] = {}
    for name, settings in draft.with_sound("renamed_from"):
        old = settings.renamed_from
        if old is None:
            continue
        path = ("policies", name, "renamed_from")
        if old in draft.names:
            yield path, f"policy {old} is still configured and keeps its record; expected the name of a former policy"
        elif first.setdefault(old, name) != name:
            yield path, f"policy {first[old]} takes over the record of {old} already; only one can"


ALL: tuple[Callable[[Draft], Iterator[Fault]], ...] = (
    sinks_of_policies,
    sinks_of_events,
    one_entry_one_policy,
    one_file_one_format,
    files_of_our_own,
    the_management_key,
    one_key_one_policy,
    times,
    renames,
)
