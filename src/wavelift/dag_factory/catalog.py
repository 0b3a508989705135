"""The DAGs ``server_catalog`` and ``connector_health``, one pair per connector.

Each connector needs its own DAGs, because the queue of a task can't be a template. The tasks are
begin → inventory (on the connector's queue; pages as XComs) → merge → close, and
begin → check (on the connector's queue) → record. The connectors are those that the usable waves name, and Airflow's
default queue. The DAGs do not depend on the servers.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, Param, get_parsing_context

from wavelift.airflow import config
from wavelift.dag_factory.forms import form
from wavelift.operators.connector.inventory import CatalogInventoryOperator, ConnectorCheckOperator
from wavelift.operators.control.catalog import (
    BeginCatalogImportOperator,
    BeginHealthCheckOperator,
    CloseCatalogImportOperator,
    MergeCatalogOperator,
    RecordHealthOperator,
)
from wavelift.rules.conf import HealthConf, ImportConf
from wavelift.rules.connectors import CATALOG_DAG, DEFAULT_CONNECTOR, HEALTH_DAG, connector_of, dag_id_of
from wavelift.specs import usable_waves

log = logging.getLogger(__name__)

RETRIES: Final = 2
MAX_RETRY_DELAY: Final = timedelta(minutes=5)
HEALTH_EVERY: Final = "@hourly"
HEALTH_TIMEOUT: Final = timedelta(minutes=50)
"""If a connector has no worker, its runs must not accumulate: each run times out before the next one starts."""
CATALOG_DOC: Final = """
Reads every server of the vCenter of a connection, through the connector **{connector}**, and updates the catalogue with
new, changed and deleted servers. You can trigger it again at any time. It changes nothing in vCenter.
"""
HEALTH_DOC: Final = """
Checks, from the connector **{connector}**, everything that its tasks need: vCenter, each ESXi host, AWS, the clocks.
`wavelift connectors list` shows the newest result and its age. After it is unpaused (the first
`wavelift connectors check` does this), it runs every hour while the connector is registered.
"""


def register_catalog(namespace: dict[str, Any]) -> None:
    """Add the DAGs of every connector to ``namespace`` (a DAG file's ``globals()``). Never raises.

    A task process parses the file again, but needs only one DAG. In this case, only that DAG is built and no spec is
    read.
    """
    wanted = get_parsing_context().dag_id
    try:
        names = [connector_of(wanted)] if wanted else _connectors()
    except Exception:  # the files could not be listed; the DAGs of the default queue must still exist
        log.exception("the connectors of the waves could not be read")
        names = [DEFAULT_CONNECTOR]
    for name in names:
        for make in (catalog_dag, health_dag):
            try:
                dag = make(name)
            except Exception:  # Airflow refuses the name; other connectors must not fail too
                log.exception("a DAG of connector %s could not be built", name)
                continue
            if wanted in (None, dag.dag_id):
                namespace[dag.dag_id] = dag


def _connectors() -> list[str]:
    usable = usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder())
    return sorted({DEFAULT_CONNECTOR, *(shape.connector for shape in usable.shapes.values() if shape.method != "hcx")})


def catalog_dag(connector: str) -> DAG:
    """``server_catalog`` of one connector."""
    words = "Import the server catalogue of a vCenter"
    dag = _dag(CATALOG_DAG, connector, words, CATALOG_DOC, form(ImportConf), schedule=None)
    with dag:
        begin = BeginCatalogImportOperator(task_id="begin", connector=connector)
        inventory = CatalogInventoryOperator(task_id="inventory", ticket=begin.output, queue=connector)
        merge = MergeCatalogOperator(task_id="merge", ticket=begin.output, index=inventory.output)
        close = CloseCatalogImportOperator(task_id="close", ticket=begin.output)
        close.as_teardown(on_failure_fail_dagrun=True)
        begin >> inventory >> merge >> close
    return dag


def health_dag(connector: str) -> DAG:
    """``connector_health`` of one connector."""
    words = "Check whether vCenter, hosts and AWS can be reached"
    rhythm: dict[str, Any] = {"schedule": HEALTH_EVERY, "dagrun_timeout": HEALTH_TIMEOUT, "max_active_runs": 1}
    dag = _dag(HEALTH_DAG, connector, words, HEALTH_DOC, form(HealthConf), **rhythm)
    with dag:
        begin = BeginHealthCheckOperator(task_id="begin", connector=connector)
        check = ConnectorCheckOperator(task_id="check", request=begin.output, queue=connector)
        begin >> check >> RecordHealthOperator(task_id="record", health=check.output)
    return dag


def _dag(kind: str, connector: str, description: str, doc: str, params: dict[str, Param], **rhythm: Any) -> DAG:
    return DAG(
        dag_id_of(kind, connector),
        description=f"{description}, through connector {connector}",
        doc_md=doc.format(connector=connector),
        catchup=False,
        params=params,
        tags=["wavelift", f"connector:{connector}"],
        # The DAG file registers the DAG through its globals. Only building a DAG must not assign it to a file.
        auto_register=False,
        default_args={
            "retries": RETRIES,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "max_retry_delay": MAX_RETRY_DELAY,
        },
        **rhythm,
    )
