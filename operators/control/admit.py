"""The first task of a wave's run: what may begin is decided, and frozen for the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from wavelift.operators._base import conf_of
from wavelift.operators.control._plane import ControlOperator
from wavelift.rules.flows import MIGRATE, PREFLIGHT, REPLICATE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow.sdk import Context

    from wavelift.ledger import Ledger
    from wavelift.rules.grants import Work
    from wavelift.services.dataplane.cutover_messages import AdmittedCutover
    from wavelift.services.dataplane.messages import Admitted
    from wavelift.services.dataplane.replication_messages import AdmittedRuns


class AdmittingOperator(ControlOperator):
    """What the admissions of all flows share: they return the frozen spec, and skip the tasks of other modes.

    :param wave: name of the wave.
    """

    grant_action: Work = "migrate"
    plain_inputs = ("wave",)
    wave: str

    def work(self, context: Context) -> NoReturn:
        with self.ledger() as ledger:
            admitted = self.admit(ledger, context)
            admitted = self._granted(ledger, admitted, context)
        context["ti"].xcom_push(key="return_value", value=admitted.dump())
        self.skip_all_but(self.first_step(admitted))

    def _granted(self, ledger: Ledger, admitted: Any, context: Context) -> Any:
        """With what pre-flight needs, if the run looks at servers: its grant, and how full the account is. Made anew
        whenever this task is cleared."""
        from wavelift.airflow import config
        from wavelift.airflow.rights import present_granting
        from wavelift.rules.plans import Target
        from wavelift.services.common import grants
        from wavelift.services.common.wanted import account_use

        if self.first_step(admitted) != PREFLIGHT or admitted.mode == "cleanup":
            return admitted
        ctx = self.server_context(context)
        known = present_granting(admitted.wave.environment.environment).principals
        ordered_by = self.ordered_by(ledger, admitted)
        requesters = grants.Requesters(ctx.asker.name, ordered_by, grants.principals_by(known))
        token = grants.look(
            config.grant_key_file(), admitted.wave, ctx, action=self.grant_action, requesters=requesters
        )
        use = account_use(ledger, Target.of(admitted.wave.environment), self.terms(context))
        return admitted.model_copy(update={"token": token, "account_use": use})

    def ordered_by(self, ledger: Ledger, admitted: Any) -> Mapping[str, str]:
        """Server → the user whose right it has, where that is not the one who triggered the run."""
        return {}

    def admit(self, ledger: Ledger, context: Context) -> Admitted | AdmittedRuns | AdmittedCutover:
        """Check the conf, freeze the spec, and tell what was decided."""
        raise NotImplementedError

    def first_step(self, admitted: Any) -> str:
        """The step with which the run goes on; empty: only the report is left."""
        raise NotImplementedError


class AdmitOperator(AdmittingOperator):
    """Check the run's conf, resolve the wave's spec and freeze it in the ledger for this run.

    Control plane. Unknown conf keys are refused (Airflow takes them silently). Leaves an
    :class:`~wavelift.services.dataplane.messages.Admitted` as its return value, and skips the tasks of other modes.

    :param wave: name of the wave.
    """

    def admit(self, ledger: Ledger, context: Context) -> Admitted:
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.migration import admit as migration

        run = context["dag_run"]
        request = RunRequest(
            wave=self.wave,
            conf=conf_of(context),
            source="schedule" if run.run_type == "scheduled" else "api",
        )
        admitted = migration.admit(ledger, request, self.resolved, self.server_context(context), rights=self.rights())
        self.log.info("%s: %s of %d entries", self.wave, admitted.mode, len(admitted.wave.servers))
        return admitted

    def first_step(self, admitted: Admitted) -> str:
        return MIGRATE.first_step(admitted.mode)


class AdmitReplicationOperator(AdmittingOperator):
    """Decide which servers of the wave may run now, and freeze the wave's spec for the run (SMS-06, SMS-07, AIR-04).

    Control plane. A run of the timetable serves every server that is due; any other is on demand and limited. A
    backfill is refused. A run that deletes or verifies replicas admits none. Leaves an
    :class:`~wavelift.services.dataplane.replication_messages.AdmittedRuns` as its return value, and skips the tasks of
    the other modes.

    :param wave: name of the wave.
    """

    grant_action = "replicate"

    def ordered_by(self, ledger: Ledger, admitted: AdmittedRuns) -> Mapping[str, str]:
        from wavelift.services.replication.requests import authorised_by

        return authorised_by(ledger, self.wave, admitted.granted) if admitted.scheduled else {}

    def admit(self, ledger: Ledger, context: Context) -> AdmittedRuns:
        from wavelift.base.times import utc_minute
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.replication import admit as replication

        run = context["dag_run"]
        request = RunRequest(
            wave=self.wave,
            conf=conf_of(context),
            source="schedule" if run.run_type == "scheduled" else "api",
            scheduled_for=scheduled_instant(run),
            backfill=run.run_type == "backfill",
        )
        admitted = replication.admit(ledger, request, self.resolved, self.server_context(context), rights=self.rights())
        self.log.info("%s: %s: %s may run", self.wave, admitted.mode, ", ".join(admitted.granted) or "no server")
        for one in (*admitted.refused, *admitted.skipped):
            until = f"until {utc_minute(one.until)}" if one.until else ""
            self.log.info("%-20s %s: %s %s", one.server, one.rule, one.reason, until)
        for words in admitted.warnings:
            self.log.warning("%s", words)
        return admitted

    def first_step(self, admitted: AdmittedRuns) -> str:
        return first_step_of_runs(admitted)


def first_step_of_runs(admitted: AdmittedRuns) -> str:
    """The step with which a replicate run goes on; empty: no server may run."""
    first = REPLICATE.first_step(admitted.mode)
    return first if first != PREFLIGHT or admitted.granted else ""


def scheduled_instant(run: Any) -> datetime | None:
    """The instant for which the timetable made a DAG run, as plain UTC; None for every other run."""
    from wavelift.airflow.timetables import plain

    if run.run_type != "scheduled":
        return None
    return plain(run.data_interval_end or run.logical_date or run.run_after)
