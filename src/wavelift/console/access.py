"""Who may do what: Airflow's own rights on the wave's DAG. Plugin APIs have no login of their own (airflow facts 6)."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails


def may_read(user: Any, dag_id: str) -> bool:
    return bool(get_auth_manager().is_authorized_dag(method="GET", details=DagDetails(id=dag_id), user=user))


def may_trigger(user: Any, dag_id: str) -> bool:
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id), user=user
        )
    )


def readable_dags(user: Any) -> set[str]:
    """DAGs that the user may read, those of removed waves included."""
    return set(get_auth_manager().get_authorized_dag_ids(user=user, method="GET"))
