"""The report of a replicate run: closes what is open, tidies, and says how each server ended. It may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.base.domain import Message, Refusal
from wavelift.base.errors import TamperedError
from wavelift.base.run import Clock, RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, WaveRun, waves
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.rules.flows import REPLICATE
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import RunState
from wavelift.services.common.admit import frozen_wave
from wavelift.services.common.report import (
    ALL_REFUSED,
    NOT_FINISHED,
    ServerEnded,
    TaskOutcome,
    all_refused,
    end_wave_run,
    failed_run,
    free_slots,
    refusals,
    standing_snapshot,
    tidied,
    told,
    way_out,
)
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.messages import PreflightReport
from wavelift.services.dataplane.replication_messages import AdmittedRuns, VerifiedRun
from wavelift.services.replication import upkeep
from wavelift.services.replication.outcome import fail_run, mark_cancelled, quarantine_run

_NOT_FOUND: Final = "the wave's file does not list the server, or its folder or tag does not hold it"


class RunOutcome(ServerEnded):
    """One server's line of the report."""

    run: str = ""
    ami_id: str = ""
    kinds: tuple[str, ...] = ()
    """``seed`` or ``delta`` of each disk."""
    bytes_read: int = 0
    bytes_sent: int = 0
    blocks_sent: int = 0
    seconds: float = 0.0
    quarantine: str = ""


class ReplicationReport(Message):
    """What a replicate run did, for people and for the API."""

    wave: str
    scheduled: bool
    outcomes: tuple[RunOutcome, ...] = ()
    refused: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    unclean: tuple[str, ...] = ()
    """What could not be removed."""
    stopped: str = ""
    """Why the run as a whole ended before its servers did."""
    deleted: tuple[upkeep.DeletedJob, ...] = ()
    verified: tuple[VerifiedRun, ...] = ()
    wrong: Mapping[str, str] = {}
    """Run id → why what it recorded is no longer trusted."""

    @property
    def failed(self) -> tuple[RunOutcome, ...]:
        return tuple(one for one in self.outcomes if one.state != RunState.COMPLETED)

    @property
    def succeeded(self) -> bool:
        return not (self.failed or self.refused or self.unclean or self.stopped or self.wrong)


@dataclass(frozen=True, slots=True)
class ServerEnd:
    """How one server's tasks ended. ``proof``: how the content of EBS differs from the source; empty: no difference."""

    tasks: TaskOutcome
    proof: str = ""


Tidy = Callable[[ReplicationRun, ServerPlan], str]
"""Removes what a run left in AWS without a record. Returns words about what stays, or an empty string.

The plan is any of the wave: it has the location of the run's objects."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a run when its report begins.

    :param stopped: why the run as a whole ended before its servers did, if it did.
    :param deleted: what ``delete_replicas`` returned; ``verified``: what ``verify_recorded`` did.
    :param wrong: run id → why EBS does not hold what it recorded: it is quarantined, and the next run is a seed.
    """

    admitted: AdmittedRuns | None
    preflight: PreflightReport | None
    servers: Collection[ServerEnd] = ()
    stopped: str = ""
    deleted: Iterable[Mapping[str, Any]] = ()
    verified: Iterable[Mapping[str, Any]] = ()
    wrong: Mapping[str, str] = field(default_factory=dict)


def finish(ledger: Ledger, ended: Ended, ctx: RunContext, *, tidy: Tidy) -> ReplicationReport:
    """Close what is open, free slots, and report how each server ended. May be called again after a clear."""
    run, admitted = ctx.run, ended.admitted
    with ledger.read() as tx:
        frozen = waves.find(tx, run)
    foreign = _quarantine(ledger, ended.wrong, frozen, ctx)
    closed, kept_back = close_runs(ledger, ended, ctx)
    report = ReplicationReport(
        wave=frozen.wave if frozen else run.dag_id.rpartition(".")[0],
        scheduled=admitted is not None and admitted.scheduled,
        outcomes=tuple(outcome_of(each, kept_back.get(each.server, "")) for each in closed),
        refused=admitted.refused if admitted else (),
        skipped=admitted.skipped if admitted else (),
        warnings=admitted.warnings if admitted else (),
        unclean=tuple(words for each in closed if (words := left_by(each, frozen, tidy))),
        stopped=ended.stopped,
        deleted=tuple(upkeep.DeletedJob.load(each) for each in ended.deleted),
        verified=tuple(VerifiedRun.load(each) for each in ended.verified),
        wrong=dict(ended.wrong),
    )
    if frozen is not None:
        end_wave_run(ledger, report, ctx)
    if foreign:
        raise TamperedError(
            "What came by XCom names a run that this one did not read back",
            field="wrong",
            expected=f"runs of wave {report.wave}, in mode verify",
            found=", ".join(foreign),
        )
    return report


def close_runs(ledger: Ledger, ended: Ended, ctx: RunContext) -> tuple[list[ReplicationRun], Mapping[str, str]]:
    """Close the replication runs of a DAG run, of any flow, and free their slots.

    :returns: the runs that began, and why the pre-flight refused servers.
    """
    by_server = {end.tasks.server: end for end in ended.servers}
    with ledger.read() as tx:
        found = runs.of_dag_run(tx, ctx.run)
    kept_back = _kept_back([each.server for each in found], ended.preflight)
    closed = []
    for each in found:
        if each.state not in (RunState.REFUSED, RunState.SKIPPED):
            words = kept_back.get(each.server, "")
            closed.append(_close(ledger, each, by_server.get(each.server), words, ctx.clock))
    return closed, kept_back


def _quarantine(ledger: Ledger, wrong: Mapping[str, str], frozen: WaveRun | None, ctx: RunContext) -> list[str]:
    """Quarantine what was read back and differs; the ids of runs that this run may not judge.

    They came by XCom: only a run in mode ``verify`` reads others back, and only those of its own wave.
    """
    foreign = []
    for id, why in wrong.items():
        with ledger.read() as tx:
            known = runs.find(tx, id)
        if known is None or frozen is None or frozen.mode != "verify" or known.wave != frozen.wave:
            foreign.append(id)
        elif not known.quarantine:
            quarantine_run(ledger, id, why, by=str(ctx.run), clock=ctx.clock)
    return foreign


def _close(
    ledger: Ledger, known: ReplicationRun, end: ServerEnd | None, kept_back: str, clock: Clock
) -> ReplicationRun:
    """:param kept_back: why the pre-flight refused the server, if it did."""
    if end is not None and end.proof and not known.quarantine:
        quarantine_run(ledger, known.id, end.proof, clock=clock)
    if not known.state.terminal:
        if known.cancel_requested or known.state is RunState.RESERVED:
            mark_cancelled(ledger, known.id, CANCELLED, clock=clock)
        else:
            words = (end.tasks.words if end else "") or kept_back or NOT_FINISHED
            fail_run(ledger, known.id, words, clock=clock)
    free_slots(ledger, known.run_key, clock)
    with ledger.read() as tx:
        return runs.get(tx, known.id)


def _kept_back(servers: Collection[str], preflight: PreflightReport | None) -> dict[str, str]:
    """The servers that got no tasks in this run, and why."""
    if preflight is None:
        return {}
    refused = refusals(preflight, servers)
    there = {task.name for task in preflight.servers}
    lost = {server: _NOT_FOUND for server in servers if server not in there}
    return {server: words for server, words in {**lost, **refused}.items() if server in servers}


def left_by(known: ReplicationRun, frozen: WaveRun | None, tidy: Tidy) -> str:
    """What a run that is closed left outside and could not be removed, in words."""
    left = "EBS snapshots that nobody needs may still lie in AWS"
    if words := standing_snapshot(known):
        return words
    if frozen is None:
        return f"{known.server}: {left}: the ledger has no spec of this run, which says where"
    plan = frozen_wave(frozen).servers[0]
    return tidied(known.server, left, lambda: tidy(known, plan))


def outcome_of(known: ReplicationRun, kept_back: str = "") -> RunOutcome:
    """A ledger row as a line of the report.

    :param kept_back: why the pre-flight refused the server, if it did.
    """
    refused = bool(kept_back) and known.state is not RunState.COMPLETED
    disks = (known.result or {}).get("disks", ())
    return RunOutcome(
        server=known.server,
        state=str(known.state),
        run=known.id,
        ami_id=known.ami_id,
        kinds=tuple(disk["kind"] for disk in disks),
        bytes_read=known.bytes_read,
        bytes_sent=known.bytes_sent,
        blocks_sent=known.blocks_sent,
        seconds=known.duration_s,
        quarantine=known.quarantine,
        # What it did earlier in this run says more than that the run no longer finds it.
        error=kept_back if refused and not (kept_back == _NOT_FOUND and known.error) else known.error,
        refused=refused,
    )


def raise_when_failed(report: ReplicationReport) -> None:
    """:raises PermanentError: naming each server that failed or was refused, by which rule and until when."""
    if report.succeeded:
        return
    lines = [*told(report.failed)]
    for one in report.refused:
        until = f", until {utc_minute(one.until)}" if one.until else ""
        lines.append(f"{one.server} refused by rule {one.rule}: {one.reason}{until}")
    headline = ALL_REFUSED if all_refused(report.outcomes) and not report.refused else ""
    raise failed_run(report, headline, lines, way_out(REPLICATE, report.wave, report.failed))
