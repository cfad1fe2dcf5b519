"""The service: wakes policies when they are due, polls, tells, reloads, stops. The only module that waits.

APScheduler holds a date job for each policy whose last decision named a time, and a few jobs that
repeat: the poll, the look for orders, the notifications. It holds no truth: every job only takes a
turn, and what there is to do is decided then from the record and Neon's list. A policy's next job is
added after its turn has ended (the scheduler drops one that comes due while the last still runs),
and a wake-up that arrives during a turn is remembered and follows it. Turns have threads of their own,
so that sinks that hang, however many, delay neither the poll nor the orders.

The scheduler computes with the wall clock. So the main thread, which waits for signals anyway, compares
it with the monotonic clock every second, and plans everything anew after a jump; it also wakes a
policy whose time has passed without a turn, whatever the reason. A signal's handler may interrupt the main
thread anywhere, also while it holds a lock, so all that it does is to queue the signal's number.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from rotator import log
from rotator.assembly import Assembly
from rotator.config import Config
from rotator.errors import ConfigError, RotatorError, StateUnavailable
from rotator.lasting import Lasting
from rotator.model import Event
from rotator.systemd import notify, watchdog_interval
from rotator.transitions import pause_after

_THREADS = 5  # the poll, the orders and those of no policy, the clock, the notices
_TURNS_AT_ONCE = 64
_ORDERS_EVERY = 2.0
_CLOCK_EVERY = 5.0
_NOTIFY_EVERY = 2.0
_LATE = timedelta(seconds=15)
_JUMP = timedelta(seconds=2)
_STOP_WITHIN = 8.0
_SINKS_STOP_AFTER = 5.0
_POLICY = "policy:"
_OF_BEFORE = "wake the policies that are not configured any more"


class Service:
    """`reload` reads the configuration again; it raises ConfigError."""

    def __init__(self, assembly: Assembly, reload: Callable[[], Config]) -> None:
        self._assembly = assembly
        self._reload = reload
        self._fixed = {name: getattr(assembly.config, name) for name in ("state", "listen")}
        self._stop = assembly.stop
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._guard = threading.Lock()
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._wakes: dict[str, datetime] = {}
        self._ran: dict[str, float] = {}
        self._orders_seen: set[int] = set()
        self._obeying = False
        self._nudge = assembly.store.meta("nudge")
        self._stateless = Lasting(log.tell, "state.unavailable", "state.available")
        self._reload_asked = False
        self._reloading: threading.Thread | None = None
        self._pulse = time.monotonic()
        self._unanswered = 0
        self._ask_again = 0.0
        self._scheduler = BackgroundScheduler(
            jobstores={"default": MemoryJobStore()},
            executors={"default": ThreadPoolExecutor(_THREADS), "turns": ThreadPoolExecutor(_TURNS_AT_ONCE)},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone=UTC,
        )
        self._scheduler.add_listener(self._job_ended, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT. `ready` is called after the first poll, whether it succeeded or not."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: self._signals.put(received))
        log.tell(Event("service.started", _counted(self._assembly.config)))
        self._scheduler.start()
        self._say_what_is_served()
        try:
            self._poll_first()
            if not self._stop.is_set():
                self._plan_anew()
                notify("READY=1")
                ready()
            self._wait_for_signals()
        finally:
            self._shut_down()

    def _poll_first(self) -> None:
        """Before any turn, so that the first decisions are made knowing all. A Neon that hangs delays no signal."""
        poll = threading.Thread(target=self._poll, daemon=True, name="first poll")
        poll.start()
        while poll.is_alive() and not self._stop.is_set():
            self._heed_signals(0.02)

    # Waking policies

    def wake(self, name: str, at: datetime | None = None) -> None:
        """Let a policy have a turn at `at`, on Neon's clock, or now."""
        with self._guard:
            if name in self._running and at is None:
                self._again.add(name)
                return
            self._plan(name, at)

    def _plan(self, name: str, at: datetime | None) -> None:
        wait = max(timedelta(0), at - self._assembly.clock.now()) if at is not None else timedelta(0)
        run_at = datetime.now(UTC) + wait
        self._wakes[name] = run_at
        self._scheduler.add_job(
            self._turn,
            "date",
            run_date=run_at,
            args=[name],
            id=_POLICY + name,
            replace_existing=True,
            executor="turns",
        )

    def _wake_all(self) -> None:
        """Those of before too, unless the state cannot say which; the next poll that can read it wakes them."""
        names = set(self._assembly.config.policies)
        try:
            names |= self._assembly.store.records().keys()
        except StateUnavailable as error:
            self._without_state(_OF_BEFORE, error)
        else:
            self._with_state(_OF_BEFORE)
        for name in sorted(names):
            self.wake(name)

    def _turn(self, name: str) -> datetime | None:
        with self._guard:
            self._running.add(name)
            self._wakes.pop(name, None)
        if self._stop.is_set():
            return None
        return self._assembly.engine.turn(name)

    def _job_ended(self, event: JobExecutionEvent) -> None:
        self._pulse = time.monotonic()
        if not event.job_id.startswith(_POLICY):
            return
        name = event.job_id.removeprefix(_POLICY)
        with self._guard:
            self._running.discard(name)
            again = name in self._again
            self._again.discard(name)
            if self._stop.is_set():
                return
            if event.exception is not None:
                self._plan(name, self._assembly.clock.now() + timedelta(minutes=1))
            elif again:
                self._plan(name, None)
            elif event.retval is not None:
                self._plan(name, event.retval)

    # What repeats

    def _every(self, job_id: str, work: Callable[[], None], seconds: float) -> None:
        """Plan this, or plan it anew: it is still counted from its last run, so no reload puts it off."""

        def run() -> None:
            self._ran[job_id] = time.monotonic()
            work()

        left = seconds - (time.monotonic() - self._ran.setdefault(job_id, time.monotonic()))
        self._scheduler.add_job(
            run,
            "interval",
            seconds=seconds,
            next_run_time=datetime.now(UTC) + timedelta(seconds=max(0.0, left)),
            id=job_id,
            replace_existing=True,
        )

    def _poll(self) -> None:
        try:
            concerned = self._assembly.rounds.poll()
            if self._scheduler.running:
                for name in concerned:
                    self.wake(name)
            self._assembly.rounds.prune()
        except StateUnavailable as error:
            self._without_state("poll", error)
            return
        self._with_state("poll")

    def _look_for_orders(self) -> None:
        try:
            orders = self._assembly.store.open_orders()
            nudge = self._assembly.store.meta("nudge")
        except StateUnavailable as error:
            self._without_state("look for orders", error)
            return
        self._with_state("look for orders")
        if nudge != self._nudge:
            self._wake_all()
            self._nudge = nudge
        self._orders_seen &= {order.id for order in orders}
        for order in orders:
            if order.policy is not None and order.id not in self._orders_seen:
                self._orders_seen.add(order.id)
                self.wake(order.policy)
        if any(order.policy is None for order in orders) and not self._obeying:
            self._obeying = True
            self._scheduler.add_job(self._obey)

    def _obey(self) -> None:
        """Carry out the orders that belong to no policy. Apart from the look for orders, as Neon may take its time."""
        try:
            self._assembly.rounds.obey()
        except StateUnavailable as error:
            self._without_state("carry out orders", error)
        else:
            self._with_state("carry out orders")
        finally:
            self._obeying = False

    def _ask_for_the_time(self) -> None:
        distrust = self._assembly.clock.distrust
        if not distrust or time.monotonic() < self._ask_again:
            return
        try:
            self._assembly.neon.whoami()
            self._unanswered = 0
        except RotatorError as error:
            self._unanswered += 1
            pause = pause_after(self._unanswered, random.random())  # noqa: S311 - spreads retries, guards nothing
            self._ask_again = time.monotonic() + pause.total_seconds()
            log.tell(Event("clock.distrusted", f"{distrust}; {error}"))

    def _send_notices(self) -> None:
        try:
            self._assembly.notifier.send_waiting()
        except StateUnavailable as error:
            self._without_state("notify", error)
        else:
            self._with_state("notify")

    def _without_state(self, what: str, error: StateUnavailable) -> None:
        self._stateless.lasts(what, f"the service cannot {what}: {error}", self._assembly.clock.now())

    def _with_state(self, what: str) -> None:
        self._stateless.ends(what, f"the service can {what} again: the state can be used")

    # The main thread

    def _heed_signals(self, seconds: float) -> None:
        """Wait so long for signals, and do what they ask for: an end before all else, one reload for several.

        The reload may have to wait for the state, so it has a thread of its own; one asked for meanwhile follows.
        """
        received = set()
        with suppress(Empty):
            received.add(self._signals.get(timeout=seconds))
            while True:
                received.add(self._signals.get_nowait())
        if received - {signal.SIGHUP}:
            self._stop.set()
            return
        self._reload_asked |= bool(received)
        if self._reload_asked and not (self._reloading is not None and self._reloading.is_alive()):
            self._reload_asked = False
            self._reloading = threading.Thread(target=self._load_again, daemon=True, name="reload")
            self._reloading.start()

    def _wait_for_signals(self) -> None:
        offset = _wall_minus_monotonic()
        beat = watchdog_interval()
        beaten = time.monotonic()
        while not self._stop.is_set():
            self._heed_signals(1.0)
            now_offset = _wall_minus_monotonic()
            if abs(now_offset - offset) > _JUMP:
                log.tell(Event("clock.jumped", "the local clock was set or the machine slept; planning anew"))
                self._plan_anew()
            offset = now_offset
            self._wake_late()
            if beat is not None and time.monotonic() - beaten >= beat and self.alive():
                notify("WATCHDOG=1")
                beaten = time.monotonic()

    def alive(self) -> bool:
        """Whether the scheduler still ends jobs: the look for orders comes every two seconds."""
        return time.monotonic() - self._pulse < 60

    def _plan_anew(self) -> None:
        self._every("orders", self._look_for_orders, _ORDERS_EVERY)
        self._every("clock", self._ask_for_the_time, _CLOCK_EVERY)
        self._every("notify", self._send_notices, _NOTIFY_EVERY)
        self._every("poll", self._poll, self._assembly.config.neon.poll_every.total_seconds())
        self._wake_all()

    def _wake_late(self) -> None:
        now = datetime.now(UTC)
        with self._guard:
            late = [name for name, at in self._wakes.items() if now - at > _LATE and name not in self._running]
        for name in late:
            self.wake(name)

    def _load_again(self) -> None:
        notify("RELOADING=1")
        try:
            self._act_on(self._reload())
        except ConfigError as error:
            for problem in error.problems:
                log.tell(Event("config.refused", f"{problem}; the configuration stays as it was"))
        if not self._stop.is_set():
            notify("READY=1")

    def _act_on(self, config: Config) -> None:
        for name, runs in self._fixed.items():
            if getattr(config, name) != runs:
                log.tell(Event("config.needs_restart", f"{name} changed; restart the service for that"))
        if self._stop.is_set():
            return
        try:
            self._assembly.configure(config)
        except RotatorError as error:
            log.tell(Event("config.refused", f"{error}; the configuration stays as it was"))
            return
        if self._stop.is_set():
            return
        self._say_what_is_served()
        log.tell(Event("config.loaded", _counted(config)))
        self._plan_anew()

    def _say_what_is_served(self) -> None:
        """So that an order about another policy is not given in vain: the file may be newer than what was loaded."""
        try:
            self._assembly.store.set_meta("served", " ".join(self._assembly.config.policies))
        except StateUnavailable as error:
            self._without_state("say which policies it has", error)

    def _shut_down(self) -> None:
        notify("STOPPING=1")
        log.tell(Event("service.stopping", "finishing the steps in hand"))
        began = time.monotonic()
        stopper = threading.Timer(_SINKS_STOP_AFTER, self._assembly.stop_sinks)
        stopper.daemon = True
        stopper.start()
        self._scheduler.remove_all_jobs()
        waiter = threading.Thread(target=lambda: self._scheduler.shutdown(wait=True), daemon=True)
        waiter.start()
        waiter.join(max(0.0, _STOP_WITHIN - (time.monotonic() - began)))
        stopper.cancel()
        if waiter.is_alive():
            self._assembly.stop_sinks()
            log.tell(Event("service.stopped", "some steps had no end yet; they are settled at the next start"))
            os._exit(0)  # threads that hang in a sink would keep the process; all that matters is written down
        log.tell(Event("service.stopped", "all steps had an end"))


def _counted(config: Config) -> str:
    count = len(config.policies)
    return "1 policy is configured" if count == 1 else f"{count} policies are configured"


def _wall_minus_monotonic() -> timedelta:
    return timedelta(seconds=time.time() - time.monotonic())
