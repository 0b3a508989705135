"""The report of a cutover run: it closes what is open, and says how each server ended, in every mode.

What broke once its source was touched is failed: somebody continues it, or it is reverted. What a switched server's
last run recorded is read back afterwards, by a run of the wave's replicate DAG: nobody waited for that while the server
was down. Both kinds of runs are written into the ledger before they are triggered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from wavelift.base.domain import Message
from wavelift.base.errors import Cancelled, FencedError, WaveliftError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, WaveRun, cutovers, jobs, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import CUTOVER, REPLICATE
from wavelift.services.common.report import (
    ALL_REFUSED,
    NOT_FINISHED,
    ServerEnded,
    all_refused,
    end_wave_run,
    failed_run,
    refusals,
    told,
    way_out,
)
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.cutover.back import RevertedServer
from wavelift.services.cutover.finalize import FinalizedServer
from wavelift.services.cutover.plans import plan_in
from wavelift.services.cutover.prepare import PreparedServer
from wavelift.services.replication.report import Ended, Tidy, close_runs, left_by

VERIFY_PREFIX: Final = "verify__"
"""Of the ids of replicate runs that read back what cutovers recorded."""
REVERT_PREFIX: Final = "revert__"
"""Of the ids of runs that a failed cutover starts."""
_GOOD: Final = frozenset(
    {CutoverState.SWITCHED, CutoverState.FINALIZING, CutoverState.FINALIZED, CutoverState.REVERTED}
)
"""States in which a server that was cut over may be when its report is made, or made again."""


_UNTOUCHED: Final = "its source was not touched"


class CutoverOutcome(ServerEnded):
    """One server's line of the report."""

    cutover: str = ""
    instance: str = ""
    private_ip: str = ""
    words: str = ""
    times: Mapping[str, str] = {}
    verify_run: str = ""


class CutoverReport(Message):
    """What a cutover run did, for people and for the API."""

    wave: str
    mode: str
    outcomes: tuple[CutoverOutcome, ...] = ()
    unclean: tuple[str, ...] = ()
    """What could not be removed."""
    stopped: str = ""
    """Why the run as a whole ended before its servers did."""

    @property
    def failed(self) -> tuple[CutoverOutcome, ...]:
        return tuple(one for one in self.outcomes if one.error)

    @property
    def succeeded(self) -> bool:
        return not (self.failed or self.unclean or self.stopped)


@dataclass(frozen=True, slots=True)
class EndedCutover:
    """What is left of a run when its report begins.

    :param replication: of its servers' tasks and pre-flight. :param others: what ``prepare``, ``reverted`` or
        ``finalize`` returned: a dict per server.
    """

    replication: Ended
    others: Sequence[Mapping[str, Any]] = ()


def finish(
    ledger: Ledger, ended: EndedCutover, ctx: RunContext, *, tidy: Tidy, start: Callable[[ToTrigger], object]
) -> CutoverReport:
    """Close what is open, and report how each server ended. May be called again after a clear.

    :param start: creates a DAG run, unless it exists.
    """
    with ledger.read() as tx:
        frozen = waves.find(tx, ctx.run)
    mode = frozen.mode if frozen else ""
    closed, kept_back = close_runs(ledger, ended.replication, ctx)
    stopped = ended.replication.stopped
    if mode == "cutover":
        said = {end.tasks.server: end.tasks.words for end in ended.replication.servers}
        with ledger.read() as tx:
            opened = cutovers.of_dag_run(tx, ctx.run)
        outcomes = [
            _ended(ledger, each, said.get(each.server) or kept_back.get(each.server, ""), stopped, ctx)
            for each in opened
        ]
    else:
        outcomes = list(_others(ledger, mode, ended, ctx))
        if any(one.error for one in outcomes):
            stopped = ""  # the task failed for these
    report = CutoverReport(
        wave=frozen.wave if frozen else ctx.run.dag_id.rpartition(".")[0],
        mode=mode,
        outcomes=tuple(outcomes),
        unclean=(
            *(words for each in closed if (words := left_by(each, frozen, tidy))),
            *(words for each in verify_runs(ledger, ctx) if (words := _not_started(each, start))),
        ),
        stopped=stopped,
    )
    if frozen is not None:
        end_wave_run(ledger, report, ctx)
    return report


def _ended(ledger: Ledger, known: Cutover, said: str, stopped: str, ctx: RunContext) -> CutoverOutcome:
    """Close one cutover: nothing of this run's tasks will bring it further.

    :param said: by the task of it that failed, or by the pre-flight. :param stopped: why the whole run ended.
    """
    words = said or known.error or stopped or NOT_FINISHED
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        at, by = ctx.clock.now(), str(ctx.run)
        if now.state is CutoverState.MOVING:
            phase = "it broke after its source was touched"
            now = cutovers.apply(tx, now, "failed", at=at, by=by, state=CutoverState.FAILED, error=words, phase=phase)
        elif now.state in (CutoverState.RESERVED, CutoverState.WAITING, CutoverState.GOING):
            words = CANCELLED if now.cancel_requested else words
            now = cutovers.apply(
                tx,
                now,
                "ended",
                at=at,
                by=by,
                state=CutoverState.ENDED,
                error=words,
                phase="its source was not touched",
            )
    return outcome_of(now)


def outcome_of(known: Cutover) -> CutoverOutcome:
    """A ledger row as a line of the report."""
    return CutoverOutcome(
        server=known.server,
        state=str(known.state),
        cutover=known.id,
        instance=known.instance_id,
        private_ip=known.private_ip,
        words=known.phase,
        times=known.times or {},
        verify_run=known.verify_run,
        error="" if known.state in _GOOD else known.error or NOT_FINISHED,
        clearable=known.state is CutoverState.FAILED,
    )


def _others(ledger: Ledger, mode: str, ended: EndedCutover, ctx: RunContext) -> Iterator[CutoverOutcome]:
    """How servers ended in the modes that open no cutover."""
    if mode == "prepare":
        for one in map(PreparedServer.load, ended.others):
            state = "failed" if one.error else "taken back" if one.undone else "prepared"
            yield CutoverOutcome(server=one.server, state=state, words=one.words, error=one.error, clearable=False)
    if mode in ("plan", "prepare"):
        preflight = ended.replication.preflight
        for server, why in (refusals(preflight) if preflight is not None else {}).items():
            yield CutoverOutcome(server=server, state="refused", error=why, refused=True, clearable=False)
    if mode in ("revert", "finalize"):
        yield from _ended_back(ledger, mode, ended, ctx)


def _ended_back(ledger: Ledger, mode: str, ended: EndedCutover, ctx: RunContext) -> Iterator[CutoverOutcome]:
    """By the ledger, so that none is forgotten when the last task never ran; with what that task said."""
    reverts = mode == "revert"
    kind: type[RevertedServer | FinalizedServer] = RevertedServer if reverts else FinalizedServer
    others: list[RevertedServer | FinalizedServer] = [kind.load(each) for each in ended.others]
    said = {one.cutover: one.error for one in others}
    goal = CutoverState.REVERTED if reverts else CutoverState.FINALIZED
    with ledger.read() as tx:
        known = {each.id: each for each in cutovers.ended_by(tx, ctx.run)}
        known |= {id: cutovers.get(tx, id) for id in said if id not in known}
    for each in known.values():
        words = said.get(each.id, "")
        error = "" if each.state is goal and not words else words or each.error or NOT_FINISHED
        yield outcome_of(each).model_copy(update={"error": error, "clearable": False})


def raise_when_failed(report: CutoverReport) -> None:
    """:raises PermanentError: naming each server that failed."""
    if report.succeeded:
        return
    headline = ALL_REFUSED if all_refused(report.outcomes) else ""
    raise failed_run(report, headline, told(report.failed), way_out(CUTOVER, report.wave, report.failed))


# Runs that a report starts


@dataclass(frozen=True, slots=True)
class ToTrigger:
    """A DAG run that the ledger knows already. Its id makes it one, however often it is triggered."""

    run: DagRun
    conf: Mapping[str, Any]
    note: str


def verify_runs(ledger: Ledger, ctx: RunContext) -> tuple[ToTrigger, ...]:
    """The runs in mode ``verify`` for servers that this run switched. Their ids are written into the cutovers first.

    Repeated: the same runs, and one more if other servers were switched since.
    """
    with ledger.read() as tx:
        switched = [
            each for each in cutovers.of_dag_run(tx, ctx.run) if each.state is CutoverState.SWITCHED and each.run_id
        ]
    new = [each for each in switched if not each.verify_run]
    if new:
        run_id = _run_id(VERIFY_PREFIX, [each.run_id for each in new])
        for each in new:
            _store(ledger, each, ctx, "verify_asked", lambda now: not now.verify_run, verify_run=run_id)
        with ledger.read() as tx:
            switched = [cutovers.get(tx, each.id) for each in switched]
    groups: dict[str, list[str]] = {}
    for each in switched:
        groups.setdefault(each.verify_run, []).append(each.run_id)
    return tuple(
        ToTrigger(
            DagRun(REPLICATE.dag_id(switched[0].wave), run_id),
            {"mode": "verify", "runs": sorted(ids)},
            f"Reads back what the cutovers of {ctx.run} recorded",
        )
        for run_id, ids in groups.items()
        if run_id
    )


def reverts(ledger: Ledger, ctx: RunContext) -> ToTrigger | None:
    """The run in mode ``revert`` for what failed in this run once its source was touched, where the wave's file says
    ``on_failure: revert``, or ``on_window_end: revert`` and the window is over. Its id is written into the cutovers
    first. None: there is nothing to revert.

    A revert that is under way is left alone.
    """
    with ledger.read() as tx:
        frozen = waves.find(tx, ctx.run)
        failed = [each for each in cutovers.of_dag_run(tx, ctx.run) if each.state is CutoverState.FAILED]
    chosen = [each for each in failed if _reverts(frozen, each, ctx.clock.now()) and not _under_way(each, ctx)]
    if not chosen:
        return None
    run_id = _run_id(REVERT_PREFIX, [f"{each.id} {each.version}" for each in chosen])
    kept = [
        each
        for each in chosen
        if _store(ledger, each, ctx, "revert_asked", lambda now: now.state is CutoverState.FAILED, revert_run=run_id)
    ]
    if not kept:
        return None
    names = ", ".join(each.server for each in kept)
    conf = {"mode": "revert", "cutovers": [each.id for each in kept]}
    return ToTrigger(DagRun(ctx.run.dag_id, run_id), conf, f"{names}: the cutover failed in {ctx.run.dag_run_id}")


def _not_started(asked: ToTrigger, start: Callable[[ToTrigger], object]) -> str:
    try:
        start(asked)
    except (FencedError, Cancelled):
        raise
    except WaveliftError as error:
        return f"What was recorded is not read back yet: {error}"
    return ""


def _reverts(frozen: WaveRun | None, known: Cutover, now: datetime) -> bool:
    plan = plan_in(frozen, known) if frozen is not None else None
    if plan is None or plan.cutover is None or plan.cutover.on_failure == "revert":
        return True
    # From here on nobody may continue it: `moving` refuses.
    return plan.cutover.on_window_end == "revert" and known.window_end is not None and now > known.window_end


def _under_way(known: Cutover, ctx: RunContext) -> bool:
    return bool(known.revert_run) and ctx.liveness.run(DagRun(ctx.run.dag_id, known.revert_run))


def _store(
    ledger: Ledger, known: Cutover, ctx: RunContext, action: str, still: Callable[[Cutover], bool], **columns: Any
) -> bool:
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        now = cutovers.get(tx, known.id, lock=True)
        if still(now):
            cutovers.apply(tx, now, action, at=ctx.clock.now(), by=str(ctx.run), details=columns, **columns)
            return True
    return False


def _run_id(prefix: str, what: Collection[str]) -> str:
    return prefix + hashlib.sha256("\n".join(sorted(what)).encode()).hexdigest()[:16]
