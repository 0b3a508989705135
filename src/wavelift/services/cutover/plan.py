"""The plan of a cutover run: every step with its undo, the downtime to expect, and what is in the way.

The same in every mode. In mode cutover it is stored in the run's cutovers: approvals name its digest, and a server with
something in its way that no approval can cure is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from wavelift.base.domain import Finding, Severity
from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import cutovers, jobs, lineage, trials, waves
from wavelift.ledger.cutover_records import Cutover, StepRow, TestInstance
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import WaveRun
from wavelift.ledger.replication_records import LineageRow, ReplicationJob
from wavelift.rules.conf import CutoverMode
from wavelift.rules.connectors import UPKEEP_DAG, WATCH_DAG, dag_id_of
from wavelift.rules.cutover import TO_UNDO, CutoverState
from wavelift.rules.cutover_places import HighTtl, Places, RecordPlace
from wavelift.rules.cutover_plan import Case, Opening, digest_of_steps, in_the_way
from wavelift.rules.findings import Findings, server_of, stopped
from wavelift.rules.forecast import Forecast
from wavelift.rules.frozen import check_plan
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import JobState
from wavelift.services.common.admit import frozen_wave
from wavelift.services.cutover.forecasts import disks_of, forecast_of
from wavelift.services.dataplane.cutover_messages import AdmittedCutover, PlannedCutover, PlannedServer, PlannedStep
from wavelift.services.dataplane.messages import PreflightReport, ServerTask
from wavelift.services.dataplane.steps.records import LowerTtl


class Planned(Protocol):
    """An undoable step, as it is planned."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def words(self) -> str: ...
    @property
    def undo_words(self) -> str: ...
    @property
    def spec(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """How a server's undoable steps are planned, and what AWS said.

    :param steps: of the switch. :param prepared: what ``prepare`` does days before.
    :param places: server → what AWS showed of what its steps take.
    :param asleep: DAGs of :func:`watching` that are paused, or that Airflow does not have.
    """

    steps: Callable[[ServerPlan], Sequence[Planned]]
    prepared: Callable[[ServerTask], Sequence[Planned]]
    places: Mapping[str, Places] = field(default_factory=dict)
    asleep: Collection[str] = ()


def watching(connector: str) -> tuple[str, str]:
    """The DAGs that watch over open cutovers of a connector's servers."""
    return dag_id_of(WATCH_DAG, connector), UPKEEP_DAG


def frozen_plans(ledger: Ledger, report: PreflightReport, ctx: RunContext) -> tuple[WaveRun, dict[str, ServerPlan]]:
    """The run, and server → its plan, with nothing in it that came by XCom but which VM it is.

    :raises TamperedError: what pre-flight returned is not what the run froze.
    """
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
    entries = frozen_wave(run).servers
    return run, {task.name: check_plan(task.plan, task.facts, entries).plan for task in report.servers}


def make_plan(
    ledger: Ledger, admitted: AdmittedCutover, report: PreflightReport, planner: Planner, ctx: RunContext
) -> PlannedCutover:
    """The plan of the run's servers, stored in its cutovers if it has some."""
    run, plans = frozen_plans(ledger, report, ctx)
    opening = Opening(admitted.window_start, admitted.window_end)
    with ledger.write(jobs.lock_name(run.wave)) as tx:
        mine = {each.server: each for each in cutovers.of_dag_run(tx, ctx.run)}
        if run.mode == "cutover":
            first = next(iter(mine.values()), None)
            opening = Opening(first.window_start, first.window_end) if first is not None else Opening()
        names = list(mine) if run.mode == "cutover" else admitted.servers
        desk = _Desk(tx, run.wave, report, plans, planner, opening, mine, admitted.mode, ctx)
        servers = sorted((desk.planned(name) for name in names), key=lambda one: (one.tier_index, one.server))
        told = [desk.told(each) for each in servers if each.goes]
        # A person approves a window, too: another one is another plan.
        window = {"from": _iso(opening.start), "to": _iso(opening.end)}
        digest = digest_of_steps([{"window": window}, *told])
        for each in servers:
            if (row := mine.get(each.server)) is not None:
                _store(tx, row, each, digest, desk.now, ctx)
    return PlannedCutover(wave=run.wave, mode=admitted.mode, digest=digest, servers=tuple(servers))


def require_some(planned: PlannedCutover) -> None:
    """:raises PermanentError: no server can be cut over. It says why."""
    if planned.going:
        return
    lines = [
        f"{each.server}: {finding.what}. {finding.next_action}"
        for each in planned.servers
        for finding in each.findings
        if finding.severity is Severity.ERROR
    ]
    raise PermanentError(
        f"No server can be cut over: {'; '.join(lines)}",
        next_step="Remove what is in the way, and trigger a new run",
        wave=planned.wave,
    )


def chain_of(plan: ServerPlan) -> Iterator[PlannedStep]:
    """What comes before the network steps, in words."""
    cutover = plan.cutover
    assert cutover is not None
    then = "it is powered off" if cutover.shutdown.then == "power_off" else "its cutover ends"
    yield PlannedStep(
        name="stop_source",
        words=f"Shut the guest down (after {cutover.shutdown.timeout_minutes:g} min {then}), and disconnect the "
        "network cards of the VM",
        undo_words="Connect its network cards as they were, and start it. What was written since stays on the instance",
    )
    yield PlannedStep(
        name="image",
        words="Send the last changes, and make an image of them",
        undo_words="Nothing: the image stays",
    )
    address = {"keep": " with the source's address"}.get(cutover.address, "")
    address = f" with address {plan.private_ip}" if plan.private_ip else address
    yield PlannedStep(
        name="launch",
        words=f"Launch a {plan.instance_type} in {plan.subnet}{address}",
        undo_words="Stop the instance. It is never terminated",
    )
    checks = ", ".join(dict.fromkeys(["status", *(check.kind for check in cutover.checks)]))
    yield PlannedStep(name="check", words=f"Check the instance: {checks}", undo_words="Nothing: it changes nothing")


class _Desk:
    """What one transaction knows while it plans."""

    def __init__(  # noqa: PLR0913  # one per plan
        self,
        tx: Tx,
        wave: str,
        report: PreflightReport,
        plans: Mapping[str, ServerPlan],
        planner: Planner,
        opening: Opening,
        mine: Mapping[str, Cutover],
        mode: CutoverMode,
        ctx: RunContext,
    ) -> None:
        self.tx, self.wave, self.report, self.plans, self.planner = tx, wave, report, plans, planner
        self.opening, self.mine, self.mode = opening, mine, mode
        self.now = ctx.clock.now()
        self.tasks = {task.name: task for task in report.servers}
        self.open = {each.server: each for each in cutovers.open_of(tx, wave) if each.run != ctx.run}

    def planned(self, name: str) -> PlannedServer:
        id = self.mine[name].id if name in self.mine else ""
        task, plan = self.tasks.get(name), self.plans.get(name)
        if task is None or plan is None:
            return PlannedServer(server=name, cutover=id, findings=(*self._preflight(name), _lost(name)), goes=False)
        cutover = plan.cutover
        assert cutover is not None  # admission chose only such entries
        forecast, _ = forecast_of(self.tx, plan, disks_of(task.facts), now=self.now)
        findings = (*self._preflight(name), *in_the_way(self._case(task, plan, forecast)))
        prepares = self.mode == "prepare"
        steps = [
            PlannedStep(name=each.name, words=each.words, undo_words=each.undo_words)
            for each in (self.planner.prepared(task) if prepares else self.planner.steps(plan))
        ]
        return PlannedServer(
            server=name,
            cutover=id,
            tier=cutover.tier,
            tier_index=cutover.tier_index,
            steps=tuple(steps) if prepares else (*chain_of(plan), *steps),
            forecast=forecast,
            findings=findings,
            goes=not stopped(findings, name),
        )

    def told(self, planned: PlannedServer) -> dict[str, Any]:
        """What the digest is made of: all that the frozen plan says, the VM, each step with its undo, and when it was
        asked for."""
        plan, task = self.plans[planned.server], self.tasks[planned.server]
        network = [
            {"name": each.name, "kind": each.kind, "spec": each.spec, "words": each.words, "undo": each.undo_words}
            for each in self.planner.steps(plan)
        ]
        row = self.mine.get(planned.server)
        return {
            "plan": plan.dump(),
            "vm": task.facts.instance_uuid,
            "path": task.facts.path,
            "network": network,
            # An approval of a cutover that ended, and whose run was cleared, is none of this one.
            "asked": row.requested_at.isoformat() if row is not None else None,
        }

    def _preflight(self, name: str) -> list[Finding]:
        """What pre-flight says of this server, or of all; not what it only mentions."""
        found = [each for each in self.report.findings if server_of(each) in (name, "*")]
        return [each for each in found if each.severity is not Severity.INFO]

    def _case(self, task: ServerTask, plan: ServerPlan, forecast: Forecast) -> Case:
        cutover = plan.cutover
        assert cutover is not None
        job = jobs.find_standing(self.tx, self.wave, plan.server)
        rows = lineage.rows(self.tx, job.id) if job is not None else ()
        other, row = self.open.get(plan.server), self.mine.get(plan.server)
        # What a cutover that went has changed is in nobody's way.
        asks = other is None and (row is None or row.state is CutoverState.WAITING)
        places = self.planner.places.get(plan.server, Places()) if asks else Places()
        unlowered, until = self._ttl(task, places)
        return Case(
            server=task.name,
            plan=cutover,
            instance_profile=plan.instance_profile,
            now=self.now,
            opening=self.opening,
            forecast=forecast,
            has_job=job is not None,
            deleting=job is not None and _is_deleting(job),
            last_run=rows[0].run_id if rows else "",
            last_at=min((_taken(row) for row in rows), default=None),
            quarantine=next((row.quarantine for row in rows if row.quarantine), ""),
            tested_run=_tested(trials.newest_result(self.tx, self.wave, plan.server)),
            old_answers_until=until,
            unlowered=unlowered,
            places=places,
            other=f"{other.id} of {other.run} is {other.state}" if other is not None else "",
            asleep=[id for id in watching(plan.connector) if id in self.planner.asleep],
        )

    def _ttl(self, task: ServerTask, places: Places) -> tuple[list[HighTtl], datetime | None]:
        """Records whose TTL is too high, and until when caches may have one of before it was lowered."""
        prepared = cutovers.prepared_id(self.wave, task.name)
        rows = {row.name: row for row in cutovers.steps_of(self.tx, cutovers.PREPARED_KIND, prepared)}
        wanted = [each for each in self.planner.prepared(task) if each.kind == LowerTtl.kind]
        lowered = {each.name: row for each in wanted if (row := rows.get(each.name)) and row.state in TO_UNDO}
        high = []
        for each in wanted:
            for record in each.spec["records"]:
                place = RecordPlace(each.spec["zone"], record["name"], record["type"], record["set_identifier"])
                seconds = places.ttls.get(place)
                seen = seconds > each.spec["ttl"] if seconds is not None else False
                if seen or (place not in places.ttls and each.name not in lowered):
                    high.append(HighTtl(place.words, seconds))
        return high, max((end for row in lowered.values() if (end := _old_until(row))), default=None)


def _old_until(row: StepRow) -> datetime | None:
    if row.changed_at is None or not isinstance(row.before, Mapping):
        return None
    return row.changed_at + timedelta(seconds=LowerTtl.old_ttl_s(row.before))


def _tested(result: TestInstance | None) -> str:
    """The run whose image passed its newest test."""
    return result.run_id if result is not None and result.passed else ""


def _taken(row: LineageRow) -> datetime:
    return datetime.fromisoformat(row.taken_at) if row.taken_at else row.recorded_at


def _is_deleting(job: ReplicationJob) -> bool:
    return job.state is JobState.DELETING


def _lost(name: str) -> Finding:
    found = Findings(name)
    found.error(
        "cutover.not_found",
        "pre-flight did not find it",
        why="the wave's file does not list the server, or its folder or tag does not hold it",
        do="See what pre-flight reported",
    )
    return found.all[0]


def _store(tx: Tx, row: Cutover, planned: PlannedServer, digest: str, now: datetime, ctx: RunContext) -> None:
    """A cutover that has gone already keeps what was approved for it."""
    if row.state is not CutoverState.WAITING:
        return
    changes: dict[str, Any] = {
        "tier": planned.tier or row.tier,
        "tier_index": planned.tier_index,
        "forecast": planned.forecast.dump() if planned.forecast else None,
    }
    if planned.goes:
        cutovers.apply(tx, row, "planned", at=now, by=ctx.run, plan_digest=digest, phase="planned", **changes)
        return
    words = "; ".join(f"{each.what}. {each.next_action}" for each in stopped(planned.findings, row.server))
    cutovers.apply(
        tx, row, "refused", at=now, by=ctx.run, state=CutoverState.ENDED, plan_digest="", error=words, **changes
    )


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant is not None else None
