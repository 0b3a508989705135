"""A live run from the start of its mobility group on: what HCX moves is followed, verified, and told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from wavelift.base.errors import NotApprovedError, WaveliftError
from wavelift.operators._base import clears_of
from wavelift.operators._keys import LOOK_KEY, ORDER_KEY, REPORT_KEY
from wavelift.operators.approval import ApproveOperator
from wavelift.operators.control.live_plan import LiveOperator
from wavelift.operators.control.report import ReportingOperator, task_outcomes, why_stopped
from wavelift.rules.flows import LIVE, REPORT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.rules.approval import Question
    from wavelift.services.live_migration.follow import Following
    from wavelift.services.live_migration.report import EndedLive, LiveRunReport

NOT_RUN: Final = (None, "upstream_failed", "skipped", "removed")
"""States of a task of which no try has run, unless it was cleared."""
FOLLOWING: Final = (LIVE.task_id("follow"), LIVE.task_id("follow_near"))
CANCEL: Final = LIVE.task_id("cancel")


class RecordStartedOperator(LiveOperator):
    """Note which migrations HCX made, and how the run goes on: who follows them, and whether a person is asked.

    Control plane. Returns server → migration id, and skips the tasks that have nothing to do. If the switchover must be
    approved, the order to end what has not begun to switch over is left at once: whatever becomes of the question, the
    task that cancels has it.

    :param started: a :class:`~wavelift.services.dataplane.live_messages.Started` as a dict.
    """

    template_inputs = ("started",)
    started: Any

    def work(self, context: Context) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.services.dataplane.live_messages import Started
        from wavelift.services.live_migration import approvals, cancelling, follow, orders
        from wavelift.services.live_migration.record import record
        from wavelift.services.live_migration.runs import of_run

        ti, ctx, key = context["ti"], self.server_context(context), config.grant_key_file()
        with self.ledger() as ledger:
            found = record(ledger, Started.load(self.started), ctx)
            wave, _ = of_run(ledger, ctx)
            to_follow = follow.following(ledger, ctx)
            order = cancelling.order_of_run(ledger, ctx, clear_number=clears_of(context))
        for server, why in found.refused.items():
            self.log.error("%s: HCX did not take it: %s", server, why)
        ends, skipped = approvals.last_yes(wave), []
        if ends is None:
            skipped += [LIVE.task_id("approve_switchover"), CANCEL]
        else:
            valid = max(ends - ctx.clock.now(), timedelta())
            ti.xcom_push(key=ORDER_KEY, value=orders.to_cancel(key, order, wave, ctx, valid=valid).dump())
        skipped.append(FOLLOWING[0] if to_follow.near else FOLLOWING[1])
        if to_follow.near:
            ti.xcom_push(key=REPORT_KEY, value=orders.to_follow(key, to_follow.order(), wave, ctx).dump())
        ti.xcom_push(key="return_value", value=dict(found.moving))
        raise DownstreamTasksSkipped(tasks=skipped)


class ApproveSwitchoverOperator(ApproveOperator):
    """Ask a person, before the window begins, whether HCX may switch over.

    With a yes, nothing more is to be done. Rejected, or unanswered 15 minutes before the window, this task succeeds and
    leaves the order to end what has not begun to switch over, which the next task carries out.
    """

    def asked(self, context: Context) -> Question:
        from wavelift.services.live_migration.approvals import switchover_question

        with self.ledger() as ledger:
            return switchover_question(ledger, self.server_context(context))

    def work(self, context: Context) -> Any:
        try:
            self._go_on(context, super().work(context))
        except NotApprovedError as error:
            return self._cancels(context, error)

    def answered(self, context: Context, event: dict[str, Any]) -> Any:
        try:
            self._go_on(context, super().answered(context, event))
        except NotApprovedError as error:
            return self._cancels(context, error)

    def _go_on(self, context: Context, found: Any) -> NoReturn:
        context["ti"].xcom_push(key="return_value", value=found or {})
        raise DownstreamTasksSkipped(tasks=[CANCEL])

    def _cancels(self, context: Context, why: NotApprovedError) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.live_migration import cancelling, orders
        from wavelift.services.live_migration.runs import of_run

        ctx = self.server_context(context)
        with self.ledger() as ledger:
            wave, _ = of_run(ledger, ctx)
            order = cancelling.order_of_run(ledger, ctx, clear_number=clears_of(context))
        self.log.warning("%s: what has not begun to switch over is cancelled", why)
        order = orders.to_cancel(config.grant_key_file(), order, wave, ctx, valid=timedelta())
        context["ti"].xcom_push(key=ORDER_KEY, value=order.dump())
        return {"approved": False, "why": str(why)}


class FollowLiveOperator(LiveOperator):
    """Follow what HCX moves, deferred, until it has ended with every server, or ``max_hours`` are over.

    Control plane; the triggerer asks HCX once per interval for all migrations of all runs. Returns a
    :class:`~wavelift.services.dataplane.live_messages.Followed`.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.live_migration import follow

        with self.ledger() as ledger:
            to = follow.following(ledger, self.server_context(context))
        if to.near:
            raise AirflowSkipException("its worker near HCX follows them")
        if not to.migrations:
            return dict(follow.followed(to, {}, datetime.now(UTC)).dump())
        self._watch(to)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Woken: note how far they are; and go on until all are over, or the time is."""
        with self.failing_in_words(context):
            from wavelift.base.run import SystemClock
            from wavelift.services.live_migration import follow

            if "error" in event:
                raise WaveliftError(
                    f"HCX can't be followed: {event['error']}",
                    next_step="The retry goes on; HCX itself goes on meanwhile",
                )
            progress, clock = event["progress"], SystemClock()
            with self.ledger() as ledger:
                follow.note(ledger, progress, clock=clock)
                follow.free(ledger, progress, clock=clock)
                to = follow.following(ledger, self.server_context(context))
            left = set(to.migrations.values()) - set(event["over"])
            if left and clock.now() < to.until:
                self._watch(to)
            return dict(follow.followed(to, progress, clock.now()).dump())

    def _watch(self, to: Following) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.hcx import LOOK_AGAIN_SECONDS
        from wavelift.airflow.triggers.owned_live import LiveFollowTrigger

        left = (to.until - datetime.now(UTC)).total_seconds()
        trigger = LiveFollowTrigger(
            hcx_conn_id=to.manager,
            migration_ids=sorted(to.migrations.values()),
            poll_seconds=config.poll_seconds(),
            within_seconds=min(LOOK_AGAIN_SECONDS, max(left, 2 * config.poll_seconds())),
        )
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError("defer does not return")


class MovedOperator(LiveOperator):
    """Record how HCX ended for every server, and hand out those that it says are complete.

    Control plane. The mapped group is expanded over what it returns; each order is an XCom of its own.
    """

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.live_messages import Followed
        from wavelift.services.live_migration import orders
        from wavelift.services.live_migration.moved import moved
        from wavelift.services.live_migration.runs import of_run

        ti, ctx = context["ti"], self.server_context(context)
        left = [ti.xcom_pull(task_ids=name, map_indexes=-1) for name in FOLLOWING]
        came = next((Followed.load(each) for each in left if each), None)
        if came is None:
            raise AirflowSkipException("nothing was followed")
        with self.ledger() as ledger:
            wave, _ = of_run(ledger, ctx)
            found = moved(ledger, came, ctx)
        for side, token in orders.look_at_sites(config.grant_key_file(), wave, ctx).items():
            ti.xcom_push(key=LOOK_KEY.format(side=side), value={"token": token})
        for place, order in enumerate(found):
            ti.xcom_push(key=f"server_{place}", value=order.dump())
        return [{"name": each.name, "task": ti.task_id, "place": place} for place, each in enumerate(found)]


class VerifiedOperator(LiveOperator):
    """Record what both vCenters say of one server. Control plane. Fails if it is not as it should be.

    :param server: one of what :class:`MovedOperator` returned.
    """

    template_inputs = ("server",)
    server: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.dataplane.live_messages import FoundThere
        from wavelift.services.live_migration.moved import raise_when_wrong, verified

        left = (self.left_by(context, name) for name in ("verify_destination", "verify_source"))
        with self.ledger() as ledger:
            ctx = self.server_context(context, str(self.server["name"]))
            judged = verified(ledger, [FoundThere.load(each) for each in left], ctx)
        raise_when_wrong(judged)
        return {"server": judged.server}


class LiveReportOperator(ReportingOperator):
    """Tell how every server ended, close what is open, and give the slots back; use it as a teardown.

    Returns a :class:`~wavelift.services.live_migration.report.LiveRunReport`.

    :param wave: name of the wave.
    """

    plain_inputs = ("wave",)
    wave: str

    def finish(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> LiveRunReport:
        from wavelift.services.live_migration import report

        return report.finish(ledger, self.wave, self._ended(ledger, context, states), self.server_context(context))

    def tell(self, report: LiveRunReport) -> None:
        from wavelift.services.live_migration.report import raise_when_failed

        for one in report.outcomes:
            self.log.info("%-20s %-10s %s", one.server, one.state, one.error)
        raise_when_failed(report)

    def _ended(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> EndedLive:
        from wavelift.services.live_migration.plan import PlannedLive
        from wavelift.services.live_migration.report import EndedLive

        ti, plan = context["ti"], LIVE.task_id("plan")
        handed = ti.xcom_pull(task_ids=LIVE.task_id("moved"), map_indexes=-1) or []
        found = ti.xcom_pull(task_ids=plan, key=REPORT_KEY, map_indexes=-1) if states.get(plan) == "success" else None
        outcomes = task_outcomes(context, states, [str(each["name"]) for each in handed])
        return EndedLive(
            stopped=why_stopped(context, states, _run_level()),
            words={each.server: each.words for each in outcomes if each.words},
            asked_hcx=states.get(LIVE.task_id("start")) not in NOT_RUN or clears_of(context) > 0,
            plan=PlannedLive.load(found) if found else None,
            cancelled=self._cancelled(ledger, context, states),
        )

    def _cancelled(self, ledger: Ledger, context: Context, states: Mapping[str, str]) -> Mapping[str, str] | None:
        """Of a run in mode cancel."""
        from wavelift.services.dataplane.live_messages import AdmittedLive, Cancelled
        from wavelift.services.live_migration import cancelling

        left = self.admitted(context)
        if left is None or states.get(CANCEL) != "success":
            return None
        admitted = AdmittedLive.load(left)
        if admitted.mode != "cancel":
            return None
        came = Cancelled.load(context["ti"].xcom_pull(task_ids=CANCEL, map_indexes=-1))
        ids: Sequence[str] = tuple(admitted.migrations.values())
        return cancelling.record(ledger, came, ids, self.server_context(context))


def _run_level() -> dict[str, tuple[str, ...]]:
    """For :func:`why_stopped`: the first task of the run that failed says why. Only admission is never skipped."""
    names = [step.name for step in LIVE.steps if not step.per_server and step.name != REPORT]
    return {name: ("failed", "skipped") if name == names[0] else ("failed",) for name in names}
