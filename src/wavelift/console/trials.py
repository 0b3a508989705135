"""Routes of test instances, and of backups of migrated instances (AMP-09).

A test launch needs the right to trigger the wave's test DAG, and that to migrate into its environment. A backup needs
the right to trigger the DAG of backups, and ``cut_over`` in the environment of the instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun
from wavelift.console.access import readable_dags, require_read, require_trigger
from wavelift.console.answers import RunStarted
from wavelift.console.caller import CallerDep
from wavelift.console.cutover_answers import (
    BackupPage,
    BackupRow,
    BackupStarted,
    TrialEnds,
    TrialPage,
    TrialRow,
    TrialsStarted,
)
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.console.on_demand import CONFLICT, make_run, new_run, require_awake
from wavelift.console.requests import BackupBody, BackupQuery, TrialBody, TrialQuery
from wavelift.ledger import backups, trials
from wavelift.ledger.trials import TrialFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import BackupConf, TestConf
from wavelift.rules.environment import BACKUP_DAG
from wavelift.rules.flows import FLOWS, TEST
from wavelift.services.common.instances import instance_of, run_of
from wavelift.services.cutover.trial import require_isolation

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; the command `wavelift` does it by itself"


def add_trial_routes(app: FastAPI) -> None:
    _tests(app)
    _backups(app)


def _tests(app: FastAPI) -> None:
    @app.post("/waves/{wave}/tests")
    def test_images(
        wave: str, body: TrialBody, caller: CallerDep, airflow: AirflowDep, specs: SpecsDep
    ) -> TrialsStarted:
        """Launch images of a wave's servers where they can reach nothing else, and check them."""
        dag_id = TEST.dag_id(wave)
        caller.require(dag_id, Action.MIGRATE)
        require_awake(airflow, dag_id, WAY_OUT)
        require_isolation(specs.wave(wave))
        conf = TestConf(mode="test", **body.model_dump(exclude={"request_id"}, exclude_none=True))
        run = new_run(dag_id, f"test.{body.request_id}" if body.request_id else "")
        before = _make(airflow, run, conf.given(), body.note or "", named=body.request_id is not None)
        return TrialsStarted(dag_id=run.dag_id, dag_run_id=run.dag_run_id, made_before=before)

    @app.get("/tests")
    def list_tests(query: Annotated[TrialQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> TrialPage:
        """Test instances of the waves that the caller may read, newest first."""
        which = TrialFilter(
            wave=query.wave,
            waves={wave for dag_id in readable_dags(user) if (wave := TEST.wave_of(dag_id))},
            server=query.server,
            states=[query.state] if query.state else None,
        )
        with ledger.read() as tx:
            page = trials.list_trials(tx, which, limit=query.limit, offset=query.offset)
        return TrialPage.of(page, tests=[TrialRow.of(each) for each in page.items])

    @app.post("/tests/{test_id}/end")
    def end_test(test_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> TrialEnds:
        """Terminate a test instance, by a run of the wave's test DAG."""
        with ledger.read() as tx:
            known = trials.get(tx, test_id)
        require_read(caller.user, known.dag_id)
        caller.require(known.dag_id, Action.MIGRATE)
        caller.require_where([known.run], Action.MIGRATE)
        if known.state.terminal:
            raise PermanentError(
                "The test instance has ended", next_step="Nothing: it is terminated", test=known.id, server=known.server
            )
        require_awake(airflow, known.dag_id, WAY_OUT)
        run = new_run(known.dag_id)
        conf = TestConf(mode="end", tests=[known.id])
        _make(airflow, run, conf.given(), f"end the test of {known.server}", named=False)
        started = RunStarted(dag_id=run.dag_id, dag_run_id=run.dag_run_id)
        return TrialEnds.of(started, test=TrialRow.of(known))


def _backups(app: FastAPI) -> None:
    @app.post("/backups")
    def back_up(body: BackupBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> BackupStarted:
        """Make an image of the instance of a migration or a cutover, and a launch template that starts it."""
        require_trigger(caller.user, BACKUP_DAG)
        with ledger.read() as tx:
            require_read(caller.user, run_of(tx, body.subject).dag_id)  # before anything of it is told
            instance = instance_of(tx, body.subject)
        caller.require_in(BACKUP_DAG, instance.environment, Action.CUT_OVER, wave=instance.wave)
        require_awake(airflow, BACKUP_DAG, WAY_OUT)
        conf = BackupConf(**body.model_dump(exclude={"request_id"}, exclude_none=True))
        run = new_run(BACKUP_DAG, f"{body.subject}.{body.request_id}" if body.request_id else "")
        note = body.note or f"backup of {instance.wave}/{instance.server}"
        before = _make(airflow, run, conf.given(), note, named=body.request_id is not None)
        return BackupStarted(
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            backup=backups.backup_id(run, body.subject),
            made_before=before,
        )

    @app.get("/backups")
    def list_backups(query: Annotated[BackupQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> BackupPage:
        """Backups of instances of the waves that the caller may read, newest first."""
        readable = {wave for dag_id in readable_dags(user) for flow in FLOWS if (wave := flow.wave_of(dag_id))}
        with ledger.read() as tx:
            page = backups.list_backups(
                tx, wave=query.wave, waves=readable, subject=query.subject, limit=query.limit, offset=query.offset
            )
        return BackupPage.of(page, backups=[BackupRow.of(each) for each in page.items])


def _make(airflow: ApiClient, run: DagRun, conf: Mapping[str, Any], note: str, *, named: bool) -> bool:
    """Make the DAG run. Whether it was there already, made by an earlier request of the same name.

    :param named: the caller gave the request a name.
    """
    try:
        make_run(airflow, run, conf, note, give_back=lambda: None)
    except ApiError as error:
        if not (named and error.status == CONFLICT and airflow.find_run_state(run.dag_id, run.dag_run_id)):
            raise
        return True
    return False
