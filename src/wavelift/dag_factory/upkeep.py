"""The DAGs that watch over open cutovers: ``cutover_watch`` of each connector, and ``cutover_upkeep``.

Each runs every 15 minutes once a wave cuts over. They do not depend on the servers: the ledger says what is open.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, get_parsing_context

from wavelift.airflow import config
from wavelift.operators.connector.cutover_back import FenceSourcesOperator, LookAtSourcesOperator
from wavelift.operators.control.cutover_watch import (
    CutoverUpkeepOperator,
    JudgeSourcesOperator,
    WatchedSourcesOperator,
)
from wavelift.rules.connectors import DEFAULT_CONNECTOR, UPKEEP_DAG, WATCH_DAG, connector_of, dag_id_of
from wavelift.specs import usable_waves

log = logging.getLogger(__name__)

EVERY: Final = "*/15 * * * *"
TIMEOUT: Final = timedelta(minutes=14)
"""If a connector has no worker, its runs must not accumulate: each run times out before the next one starts."""
WATCH_DOC: Final = """
Looks, through the connector **{connector}**, at the sources of servers that were cut over: they must be off, and off
their networks, until the cutover is reverted or finalized. One that is on, or connected, is an alert. Where the wave's
file says `fence: enforce`, its network cards are disconnected again.
"""
UPKEEP_DOC: Final = """
Alerts for servers that perhaps nobody serves: their cutover broke, or its way back did, and no run is about it any
more. Terminates test instances whose time is over.
"""


def register_upkeep(namespace: dict[str, Any]) -> None:
    """Add the DAGs to ``namespace`` (a DAG file's ``globals()``). Never raises.

    They begin unpaused as soon as a wave cuts over. A task process builds only its own DAG, and reads no spec.
    """
    wanted = get_parsing_context().dag_id
    if wanted is not None:
        connectors = {connector_of(wanted): True} if wanted.partition(".")[0] == WATCH_DAG else {}
    else:
        connectors = _connectors()
    for connector, cuts_over in connectors.items():
        try:
            dag = watch_dag(connector, paused=not cuts_over)
        except Exception:  # Airflow refuses the name; other connectors must not fail too
            log.exception("the watch of connector %s could not be built", connector)
            continue
        namespace[dag.dag_id] = dag
    if wanted in (None, UPKEEP_DAG):
        namespace[UPKEEP_DAG] = upkeep_dag(paused=not any(connectors.values()) and wanted is None)


def _connectors() -> dict[str, bool]:
    """Connector → whether one of its waves cuts over."""
    found = {DEFAULT_CONNECTOR: False}
    try:
        usable = usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder())
    except Exception:  # the files could not be listed; the DAGs of the default queue must still exist
        log.exception("the connectors of the waves could not be read")
        return found
    for shape in usable.shapes.values():
        found[shape.connector] = found.get(shape.connector, False) or shape.cuts_over
    return dict(sorted(found.items()))


def watch_dag(connector: str, *, paused: bool = False) -> DAG:
    """``cutover_watch`` of one connector."""
    words = f"Watch the sources of open cutovers, through connector {connector}"
    dag = _dag(dag_id_of(WATCH_DAG, connector), words, WATCH_DOC.format(connector=connector), paused=paused)
    dag.tags.add(f"connector:{connector}")
    with dag:
        sources = WatchedSourcesOperator(task_id="sources", connector=connector)
        look = LookAtSourcesOperator(task_id="look", sources=sources.output, queue=connector)
        judge = JudgeSourcesOperator(task_id="judge", seen=look.output)
        FenceSourcesOperator(task_id="fence", judged=judge.output, queue=connector, retries=0)
    return dag


def upkeep_dag(*, paused: bool = False) -> DAG:
    dag = _dag(UPKEEP_DAG, "Alert for servers that nobody serves, and end test instances", UPKEEP_DOC, paused=paused)
    with dag:
        CutoverUpkeepOperator(task_id="upkeep")
    return dag


def _dag(dag_id: str, description: str, doc: str, *, paused: bool) -> DAG:
    return DAG(
        dag_id,
        description=description,
        doc_md=doc,
        schedule=EVERY,
        catchup=False,
        is_paused_upon_creation=paused,
        max_active_runs=1,
        dagrun_timeout=TIMEOUT,
        tags=["wavelift"],
        # The DAG file registers the DAG through its globals. Only building a DAG must not assign it to a file.
        auto_register=False,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    )
