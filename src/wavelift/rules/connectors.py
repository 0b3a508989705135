"""Names of a connector's DAGs. The right to read or trigger these DAGs is the right to read or change the connector."""

from __future__ import annotations

from typing import Final

CATALOG_DAG: Final = "server_catalog"
HEALTH_DAG: Final = "connector_health"
DEFAULT_CONNECTOR: Final = "default"
"""Value of ``source.connector`` if a wave does not set it: Airflow's default queue."""


def dag_id_of(kind: str, connector: str) -> str:
    """``server_catalog`` for the default queue, ``server_catalog.dc1`` for connector ``dc1``."""
    return kind if connector == DEFAULT_CONNECTOR else f"{kind}.{connector}"


def connector_of(dag_id: str) -> str:
    """The connector that this DAG belongs to; for any other DAG, the default connector."""
    kind, _, connector = dag_id.partition(".")
    return connector if kind in (CATALOG_DAG, HEALTH_DAG) and connector else DEFAULT_CONNECTOR
