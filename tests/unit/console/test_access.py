"""Rights are asked with the team of the DAG; Airflow's own tables and its simple auth manager answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from airflow import settings
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.connection import Connection
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.team import Team
from airflow.utils.session import create_session
from fastapi import HTTPException
from sqlalchemy.orm import sessionmaker

from wavelift.console import access

pytestmark = pytest.mark.unit

TABLES: Final = ("dag", "dag_bundle", "team", "dag_bundle_team", "connection")
DAGS: Final = {"red.migrate": "red-dags", "blue.migrate": "blue-dags", "all.migrate": "common"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None]]]:
    """Two teams with a bundle of DAGs each, and one bundle without a team; yields what the manager is asked."""
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    DagModel.metadata.create_all(engine, tables=[DagModel.metadata.tables[name] for name in TABLES])
    make = sessionmaker(engine)
    monkeypatch.setattr(settings, "Session", make)
    with make.begin() as session:
        bundles = {name: DagBundleModel(name=name) for name in DAGS.values()}
        session.add_all(bundles.values())
        for team in ("red", "blue"):
            session.add(Team(name=team, dag_bundles=[bundles[f"{team}-dags"]]))
            session.add(Connection(conn_id=f"vc-{team}", conn_type="vsphere", team_name=team))
        session.add(Connection(conn_id="vc-all", conn_type="vsphere"))
        session.flush()
        session.add_all(
            DagModel(dag_id=dag, bundle_name=bundle, max_active_tasks=1, max_consecutive_failed_dag_runs=0)
            for dag, bundle in DAGS.items()
        )
    seen: list[tuple[str, str | None]] = []

    class Manager(SimpleAuthManager):
        def is_authorized_dag(self, *, details: Any = None, **asked: Any) -> bool:
            seen.append((details.id, details.team_name))
            return super().is_authorized_dag(details=details, **asked)

    monkeypatch.setattr(access, "get_auth_manager", Manager)
    yield seen
    engine.dispose()


def user(role: str, *teams: str) -> SimpleAuthManagerUser:
    return SimpleAuthManagerUser(username="ana", role=role, teams=list(teams))


def test_a_user_of_another_team_may_neither_read_nor_trigger(asked: list[tuple[str, str | None]]) -> None:
    blue = user("op", "blue")
    assert not access.may_read(blue, "red.migrate")
    with pytest.raises(HTTPException, match=r"You may not read red\.migrate"):
        access.require_read(blue, "red.migrate")
    with pytest.raises(HTTPException, match=r"You may not trigger red\.migrate"):
        access.require_trigger(blue, "red.migrate")
    assert set(asked) == {("red.migrate", "red")}
    access.require_trigger(blue, "blue.migrate")
    access.require_trigger(blue, "all.migrate")
    assert asked[-2:] == [("blue.migrate", "blue"), ("all.migrate", None)]
    assert access.readable_dags(blue) == {"blue.migrate", "all.migrate"}
    with pytest.raises(HTTPException):
        access.require_trigger(user("viewer", "blue"), "blue.migrate")


def test_with_teams_a_dag_that_airflow_does_not_know_is_nobody_s(asked: list[tuple[str, str | None]]) -> None:
    blue = user("op", "blue")
    assert not access.may_read(blue, "removed.migrate")
    with pytest.raises(HTTPException) as refused:
        access.require_trigger(blue, "removed.migrate")
    assert (refused.value.status_code, asked) == (403, [])


def test_a_dag_s_team_counts_from_the_moment_that_airflow_knows_it(asked: list[tuple[str, str | None]]) -> None:
    blue = user("op", "blue")
    assert not access.may_read(blue, "new.migrate")
    with create_session() as session:
        session.add(
            DagModel(
                dag_id="new.migrate", bundle_name="red-dags", max_active_tasks=1, max_consecutive_failed_dag_runs=0
            )
        )
    assert not access.may_read(blue, "new.migrate")
    assert asked == [("new.migrate", "red")]


def test_a_connector_takes_no_connection_of_another_team(asked: list[tuple[str, str | None]]) -> None:
    for conn_id in ("vc-blue", "vc-all", "from-the-environment"):
        access.require_same_team("blue.migrate", conn_id)
    for dag_id in ("blue.migrate", "all.migrate"):
        with pytest.raises(HTTPException, match="vc-red belongs to another team"):
            access.require_same_team(dag_id, "vc-red")


def test_without_teams_only_the_role_counts(
    asked: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "False")
    access.require_trigger(user("op"), "removed.migrate")
    access.require_same_team("blue.migrate", "vc-red")
    assert access.may_read(user("viewer"), "removed.migrate")
