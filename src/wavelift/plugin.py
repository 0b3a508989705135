"""What Airflow registers of wavelift; found through the entry point, or through ``plugins/`` where that is used.

Imports stay inside: every Airflow process loads this module, only the api-server needs the REST API.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from wavelift.airflow.links import ImageLink, InstanceLink, VcenterLink


def _fastapi_apps() -> list[dict[str, Any]]:
    import sys

    # Only the api-server mounts apps; the others would pay for the import and never use it.
    if not any("api-server" in argument or "api_server" in argument for argument in sys.argv):
        return []
    from wavelift.console.api import create_app

    return [{"app": create_app(), "url_prefix": "/wavelift", "name": "wavelift"}]


class WaveliftPlugin(AirflowPlugin):
    """Links and the REST API under ``/wavelift``."""

    name = "wavelift"
    operator_extra_links = [ImageLink(), InstanceLink(), VcenterLink()]
