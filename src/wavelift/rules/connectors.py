"""Names of a connector's DAGs. The right to read or trigger these DAGs is the right to read or change the connector.

A wave ``a`` has the DAGs ``a.migrate``, ``a.replicate`` …, a connector ``b`` has ``server_catalog.b`` and
``connector_health.b``, and an environment ``c`` may have ``instance_export.c``. No DAG id may be claimed by two of
them, so some names are refused where they are given.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

from wavelift.rules.flow import EXPORT_DAG
from wavelift.rules.problem import quoted

CATALOG_DAG: Final = "server_catalog"
HEALTH_DAG: Final = "connector_health"
WATCH_DAG: Final = "cutover_watch"
UPKEEP_DAG: Final = "cutover_upkeep"
"""Of all connectors."""
CONNECTOR_DAGS: Final = (CATALOG_DAG, HEALTH_DAG, WATCH_DAG)
NO_WAVES: Final = (*CONNECTOR_DAGS, EXPORT_DAG)
"""Names that no wave and no network has: the DAGs ``instance_export.<environment>`` belong to environments."""
DEFAULT_CONNECTOR: Final = "default"
"""Value of ``source.connector`` if a wave does not set it: Airflow's default queue."""
WAVE_ENDINGS: Final = ("migrate", "replicate", "cutover", "test", "revert", "finalize", "live", "network_cutover")
"""The last part of the id of a wave's DAG: of each flow, and of the flows that are planned."""
CONNECTOR_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"
"""A connector's name is part of DAG ids, the name of a queue, and in a tag of its DAGs."""


def dag_id_of(kind: str, connector: str) -> str:
    """``server_catalog`` for the default queue, ``server_catalog.dc1`` for connector ``dc1``."""
    return kind if connector == DEFAULT_CONNECTOR else f"{kind}.{connector}"


def connector_of(dag_id: str) -> str:
    """The connector that this DAG belongs to; for any other DAG, the default connector."""
    kind, _, connector = dag_id.partition(".")
    return connector if kind in CONNECTOR_DAGS and connector else DEFAULT_CONNECTOR


def _connector(name: str) -> str:
    if re.fullmatch(CONNECTOR_PATTERN, name) is None:
        raise ValueError(
            f"{quoted(name)} is not the name of a connector: 1 to 80 letters, digits, '_', '-' and '.', of which the "
            "first is a letter or digit"
        )
    if name.rpartition(".")[2] in WAVE_ENDINGS:
        raise ValueError(
            f"{quoted(name)} is reserved: '{CATALOG_DAG}.{name}' would be a DAG of a wave; choose a name whose last "
            f"part is none of {', '.join(WAVE_ENDINGS)}"
        )
    return name


def free_for_a_wave(name: str) -> str:
    """:raises ValueError: if the DAGs of connectors or environments have this name."""
    if name in CONNECTOR_DAGS:
        raise ValueError(
            f"'{name}' is reserved: the DAGs '{name}.<connector>' belong to connectors; choose another name"
        )
    if name in NO_WAVES:
        raise ValueError(
            f"'{name}' is reserved: the DAGs '{name}.<environment>' belong to environments; choose another name"
        )
    return name


Connector = Annotated[str, AfterValidator(_connector), WithJsonSchema({"type": "string", "pattern": CONNECTOR_PATTERN})]
