"""A cutover run from its admission until its servers go: plan, approval, window, and the runs before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow.sdk.exceptions import AirflowRuntimeError

from wavelift.operators._base import conf_of
from wavelift.operators._keys import REPORT_KEY
from wavelift.operators._liveness import GONE, status_of
from wavelift.operators.approval import ApproveOperator
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.admit import AdmittingOperator
from wavelift.rules.flows import CUTOVER, PREFLIGHT

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.rules.approval import Question
    from wavelift.services.cutover.plan import Planner
    from wavelift.services.cutover.presync import Presync
    from wavelift.services.dataplane.cutover_messages import AdmittedCutover, PlannedCutover
    from wavelift.services.dataplane.messages import PreflightReport

WORDS_KEY: Final = "words"
"""XCom of the plan task: the plan as text, for who approves it."""
PAGE_KEY: Final = "page"
"""XCom of the plan task: the same in Markdown. The page shows a code block in one line."""
_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|~!])")
AFTER_PLAN: Final = {"plan": "", "prepare": "prepare", "cutover": "approve"}
"""Mode → the step that follows the plan; empty: only the report is left."""


def is_asleep(context: Context, dag_id: str) -> bool:
    """Whether nothing of a DAG starts: it is paused, or Airflow does not have it."""
    task: Any = context["ti"]
    try:
        return bool(task.get_dag(dag_id).is_paused)
    except AirflowRuntimeError as error:
        if status_of(error) in GONE:
            return True
        raise


class AdmitCutoverOperator(AdmittingOperator):
    """Decide which servers of the wave this run is about, and freeze the wave's spec for it.

    Control plane. In mode cutover it opens the cutovers, one per server; in modes revert and finalize it claims those
    that it ends. Leaves an :class:`~wavelift.services.dataplane.cutover_messages.AdmittedCutover` as its return value,
    and skips the tasks of other modes.

    :param wave: name of the wave.
    """

    grant_action = "cutover"

    def admit(self, ledger: Ledger, context: Context) -> AdmittedCutover:
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.cutover.admit import admit

        request = RunRequest(wave=self.wave, conf=conf_of(context))
        admitted = admit(ledger, request, self.resolved, self.server_context(context), rights=self.rights())
        self.log.info("%s: %s of %s", self.wave, admitted.mode, ", ".join(admitted.servers))
        return admitted

    def first_step(self, admitted: AdmittedCutover) -> str:
        return CUTOVER.first_step(admitted.mode)


class PlanCutoverOperator(WaveRunOperator):
    """Tell every step of every server with its undo, the downtime to expect, and what is in the way.

    Control plane; it changes nothing outside, in no mode. In mode cutover the plan is stored in the run's cutovers, and
    a server that can't be cut over is left alone. Returns its digest and who goes; the whole
    :class:`~wavelift.services.dataplane.cutover_messages.PlannedCutover` is XCom ``report``. Skips what the mode does
    not need.

    :param admitted: what :class:`AdmitCutoverOperator` returned.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> NoReturn:
        from wavelift.services.cutover.plan import make_plan, require_some
        from wavelift.services.dataplane.cutover_messages import AdmittedCutover
        from wavelift.services.dataplane.messages import PreflightReport

        admitted = AdmittedCutover.load(self.admitted)
        ti = context["ti"]
        report = PreflightReport.load(ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1))
        with self.ledger() as ledger:
            ctx = self.server_context(context)
            planned = make_plan(ledger, admitted, report, self._planner(ledger, report, context), ctx)
        self._tell(context, planned)
        if admitted.mode == "cutover":
            require_some(planned)
        result = {"digest": planned.digest, "servers": list(planned.going)}
        ti.xcom_push(key="return_value", value=result)
        self.skip_all_but(AFTER_PLAN[admitted.mode])

    def _tell(self, context: Context, planned: PlannedCutover) -> None:
        context["ti"].xcom_push(key=REPORT_KEY, value=planned.dump())
        lines = planned.lines()
        context["ti"].xcom_push(key=WORDS_KEY, value="\n".join(lines))
        context["ti"].xcom_push(key=PAGE_KEY, value=page_of(lines))
        for line in lines:
            self.log.info("%s", line)

    def _planner(self, ledger: Ledger, report: PreflightReport, context: Context) -> Planner:
        """With what AWS says of the places that steps take. Where they are is asked by the frozen plans alone."""
        from wavelift.services.cutover.plan import Planner, frozen_plans, watching
        from wavelift.services.cutover.prepare import planned_back, planned_for
        from wavelift.services.cutover.step_kinds import plan_of
        from wavelift.services.dataplane.cutover_facts import look_at

        _, plans = frozen_plans(ledger, report, self.server_context(context))
        places = {
            task.name: look_at(self.aws_of(plans[task.name].target), plans[task.name], task.facts.ip_addresses)
            for task in report.servers
        }
        watches = {id for plan in plans.values() for id in watching(plan.connector)}
        prepared = planned_back if conf_of(context).get("undo") else planned_for
        asleep = {id for id in watches if is_asleep(context, id)}
        return Planner(steps=plan_of, prepared=prepared, places=places, asleep=asleep)


def page_of(lines: Sequence[str]) -> str:
    """Lines of a plan in Markdown. Numbered ones become a list, and names can't format anything."""
    return "\n\n".join(_MARKS.sub(r"\\\1", line) for line in lines)


class ApproveCutoverOperator(ApproveOperator):
    """Ask a person for approval of the run's plan.

    What is asked is read in the ledger: an approval names the digest of the plan there, whatever came by XCom.
    """

    def asked(self, context: Context) -> Question:
        from wavelift.services.cutover.approvals import plan_question

        with self.ledger() as ledger:
            return plan_question(ledger, self.server_context(context))


class ApproveFinalizeOperator(ApproveOperator):
    """Ask a person whether the way back may be given up."""

    def asked(self, context: Context) -> Question:
        from wavelift.services.cutover.approvals import finalize_question

        with self.ledger() as ledger:
            return finalize_question(ledger, self.server_context(context))


class WindowOperator(WaveRunOperator, WaitingOperator):
    """Wait, deferred, until sources may be stopped. Control plane. Fails if the window is over."""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.triggers.instant import InstantTrigger
        from wavelift.base.times import utc_minute
        from wavelift.services.cutover.go import wait_for_window

        with self.ledger() as ledger:
            begins = wait_for_window(ledger, self.server_context(context))
        if begins is not None:
            self.log.info("waits until %s", utc_minute(begins))
            self.wait_for(InstantTrigger(at=begins.isoformat()))
        return {}


class GoOperator(WaveRunOperator):
    """Let the servers go whose plan was approved, and whose downtime ends inside the window.

    Control plane. From here on, only replication runs of the cutover itself are admitted for them. Returns who goes,
    and why others do not.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover.go import go

        with self.ledger() as ledger:
            gone = go(ledger, self.server_context(context), rights=self.rights())
        for server, why in gone.left.items():
            self.log.warning("%s is left alone: %s", server, why)
        return {"servers": list(gone.servers), "left": dict(gone.left)}


class PresyncOperator(WaveRunOperator, WaitingOperator):
    """Replicate once more while the sources run, so that little is left to send while they are down.

    Control plane: it triggers ``<wave>.replicate`` under an id that the ledger knows before, and waits, deferred, for
    its end. Killed or cleared, it finds the same run. It does nothing for a server whose forecast fits already. A
    server whose run fails goes on. Returns how each server's run ended.

    :param number: 1 or 2.
    """

    plain_inputs = ("number",)
    number: int

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover import presync

        with self.ledger() as ledger:
            ctx = self.server_context(context)
            asked = presync.begin(ledger, self.number, ctx)
            if asked.busy:
                self._wait_for_run(asked.busy)
            for server, why in asked.fits.items():
                self.log.info("%s: %s", server, why)
            if not asked.servers:
                return {"run": "", "servers": dict(asked.fits)}
            self._wait_for_end(context, asked)
            told = presync.settle(ledger, asked, ctx)
        for server, words in told.items():
            self.log.info("%s: %s", server, words)
        return {"run": asked.run.dag_run_id, "servers": {**asked.fits, **told}}

    def _wait_for_run(self, id: str) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.replication_runs import ReplicationRunTrigger

        self.log.info("waits for the replication run %s, which began before", id)
        self.wait_for(ReplicationRunTrigger(run_id=id, poll_seconds=config.poll_seconds()))

    def _wait_for_end(self, context: Context, asked: Presync) -> None:
        """Return once the DAG run has ended."""
        from wavelift.airflow import config
        from wavelift.airflow.runs import start_run
        from wavelift.airflow.triggers.instant import ENDED, DagRunTrigger

        dag_id, run_id = asked.run.dag_id, asked.run.dag_run_id
        state = self._state(context, dag_id, run_id)
        if state in ENDED:
            self.log.info("%s %s ended as %s", dag_id, run_id, state)
            return
        self._require_awake(context, dag_id)
        if not state:
            start_run(asked.run, asked.conf, note=str(asked.conf["note"]))
            self.log.info("triggered %s for %s", asked.run, ", ".join(asked.servers))
        self.wait_for(DagRunTrigger(dag_id=dag_id, run_id=run_id, poll_seconds=config.poll_seconds()))

    def _state(self, context: Context, dag_id: str, run_id: str) -> str:
        """Of the DAG run; empty: there is none yet."""
        try:
            found = context["ti"].get_dagrun_state(dag_id, run_id)
        except AirflowRuntimeError as error:
            if status_of(error) in GONE:
                return ""
            raise
        return str(getattr(found, "value", found))

    def _require_awake(self, context: Context, dag_id: str) -> None:
        from wavelift.base.errors import PermanentError

        if is_asleep(context, dag_id):
            raise PermanentError(
                f"The DAG {dag_id} is paused: nothing of it starts",
                next_step=f"Unpause {dag_id}, then clear this task with all that comes after it",
            )
