"""``server_catalog`` and ``connector_health``: one pair of DAGs per connector, since a task's queue is no template.

begin → inventory (on the connector's queue, pages as XComs) → merge → close; and begin → check (there, too) → record.
The connectors are those that the usable waves name, and Airflow's default queue. Their servers are in no DAG.
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
"""A connector without a worker must not gather runs: each is given up before the next one."""
CATALOG_DOC: Final = """
Reads every server that the vCenter of a connection shows, through the connector **{connector}**, and merges it into the
catalogue: what is new, what changed, what is gone. Trigger it again whenever you like; nothing is made in vCenter.
"""
HEALTH_DOC: Final = """
Tries, from the connector **{connector}**, everything that its tasks need: vCenter, each ESXi host, AWS, the clocks.
`wavelift connectors list` shows the newest result and its age. Once unpaused (the first `wavelift connectors check`
does that) it runs every hour by itself, as long as the connector is registered.
"""


def register_catalog(namespace: dict[str, Any]) -> None:
    """Put the DAGs of every connector into ``namespace`` (a DAG file's ``globals()``). Never raises.

    A task process parses the file again for one DAG only: it builds just that one and reads no spec.
    """
    wanted = get_parsing_context().dag_id
    try:
        names = [connector_of(wanted)] if wanted else _connectors()
    except Exception:  # the files could not be listed; the default queue's DAGs must stay all the same
        log.exception("the waves' connectors could not be read")
        names = [DEFAULT_CONNECTOR]
    for name in names:
        for make in (catalog_dag, health_dag):
            try:
                dag = make(name)
            except Exception:  # a name that Airflow refuses; it must not take others down
                log.exception("no DAG for connector %s", name)
                continue
            if wanted in (None, dag.dag_id):
                namespace[dag.dag_id] = dag


def _connectors() -> list[str]:
    usable = usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder())
    return sorted({DEFAULT_CONNECTOR, *(shape.connector for shape in usable.shapes.values())})


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
    words = "See whether vCenter, hosts and AWS can be reached"
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
        # Registered by whoever puts it into a DAG file's globals: being built alone must not move a DAG to that file.
        auto_register=False,
        default_args={
            "retries": RETRIES,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "max_retry_delay": MAX_RETRY_DELAY,
        },
        **rhythm,
    )
