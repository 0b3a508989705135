"""Who may see the whole audit trail, and seal it: whom Airflow lets read its own audit log and change connections.

That is an administrator by each of Airflow's auth managers: with roles of FAB ``Admin`` (or a role of one's own with
both rights), with the simple auth manager ``admin`` and ``op``. With teams it must be somebody of every team.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, TeamDetails
from airflow.configuration import conf
from airflow.models.team import Team
from fastapi import HTTPException


def may_audit(user: Any) -> bool:
    manager = get_auth_manager()
    if not manager.is_authorized_dag(method="GET", access_entity=DagAccessEntity.AUDIT_LOG, user=user):
        return False
    if not manager.is_authorized_connection(method="PUT", user=user):
        return False
    if not conf.getboolean("core", "multi_team"):
        return True
    teams = Team.get_all_team_names()
    return all(manager.is_authorized_team(method="GET", details=TeamDetails(name=one), user=user) for one in teams)


def require_audit(user: Any) -> None:
    """:raises HTTPException: 403, when the user is no administrator."""
    if not may_audit(user):
        raise HTTPException(
            403,
            "You may not see or seal the whole audit trail: it needs the rights to read Airflow's audit log and to "
            "change connections. `wavelift events list` shows the events that you may read",
        )
