"""Routes of test instances, and of backups of migrated instances (AMP-09).

A test launch needs the right to trigger the wave's test DAG, and that to migrate into its environment. A backup needs
the right to trigger the DAG of backups, and ``cut_over`` in the environment of the instance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.base.errors import PermanentError
from wavelift.console.access import require_read, require_trigger
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
from wavelift.console.lists import readable, readable_in
from wavelift.console.on_demand import Asked, make_once, make_run, new_run, require_awake
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
        asked = Asked.of(body, dag_id, what=conf.mode, airflow=airflow, by=caller.requester.name)
        return TrialsStarted(dag_id=dag_id, dag_run_id=asked.run.dag_run_id, made_before=make_once(asked, conf))

    @app.get("/tests")
    def list_tests(query: Annotated[TrialQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> TrialPage:
        """Test instances of the waves that the caller may read, newest first."""
        which = TrialFilter(
            wave=query.wave,
            waves=readable_in(user, TEST),
            server=query.server,
            states=[query.state] if query.state else None,
        )
        with ledger.read() as tx:
            page = trials.list_trials(tx, which, limit=query.limit, offset=query.offset)
        return TrialPage.of(page, tests=[TrialRow.of(each) for each in page.items])

    @app.post("/tests/{test_id}/end")
    def end_test(test_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> TrialEnds:
        """Terminate a test instance, by a run of the wave's test DAG."""
        known = readable(caller.user, ledger, trials.get, test_id)
        caller.require(known.dag_id, Action.MIGRATE)
        caller.require_where([known.run], Action.MIGRATE)
        if known.state.terminal:
            raise PermanentError(
                "The test instance has ended", next_step="Nothing: it is terminated", test=known.id, server=known.server
            )
        require_awake(airflow, known.dag_id, WAY_OUT)
        conf = TestConf(mode="end", tests=[known.id])
        started = make_run(airflow, new_run(known.dag_id), conf, f"end the test of {known.server}")
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
        asked = Asked.of(body, BACKUP_DAG, what=body.subject, airflow=airflow, by=caller.requester.name)
        asked = replace(asked, note=asked.note or f"backup of {instance.wave}/{instance.server}")
        return BackupStarted(
            dag_id=BACKUP_DAG,
            dag_run_id=asked.run.dag_run_id,
            backup=backups.backup_id(asked.run, body.subject),
            made_before=make_once(asked, conf),
        )

    @app.get("/backups")
    def list_backups(query: Annotated[BackupQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> BackupPage:
        """Backups of instances of the waves that the caller may read, newest first."""
        waves = readable_in(user, *FLOWS)
        with ledger.read() as tx:
            page = backups.list_backups(
                tx, wave=query.wave, waves=waves, subject=query.subject, limit=query.limit, offset=query.offset
            )
        return BackupPage.of(page, backups=[BackupRow.of(each) for each in page.items])
