"""`rotate`, `revoke`, `pause`, `resume`: what an operator orders.

Beside a running service an order goes through the state; the service takes it up within seconds.
Without one, the command takes the process lock and does the work itself.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rotator.commands.common import (
    config_option,
    former_names,
    load_config,
    policy_named,
    read_state,
    say,
    state_path,
)
from rotator.errors import AlreadyRunning, NeedsPerson

if TYPE_CHECKING:
    from rotator.assembly import Assembly
    from rotator.config import Config
    from rotator.lock import ProcessLock
    from rotator.model import Order, Record
    from rotator.ports import Transition
    from rotator.store import Entry, Store
    from rotator.usage import KeyReport

_TAKEN_WITHIN = 10.0
_REVOKED_WITHIN = 60.0
_BACK_WITHIN = 10.0  # a service that is restarted is back by then
_ALONE_AT_MOST = timedelta(minutes=5)


@click.command()
@click.argument("policy")
@config_option
@click.option("--leaked", is_flag=True, help="Revoke every older key of the policy at the last receipt.")
@click.option("--now", is_flag=True, help="With --leaked: revoke before anything else. Consumers fail until then.")
@click.option("--wait", is_flag=True, help="Return when the new key is live.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed for --leaked --now without a terminal.")
def rotate(policy: str, config: Path, leaked: bool, now: bool, wait: bool, yes: bool) -> int:
    """Order a rotation of POLICY: at once, outside its window too.

    Returns when the order is taken, with --wait when the new key is live.
    """
    from rotator.model import Order, OrderKind, Record

    if now and not leaked:
        raise click.UsageError("--now belongs to --leaked")
    loaded = load_config(config, secrets=False)
    policy_named(loaded, policy)
    if now:
        _confirm(f"Every key of policy {policy} stops working before there is a new one.", yes)
    order = Order(0, OrderKind.ROTATE, _epoch(), policy=policy, leaked=leaked, now=now)

    def alone(assembly: Assembly) -> int:
        from rotator.standing import live, older

        _refuse_if_paused(loaded, assembly.store.record(policy), "created")
        before = live(assembly.store.record(policy))
        assembly.neon.list_keys(loaded.policies[policy].scope.account)  # an order that nobody can carry out is no order
        _work(assembly, order, policy)
        record = assembly.store.record(policy)
        after = live(record)
        if after is None or (before is not None and after.key_id == before.key_id):
            raise NeedsPerson(f"the rotation of {policy} did not come to its end: {_outlook(assembly.store, policy)}")
        say(f"{after.name} (id {after.key_id}) is live")
        for left in (generation for generation in older(record) if generation.condemned):
            error = left.revocation.error if left.revocation else None
            why = error or _outlook(assembly.store, policy)
            raise NeedsPerson(
                f"key {left.key_id} ({left.name}), which leaked, is not revoked yet: {why}",
                "start the service or run: rotator apply",
            )
        return 0

    def beside(store: Store, lock: ProcessLock) -> int:
        from rotator.standing import live

        served = store.meta("served")
        if served is not None and policy not in served.split():
            raise NeedsPerson(
                f"the running service has not loaded policy {policy}",
                f"let it load the configuration again, with SIGHUP to {lock.holder() or 'it'}",
            )

        def record() -> Record:
            return read_state(loaded, store)[0].get(policy, Record(policy=policy))

        _refuse_if_paused(loaded, record(), "created")
        before = live(record())
        began = store.newest()
        at = _state_time(store)
        number = store.add_order(replace(order, at=at))

        def is_open() -> bool:
            return any(each.id == number for each in store.open_orders())

        if not wait:
            if not _until(lambda: not is_open(), _TAKEN_WITHIN):
                raise NeedsPerson(
                    f"the order is recorded, but the service has not begun: {_outlook(store, policy)}",
                    "it is carried out within an hour, or lapses",
                )
            say("the service has begun the rotation")
            return 0
        previous = before.key_id if before else None
        held_at = time.monotonic()
        while (current := live(record())) is None or current.key_id == previous:
            if not is_open() and (why := _lapsed(store, began, lambda entry: entry.policy == policy)):
                raise NeedsPerson(why)
            if why := _refused(store, policy, at):
                raise NeedsPerson(why)
            held_at = time.monotonic() if lock.is_held() else held_at
            if time.monotonic() - held_at > _BACK_WITHIN:
                raise NeedsPerson(
                    "the service has ended before the new key was live", "start it again: it takes up the rotation"
                )
            time.sleep(0.5)
        say(f"{current.name} (id {current.key_id}) is live")
        return 0

    return _alone_or_beside(loaded, "rotate", alone, beside)


@click.command()
@click.argument("key_id", type=int)
@config_option
@click.option("--unmanaged", is_flag=True, help="Also a key that no policy owns.")
@click.option("--yes", is_flag=True, help="Do not ask. Needed without a terminal.")
def revoke(key_id: int, config: Path, unmanaged: bool, yes: bool) -> int:
    """Revoke one key now, for good.

    Says who used it last and what depends on it, then asks. If it is a policy's live key, a rotation
    becomes due.
    """
    from rotator.glance import glance
    from rotator.model import Order, OrderKind
    from rotator.usage import Role

    loaded = load_config(config, secrets=False)
    seen = glance(loaded, state_path(loaded))
    report = next((r for r in seen.inventory() if r.key.id == key_id), None)
    if report is None:
        raise NeedsPerson(f"there is no key {key_id} in the accounts in use", "see rotator keys")
    if key_id in seen.own:
        raise NeedsPerson(f"key {key_id} is the management key ({seen.own[key_id]})", "it is never revoked by order")
    if report.role is Role.UNMANAGED and not unmanaged:
        raise NeedsPerson(
            f"no policy owns key {key_id} ({report.key.name})", "add --unmanaged to revoke it all the same"
        )
    if report.policy is not None and report.policy in loaded.policies:
        _refuse_if_paused(loaded, seen.records[report.policy], "revoked")
    _confirm(_consequences(report, seen.now), yes)
    order = Order(0, OrderKind.REVOKE, _epoch(), policy=report.policy, key_id=key_id, unmanaged=unmanaged)

    def gone(store: Store, since: int) -> bool:
        # Not what was before: a key that the lists lacked for a while was gone once, and is there.
        events = {e.event for e in store.history(key_id=key_id, after=since)}
        return bool(events & {"api_key.revoked", "key.gone"})

    def alone(assembly: Assembly) -> int:
        began = assembly.store.newest()
        if report.policy is None:
            _record(assembly, order)
            assembly.rounds.obey()
        else:
            _work(assembly, order, report.policy)
        return outcome(assembly.store, began)

    def beside(store: Store, lock: ProcessLock) -> int:
        began = store.newest()
        name = seen.renames.get(report.policy, report.policy) if report.policy else None  # the service knows no other
        store.add_order(replace(order, policy=name, at=_state_time(store)))
        _until(
            lambda: gone(store, began) or bool(_lapsed(store, began, lambda entry: entry.key_id == key_id)),
            _REVOKED_WITHIN,
        )
        return outcome(store, began)

    def outcome(store: Store, began: int) -> int:
        if gone(store, began):
            say(f"key {key_id} ({report.key.name}) is revoked")
            return 0
        failed = ("revocation.failed", "order.lapsed")
        last = [entry.why for entry in store.history(key_id=key_id, after=began) if entry.event in failed]
        raise NeedsPerson(f"key {key_id} is not revoked yet: {last[-1] if last else _outlook(store, report.policy)}")

    return _alone_or_beside(loaded, "revoke", alone, beside)


@click.command()
@click.argument("policy", required=False)
@config_option
def pause(policy: str | None, config: Path) -> int:
    """Stop creating and revoking keys, of POLICY or of all, until resumed."""
    return _set_paused(load_config(config, secrets=False), policy, paused=True)


@click.command()
@click.argument("policy", required=False)
@config_option
def resume(policy: str | None, config: Path) -> int:
    """Undo pause, of POLICY or of all."""
    return _set_paused(load_config(config, secrets=False), policy, paused=False)


def _set_paused(config: Config, policy: str | None, *, paused: bool) -> int:
    from rotator.renames import changing
    from rotator.store import Store
    from rotator.transitions import pause as change

    names = [policy_named(config, policy)] if policy is not None else list(config.policies)
    store = Store(config.state)
    try:
        former, records = former_names(config, store), store.records()
        changes: dict[str, Transition] = {}
        for name in names:
            changes |= changing(name, former, records, lambda record: change(record, paused))
        store.change_many(_state_time(store), changes)
        store.set_meta("nudge", uuid.uuid4().hex)
    finally:
        store.close()
    say(f"{'paused' if paused else 'resumed'}: {', '.join(names)}")
    still = [name for name in names if config.policies[name].paused and not paused]
    for name in still:
        say(f"{name} has paused: true in the configuration, which still holds", err=True)
    return 1 if still else 0


def _alone_or_beside(
    config: Config, command: str, alone: Callable[[Assembly], int], beside: Callable[[Store, ProcessLock], int]
) -> int:
    from rotator import log
    from rotator.assembly import assemble
    from rotator.lock import ProcessLock
    from rotator.oneshot import ended_by_signals
    from rotator.store import Store

    with ProcessLock(state_path(config)) as lock:
        try:
            lock.acquire(command)
        except AlreadyRunning:
            store = Store(config.state, create=False)
            try:
                return beside(store, lock)
            finally:
                store.close()
        log.setup()
        # Whoever does the work needs the secrets.
        assembly = assemble(load_config(config.file), threading.Event(), check=lock.check)
        try:
            with ended_by_signals(assembly):
                return alone(assembly)
        finally:
            assembly.close()


def _work(assembly: Assembly, order: Order, policy: str) -> None:
    from rotator.oneshot import carry_out, send_notices

    deadline = time.monotonic() + _ALONE_AT_MOST.total_seconds()
    _record(assembly, order)
    carry_out(assembly, [policy], _ALONE_AT_MOST)
    send_notices(assembly, deadline)


def _record(assembly: Assembly, order: Order) -> None:
    assembly.rounds.poll()  # the first answer of Neon, so that the order's time is on its clock
    assembly.store.add_order(replace(order, at=assembly.clock.now()))


def _state_time(store: Store) -> datetime:
    """A time on Neon's clock as good as the state knows it: never before anything that is recorded."""
    from rotator.clock import carried_on, since_boot

    left, newest = store.clock_reading(), store.newest_time()
    times = [carried_on(*left, since_boot()) if left else None, newest + timedelta(microseconds=1) if newest else None]
    return max((time for time in times if time is not None), default=datetime.now(UTC))


def _epoch() -> datetime:
    return datetime.fromtimestamp(0, UTC)


def _refuse_if_paused(config: Config, record: Record, done: str) -> None:
    policy = record.policy
    if config.policies[policy].paused:
        raise NeedsPerson(f"policy {policy} is paused, so nothing is {done}", "first set paused: false for it")
    if record.paused:
        raise NeedsPerson(f"policy {policy} is paused, so nothing is {done}", f"first run: rotator resume {policy}")


def _confirm(text: str, yes: bool) -> None:
    say(text, err=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone; without a terminal it needs --yes")
    click.confirm("Go on?", abort=True, err=True)


def _consequences(report: KeyReport, now: datetime) -> str:
    from rotator.words import listed, span, when

    key = report.key
    if key.last_used_at is None:
        used = "it was never used"
    else:
        where = f" from {listed(key.last_used_from)}" if key.last_used_from else ""
        used = f"it was last used at {when(key.last_used_at)}{where}, {span(now - key.last_used_at)} ago"
    owner = f"policy {report.policy} owns it: {report.why}" if report.policy else report.why
    after = "; whoever holds it fails until the rotation that becomes due has ended" if report.role == "live" else ""
    return f"Key {key.id} ({key.name}): {used}; {owner}{after}."


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _outlook(store: Store, policy: str | None) -> str:
    """What the last decision about a policy said."""
    why: str = store.outlooks().get(policy or "", {}).get("why", "see rotator status")
    return why


def _refused(store: Store, policy: str, since: datetime) -> str:
    """Why the policy waits for a person, if that was decided since then, or an empty string."""
    outlook = store.outlooks().get(policy, {})
    if outlook.get("do") != "refuse" or datetime.fromisoformat(outlook["decided_at"]) < since:
        return ""
    return str(outlook["why"])


def _lapsed(store: Store, since: int, about: Callable[[Entry], bool]) -> str:
    """Why an order that was given after an entry of the history has lapsed, or an empty string."""
    lapsed = (entry for entry in store.history(after=since) if entry.event == "order.lapsed")
    return next((entry.why for entry in lapsed if about(entry)), "")
