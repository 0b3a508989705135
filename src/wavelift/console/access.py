"""Who may do what: Airflow's own rights on the DAG behind it. Airflow adds no login to a plugin's routes.

Like Airflow's own API, every question names the team that owns the DAG: with ``[core] multi_team`` a right counts in
the user's own teams only.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.configuration import conf
from airflow.models.connection import Connection
from airflow.models.dag import DagModel
from fastapi import HTTPException


def may_read(user: Any, dag_id: str) -> bool:
    details = _details(dag_id)
    return details is not None and bool(get_auth_manager().is_authorized_dag(method="GET", details=details, user=user))


def require_read(user: Any, dag_id: str) -> None:
    """:raises HTTPException: 403, when the user may not read the DAG."""
    if not may_read(user, dag_id):
        raise HTTPException(403, f"You may not read {dag_id}")


def require_trigger(user: Any, dag_id: str) -> None:
    """:raises HTTPException: 403, when the user may not trigger the DAG."""
    details = _details(dag_id)
    if details is None:
        raise HTTPException(403, f"Nobody can tell which team {dag_id} belongs to. {not_loaded(dag_id)}")
    manager = get_auth_manager()
    if not manager.is_authorized_dag(method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user):
        raise HTTPException(403, f"You may not trigger {dag_id}")


def reread_seconds() -> int:
    """How often Airflow reads the DAG files again, and with them the specs: as the api-server's configuration says.

    ``dags/waves.py`` is a known file, so a new spec beside it waits for this alone, and not for ``refresh_interval``.
    """
    return int(conf.getint("dag_processor", "min_file_process_interval"))


def not_loaded(dag_id: str) -> str:
    """What to say of a DAG that Airflow does not know."""
    return (
        f"Airflow has no DAG {dag_id}, or you may not see it. A new file is read within {reread_seconds()} s; "
        "check it with `wavelift wave validate FILE`, and look at the import errors in the web UI"
    )


def require_same_team(dag_id: str, conn_id: str) -> None:
    """:raises HTTPException: 403, when the connection belongs to another team than the DAG that would use it."""
    if not _multi_team():
        return
    owner = Connection.get_team_name(conn_id)
    if owner is not None and owner != _team(dag_id):
        raise HTTPException(403, f"Connection {conn_id} belongs to another team than {dag_id}")


def readable_dags(user: Any) -> set[str]:
    """DAGs that the user may read, those of removed waves included. Airflow looks at their teams by itself."""
    return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))


def _details(dag_id: str) -> DagDetails | None:
    """What the auth manager is asked about. None: with teams, a DAG that Airflow does not know is nobody's."""
    team = _team(dag_id)
    if team is None and _multi_team() and DagModel.get_dagmodel(dag_id) is None:
        return None
    return DagDetails(id=dag_id, team_name=team)


def _team(dag_id: str) -> str | None:
    """Asked anew each time: ``DagModel.get_team_name`` remembers for 30 s that a new DAG has no team."""
    return DagModel.get_dag_id_to_team_name_mapping([dag_id]).get(dag_id)


def _multi_team() -> bool:
    return bool(conf.getboolean("core", "multi_team"))
