"""The ends of a wave run: what may begin, and what is told at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wavelift.operators._base import StateStore, WaveliftOperator
from wavelift.operators.control._report import ended_by, task_outcomes, task_states, why_stopped

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.ledger import Migration
    from wavelift.rules.plans import ServerPlan

PREFLIGHT: Final = "preflight"
BEGINS_WITH: Final = {"launch": "launch_imported", "verify": "verify_imported"}
"""Mode of a run → the one task that it has after ``admit``; every other mode has the pre-flight."""


class AdmitOperator(WaveliftOperator):
    """Check the run's conf, resolve the wave's spec and freeze it in the ledger for this run.

    Control plane. Unknown conf keys are refused (Airflow takes them silently). Leaves an
    :class:`~wavelift.services.dataplane.messages.Admitted` as its return value, and skips the tasks of other modes.

    :param wave: name of the wave.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, wave: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wave = wave

    def work(self, context: Context) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.common.admit import RunRequest
        from wavelift.services.migration.admit import admit
        from wavelift.specs import resolved_wave

        run = context["dag_run"]
        conf = {**context["params"], **(run.conf or {})}
        request = RunRequest(
            wave=self.wave,
            conf=conf,
            source="schedule" if run.run_type == "scheduled" else "api",
        )
        with Ledger.open(config.ledger_url()) as ledger:
            admitted = admit(
                ledger,
                request,
                lambda wave: resolved_wave(
                    wave, config.waves_folder(), config.environments_folder(), config.last_valid_folder()
                ),
                self.server_context(context),
            )
        self.log.info("%s: %s of %d entries", self.wave, admitted.mode, len(admitted.wave.servers))
        context["ti"].xcom_push(key="return_value", value=admitted.dump())
        self.skip_all_but(BEGINS_WITH.get(admitted.mode, PREFLIGHT))


class LaunchImportedOperator(WaveliftOperator):
    """In mode ``launch``: launch the instances of finished imports; in every other mode there is nothing to do.

    :param admitted: what :class:`AdmitOperator` returned.
    """

    template_fields: Sequence[str] = ("admitted",)

    def __init__(self, *, admitted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.admitted = admitted

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.dataplane.messages import Admitted
        from wavelift.services.migration.launch import launch_later

        admitted = Admitted.load(self.admitted)
        if admitted.mode != "launch":
            return []
        environment = admitted.wave.environment
        access = self.aws(environment.aws_conn_id, environment.region)
        with Ledger.open(config.ledger_url()) as ledger:
            results = [
                launch_later(ledger, access, admitted.wave, id, self.server_context(context, id))
                for id in admitted.migrations
            ]
        return [result.dump() for result in results]


class ReportOperator(WaveliftOperator):
    """Tell how every server ended, close and tidy what is open, and fail when a server failed; use it as a teardown.

    Returns a :class:`~wavelift.services.migration.report.WaveReport`.

    :param wave: name of the wave.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, wave: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wave = wave

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.operators.connector.preflight import REPORT_KEY
        from wavelift.services.dataplane.messages import CleanupReport, PreflightReport
        from wavelift.services.migration.report import Ended, finish, raise_when_failed

        ti = context["ti"]
        states = task_states(context)
        mode = (ti.xcom_pull(task_ids="admit", map_indexes=-1) or {}).get("mode", "")
        found = ti.xcom_pull(task_ids=PREFLIGHT, key=REPORT_KEY, map_indexes=-1)
        preflight = PreflightReport.load(found) if found and "servers" in found else None
        ended = Ended(
            preflight,
            task_outcomes(context, states, [task.name for task in preflight.passed] if preflight else []),
            stopped=why_stopped(context, states, ended_by(BEGINS_WITH.get(mode, PREFLIGHT))),
            swept=CleanupReport.load(found) if found and "leftovers" in found else None,
        )
        with Ledger.open(config.ledger_url()) as ledger:
            report = finish(ledger, ended, self.server_context(context), tidy=self._tidy(context))
        ti.xcom_push(key=REPORT_KEY, value=report.dump())
        for one in report.outcomes:
            self.log.info("%-20s %-10s %s %s %s", one.server, one.state, one.image_id, one.instance_id, one.error)
        raise_when_failed(report)
        return report.dump()

    def _tidy(self, context: Context) -> Callable[[Migration, ServerPlan], str]:
        """Ends imports and deletes what lies staged; a report that was cleared meanwhile must not touch anything."""
        fence = StateStore(context["task_state_store"])

        def tidy(migration: Migration, plan: ServerPlan) -> str:
            from wavelift.services.dataplane.abandon import abandon

            fence.set("tidying", migration.id)
            access = self.aws(plan.target.aws_conn_id, plan.target.region)
            return abandon(access, plan, migration.run_key)

        return tidy
