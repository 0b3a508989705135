"""What a cutover's runs do beside moving servers: prepare, go back, give the way back up, and report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from wavelift.operators._base import conf_of
from wavelift.operators._keys import REPORT_KEY
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control._telling import TellingOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.report import ReportingOperator, believed, task_outcomes, task_states, why_stopped
from wavelift.rules.flows import ADMIT, CUTOVER, PREFLIGHT, REPORT

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.ledger.cutover_records import Cutover, TargetPlace
    from wavelift.ledger.replication_records import ReplicationRun
    from wavelift.rules.plans import ServerPlan
    from wavelift.services.cutover.back import Waiting
    from wavelift.services.cutover.report import CutoverReport
    from wavelift.services.cutover.steps import Waits
    from wavelift.services.dataplane.messages import ServerTask

LAST: Final = {"cutover": CUTOVER.before_servers[-1], "revert": "reverted"}
"""Mode → the last task before its servers' own. In other modes it has the name of the mode."""


class CutoverRunOperator(WaveRunOperator, WaitingOperator):
    """Base of the tasks that bring all chosen servers as far as possible, and wait, deferred, for all of them at once.

    :param wave: name of the wave.
    """

    plain_inputs: ClassVar[tuple[str, ...]] = ("wave",)
    wave: str

    def work(self, context: Context) -> Any:
        from wavelift.rules.authority import Action
        from wavelift.services.common.authority import require_again

        with self.ledger() as ledger:
            ctx = self.server_context(context)
            require_again(ledger, ctx, Action.CUT_OVER, rights=self.rights())
            return self.go_on(ledger, context, ctx)

    def go_on(self, ledger: Ledger, context: Context, ctx: RunContext) -> Any:
        """As far as possible; may end in :meth:`wait_for_all`."""
        raise NotImplementedError

    def access(self, place: TargetPlace) -> AwsAccess:
        return self.aws_of(place)

    def wait_for_all(self, waiting: Waiting) -> NoReturn:
        """Until at least one of the waits is over."""
        from wavelift.airflow import config
        from wavelift.airflow.triggers.steps import StepsTrigger

        for words in waiting.words:
            self.log.info("waits: %s", words)
        waits = [
            {"aws_conn_id": conn, "region_name": region, "waits": list(each)}
            for (conn, region), each in waiting.waits.items()
        ]
        self.wait_for(StepsTrigger(waits=waits, poll_seconds=config.poll_seconds()))

    def claimed(self, ledger: Ledger, ctx: RunContext) -> tuple[str, ...]:
        """Ids of the cutovers that ``admit`` gave this run to end. Whoever asked must have the right where each was
        opened, too."""
        from wavelift.ledger import cutovers
        from wavelift.rules.authority import Action
        from wavelift.services.common.authority import require_where

        with ledger.read() as tx:
            found = cutovers.ended_by(tx, ctx.run)
        require_where(ledger, {each.run for each in found}, Action.CUT_OVER, ctx, rights=self.rights())
        return tuple(each.id for each in found)


class PrepareOperator(CutoverRunOperator):
    """Lower the TTL of the records that a cutover will switch, and make the network interfaces of fixed addresses.

    Control plane. What was there before is kept in the ledger; a repeated call does only what is left. With ``undo`` in
    the run's conf it takes all that back. Returns a
    :class:`~wavelift.services.cutover.prepare.Prepared`, and fails when a server failed.

    :param wave: name of the wave.
    :param servers: what the pre-flight returned.
    """

    template_inputs = ("servers",)
    servers: Any

    def go_on(self, ledger: Ledger, context: Context, ctx: RunContext) -> dict[str, Any]:
        from wavelift.services.cutover import prepare as preparing
        from wavelift.services.cutover.back import Waiting

        tasks = [self._frozen(ledger, self.server_task(context, one), ctx) for one in self.servers or ()]
        found = preparing.prepare(ledger, self.access, tasks, ctx, undo=bool(conf_of(context).get("undo")))
        if isinstance(found, Waiting):
            self.wait_for_all(found)
        for one in found.servers:
            after = f", switch after {one.switch_after:%Y-%m-%d %H:%M} UTC" if one.switch_after else ""
            did = f"taken back {one.words}" if one.undone else f"{one.address} {one.interface}{after}"
            self.log.info("%-20s %s %s", one.server, did, one.error)
        context["ti"].xcom_push(key=REPORT_KEY, value=found.dump())
        preparing.raise_when_failed(found)
        return dict(found.dump())

    def _frozen(self, ledger: Ledger, task: ServerTask, ctx: RunContext) -> ServerTask:
        from wavelift.ledger import waves
        from wavelift.rules.frozen import check_plan
        from wavelift.services.common.admit import frozen_wave

        with ledger.read() as tx:
            plans = frozen_wave(waves.get(tx, ctx.run)).servers
        known = check_plan(task.plan, task.facts, [plan.cutting_over() for plan in plans])
        return task.model_copy(update={"plan": known.plan})


class UndoOperator(CutoverRunOperator, TellingOperator):
    """Undo the network steps of cutovers in reverse order, then stop their instances, and wait, deferred, for both.

    Control plane. Returns an :class:`~wavelift.services.cutover.back.Undone`: whose sources may run again now, with a
    grant for each. A server that fails does not stop the others; :class:`RevertedOperator` says so.

    :param wave: name of the wave.
    """

    def go_on(self, ledger: Ledger, context: Context, ctx: RunContext) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.cutover.back import Waiting, undo
        from wavelift.services.cutover.persons import asked

        ids = self.claimed(ledger, ctx)
        found = undo(ledger, self.access, ids, ctx, key_file=config.grant_key_file())
        if isinstance(found, Waiting):
            waits = [wait for each in found.waits.values() for wait in each]
            self.tell(ledger, asked(ledger, waits), "person", context)
            self.wait_for_all(found)
        for id, why in found.failed.items():
            self.log.error("%s: %s", id, why)
        return dict(found.dump())


class RevertedOperator(CutoverRunOperator):
    """Record which sources serve again; fail when a way back is not done.

    Control plane. It says which instance keeps what was written since the switch.

    :param wave: name of the wave.
    :param undone: what :class:`UndoOperator` returned.
    :param started: what :class:`StartSourcesOperator` returned.
    """

    template_inputs = ("undone", "started")
    undone: Any
    started: Any

    def go_on(self, ledger: Ledger, context: Context, ctx: RunContext) -> dict[str, Any]:
        from wavelift.services.cutover import back
        from wavelift.services.dataplane.cutover_messages import StartedSource

        undone = back.Undone.load(self.undone)
        started = [StartedSource.load(each) for each in (self.started or {}).get("servers", ())]
        ended = back.reverted(ledger, self.access, self.claimed(ledger, ctx), undone, started, ctx)
        for one in ended:
            self.log.info("%-20s %s %s%s", one.server, one.state, one.words, one.error)
        told = {"servers": [each.dump() for each in ended]}
        context["ti"].xcom_push(key=REPORT_KEY, value=told)
        back.raise_when_failed(ended)
        return told


class FinalizeOperator(CutoverRunOperator):
    """Give the way back up: restore TTLs, and end the replication of each server as its file says.

    Control plane. Refused until what the last run recorded was read back. The source VM is never deleted, images stay.
    Fails when a server failed.

    :param wave: name of the wave.
    """

    def go_on(self, ledger: Ledger, context: Context, ctx: RunContext) -> dict[str, Any]:
        from wavelift.services.cutover.approvals import require_finalize_approved
        from wavelift.services.cutover.back import Waiting, place_of
        from wavelift.services.cutover.backup import before_finalize
        from wavelift.services.cutover.finalize import finalize, raise_when_failed

        def backup(known: Cutover, plan: ServerPlan) -> Waits | None:
            return before_finalize(ledger, self.access(place_of(ledger, known)), known, plan, ctx)

        require_finalize_approved(ledger, ctx)
        ids = self.claimed(ledger, ctx)
        found = finalize(ledger, self.access, ids, ctx, backup=backup)
        if isinstance(found, Waiting):
            self.wait_for_all(found)
        for one in found:
            self.log.info("%-20s %s %s%s", one.server, one.state, one.words, one.error)
        told = {"servers": [each.dump() for each in found]}
        context["ti"].xcom_push(key=REPORT_KEY, value=told)
        raise_when_failed(found)
        return told


class CutoverReportOperator(ReportingOperator):
    """Tell how every server ended, in every mode, and close what is open; use it as a teardown.

    What broke once its source was touched is failed. For what was switched, a run of the wave's replicate DAG reads
    back what was recorded. Fails when a server failed. Returns a
    :class:`~wavelift.services.cutover.report.CutoverReport`.

    :param wave: name of the wave.
    """

    plain_inputs = ("wave",)
    wave: str

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> CutoverReport:
        from wavelift.airflow.runs import start_run
        from wavelift.ledger import waves
        from wavelift.services.cutover import report as cutover
        from wavelift.services.replication.report import Ended, ServerEnd

        ti = context["ti"]
        ctx = self.server_context(context)
        with ledger.read() as tx:
            frozen = waves.find(tx, ctx.run)
        mode = frozen.mode if frozen else ""
        looked = states.get(PREFLIGHT) == "success"
        found = ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1) if looked else None
        mapped = (ti.xcom_pull(task_ids=PREFLIGHT, map_indexes=-1) or []) if looked else []
        outcomes = task_outcomes(context, states, [one["name"] for one in mapped])
        ended = cutover.EndedCutover(
            Ended(
                None,
                believed(found, states.get(PREFLIGHT)),
                [ServerEnd(each) for each in outcomes],
                stopped=why_stopped(context, states, self._ended_by(mode)),
            ),
            others=self._others(context, mode),
        )
        return cutover.finish(
            ledger,
            ended,
            ctx,
            tidy=self._tidy(context, ledger),
            start=lambda asked: start_run(asked.run, asked.conf, note=asked.note),
        )

    def _ended_by(self, mode: str) -> dict[str, Collection[str]]:
        """``admit`` and the first step of a mode are never skipped by themselves; others may be."""
        found: dict[str, Collection[str]] = {ADMIT: ("failed", "skipped")}
        if first := CUTOVER.first_step(mode):
            found[first] = ("failed", "skipped") if first != "approve_finalize" else ("failed",)
        return found | {
            name: ("failed",) for name in (CUTOVER.path_to(LAST.get(mode, mode)) if mode else ()) if name not in found
        }

    def _others(self, context: Context, mode: str) -> tuple[Mapping[str, Any], ...]:
        task = {"prepare": "prepare", "revert": "reverted", "finalize": "finalize"}.get(mode)
        left = context["ti"].xcom_pull(task_ids=task, key=REPORT_KEY, map_indexes=-1) if task else None
        return tuple(left.get("servers", ())) if isinstance(left, Mapping) else ()

    def tell(self, report: CutoverReport) -> None:
        from wavelift.services.cutover import report as cutover

        for one in report.outcomes:
            self.log.info("%-20s %-10s %s %s %s", one.server, one.state, one.instance, one.words, one.error)
        cutover.raise_when_failed(report)

    def _tidy(self, context: Context, ledger: Ledger) -> Callable[[ReplicationRun, ServerPlan], str]:
        fence = self.fence(context)

        def tidy(known: ReplicationRun, plan: ServerPlan) -> str:
            from wavelift.services.replication.image import tidy_run

            fence(known.id)
            return tidy_run(ledger, self.aws_of(plan.target), plan, known)

        return tidy


class RevertFailedOperator(WaveRunOperator):
    """Start a run in mode ``revert`` for servers that failed once their source was touched; a teardown after the
    report.

    Servers whose file says ``on_failure: stop`` are left as they are, unless their window is over and it says
    ``on_window_end: revert``. It fails when the report failed: Airflow lets the
    last teardown alone decide how the run ends.

    :param wave: name of the wave.
    """

    plain_inputs = ("wave",)
    wave: str

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.runs import start_run
        from wavelift.base.errors import PermanentError
        from wavelift.services.cutover.report import reverts

        with self.ledger() as ledger:
            asked = reverts(ledger, self.server_context(context))
        told = {"run": asked.run.dag_run_id if asked else "", **(asked.conf if asked else {})}
        if asked is not None:
            start_run(asked.run, asked.conf, note=asked.note)
            self.log.warning("%s starts run %s in mode revert", asked.note, asked.run.dag_run_id)
        context["ti"].xcom_push(key="return_value", value=told)
        if task_states(context).get(REPORT) != "success":
            words = f"; its sources come back by run {told['run']}" if asked else ""
            raise PermanentError(f"The run failed{words}", next_step=f"The task {REPORT} says why")
        return told
