"""Who may do what: Airflow's own rights on the DAG behind it. Airflow adds no login to a plugin's routes."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from fastapi import HTTPException


def may_read(user: Any, dag_id: str) -> bool:
    return bool(get_auth_manager().is_authorized_dag(method="GET", details=DagDetails(id=dag_id), user=user))


def require_read(user: Any, dag_id: str) -> None:
    """:raises HTTPException: 403, when the user may not read the DAG."""
    if not may_read(user, dag_id):
        raise HTTPException(403, f"You may not read {dag_id}")


def require_trigger(user: Any, dag_id: str) -> None:
    """:raises HTTPException: 403, when the user may not trigger the DAG."""
    details = DagDetails(id=dag_id)
    manager = get_auth_manager()
    if not manager.is_authorized_dag(method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user):
        raise HTTPException(403, f"You may not trigger {dag_id}")


def readable_dags(user: Any) -> set[str]:
    """DAGs that the user may read, those of removed waves included."""
    return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))
