"""Test instances: admitted, launched, recorded, ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowRescheduleException

from wavelift.operators._base import conf_of
from wavelift.operators._keys import REPORT_KEY
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.operators.control.admit import AdmittingOperator
from wavelift.operators.control.report import ended_by, task_states, why_stopped, words_left
from wavelift.rules.flows import TEST

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.ledger.cutover_records import TargetPlace
    from wavelift.services.cutover.trial import AdmittedTest

LOOK_SECONDS: Final = 20
"""Between two looks of a task that waits for earlier tiers, or for instances to terminate."""


def look_again() -> AirflowRescheduleException:
    """Ends this look; no worker is held until the next one."""
    return AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=LOOK_SECONDS))


class AdmitTestOperator(AdmittingOperator):
    """Check the run's conf, freeze the wave's spec, and decide which images are tried.

    Leaves an :class:`~wavelift.services.cutover.trial.AdmittedTest`, and skips the tasks of the other mode.

    :param wave: name of the wave.
    """

    def admit(self, ledger: Ledger, context: Context) -> Any:
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.cutover import trial

        request = RunRequest(wave=self.wave, conf=conf_of(context))
        admitted = trial.admit(ledger, request, self.resolved, self.server_context(context), rights=self.rights())
        for refused in admitted.refused:
            self.log.warning("%s: %s", refused.server, refused.reason)
        for left in admitted.left:
            self.log.info("%s is left out: %s", left.server, left.reason)
        return admitted

    def first_step(self, admitted: AdmittedTest) -> str:
        return TEST.first_step(admitted.mode)


class TestImagesOperator(WaveRunOperator):
    """The servers over which the group is mapped.

    :param admitted: what :class:`AdmitTestOperator` returned.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.services.cutover.trial import AdmittedTest

        return [{"name": name} for name in AdmittedTest.load(self.admitted).servers]


class TestServerOperator(WaveRunOperator):
    """What the tasks of one test instance share. The server's name is all that is taken from XCom.

    :param server: one of the dicts that :class:`TestImagesOperator` returned.
    """

    template_inputs = ("server",)
    server: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.rules.authority import Action
        from wavelift.services.common.authority import require_rights

        named = str(self.server.get("name")) if isinstance(self.server, Mapping) else ""
        ctx = self.server_context(context, named)
        with self.ledger() as ledger:
            require_rights(ledger, self.lost_rights(), Action.MIGRATE, ctx, rights=self.rights())
            return self.of_server(ledger, ctx, context)

    def of_server(self, ledger: Ledger, ctx: RunContext, context: Context) -> dict[str, Any]:
        raise NotImplementedError

    def opened(self, place: TargetPlace) -> Any:
        return self.aws(place.aws_conn_id, place.region)


class LaunchTestOperator(TestServerOperator):
    """Launch the server's test instance once the checks of earlier tiers have ended.

    Returns a :class:`~wavelift.services.dataplane.checks.CheckOrder`.
    """

    first_contact = True

    def of_server(self, ledger: Ledger, ctx: RunContext, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover import trial

        hours = conf_of(context).get("hours")
        found = trial.launch(ledger, self.opened, ctx, hours=float(hours) if hours else None)
        if isinstance(found, trial.TierWaits):
            self.log.info("waits: %s", found.words)
            raise look_again()
        return found.dump()


class TestResultOperator(TestServerOperator):
    """Record what the checks found, also if they failed. Returns the server's name and whether it passed."""

    def of_server(self, ledger: Ledger, ctx: RunContext, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover import trial
        from wavelift.services.dataplane.checks import CheckReport

        ti = context["ti"]
        states, place = task_states(context), -1 if ti.map_index is None else ti.map_index
        passed = states.get(f"{self.sibling('check')}_{place}") == "success"
        left = self.left_by(context, "check") if passed else None
        said = (words_left(ti, self.sibling(name), map_index=place)[0] for name in ("check", "launch"))
        words = next((each for each in said if each), "")
        row = trial.record_result(ledger, ctx, CheckReport.load(left) if left else None, words)
        return {"server": row.server, "test": row.id, "passed": bool(row.passed)}


class EndTestsOperator(WaveRunOperator):
    """In mode ``end``: terminate test instances, and wait until they are terminated.

    :param admitted: what :class:`AdmitTestOperator` returned.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover import trial

        ending = trial.AdmittedTest.load(self.admitted).ending
        ctx = self.server_context(context)

        def opened(place: TargetPlace) -> Any:
            return self.aws(place.aws_conn_id, place.region)

        with self.ledger() as ledger:
            left = trial.end(ledger, ending, opened, by=ctx.requester, clock=ctx.clock)
        if left:
            self.log.info("still terminating: %s", ", ".join(left))
            raise look_again()
        return {"ended": list(ending)}


class TestReportOperator(WaveRunOperator):
    """Tell how every test stands; use it as a teardown. Fails when a test failed.

    Returns a :class:`~wavelift.services.cutover.trial.TestReport`.
    """

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.services.cutover import trial

        ti, states = context["ti"], task_states(context)
        left = ti.xcom_pull(task_ids="admit", map_indexes=-1)
        admitted = trial.AdmittedTest.load(left) if left else None
        stopped = why_stopped(context, states, ended_by(TEST.first_step(admitted.mode) if admitted else ""))
        with self.ledger() as ledger:
            report = trial.finish(ledger, admitted, self.server_context(context), stopped=stopped)
        ti.xcom_push(key=REPORT_KEY, value=report.dump())
        for one in report.outcomes:
            self.log.info("%-20s %-10s %s %s %s", one.server, one.state, one.instance_id, one.private_ip, one.error)
        trial.raise_when_failed(report)
        return report.dump()
