"""What every server of a live run will do, and what is in the way. What pre-flight resolved is stored here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.domain import Finding, Message, Severity
from wavelift.base.errors import PermanentError, TamperedError
from wavelift.base.printable import printable
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.rules.findings import WHOLE_WAVE, server_of
from wavelift.rules.limits import LIMITS
from wavelift.rules.live import LiveState
from wavelift.rules.live_plans import LivePlan, ResolvedLive
from wavelift.rules.queue import Priority
from wavelift.services.common.report import refusals_in
from wavelift.services.dataplane.live_messages import LiveReport, LiveTask
from wavelift.services.live_migration.runs import frozen_live, hcx_has_window, lock_of

TYPE_WORDS: Final = {
    "rav": "replicates, then a vMotion without downtime",
    "bulk": "replicates, then restarts at the destination",
    "vmotion": "vMotion without downtime, one after the other",
    "cold": "copies powered-off VMs, one after the other",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTerms:
    """How many VMs HCX gets at a time, by the settings of this Airflow; and the run's priority.

    An environment's ``limits`` come before.
    """

    per_manager: int = LIMITS["hcx_per_manager"].value
    per_mesh: int = LIMITS["hcx_per_mesh"].value
    priority: Priority = Priority.NORMAL

    def of_manager(self, wave: ResolvedLive) -> int:
        return wave.environment.limits.hcx_per_manager or self.per_manager

    def of_mesh(self, wave: ResolvedLive) -> int:
        return wave.environment.limits.hcx_per_mesh or self.per_mesh


class PlannedServer(Message):
    """One server of the plan.

    :param why: it does not go, for this reason; empty: it goes.
    """

    server: str
    why: str = ""
    lines: tuple[str, ...] = ()
    """Where it goes, and what there is to say of it."""

    @property
    def goes(self) -> bool:
        return not self.why


class PlannedLive(Message):
    """The plan of a run."""

    wave: str
    type: str
    mode: str
    digest: str
    """What an approval names. Empty: nothing waits for one."""
    servers: tuple[PlannedServer, ...]
    head: tuple[str, ...] = ()

    @property
    def going(self) -> tuple[str, ...]:
        return tuple(each.server for each in self.servers if each.goes)

    def lines(self) -> list[str]:
        """For a person."""
        found = list(self.head)
        for each in self.servers:
            found.append(f"{each.server}: {'goes' if each.goes else f'is left alone: {each.why}'}")
            found += [f"  {line}" for line in each.lines]
        return found


def make_plan(ledger: Ledger, report: LiveReport, ctx: RunContext, *, terms: LiveTerms) -> PlannedLive:
    """Compare what pre-flight resolved with the frozen wave, and tell the plan. In mode migrate, store it.

    A server that can't go ends here, and is left alone.

    :raises TamperedError: what came by XCom is not of this run, or not what the wave says.
    """
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        wave = frozen_live(run)
        busy = _busy(tx, report, ctx)
    _require_own(report, wave)
    tasks = {task.name: task for task in report.tasks}
    why = {**_missing(wave, tasks), **_too_many(wave, report.tasks, terms), **busy}
    names = [plan.server for plan in wave.servers]
    why |= {name: words for name, words in refusals_in(report.findings, names).items() if name in names}
    digest = _store(ledger, wave, tasks, why, ctx) if run.mode == "migrate" else ""
    return PlannedLive(
        wave=wave.wave,
        type=wave.type,
        mode=run.mode,
        digest=digest,
        servers=tuple(
            PlannedServer(
                server=name, why=why.get(name, ""), lines=tuple(_lines(tasks.get(name), report.findings, name))
            )
            for name in names
        ),
        head=tuple(_head(wave, report.findings)),
    )


def require_some(planned: PlannedLive) -> None:
    """:raises PermanentError: no server goes."""
    if not planned.going:
        words = "; ".join(f"{each.server}: {each.why}" for each in planned.servers)
        raise PermanentError(
            f"No server can be migrated: {words}",
            next_step="Remove the causes, and trigger a new run",
            wave=planned.wave,
        )


def _require_own(report: LiveReport, wave: ResolvedLive) -> None:
    for field, expected, found in (
        ("wave", wave.wave, report.wave),
        ("manager", wave.environment.hcx.connection, report.manager),
    ):
        _same("The pre-flight that came by XCom is of something else", field, expected, found)
    plans = {plan.server: plan for plan in wave.servers}
    for task in report.tasks:
        if task.name not in plans:
            _same("This run has no such server", "server", ", ".join(plans), task.name)
        _require_planned(task, plans[task.name], wave)


def _require_planned(task: LiveTask, plan: LivePlan, wave: ResolvedLive) -> None:
    """Names are compared. Which ids they have, only HCX and the vCenters know."""
    target = plan.target
    places = {place.type.lower(): place.name for place in task.placement}
    for field, expected, found in (
        ("type", wave.type, task.type),
        ("pool", target.pool, places.get("resourcepool")),
        ("folder", target.folder, places.get("folder")),
        ("datastore", target.datastore, task.storage.name),
        ("provision", target.provision, task.provision),
        ("options", wave.options.model_dump(), dict(task.options)),
        *(("networks", target.networks.get(card.source.name), card.destination.name) for card in task.cards),
    ):
        _same("What pre-flight resolved is not what the wave says", field, expected, found, server=task.name)


def _same(what: str, field: str, expected: object, found: object, **where: str) -> None:
    if expected != found:
        raise TamperedError(what, field=field, expected=expected, found=found, **where)


def _missing(wave: ResolvedLive, tasks: Mapping[str, LiveTask]) -> dict[str, str]:
    return {plan.server: "pre-flight did not resolve it" for plan in wave.servers if plan.server not in tasks}


def _too_many(wave: ResolvedLive, tasks: Sequence[LiveTask], terms: LiveTerms) -> dict[str, str]:
    """All slots of a run are won together: a run that can never have them must not wait for them."""
    if not hcx_has_window(wave):  # one after the other, on one slot
        return {}
    manager, mesh = terms.of_manager(wave), terms.of_mesh(wave)
    found = {}
    for task in tasks:
        mine = sum(each.mesh_id == task.mesh_id for each in tasks)
        if mine > mesh:
            found[task.name] = _crowd(mine, "service mesh", mesh)
        elif len(tasks) > manager:
            found[task.name] = _crowd(len(tasks), "HCX manager", manager)
    return found


def _crowd(number: int, what: str, limit: int) -> str:
    return f"the run has {number} servers over one {what}, which takes {limit} at a time; choose {limit} at most"


def _busy(tx: Tx, report: LiveReport, ctx: RunContext) -> dict[str, str]:
    """A VM that has an open migration under another name, or by another wave."""
    found = {}
    for task in report.tasks:
        others = [each for each in live_migrations.of_vm(tx, task.before.instance_uuid) if each.run != ctx.run]
        if others:
            first = others[0]
            found[task.name] = f"migration {first.id} of wave {first.wave} is about the same VM, and is {first.state}"
    return found


def _store(
    ledger: Ledger, wave: ResolvedLive, tasks: Mapping[str, LiveTask], why: Mapping[str, str], ctx: RunContext
) -> str:
    """The digest of the plan of all that wait, stored with each; empty: none waits."""
    with ledger.write(lock_of(wave)) as tx:
        now = ctx.clock.now()
        waiting = [each for each in live_migrations.of_dag_run(tx, ctx.run) if each.state is LiveState.WAITING]
        going = [each for each in waiting if each.server not in why]
        digest = digest_of(wave, going, tasks) if going else ""
        for each in waiting:
            if each.server in why:
                columns: dict[str, Any] = {"state": LiveState.ENDED, "error": why[each.server]}
                live_migrations.apply(tx, each, "refused", at=now, by=ctx.run, **columns)
                continue
            task = tasks[each.server]
            live_migrations.apply(
                tx,
                each,
                "planned",
                at=now,
                by=ctx.run,
                details={"digest": digest},
                instance_uuid=task.before.instance_uuid,
                entity_id=task.entity_id,
                mesh=task.mesh_id,
                before=task.dump(),
                plan_digest=digest,
                phase="",
                error="",
            )
    return digest


def digest_of(wave: ResolvedLive, going: Sequence[LiveMigration], tasks: Mapping[str, LiveTask]) -> str:
    """SHA-256, hex: what goes where and when; and when each was asked for: a yes counts for no later one."""
    told = {
        "tasks": [tasks[each.server].dump() for each in going],
        "window": wave.window.dump() if wave.window is not None else None,
        "accept": [wave.accept_warnings, wave.accept_no_tools, wave.approve_switchover],
        "asked": [[each.id, each.requested_at.isoformat()] for each in going],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _head(wave: ResolvedLive, findings: Sequence[Finding]) -> Iterator[str]:
    yield f"Type {wave.type}: {TYPE_WORDS[wave.type]}"
    if wave.window is not None:
        what = "HCX switches over" if hcx_has_window(wave) else "They start"
        yield f"{what} between {utc_minute(wave.window.start)} and {utc_minute(wave.window.end)}"
    if wave.approve_switchover and hcx_has_window(wave):
        yield "The switchover is asked for once more; without a yes, what has not begun to switch over is cancelled"
    yield from _said(findings, WHOLE_WAVE)


def _lines(task: LiveTask | None, findings: Sequence[Finding], server: str) -> Iterator[str]:
    if task is not None:
        places = ", ".join(f"{place.type} {place.name}" for place in (*task.placement, task.storage))
        yield printable(f"to {places}")
        for card in task.cards:
            yield printable(f"network {card.source.name} → {card.destination.name} (MAC {card.mac})")
    yield from _said(findings, server)


def _said(findings: Sequence[Finding], subject: str) -> Iterator[str]:
    """Without the errors, which are the reason why it does not go."""
    for finding in findings:
        if server_of(finding) == subject and finding.severity is not Severity.ERROR:
            yield printable(f"{finding.severity}: {finding.what}. {finding.next_action}".rstrip(". "))
