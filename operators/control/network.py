"""A network's cutover on the control plane: admission, plan, orders, and how it ended. It meets neither side."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wavelift.operators._base import clears_of, conf_of
from wavelift.operators._keys import REPORT_KEY
from wavelift.operators.approval import ApproveOperator
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.cutover_plan import PAGE_KEY, WORDS_KEY, page_of
from wavelift.operators.control.report import ReportingOperator, first_failure, task_states
from wavelift.rules.flows import NETWORK, REPORT

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.rules.approval import Question
    from wavelift.services.dataplane.network_messages import Acted, NetworkPlace
    from wavelift.services.network.messages import NetworkReport, PlannedNetwork
    from wavelift.services.network.orders import AsksPerson, Desk

PROBES_KEY: Final = "probes"
"""XCom of the task that orders the connection of the destination: what the queue asks afterwards."""
ACTING: Final = ("disconnect", "unextend", "connect", "isolate", "extend", "reconnect")
_NOT_BEGUN: Final = (None, "skipped", "upstream_failed", "removed")
"""States of a task that did nothing."""


def present_place(network: str) -> NetworkPlace:
    """The network as its files are now. :raises SpecError: they allow no new run."""
    from wavelift.airflow import config
    from wavelift.services.dataplane.network_messages import NetworkPlace
    from wavelift.specs import resolved_network

    found = resolved_network(network, config.networks_folder(), config.environments_folder())
    return NetworkPlace(network=found.spec, environment=found.environment)


class NetworkRunOperator(WaveRunOperator):
    """Base of the control plane's tasks in the run of a network."""

    def desk(self, context: Context) -> Desk:
        from wavelift.airflow import config
        from wavelift.services.network.orders import Desk

        return Desk(
            rights=self.rights(),
            key_file=config.grant_key_file(),
            load=present_place,
            clear_number=clears_of(context),
        )


class AdmitNetworkOperator(NetworkRunOperator):
    """Check the run's conf, freeze the network's spec for the run, and open its cutover, or claim the one that it ends.

    Control plane. Leaves a :class:`~wavelift.services.dataplane.network_messages.LookOrder` as its return value, and
    skips the tasks of other modes. Of a cutover that has arrived already, only the report is made again.

    :param network: its name.
    """

    plain_inputs = ("network",)
    network: str

    def work(self, context: Context) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.network.admit import admit, has_arrived

        request = RunRequest(wave=self.network, conf=conf_of(context))
        with self.ledger() as ledger:
            ctx = self.server_context(context)
            order = admit(ledger, request, present_place, ctx, rights=self.rights(), key_file=config.grant_key_file())
            arrived = has_arrived(ledger, order.mode, ctx)
        self.log.info("%s: %s", self.network, order.mode)
        context["ti"].xcom_push(key="return_value", value=order.dump())
        self.skip_all_but("" if arrived else NETWORK.first_step(order.mode))


class RecordNetworkOperator(NetworkRunOperator):
    """Make the plan, and keep it with the state of both sides, before anything is written. Refuse while something is
    in the way.

    Control plane. Returns the plan's digest; the whole :class:`~wavelift.services.network.messages.PlannedNetwork` is
    XCom ``report``.

    :param looked: what :class:`LookNetworkOperator` returned.
    """

    template_inputs = ("looked",)
    looked: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Looked
        from wavelift.services.network.plan import record, refuse_blocked

        with self.ledger() as ledger:
            planned = record(ledger, Looked.load(self.looked), self.server_context(context))
        self._tell(context, planned)
        told = {"digest": planned.digest, "blocking": len(planned.blocking)}
        if planned.mode == "plan":
            context["ti"].xcom_push(key="return_value", value=told)
            self.skip_all_but("")
        refuse_blocked(planned)
        return told

    def _tell(self, context: Context, planned: PlannedNetwork) -> None:
        lines = planned.lines()
        for key, value in ((REPORT_KEY, planned.dump()), (WORDS_KEY, "\n".join(lines)), (PAGE_KEY, page_of(lines))):
            context["ti"].xcom_push(key=key, value=value)
        for line in lines:
            self.log.info("%s", line)


class ApproveNetworkOperator(ApproveOperator):
    """Ask a person for approval of the run's plan, as the ledger has it."""

    def asked(self, context: Context) -> Question:
        from wavelift.services.network.approvals import plan_question

        with self.ledger() as ledger:
            return plan_question(ledger, self.server_context(context))


class ApproveFinishOperator(ApproveOperator):
    """Ask a person whether the way back may be given up; refuse while something is in the way.

    :param looked: what :class:`LookNetworkOperator` returned.
    """

    template_inputs = ("looked",)
    looked: Any

    def asked(self, context: Context) -> Question:
        from wavelift.services.dataplane.network_messages import Looked
        from wavelift.services.network.approvals import finish_question
        from wavelift.services.network.finish import finish_lines

        with self.ledger() as ledger:
            ctx = self.server_context(context)
            self.body = page_of(finish_lines(ledger, Looked.load(self.looked), ctx))
            return finish_question(ledger, ctx)


class OrderNetworkOperator(NetworkRunOperator, WaitingOperator):
    """Ask the ledger whether one step may go forward, or back; write its intent, and permit it.

    Control plane. It records first what the step before did. A step that a person does waits here, deferred, for that
    person's word. Returns a :class:`~wavelift.services.dataplane.network_messages.NetworkOrder` with the grant.

    :param step: ``source``, ``extension`` or ``destination``. :param direction: ``forward`` or ``back``.
    :param acted: what the task of the step before returned; None: this is the first of its direction.
    """

    template_inputs = ("acted",)
    plain_inputs = ("step", "direction")
    step: Any
    direction: Any
    acted: Any = None

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Acted
        from wavelift.services.network.orders import AsksPerson, order
        from wavelift.services.network.settle import probe_order

        acted = Acted.load(self.acted) if self.acted is not None else None
        with self.ledger() as ledger:
            ctx = self.server_context(context)
            made = order(ledger, self.step, self.direction, ctx, self.desk(context), acted=acted)
            if isinstance(made, AsksPerson):
                self._ask(ledger, made, context)
            if (self.step, self.direction) == ("destination", "forward"):
                context["ti"].xcom_push(key=PROBES_KEY, value=probe_order(ledger, ctx).dump())
        return made.dump()

    def _ask(self, ledger: Ledger, asks: AsksPerson, context: Context) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.airflow.notifiers import Kind, Notice, notify
        from wavelift.airflow.triggers.steps import StepsTrigger

        notice = Notice(
            kind=Kind.PERSON,
            subject=f"{asks.cutover} {asks.step} {asks.direction} {asks.since.isoformat()}",
            title=f"{asks.network}: a person must do a step of the network's cutover",
            text=asks.words,
            at=asks.since,
            details={"cutover": asks.cutover, "network": asks.network},
        )
        notify(ledger, notice, context)
        self.log.warning("%s", asks.words)
        waits = [{"aws_conn_id": "", "region_name": "", "waits": [asks.wait]}]
        self.wait_for(StepsTrigger(waits=waits, poll_seconds=config.poll_seconds()))


class SettleNetworkOperator(NetworkRunOperator):
    """Record that the destination routes the network and was probed: the soak time begins. Control plane.

    :param acted: what connecting the destination returned. :param probed: what :class:`ProbeNetworkOperator` returned.
    """

    template_inputs = ("acted", "probed")
    acted: Any
    probed: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Acted, Probed
        from wavelift.services.network.settle import settle

        with self.ledger() as ledger:
            known = settle(ledger, Acted.load(self.acted), Probed.load(self.probed), self.server_context(context))
        return {"cutover": known.id, "state": str(known.state)}


class RevertedNetworkOperator(NetworkRunOperator):
    """Record that the source routes the network again. Control plane.

    :param acted: what connecting the source returned.
    """

    template_inputs = ("acted",)
    acted: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Acted
        from wavelift.services.network.settle import reverted

        with self.ledger() as ledger:
            known = reverted(ledger, Acted.load(self.acted), self.server_context(context))
        return {"cutover": known.id, "state": str(known.state)}


class OrderFinishOperator(NetworkRunOperator):
    """Give the way back up: from here on nothing goes back. Control plane.

    Refused before the soak time is over, without approval, and while something is in the way.

    :param looked: what :class:`LookNetworkOperator` returned.
    """

    template_inputs = ("looked",)
    looked: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Looked
        from wavelift.services.network.finish import order_finish

        with self.ledger() as ledger:
            ctx = self.server_context(context)
            return order_finish(ledger, Looked.load(self.looked), ctx, self.desk(context)).dump()


class FinishedNetworkOperator(NetworkRunOperator):
    """Record that the cutover is finished. Control plane.

    :param done: what :class:`FinishNetworkOperator` returned.
    """

    template_inputs = ("done",)
    done: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.network_messages import Finished
        from wavelift.services.network.finish import finished

        with self.ledger() as ledger:
            known = finished(ledger, Finished.load(self.done), self.server_context(context))
        return {"cutover": known.id, "state": str(known.state)}


class NetworkReportOperator(ReportingOperator):
    """Tell how the run ended, in every mode, and close what is open; use it as a teardown.

    What broke once something was touched is failed. If perhaps nobody routes the network, people are told at once, with
    what a person does next. Returns a :class:`~wavelift.services.network.messages.NetworkReport`.

    :param network: its name.
    """

    plain_inputs = ("network",)
    network: str

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> NetworkReport:
        from wavelift.services.dataplane.network_messages import JOB_KEY
        from wavelift.services.network import report as reports
        from wavelift.services.network.orders import remember_job

        ti, ctx = context["ti"], self.server_context(context)
        job = ti.xcom_pull(task_ids="unextend", key=JOB_KEY, map_indexes=-1)
        if isinstance(job, str):
            remember_job(ledger, job, ctx)
        ended = reports.EndedRun(
            words=first_failure(context, NETWORK, states),
            planned=self._planned(context),
            acted=self._acted(context, states),
            began=states.get("finish") not in _NOT_BEGUN,
            clears=clears_of(context),
        )
        made = reports.report(ledger, ended, ctx)
        if made.alert:
            self._alert(ledger, made, context)
        return made

    def _acted(self, context: Context, states: Mapping[str, str]) -> list[Acted]:
        """What acting tasks returned. A queue wrote it: another form than ours is nothing."""
        from pydantic import ValidationError

        from wavelift.services.dataplane.network_messages import Acted

        found = []
        for name in ACTING:
            if states.get(name) == "success":
                try:
                    found.append(Acted.load(context["ti"].xcom_pull(task_ids=name, map_indexes=-1)))
                except ValidationError:
                    self.log.warning("what %s left is not read", name)
        return found

    def _planned(self, context: Context) -> PlannedNetwork | None:
        from pydantic import ValidationError

        from wavelift.services.network.messages import PlannedNetwork

        left = context["ti"].xcom_pull(task_ids="record", key=REPORT_KEY, map_indexes=-1)
        try:
            return PlannedNetwork.load(left) if left is not None else None
        except ValidationError:
            return None

    def _alert(self, ledger: Ledger, made: NetworkReport, context: Context) -> None:
        from wavelift.airflow.notifiers import Kind, Notice, notify

        ti = context["ti"]
        self.log.error("%s. %s", made.alert, "; ".join(made.next_steps))
        notice = Notice(
            kind=Kind.NOBODY_ROUTES,
            subject=f"{made.cutover} {ti.run_id}#{clears_of(context)}",
            title=f"{made.network}: {made.alert}",
            text="\n".join((f"{made.alert}. {made.error}", *made.next_steps)),
            at=datetime.now(UTC),
            details={"cutover": made.cutover, "network": made.network, "dag_id": ti.dag_id, "dag_run_id": ti.run_id},
        )
        notify(ledger, notice, context)

    def tell(self, report: NetworkReport) -> None:
        from wavelift.services.network.report import raise_when_failed

        self.log.info("%s %s %s %s %s", report.network, report.cutover, report.state, report.words, report.error)
        raise_when_failed(report)


class RevertFailedNetworkOperator(NetworkRunOperator):
    """Start a run in mode ``revert`` for a cutover that failed once something was touched; a teardown after the report.

    One whose file says ``on_failure: stop`` is left as it is. It fails when the report failed: Airflow lets the last
    teardown alone decide how the run ends.

    :param network: its name.
    """

    plain_inputs = ("network",)
    network: str

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.runs import start_run
        from wavelift.base.errors import PermanentError
        from wavelift.services.network.report import reverts

        with self.ledger() as ledger:
            asked = reverts(ledger, self.server_context(context))
        told = {"run": asked.run.dag_run_id if asked else "", **(asked.conf if asked else {})}
        if asked is not None:
            start_run(asked.run, asked.conf, note=asked.note)
            self.log.warning("%s starts run %s in mode revert", asked.note, asked.run.dag_run_id)
        context["ti"].xcom_push(key="return_value", value=told)
        if task_states(context).get(REPORT) != "success":
            words = f"; the source routes again by run {told['run']}" if asked else ""
            raise PermanentError(f"The run failed{words}", next_step=f"The task {REPORT} says why")
        return told
