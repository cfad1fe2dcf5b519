"""The parts of the demo, each by itself: what they count, believe, tell and draw."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from standardwebhooks.webhooks import Webhook

from rotator.demo.consumers import Consumer, key_in_file
from rotator.demo.outcome import Ending, Outcome, judge
from rotator.demo.receiver import Receiver, new_signing_secret
from rotator.demo.story import Moment, Phase, Story
from rotator.demo.timeline import Timeline
from rotator.demo.view import Lines, Scene
from rotator.sandbox import Sandbox

ConsumerOf = Callable[[Callable[[], str | None]], Consumer]


@pytest.fixture
def neon() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def a_consumer(neon: Sandbox) -> Iterator[ConsumerOf]:
    """Makes consumers of the sandbox, with a way to find a key."""
    with ExitStack() as made:

        def make(find_key: Callable[[], str | None]) -> Consumer:
            consumer = Consumer("c", neon.url, find_key)
            made.callback(consumer.stop)
            return consumer

        yield make


def an_event(event: str, key_id: int = 7, policy: str = "ci", level: str = "info", **more: Any) -> dict[str, Any]:
    about = {"policy": policy, "key_id": key_id, "key_name": f"{policy}-{key_id}", "generation": key_id}
    return {"event": event, "level": level, "why": f"the reason of {event}", **about, **more}


def a_story(*events: Mapping[str, Any]) -> Story:
    """One event a second."""
    story = Story()
    for at, event in enumerate(events):
        story.hear(event, float(at))
    return story


def signed(secret: str, body: str, at: datetime) -> Message:
    headers = Message()
    headers["webhook-id"] = "msg_1"
    headers["webhook-timestamp"] = str(int(at.timestamp()))
    headers["webhook-signature"] = Webhook(secret).sign("msg_1", at, body)
    return headers


def a_message(key_id: int, secret: str, created_at: str = "2026-11-23T04:05:50Z") -> str:
    key = {"id": key_id, "created_at": created_at, "secret": secret}
    return json.dumps({"type": "api_key.rotated", "data": {"key": key}})


class TestConsumer:
    def test_an_accepted_call_is_a_call(self, neon: Sandbox, a_consumer: ConsumerOf) -> None:
        """Nothing else is counted then."""
        consumer = a_consumer(lambda: neon.management_key)
        consumer.use_once()
        assert (consumer.calls, consumer.failed, consumer.unanswered, consumer.keys) == (1, 0, 0, 1)

    def test_a_refused_call_has_failed_and_says_how_without_the_key(self, a_consumer: ConsumerOf) -> None:
        """The text holds the status and what Neon says."""
        consumer = a_consumer(lambda: "napi_" + "x" * 40)
        consumer.use_once()
        assert (consumer.calls, consumer.failed) == (1, 1)
        assert "401" in consumer.first_failure
        assert "do not pass authentication" in consumer.first_failure
        assert "napi_" not in consumer.first_failure

    def test_a_call_without_an_answer_says_nothing_about_keys(self, neon: Sandbox, a_consumer: ConsumerOf) -> None:
        """It is counted apart, and the next call is made on a new connection."""
        neon.fault("lost_answer", on="auth")
        consumer = a_consumer(lambda: neon.management_key)
        consumer.use_once()
        assert (consumer.calls, consumer.failed, consumer.unanswered) == (0, 0, 1)
        consumer.use_once()
        assert (consumer.calls, consumer.failed, consumer.unanswered) == (1, 0, 1)

    def test_waiting_for_the_first_key_is_no_failure_but_losing_it_is(
        self, neon: Sandbox, a_consumer: ConsumerOf
    ) -> None:
        """Whoever asks a sink gets a key from the first hand-off on."""
        held = iter((None, neon.management_key, None))
        consumer = a_consumer(lambda: next(held))
        consumer.use_once()
        assert (consumer.calls, consumer.failed) == (0, 0)
        consumer.use_once()
        consumer.use_once()
        assert (consumer.calls, consumer.failed) == (2, 1)

    def test_the_file_is_read_anew_for_every_call(self, tmp_path: Path) -> None:
        """A file that is not there, or has no such entry, holds no key."""
        file = tmp_path / "app.env"
        find = key_in_file(file, "KEY")
        assert find() is None
        file.write_text("OTHER=1\nKEY=one\n")
        assert find() == "one"
        file.write_text("KEY=two\n")
        assert find() == "two"
        file.write_text("OTHER=1\n")
        assert find() is None


class TestReceiver:
    def test_it_takes_a_message_that_another_implementation_signed(self) -> None:
        """Standard Webhooks' own library signs here."""
        with Receiver() as receiver:
            body = a_message(1, "first")
            assert receiver.take(signed(receiver.signing_secret, body, datetime.now(UTC)), body.encode()) == 204
            assert (receiver.key(), receiver.accepted, receiver.rejected) == ("first", 1, 0)

    @pytest.mark.parametrize("wrong", ["secret", "body", "time", "unsigned"])
    def test_it_rejects_what_is_not_rightly_signed(self, wrong: str) -> None:
        """Another secret, another body, an old message, or none of the headers."""
        with Receiver() as receiver:
            body = a_message(1, "first")
            at = datetime.now(UTC) - timedelta(minutes=10 if wrong == "time" else 0)
            headers = signed(new_signing_secret() if wrong == "secret" else receiver.signing_secret, body, at)
            sent = a_message(2, "second") if wrong == "body" else body
            assert receiver.take(Message() if wrong == "unsigned" else headers, sent.encode()) == 401
            assert (receiver.key(), receiver.accepted, receiver.rejected) == (None, 0, 1)

    def test_a_late_message_does_not_bring_an_old_key_back(self) -> None:
        """The newest is the one that was created last, and of two in a second the one with the larger id."""
        with Receiver() as receiver:
            for body in (a_message(5, "five"), a_message(4, "four"), a_message(9, "old", "2026-11-23T04:05:49Z")):
                receiver.take(signed(receiver.signing_secret, body, datetime.now(UTC)), body.encode())
            assert receiver.key() == "five"


class TestStory:
    def test_a_key_lives_through_its_phases(self) -> None:
        """A later key that goes live makes the earlier one retire."""
        story = a_story(an_event("key.created", 1), an_event("rotation.live", 1), an_event("key.created", 2))
        assert [life.phase for life in story.of("ci")] == [Phase.LIVE, Phase.CREATED]
        story.hear(an_event("rotation.live", 2), 3.0)
        assert [life.phase for life in story.of("ci")] == [Phase.RETIRING, Phase.LIVE]
        story.hear(an_event("api_key.revoked", 1), 4.0)
        assert [life.phase for life in story.of("ci")] == [Phase.REVOKED, Phase.LIVE]
        assert story.has_revoked("ci")
        assert not story.has_revoked("web-app")

    def test_the_reason_of_a_creation_is_why_it_was_intended(self) -> None:
        """That Neon created the key says nothing new."""
        story = a_story(an_event("key.intended", 1), an_event("key.created", 1))
        assert story.newest is not None
        assert story.newest.why == "the reason of key.intended"

    def test_what_goes_as_planned_is_not_all_told_but_trouble_is(self) -> None:
        """Whatever its name."""
        story = Story()
        assert story.hear(an_event("sink.offered"), 1.0) is None
        told = story.hear(an_event("something.new", level="warning"), 2.0)
        assert told is not None
        assert (told.what, told.trouble) == ("something.new", True)

    def test_a_key_whose_creation_was_not_heard_of_is_an_orphan(self) -> None:
        """Neon's answer was lost, and the list showed the key."""
        assert a_story(an_event("key.orphaned", 3)).lives[3].phase is Phase.ORPHANED

    @pytest.mark.parametrize(
        ("events", "now", "quiet"),
        [
            ([], 3.0, False),
            ([an_event("key.created", 1)], 3.0, False),
            ([an_event("key.created", 1), an_event("rotation.live", 1)], 3.0, True),
            ([an_event("key.created", 1), an_event("rotation.live", 1)], 4.6, False),
            (
                [an_event(e, k) for k in (1, 2) for e in ("key.created", "rotation.live")],
                3.5,
                False,
            ),
        ],
        ids=["no key", "on its way", "live", "next is due", "one retires"],
    )
    def test_a_policy_is_quiet_with_one_live_key_and_nothing_due(
        self, events: list[dict[str, Any]], now: float, quiet: bool
    ) -> None:
        """That is when the demo may end."""
        assert a_story(*events).is_quiet("ci", every=6, now=now, margin=1.5) is quiet


class TestOutcome:
    def judged(self, neon: Sandbox, story: Story, **ending: Any) -> Outcome:
        return judge(story, neon, Receiver(), [], Ending(**{"seconds": 9.0, "exit_status": 0, **ending}))

    def whole(self, neon: Sandbox) -> Story:
        """For each policy a revoked key and a live one, in Neon as in the log."""
        story = Story()
        for policy in ("web-app", "ci"):
            old, new = neon.create_key(f"{policy}-1").id, neon.create_key(f"{policy}-2").id
            neon.revoke_key(old)
            for event, key in (("created", old), ("created", new)):
                story.hear(an_event(f"key.{event}", key, policy), 1.0)
            for event, key in (("rotation.live", old), ("rotation.live", new), ("api_key.revoked", old)):
                story.hear(an_event(event, key, policy), 2.0)
        return story

    def test_a_whole_story_has_no_fault(self, neon: Sandbox) -> None:
        """The numbers are those of the account."""
        outcome = self.judged(neon, self.whole(neon))
        assert outcome.faults == ()
        assert outcome.exit_status == 0
        assert (outcome.created, outcome.revoked, outcome.living) == (4, 2, 2)

    def test_a_key_that_nobody_accounts_for_is_left_over(self, neon: Sandbox) -> None:
        """Neither the log nor a policy knows it."""
        story = self.whole(neon)
        neon.create_key("stray")
        outcome = self.judged(neon, story)
        assert outcome.exit_status == 1
        assert [fault for fault in outcome.faults if "stray" in fault and "left over" in fault]

    def test_an_orphan_is_left_over(self, neon: Sandbox) -> None:
        """It lives, and nobody has it."""
        story = self.whole(neon)
        orphan = neon.create_key("ci-3").id
        story.hear(an_event("key.orphaned", orphan), 3.0)
        assert "orphaned" in " ".join(self.judged(neon, story).faults)

    def test_a_live_key_that_neon_does_not_have_is_a_fault(self, neon: Sandbox) -> None:
        """Somebody revoked it behind the service's back."""
        story = self.whole(neon)
        neon.revoke_key(next(life.key_id for life in story.of("ci") if life.phase is Phase.LIVE))
        assert "gone from Neon" in " ".join(self.judged(neon, story).faults)

    def test_a_service_that_fails_is_a_fault_with_its_last_words(self, neon: Sandbox) -> None:
        """Also if it ended with 0, but by itself."""
        outcome = self.judged(neon, self.whole(neon), exit_status=2, last_words="config.yaml:3:1: no")
        assert outcome.exit_status == 1
        assert "status 2" in outcome.faults[0]
        assert "config.yaml:3:1: no" in outcome.faults[0]
        assert self.judged(neon, self.whole(Sandbox()), by_itself=True).exit_status == 1

    def test_who_ends_it_early_gets_130(self, neon: Sandbox) -> None:
        """Whatever is not finished then is nobody's fault."""
        assert self.judged(neon, Story(), interrupted=True).exit_status == 130


class TestTimeline:
    def drawn(self, neon: Sandbox, width: int, no_color: bool = False, at: float = 5.0) -> str:
        story = a_story(
            an_event("key.created", 1),
            an_event("rotation.live", 1),
            an_event("key.created", 2),
            an_event("rotation.live", 2),
            an_event("api_key.revoked", 1),
        )
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=width, height=30, no_color=no_color, color_system="256")
        console.print(Timeline(console).picture(Scene(story, neon, [], at, 6.0)))
        return out.getvalue()

    def test_every_key_has_a_bar_of_what_it_was(self, neon: Sandbox) -> None:
        """A cell in which something happened shows that."""
        lines = self.drawn(neon, 60, no_color=True).splitlines()
        old = next(line for line in lines if "revoked" in line and "\u2591" in line)
        new = next(line for line in lines if " live" in line and "\u2591" in line and "revoked" not in line)
        assert old.index("\u2591") < old.index("\u2588") < old.index("\u2592") < old.index("\u2573")
        assert new.index("\u2591") < new.index("\u2588")
        assert "\u2592" not in new

    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_it_fits_the_terminal(self, neon: Sandbox, width: int) -> None:
        """And has the same number of lines whatever happened last."""
        lines = self.drawn(neon, width, no_color=True).splitlines()
        assert len(lines) == 1 + 2 + 1 + 2
        assert "the reason of api_key.revoked" in "".join(lines[-2:])

    @pytest.mark.parametrize("no_color", [True, False])
    def test_it_has_colours_unless_they_are_not_wanted(self, neon: Sandbox, no_color: bool) -> None:
        """NO_COLOR leaves bold and dim, no colours."""
        assert ("\x1b[32m" in self.drawn(neon, 80, no_color)) is not no_color

    def test_a_long_run_shows_its_end(self, neon: Sandbox) -> None:
        """Columns of a fixed length of time, so that a bar does not shrink to nothing."""
        assert "\u2588" in self.drawn(neon, 80, no_color=True, at=30.0)
        assert "\u2573" not in self.drawn(neon, 80, no_color=True, at=300.0).splitlines()[1]


def test_no_line_shows_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever somebody put into a reason."""
    Lines().told(Moment(1.0, "ci", "created", f"Neon said napi_{'a' * 64}"))
    assert "napi_" not in capsys.readouterr().out
