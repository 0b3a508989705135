"""What Airflow registers of wavelift; found through the entry point, or through ``plugins/`` where that is used."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from wavelift.airflow.links import ImageLink, InstanceLink, VcenterLink
from wavelift.airflow.notifications import WindowDeadline
from wavelift.airflow.timetables import ReplicationTimetable


class LazyApp:
    """The REST API, imported at its first request: every Airflow process loads plugins, only the api-server serves."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from wavelift.console.api import create_app

            self._app = create_app()
        await self._app(scope, receive, send)


class WaveliftPlugin(AirflowPlugin):
    """Links, the timetable of replication, the deadline of a cutover's window, and the REST API under ``/wavelift``."""

    name = "wavelift"
    timetables = [ReplicationTimetable]
    deadline_references = [WindowDeadline]
    operator_extra_links = [ImageLink(), InstanceLink(), VcenterLink()]
    fastapi_apps = [{"app": LazyApp(), "url_prefix": "/wavelift", "name": "wavelift"}]
