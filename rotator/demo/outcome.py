"""How it ended, in numbers, and whether that is as it should be.

The numbers come from those who know: the keys from the account that the sandbox keeps, the calls from the
consumers who made them. The service's log is what they are held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rotator.demo.consumers import Consumer
from rotator.demo.receiver import Receiver
from rotator.demo.stage import EVERY
from rotator.demo.story import Phase, Story
from rotator.sandbox import Sandbox

_INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """The closing numbers. `faults` are sentences; `interrupted` says that somebody ended it early."""

    seconds: float
    created: int
    revoked: int
    living: int
    hand_offs: int
    calls: int
    failed: int
    unanswered: int
    faults: tuple[str, ...]
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        """0 if all is as it should be, 1 if not, 130 if it was ended early."""
        if self.interrupted:
            return _INTERRUPTED
        return 1 if self.faults else 0

    @property
    def numbers(self) -> list[tuple[str, int]]:
        """What there is to count, in the order in which it is shown."""
        numbers = [
            ("keys created", self.created),
            ("keys revoked", self.revoked),
            ("keys living", self.living),
            ("hand-offs", self.hand_offs),
            ("calls made", self.calls),
            ("calls failed", self.failed),
        ]
        return [*numbers, ("calls without an answer", self.unanswered)] if self.unanswered else numbers

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        if self.interrupted:
            return "Stopped before the end; the service was ended and nothing is left of it."
        if self.faults:
            return "This is not how it should end:"
        return (
            f"In {self.seconds:.0f} s {self.revoked} keys were replaced and revoked under two consumers that never "
            f"stopped calling, and every one of their {self.calls} calls was accepted."
        )


@dataclass(frozen=True)
class Ending:
    """How the run ended: after how long, with which exit status of the service, and what it said last."""

    seconds: float
    exit_status: int
    last_words: str = ""
    by_itself: bool = False
    interrupted: bool = False


def judge(story: Story, neon: Sandbox, receiver: Receiver, consumers: Sequence[Consumer], ending: Ending) -> Outcome:
    """Hold everything that is known against everything else."""
    living = [key for key in neon.keys() if key.id != neon.management_key_id]
    revoked = neon.revoked()
    failed = sum(consumer.failed for consumer in consumers)
    faults = [
        *_of_the_service(ending),
        *_of_the_calls(neon, consumers, failed),
        *_of_the_keys(story, {key.id: key.name for key in living}, {key.id for key in revoked}),
    ]
    if receiver.rejected:
        faults.append(f"{receiver.rejected} messages to the webhook receiver were not rightly signed")
    return Outcome(
        seconds=ending.seconds,
        created=len(living) + len(revoked),
        revoked=len(revoked),
        living=len(living),
        hand_offs=story.hand_offs,
        calls=sum(consumer.calls for consumer in consumers),
        failed=failed,
        unanswered=sum(consumer.unanswered for consumer in consumers),
        faults=tuple(faults),
        interrupted=ending.interrupted,
    )


def _of_the_service(ending: Ending) -> list[str]:
    if ending.exit_status == 0 and not ending.by_itself:
        return []
    how = f"the service ended with status {ending.exit_status}" + (" by itself" if ending.by_itself else "")
    return [f"{how}:\n{ending.last_words}" if ending.last_words else how]


def _of_the_calls(neon: Sandbox, consumers: Sequence[Consumer], failed: int) -> list[str]:
    faults = []
    for consumer in consumers:
        if consumer.failed:
            faults.append(
                f"{consumer.failed} of {consumer.calls} calls of consumer {consumer.name} failed; "
                f"the first one: {consumer.first_failure}"
            )
        if consumer.keys < 2:
            held = "was handed no key" if not consumer.keys else "was never handed another key"
            faults.append(f"consumer {consumer.name} {held}")
    refused = neon.stats()["unauthorized"]
    if refused and not failed:
        faults.append(f"Neon refused {refused} calls, none of them a consumer's")
    return faults


def _of_the_keys(story: Story, living: dict[int, str], revoked: set[int]) -> list[str]:
    faults = [f"no key of policy {policy} was revoked" for policy in EVERY if not story.has_revoked(policy)]
    for key_id, name in living.items():
        life = story.lives.get(key_id)
        if life is None:
            faults.append(f"key {name} is left over: the service never said that it created it")
        elif life.phase not in (Phase.LIVE, Phase.RETIRING):
            faults.append(f"key {name} is left over: for the service it is {life.phase}")
    for life in story.lives.values():
        if life.key_id in revoked and life.phase is not Phase.REVOKED:
            faults.append(f"key {life.name} is gone from Neon: for the service it is {life.phase}")
    return faults
