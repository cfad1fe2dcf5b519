"""Places that receive secrets, by the name of their type.

A sink is a class with the promises of `Sink` below. The three that come with the program are named
here; other packages add theirs through the entry point group `rotator.sinks`. A sink's module is
imported only when a configuration names its type, and imports its own libraries only when used. One of another
package is held to those promises by `foreign`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol

from rotator.fields import Settings
from rotator.model import HandOff, SinkRef
from rotator.secret import Secret
from rotator.sinks.foreign import held_to_promises, load

ENTRY_POINTS = "rotator.sinks"
BUILT_IN = {
    "file": "rotator.sinks.file:FileSink",
    "webhook": "rotator.sinks.webhook:WebhookSink",
    "command": "rotator.sinks.command:CommandSink",
}


class Sink(Protocol):
    """What the engine asks of a sink.

    `Settings` is the pydantic model of what the configuration says beside `type`. A sink is made with
    its name and its validated settings, does nothing until asked, and may be used by several threads.
    """

    Settings: ClassVar[type[Settings]]

    def __init__(self, name: str, settings: Any) -> None: ...

    @property
    def ref(self) -> SinkRef:
        """The sink as the decision knows it. No secret in any of its fields."""

    def check(self, *, probe: bool = False) -> None:
        """Return if a delivery is likely to succeed; change nothing.

        `probe` is true when the last hand-off to this sink failed: it may then ask the receiver.
        Raises TryLater or NeedsPerson, saying what is wrong and what to do.
        """

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        """Give the secret to the receiver. A return is the receipt: the receiver has it for good.

        May be called again with the same hand-off, also after it succeeded. Ends within the sink's
        time-out and some seconds. Raises TryLater (with `retry_after` if the receiver said so),
        NeedsPerson or SinkGone; whether the receiver has the secret is then unknown.
        """

    def contents(self) -> str:
        """The fingerprint of the secret that the sink holds now, or a `Held`. Only if `ref.reads_back`."""

    def stop(self) -> None:
        """End attempts under way soon: the service is stopping."""


def sink_types() -> dict[str, str]:
    """The types of sinks that there are, each with `module:class`."""
    found = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    return {**found, **BUILT_IN}


def sink_class(kind: str) -> type[Sink]:
    """The class of a type. Raises KeyError for a type that there is not, NeedsPerson for one that is no sink."""
    module, _, name = sink_types()[kind].partition(":")
    loaded = load(kind, module, name)
    return loaded if kind in BUILT_IN else held_to_promises(kind, loaded)
