"""A live run until HCX is told to start: admission, plan, approval, window, and the slots of all its servers."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from wavelift.operators._base import clears_of, conf_of
from wavelift.operators._keys import ORDER_KEY, REPORT_KEY
from wavelift.operators.approval import ApproveOperator
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.cutover_plan import PAGE_KEY, WORDS_KEY, page_of
from wavelift.rules.flows import LIVE, PREFLIGHT

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.rules.approval import Question
    from wavelift.rules.live_plans import ResolvedLive
    from wavelift.services.dataplane.live_messages import AdmittedLive
    from wavelift.services.live_migration.plan import LiveTerms


class LiveOperator(WaveRunOperator):
    """Base of the control plane's tasks in a live run."""

    def resolved_live(self, wave: str) -> ResolvedLive:
        """The wave as its files are now. :raises SpecError: when they do not allow a new run."""
        from wavelift.airflow import config
        from wavelift.specs import resolved_live

        return resolved_live(wave, config.waves_folder(), config.environments_folder())

    def live_terms(self, context: Context) -> LiveTerms:
        """How many VMs HCX gets at a time, and the run's priority."""
        from wavelift.airflow import config
        from wavelift.rules.queue import Priority
        from wavelift.services.live_migration.plan import LiveTerms

        return LiveTerms(
            per_manager=config.integer("hcx_per_manager"),
            per_mesh=config.integer("hcx_per_mesh"),
            priority=Priority.named(str((context["dag_run"].conf or {}).get("priority"))),
        )


class AdmitLiveOperator(LiveOperator):
    """Decide which servers of the wave this run is about, and freeze the wave's spec for it.

    Control plane. In mode migrate it opens the live migrations, one per server. In mode cancel it gives the order to
    end those that the conf names. Leaves an :class:`~wavelift.services.dataplane.live_messages.AdmittedLive` as its
    return value, and skips the tasks of other modes.

    :param wave: name of the wave.
    """

    plain_inputs = ("wave",)
    wave: str

    def work(self, context: Context) -> NoReturn:
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.live_migration.admit import admit

        request, ctx = RunRequest(wave=self.wave, conf=conf_of(context)), self.server_context(context)
        with self.ledger() as ledger:
            admitted = admit(ledger, request, self.resolved_live, ctx, rights=self.rights())
            self.log.info("%s: %s of %s", self.wave, admitted.mode, [plan.server for plan in admitted.wave.servers])
            if admitted.mode == "cancel":
                self._order(ledger, admitted, context)
            else:
                admitted = self._granted(admitted, context)
        context["ti"].xcom_push(key="return_value", value=admitted.dump())
        self.skip_all_but(LIVE.first_step(admitted.mode))

    def _granted(self, admitted: AdmittedLive, context: Context) -> AdmittedLive:
        from wavelift.airflow import config
        from wavelift.airflow.rights import present_granting
        from wavelift.services.common import grants
        from wavelift.services.live_migration import orders

        ctx = self.server_context(context)
        known = present_granting(admitted.wave.environment.environment).principals
        requesters = grants.Requesters(ctx.asker.name, {}, grants.principals_by(known))
        token = orders.look(config.grant_key_file(), admitted.wave, ctx, requesters=requesters)
        return admitted.model_copy(update={"token": token})

    def _order(self, ledger: Ledger, admitted: AdmittedLive, context: Context) -> None:
        from datetime import timedelta

        from wavelift.airflow import config
        from wavelift.services.live_migration import cancelling, orders

        ctx, ids = self.server_context(context), tuple(admitted.migrations.values())
        order = cancelling.order_of(ledger, ids, ctx, clear_number=clears_of(context))
        order = orders.to_cancel(config.grant_key_file(), order, admitted.wave, ctx, valid=timedelta())
        context["ti"].xcom_push(key=ORDER_KEY, value=order.dump())


class PlanLiveOperator(LiveOperator):
    """Tell where every server goes, and what is in the way.

    Control plane; it changes nothing outside. In mode migrate, what pre-flight resolved is stored in the run's
    migrations, and a server that can't go is left alone. Returns its digest and who goes; the whole
    :class:`~wavelift.services.live_migration.plan.PlannedLive` is XCom ``report``.
    """

    def work(self, context: Context) -> Any:
        from wavelift.services.dataplane.live_messages import LiveReport
        from wavelift.services.live_migration.plan import make_plan, require_some

        ti = context["ti"]
        report = LiveReport.load(ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1))
        with self.ledger() as ledger:
            planned = make_plan(ledger, report, self.server_context(context), terms=self.live_terms(context))
        lines = planned.lines()
        ti.xcom_push(key=REPORT_KEY, value=planned.dump())
        ti.xcom_push(key=WORDS_KEY, value="\n".join(lines))
        ti.xcom_push(key=PAGE_KEY, value=page_of(lines))
        for line in lines:
            self.log.info("%s", line)
        result = {"digest": planned.digest, "servers": list(planned.going)}
        if planned.mode == "migrate":
            require_some(planned)
            return result
        ti.xcom_push(key="return_value", value=result)
        self.skip_all_but("")


class ApproveLiveOperator(ApproveOperator):
    """Ask a person for approval of the run's plan: somebody who may migrate in its environment.

    What is asked is read in the ledger: an approval names the digest of the plan there, whatever came by XCom.
    """

    def asked(self, context: Context) -> Question:
        from wavelift.services.live_migration.approvals import plan_question

        with self.ledger() as ledger:
            return plan_question(ledger, self.server_context(context))


class WindowLiveOperator(LiveOperator, WaitingOperator):
    """Wait, deferred, until servers that HCX can't hold back may be moved. Control plane. Fails if it is over."""

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow.triggers.instant import InstantTrigger
        from wavelift.base.times import utc_minute
        from wavelift.services.live_migration.reserve import wait_for_window

        with self.ledger() as ledger:
            begins = wait_for_window(ledger, self.server_context(context))
        if begins is not None:
            self.log.info("waits until %s", utc_minute(begins))
            self.wait_for(InstantTrigger(at=begins.isoformat()))
        return {}


class ReserveLiveOperator(LiveOperator, WaitingOperator):
    """Wait, deferred, until all slots of all servers are won; then let HCX have them.

    Control plane. The name of the mobility group is written down before HCX is asked for it. Cleared with all that
    follows, it asks the ledger, and gives a new order for the same group. Returns a
    :class:`~wavelift.services.dataplane.live_messages.LiveOrder` with its grant.

    If the switchover must be approved, the order to cancel is left, too: nobody may ever know that HCX has started.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.common.slots import InQueue
        from wavelift.services.live_migration import approvals, cancelling, orders
        from wavelift.services.live_migration.reserve import reserve
        from wavelift.services.live_migration.runs import of_run

        with self.ledger() as ledger:
            ctx = self.server_context(context)
            found = reserve(
                ledger,
                ctx,
                load=self.resolved_live,
                rights=self.rights(),
                terms=self.live_terms(context),
                clear_number=clears_of(context),
            )
            wave, _ = of_run(ledger, ctx)
            to_cancel = cancelling.order_of_run(ledger, ctx, clear_number=clears_of(context))
        if isinstance(found, InQueue):
            self.wait_for_slot(found)
        key = config.grant_key_file()
        if approvals.last_yes(wave) is not None:
            order = orders.to_cancel(key, to_cancel, wave, ctx, valid=timedelta())
            context["ti"].xcom_push(key=ORDER_KEY, value=order.dump())
        return dict(orders.to_start(key, found, wave, ctx).dump())
