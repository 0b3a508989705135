"""What the routes work with: the ledger, the waves' specs, and Airflow's REST API as the caller."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi import Depends, HTTPException, Request

from wavelift.airflow import config
from wavelift.airflow.rest import ApiClient
from wavelift.base.errors import SpecError
from wavelift.console.access import not_loaded
from wavelift.console.answers import RunStarted
from wavelift.console.origin import bearer_token
from wavelift.ledger import Ledger
from wavelift.rules.conf import RunConf
from wavelift.rules.environment import PRINCIPALS
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.principals import Principals
from wavelift.specs import (
    SUFFIX,
    Granting,
    load_granting,
    load_principals,
    problem_of,
    resolved_live,
    resolved_wave,
    usable_waves,
)


class Specs:
    """The waves' files, read when asked: what a run would freeze now."""

    def wave(self, name: str) -> ResolvedWave:
        """:raises SpecError: when the present files are not valid."""
        return resolved_wave(name, config.waves_folder(), config.environments_folder())

    def live(self, name: str) -> ResolvedLive:
        """The same of a wave that HCX migrates."""
        return resolved_live(name, config.waves_folder(), config.environments_folder())

    def problem_of(self, name: str) -> str:
        """Why the present files of a wave allow no run; empty: they do."""
        problem = problem_of(name, config.waves_folder(), config.environments_folder())
        if problem and name not in self._stems(config.waves_folder()):
            return f"There is no file {name}{SUFFIX} in the folder of the waves"
        return problem

    def environment_of(self, wave: str) -> str | None:
        """Where a wave lands: by its file, else by its last valid version. Empty: nobody knows. None: no such wave."""
        if wave not in self._stems(config.waves_folder()):
            return None
        known = usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder(), only=wave)
        return known.shapes[wave].environment if wave in known.shapes else ""

    def granting(self, environment: str) -> Granting:
        """:raises SpecError: when the present files are not valid."""
        return load_granting(environment, config.environments_folder())

    def principals(self) -> tuple[Principals | None, str]:
        """The groups as their file is now, or why it cannot be read."""
        try:
            return load_principals(config.environments_folder()), ""
        except SpecError as error:
            return None, str(error)

    def environments(self) -> list[str]:
        """The names of the environments' files, valid or not."""
        return sorted(self._stems(config.environments_folder()) - {PRINCIPALS})

    def group_memory(self) -> timedelta:
        return timedelta(hours=config.integer("group_memory_hours"))

    @staticmethod
    def _stems(folder: Path) -> set[str]:
        return {file.stem for file in folder.glob(f"*{SUFFIX}")}

    def connectors(self) -> dict[str, str]:
        """Wave → connector."""
        known = usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder())
        return {name: shape.connector for name, shape in known.shapes.items()}


def _ledger() -> Iterator[Ledger]:
    with Ledger.open(config.ledger_url()) as ledger:
        yield ledger


def _airflow(request: Request) -> ApiClient:
    """Airflow's REST API as the caller."""
    token = bearer_token(request.headers) or request.cookies.get(COOKIE_NAME_JWT_TOKEN, "")
    return ApiClient(config.api_url(), lambda: token)


def start_run(airflow: ApiClient, dag_id: str, conf: RunConf) -> RunStarted:
    """Trigger a DAG run as the caller."""
    paused = require_loaded(airflow, dag_id)
    return RunStarted(dag_id=dag_id, dag_run_id=airflow.trigger(dag_id, conf.given()), dag_paused=paused)


def require_loaded(airflow: ApiClient, dag_id: str) -> bool:
    """Whether the DAG is paused. :raises HTTPException: 404, when Airflow does not know it."""
    paused = airflow.is_paused(dag_id)
    if paused is None:
        raise HTTPException(404, not_loaded(dag_id))
    return paused


LedgerDep = Annotated[Ledger, Depends(_ledger)]
AirflowDep = Annotated[ApiClient, Depends(_airflow)]
SpecsDep = Annotated[Specs, Depends(Specs)]
