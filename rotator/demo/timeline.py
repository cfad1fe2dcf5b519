"""The timeline: a row for every key, a column for every moment, redrawn in place.

A cell stands for a piece of time. What lasts shorter than that (a key is created and handed over within
hundredths of a second) would be invisible, so a cell in which something happened shows that.
"""

from __future__ import annotations

import os
from itertools import groupby, pairwise
from typing import NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rotator.demo.outcome import Outcome
from rotator.demo.story import Life, Moment, Phase
from rotator.demo.view import Lines, Scene
from rotator.secret import blank

_LONGEST_SHOWN = 40.0
_SECONDS_AFTER_THE_END = 2.0
_WIDE_ENOUGH_FOR_NAMES = 110
_NONCE = 6
_STATE = 8
_ROWS_BESIDE_THE_KEYS = 7


class _Look(NamedTuple):
    glyph: str
    plain: str  # where the terminal's encoding has no such glyph
    style: str


_LOOKS = {
    Phase.CREATED: _Look("░", "+", "yellow"),
    Phase.LIVE: _Look("█", "#", "green"),
    Phase.RETIRING: _Look("▒", "-", "cyan"),
    Phase.REVOKED: _Look("\u2573", "x", "red"),  # a cross as high as the line
    Phase.ORPHANED: _Look("!", "!", "bold magenta"),
}


class Timeline:
    """Draws on a terminal; what comes before and after the drawing are lines."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False, markup=False)
        self._has_glyphs = self._console.encoding.lower().startswith("utf")
        self._lines = Lines()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def opening(self, configuration: str) -> None:
        self._lines.opening(configuration)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def told(self, moment: Moment) -> None:
        """The newest moment is part of every scene."""

    def scene(self, scene: Scene) -> None:
        if self._live is not None:
            self._live.update(self.picture(scene), refresh=True)

    def closing(self, outcome: Outcome) -> None:
        self.__exit__()
        self._lines.closing(outcome)

    def picture(self, scene: Scene) -> Group:
        """Everything between the opening and the closing."""
        width = self._console.width
        named = width >= _WIDE_ENOUGH_FOR_NAMES
        rows_left = max(2, self._console.height - _ROWS_BESIDE_THE_KEYS)
        lives = sorted(scene.story.lives.values(), key=lambda life: life.created)[-rows_left:]
        lives.sort(key=lambda life: (life.policy, life.created))
        labels = [life.name if named else life.name[-_NONCE:] for life in lives]
        policy_width = max((len(life.policy) for life in lives), default=0)
        label_width = max((len(label) for label in labels), default=0)
        room = max(10, width - policy_width - label_width - _STATE - 6)
        start, span = _shown(scene)
        rows = Table.grid(padding=(0, 2, 0, 0))
        for life, label in zip(lives, labels, strict=True):
            style = _LOOKS[life.phase].style
            rows.add_row(life.policy, label, self._bar(life, scene.at, start, span, room), Text(life.phase, style))
        return Group(
            Text(f"{scene.at:5.1f} s   {scene.counters}", style="bold", overflow="ellipsis", no_wrap=True),
            rows,
            self._legend(span, room, policy_width + label_width + 4),
            self._sentence(scene.story.newest),
        )

    def _bar(self, life: Life, at: float, start: float, span: float, room: int) -> Text:
        edges = [start + cell * span / room for cell in range(room + 1)]
        phases = [_phase_in(life, begins, ends, at) for begins, ends in pairwise(edges)]
        bar = Text(no_wrap=True)
        for phase, cells in groupby(phases):
            width = len(list(cells))
            bar.append(" " * width if phase is None else self._glyph(phase) * width, phase and _LOOKS[phase].style)
        return bar

    def _legend(self, span: float, room: int, indent: int) -> Text:
        legend = Text(" " * indent, no_wrap=True, overflow="ellipsis", style="dim")
        for phase in (Phase.CREATED, Phase.LIVE, Phase.RETIRING, Phase.REVOKED):
            legend.append(self._glyph(phase), _LOOKS[phase].style)
            legend.append(f" {phase}  ")
        legend.append(f"one column: {span / room:.1f} s")
        return legend

    def _sentence(self, newest: Moment | None) -> Text:
        """The newest event, always in two lines, so that the picture does not jump."""
        if newest is None:
            return Text("the service is starting\n")
        text = Text(blank(f"{newest.at:5.1f} s   {newest.policy} {newest.sentence}"))
        text.stylize("red" if newest.trouble else "")
        lines = [*text.wrap(self._console, self._console.width), Text("")]
        return Text("\n").join(lines[:2])

    def _glyph(self, phase: Phase) -> str:
        look = _LOOKS[phase]
        return look.glyph if self._has_glyphs else look.plain


def _shown(scene: Scene) -> tuple[float, float]:
    """The part of time that the columns stand for: from when, and how long."""
    ends = max(scene.ends + _SECONDS_AFTER_THE_END, scene.at)
    span = min(ends, _LONGEST_SHOWN)
    return max(0.0, scene.at - span), span


def _phase_in(life: Life, begins: float, ends: float, now: float) -> Phase | None:
    """What to show of a key for a piece of time: what happened in it, or else what the key was."""
    if life.created >= ends or begins > now or (life.revoked is not None and life.revoked < begins):
        return None
    for moment, phase in ((life.revoked, Phase.REVOKED), (life.created, Phase.CREATED)):
        if moment is not None and begins <= moment < ends:
            return phase
    reached = ((life.orphaned, Phase.ORPHANED), (life.retiring, Phase.RETIRING), (life.live, Phase.LIVE))
    return next((phase for moment, phase in reached if moment is not None and moment < ends), Phase.CREATED)
