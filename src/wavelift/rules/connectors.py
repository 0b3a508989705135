"""Names of a connector's own DAGs: who may read and trigger these may read and change the connector."""

from __future__ import annotations

from typing import Final

CATALOG_DAG: Final = "server_catalog"
HEALTH_DAG: Final = "connector_health"
DEFAULT_CONNECTOR: Final = "default"
"""What ``source.connector`` is when a wave leaves it out: Airflow's default queue."""


def dag_id_of(kind: str, connector: str) -> str:
    """``server_catalog`` for the default queue, ``server_catalog.dc1`` for connector ``dc1``."""
    return kind if connector == DEFAULT_CONNECTOR else f"{kind}.{connector}"


def connector_of(dag_id: str) -> str:
    """The connector whose DAG this is; of any other DAG the default."""
    kind, _, connector = dag_id.partition(".")
    return connector if kind in (CATALOG_DAG, HEALTH_DAG) and connector else DEFAULT_CONNECTOR
