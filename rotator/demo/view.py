"""What is shown: a timeline of the keys on a terminal, one line for each event elsewhere."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import click

from rotator.demo.consumers import Consumer
from rotator.demo.outcome import Outcome
from rotator.demo.story import Moment, Story
from rotator.sandbox import Sandbox
from rotator.secret import blank

INTRODUCTION = (
    "The real service, a Neon of its own on this machine, a file and a webhook that receive keys, and two consumers "
    "that call Neon ten times a second with whatever key they hold. No account, no network."
)


@dataclass(frozen=True)
class Scene:
    """What there is to see at one moment; `ends` is when the run is to end, `at` now, in seconds since its start."""

    story: Story
    neon: Sandbox
    consumers: Sequence[Consumer]
    at: float
    ends: float

    @property
    def counters(self) -> str:
        """The numbers so far, each from who knows it."""
        revoked = len(self.neon.revoked())
        created = len(self.neon.keys()) - 1 + revoked  # less the management key
        calls = sum(consumer.calls for consumer in self.consumers)
        failed = sum(consumer.failed for consumer in self.consumers)
        return (
            f"keys created {created}, revoked {revoked}   hand-offs {self.story.hand_offs}   "
            f"calls made {calls}, failed {failed}"
        )


class View(Protocol):
    """Shows the demo; a context manager that leaves the terminal as it was."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def opening(self, configuration: str) -> None:
        """Before the service is started."""

    def told(self, moment: Moment) -> None:
        """The service said something worth telling."""

    def scene(self, scene: Scene) -> None:
        """Some time has passed; called ten times a second or so."""

    def closing(self, outcome: Outcome) -> None:
        """Everything has ended."""


class Lines:
    """Plain lines, for a pipe, a file or a log."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def opening(self, configuration: str) -> None:
        say(f"{textwrap.fill(INTRODUCTION, 100)}\n\nThis is the whole configuration:\n")
        say(textwrap.indent(configuration, "    "))
        say("rotator run is started\n")

    def told(self, moment: Moment) -> None:
        about = f"{moment.key_name}: " if moment.key_name and moment.key_name not in moment.why else ""
        say(f"{moment.at:5.1f} s  {moment.policy or '-':<8} {moment.what:<11}  {about}{moment.why}")

    def scene(self, scene: Scene) -> None:
        pass

    def closing(self, outcome: Outcome) -> None:
        say("")
        for name, number in outcome.numbers:
            say(f"{name + ':':<14} {number:>5}")
        say(f"\n{textwrap.fill(outcome.sentence, 100)}")
        if not outcome.interrupted:
            for fault in outcome.faults:
                say(f"- {fault}")


def say(text: str) -> None:
    """Print, at once, and never a secret."""
    click.echo(blank(text))
    sys.stdout.flush()


def view_for_this_output() -> View:
    """A timeline if standard output is a terminal that can move its cursor, else lines."""
    if sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown", "", None):
        from rotator.demo.timeline import Timeline

        return Timeline()
    return Lines()
