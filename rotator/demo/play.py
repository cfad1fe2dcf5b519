"""The order of things: set up, start, watch, stop, judge, clean up.

The run ends at the first quiet moment after the time given, when each policy has one live key and
nothing under way, so that the closing numbers tell a whole story and no rotation is cut in two. On a
machine so busy that the story takes longer it waits, but not for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rotator.demo.outcome import Ending, Outcome, judge
from rotator.demo.receiver import Receiver
from rotator.demo.service import ServiceProcess
from rotator.demo.stage import EVERY, Stage, set_up
from rotator.demo.story import Story
from rotator.demo.view import Scene, View
from rotator.sandbox import Sandbox

PATIENCE = 20.0
_LOOK_EVERY = 0.1
_NOTHING_DUE_WITHIN = 1.5  # a second because Neon's times are whole seconds, and half of one to end in


def play(
    seconds: float,
    view: View,
    stop: threading.Event,
    *,
    neon: Sandbox | None = None,
    receiver: Receiver | None = None,
    enough: Callable[[Scene], bool] | None = None,
) -> Outcome:
    """Run the demo for so many seconds and a little more; what came of it has been shown when it returns.

    stop: ends it early. neon, receiver: other ones than the usual, not started yet. enough: when to end
    instead; it is asked ten times a second.
    """
    neon, receiver = neon or Sandbox(), receiver or Receiver()
    with TemporaryDirectory(prefix="rotator-demo-") as folder, neon, receiver, view:
        stage = set_up(Path(folder), neon, receiver)
        view.opening(stage.config.read_text())
        story = Story()
        ending = _Run(stage, Scene(story, neon, stage.consumers, 0.0, seconds), view).until(stop, enough or is_told)
        outcome = judge(story, neon, receiver, stage.consumers, ending)
        view.closing(outcome)
        return outcome


def is_told(scene: Scene) -> bool:
    """Whether the time is over and every policy has come to rest; or did not, however long it was waited for."""
    if scene.at < scene.ends:
        return False
    return scene.at >= scene.ends + PATIENCE or all(
        scene.story.has_revoked(policy) and scene.story.is_quiet(policy, every, scene.at, _NOTHING_DUE_WITHIN)
        for policy, every in EVERY.items()
    )


class _Run:
    """The service and the consumers from their start to their end; `scene` is what it looks like before."""

    def __init__(self, stage: Stage, scene: Scene, view: View) -> None:
        self._stage = stage
        self._scene = scene
        self._view = view
        self._began = time.monotonic()

    def until(self, stop: threading.Event, enough: Callable[[Scene], bool]) -> Ending:
        """Start everyone, follow what happens until it is enough, and stop everyone."""
        service = ServiceProcess(self._stage.config, self._stage.secrets)
        try:
            for consumer in self._stage.consumers:
                consumer.start()
            while not (stop.is_set() or service.has_ended() or enough(self._scene)):
                self._follow(service, _LOOK_EVERY)
            by_itself, interrupted = service.has_ended(), stop.is_set()
            exit_status = service.stop()  # the consumers go on: a service that stops must not hurt them
            for consumer in self._stage.consumers:
                consumer.stop()
            self._follow(service)
            return Ending(self._scene.at, exit_status, service.last_words, by_itself, interrupted)
        finally:
            service.kill()
            for consumer in self._stage.consumers:
                consumer.stop()

    def _follow(self, service: ServiceProcess, within: float = 0.0) -> None:
        """Take in what the service said, and show how things stand."""
        for at, line in service.news(within):
            moment = self._scene.story.hear(line, at - self._began)
            if moment is not None:
                self._view.told(moment)
        self._scene = replace(self._scene, at=time.monotonic() - self._began)
        self._view.scene(self._scene)
