"""How a live run ended: for every server, what is known, and what a person does next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.base.domain import Message
from wavelift.base.errors import NotFoundError
from wavelift.base.printable import Lines, printable
from wavelift.base.run import RunContext
from wavelift.ledger import live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.flows import LIVE
from wavelift.rules.live import LiveState
from wavelift.services.common.report import NOT_FINISHED, end_wave_run, failed_run, free_slots
from wavelift.services.live_migration.cancelling import NOT_ENDED
from wavelift.services.live_migration.plan import PlannedLive
from wavelift.services.live_migration.runs import frozen_live, lock_of

NEVER_STARTED: Final = "HCX was not asked to start it"
UNKNOWN_START: Final = "nobody knows whether HCX started it: look there for the mobility group {group}"
NOT_FOLLOWED: Final = "HCX may still move it, and nobody follows it any more"
NOT_VERIFIED: Final = "it could not be verified"
_FINE: Final = frozenset({LiveState.MOVED})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedLive:
    """What the tasks of a run left.

    :param stopped: why the run as a whole ended before its servers did. :param words: server → what its failed tasks
        said. :param asked_hcx: whether the task that tells HCX to start may have run, in whatever try.
    :param plan: in mode plan. :param cancelled: in mode cancel: server → what became of it.
    """

    stopped: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    asked_hcx: bool = True
    plan: PlannedLive | None = None
    cancelled: Mapping[str, str] | None = None


class LiveOutcome(Message):
    """How one server ended."""

    server: str
    state: str
    migration: str = ""
    error: str = ""
    fine: bool = False


class LiveRunReport(Message):
    """How a run ended."""

    wave: str
    mode: str
    outcomes: tuple[LiveOutcome, ...]
    stopped: str = ""
    unclean: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        return not self.stopped and all(each.fine for each in self.outcomes)


def finish(ledger: Ledger, wave: str, ended: EndedLive, ctx: RunContext) -> LiveRunReport:
    """Close what is open, give every slot back, and tell how each server ended. May be repeated.

    What HCX may still move stays open: no other run starts it again, and clearing a task here goes on with it.
    """
    try:
        with ledger.read() as tx:
            run = waves.get(tx, ctx.run)
    except NotFoundError:  # it was never admitted; the REST API may have reserved for it
        _end_reserved(ledger, ended, ctx)
        return LiveRunReport(wave=wave, mode="", outcomes=(), stopped=ended.stopped or NOT_FINISHED)
    if run.mode == "migrate":
        outcomes = _close(ledger, lock_of(frozen_live(run)), ended, ctx)
    elif run.mode == "cancel":
        outcomes = [_cancelled(server, words) for server, words in sorted((ended.cancelled or {}).items())]
    else:
        outcomes = [_planned(each.server, each.why) for each in (ended.plan.servers if ended.plan is not None else ())]
    report = LiveRunReport(wave=run.wave, mode=run.mode, outcomes=tuple(outcomes), stopped=ended.stopped)
    free_slots(ledger, ctx.run_key, ctx.clock)
    end_wave_run(ledger, report, ctx)
    return report


def _planned(server: str, why: str) -> LiveOutcome:
    return LiveOutcome(server=server, state="refused" if why else "planned", error=why, fine=not why)


def _cancelled(server: str, words: str) -> LiveOutcome:
    fine = not words.startswith(NOT_ENDED)
    return LiveOutcome(server=server, state="cancelled" if fine else "not cancelled", error=words, fine=fine)


def _end_reserved(ledger: Ledger, ended: EndedLive, ctx: RunContext) -> None:
    with ledger.read() as tx:
        found = live_migrations.of_dag_run(tx, ctx.run)
    if found:
        with ledger.write(*sorted({live_migrations.lock_name(each.manager) for each in found})) as tx:
            for each in live_migrations.of_dag_run(tx, ctx.run):
                _settle(tx, each, ended, ctx)


def _close(ledger: Ledger, lock: str, ended: EndedLive, ctx: RunContext) -> list[LiveOutcome]:
    with ledger.write(lock) as tx:
        rows = [_settle(tx, each, ended, ctx) for each in live_migrations.of_dag_run(tx, ctx.run)]
    for each in rows:
        free_slots(ledger, each.run_key, ctx.clock)
    return [
        LiveOutcome(
            server=each.server,
            state=str(each.state),
            migration=each.id,
            error=each.error,
            fine=each.state in _FINE,
        )
        for each in rows
    ]


def _settle(tx: Tx, known: LiveMigration, ended: EndedLive, ctx: RunContext) -> LiveMigration:
    words = printable(ended.words.get(known.server) or ended.stopped)
    columns: dict[str, Any] = {}
    match known.state:
        case LiveState.RESERVED | LiveState.WAITING:
            columns = {"state": LiveState.ENDED, "error": words or NOT_FINISHED}
        case LiveState.STARTING if not ended.asked_hcx:
            columns = {"state": LiveState.ENDED, "error": ": ".join(filter(None, (NEVER_STARTED, words)))}
        case LiveState.STARTING:
            columns = {"error": ": ".join(filter(None, (UNKNOWN_START.format(group=known.group_name), words)))}
        case LiveState.MOVING:
            columns = {"error": known.error or ": ".join(filter(None, (NOT_FOLLOWED, words)))}
        case LiveState.VERIFYING:
            columns = {"state": LiveState.UNVERIFIED, "error": ": ".join(filter(None, (NOT_VERIFIED, words)))}
    if not columns or all(getattr(known, name) == value for name, value in columns.items()):
        return known
    action = str(columns.get("state", "left_open"))
    return live_migrations.apply(tx, known, action, at=ctx.clock.now(), by=ctx.run, **columns)


def raise_when_failed(report: LiveRunReport) -> None:
    """:raises PermanentError: a server is not where it should be; naming each, why, and the way out of each kind."""
    if report.succeeded:
        return
    bad = [each for each in report.outcomes if not each.fine]
    what = {"plan": "can't be migrated", "cancel": "were not cancelled"}.get(report.mode, "did not get through")
    lines = [f"{each.server} {each.state}: {each.error}" for each in bad]
    raise failed_run(
        report, f"{len(bad)} of {len(report.outcomes)} servers {what}", lines, Lines(_ways_out(report, bad))
    )


def _ways_out(report: LiveRunReport, bad: Sequence[LiveOutcome]) -> str:
    if report.mode == "plan":
        return "Nothing was started. Remove the causes, and plan again"
    if report.mode == "cancel":
        return "The run that follows it, or HCX, tells how it ends. What is not switching over can be cancelled again"
    return "\n".join(_way_out(report.wave, bad)) or f"Remove the cause, then trigger {LIVE.dag_id(report.wave)} again"


def _way_out(wave: str, bad: Sequence[LiveOutcome]) -> Iterator[str]:
    """For each kind of them."""
    states: dict[str, list[str]] = {}
    for each in bad:
        states.setdefault(each.state, []).append(each.server)
    starting, moving = states.pop(LiveState.STARTING, []), states.pop(LiveState.MOVING, [])
    unverified = states.pop(LiveState.UNVERIFIED, [])
    if starting:
        yield (
            f"{_list(starting)}: clear the task {LIVE.task_id('reserve')}, with downstream: HCX is asked for the group "
            "by its name, and nothing starts twice. Or cancel: `wavelift live cancel ID`"
        )
    if moving:
        yield f"{_list(moving)}: clear the task {LIVE.task_id('follow')}, with downstream: it goes on following them"
    if unverified:
        yield (
            f"{_list(unverified)}: look at each in both vCenters; then clear its task "
            f"{LIVE.task_id('verify_destination')}, with downstream"
        )
    others = sorted(server for servers in states.values() for server in servers)
    if others:
        conf = json.dumps({"mode": "migrate", "servers": others})
        yield (
            f"{_list(others)}: remove the cause, then trigger {LIVE.dag_id(wave)} again with these servers, which is a "
            f"new mobility group in HCX (as conf: {conf})"
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names)
