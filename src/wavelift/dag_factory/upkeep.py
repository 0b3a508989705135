"""The DAGs that watch over open cutovers: ``cutover_watch`` of each connector, and ``cutover_upkeep``.

Each runs every 15 minutes. They do not depend on the servers: the ledger says what is open, and where nothing is, a run
ends after its first task. They begin unpaused, also where no wave cuts over yet: Airflow asks only when it first sees a
DAG, and nobody would think of them when a wave is given its cutover section later.
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
from wavelift.operators.control.export_upkeep import ExportUpkeepOperator
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
Alerts for servers that perhaps nobody serves, and for networks that perhaps nobody routes: their cutover broke, or its
way back did, and no run is about it any more. Terminates test instances whose time is over. Ends instance exports whose
run was killed, and removes what they made.
"""


def register_upkeep(namespace: dict[str, Any]) -> None:
    """Add the DAGs to ``namespace`` (a DAG file's ``globals()``). Never raises.

    A task process builds only its own DAG, and reads no spec.
    """
    wanted = get_parsing_context().dag_id
    if wanted is not None:
        connectors = [connector_of(wanted)] if wanted.partition(".")[0] == WATCH_DAG else []
    else:
        connectors = _connectors()
    for connector in connectors:
        try:
            dag = watch_dag(connector)
        except Exception:  # Airflow refuses the name; other connectors must not fail too
            log.exception("the watch of connector %s could not be built", connector)
            continue
        namespace[dag.dag_id] = dag
    if wanted in (None, UPKEEP_DAG):
        namespace[UPKEEP_DAG] = upkeep_dag()


def _connectors() -> list[str]:
    try:
        usable = usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder())
    except Exception:  # the files could not be listed; the DAGs of the default queue must still exist
        log.exception("the connectors of the waves could not be read")
        return [DEFAULT_CONNECTOR]
    return sorted({DEFAULT_CONNECTOR, *(shape.connector for shape in usable.shapes.values() if shape.method != "hcx")})


def watch_dag(connector: str) -> DAG:
    """``cutover_watch`` of one connector."""
    words = f"Watch the sources of open cutovers, through connector {connector}"
    dag = _dag(dag_id_of(WATCH_DAG, connector), words, WATCH_DOC.format(connector=connector))
    dag.tags.add(f"connector:{connector}")
    with dag:
        sources = WatchedSourcesOperator(task_id="sources", connector=connector)
        look = LookAtSourcesOperator(task_id="look", sources=sources.output, queue=connector)
        judge = JudgeSourcesOperator(task_id="judge", seen=look.output)
        FenceSourcesOperator(task_id="fence", judged=judge.output, queue=connector, retries=0)
    return dag


def upkeep_dag() -> DAG:
    dag = _dag(UPKEEP_DAG, "Alert for what nobody serves or routes, end test instances and dead exports", UPKEEP_DOC)
    with dag:
        CutoverUpkeepOperator(task_id="upkeep")
        ExportUpkeepOperator(task_id="exports")  # of its own: an account that does not answer holds no alert back
    return dag


def _dag(dag_id: str, description: str, doc: str) -> DAG:
    return DAG(
        dag_id,
        description=description,
        doc_md=doc,
        schedule=EVERY,
        catchup=False,
        is_paused_upon_creation=False,
        max_active_runs=1,
        dagrun_timeout=TIMEOUT,
        tags=["wavelift"],
        # The DAG file registers the DAG through its globals. Only building a DAG must not assign it to a file.
        auto_register=False,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    )
