"""A command that is given the secret on its standard input.

The secret is the whole of the input, without a line end: programs such as `vault kv put key=-` take
all that they read. It is never among the arguments or in the environment, which other processes can
read. The environment is the service's own, without the variables that the configuration's secrets
come from (`withhold`) and what belongs to the service alone, and with four `ROTATOR_` variables
that say which key this is. It runs in `/`: that is always there, and the same however the service was
started. The receipt is exit status 0. How nothing of the command outlives its time-out or the service
is told in `process.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import PurePath

from pydantic import Field

from rotator import fields
from rotator.model import HandOff, Held, SinkRef
from rotator.secret import Secret
from rotator.sinks.process import Argv, Program, TimeOut, environment


class CommandSink:
    """Runs a program, without a shell, once a hand-off."""

    class Settings(fields.Settings):
        """What the configuration says of a command sink."""

        run: Argv = Field(
            description="The program and its arguments, run in / without a shell; it gets the key on standard input."
        )
        timeout: TimeOut = Field(default=timedelta(seconds=30), description="How long the program may take.")

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.withheld: frozenset[str] = frozenset()
        self._program = Program(settings.run, settings.timeout)

    @property
    def ref(self) -> SinkRef:
        """The target is the command: its program's name, and a digest of all its words, which may hold a token."""
        words = self.settings.run
        digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        return SinkRef(
            name=self.name,
            target=f"command:{PurePath(words[0]).name}#{digest}",
            settings=hashlib.sha256(self.settings.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16],
            pause=self.settings.timeout,
        )

    def withhold(self, names: Iterable[str]) -> None:
        """Keep these variables out of the command's environment: secrets come from them."""
        self.withheld = frozenset(names)

    def check(self, *, probe: bool = False) -> None:
        """The program is there and may be executed. There is nobody to ask, so a probe adds nothing."""
        self._program.check()

    def deliver(self, hand_off: HandOff, secret: Secret) -> None:
        """Run the command with the secret on its standard input; its exit status 0 is the receipt."""
        self._program.run(environment(hand_off, self.withheld), secret.reveal().encode())

    def contents(self) -> str:
        """What a command does with a secret is not known here."""
        return Held.UNREADABLE

    def stop(self) -> None:
        """Kill the command if it runs now."""
        self._program.stop()
