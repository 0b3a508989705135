"""``<network>.network_cutover``: moves the gateway of an extended network to the destination, and back.

:data:`wavelift.rules.flows.NETWORK` defines the steps. A network belongs to no wave.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final

from airflow.sdk import DAG, get_parsing_context
from airflow.sdk.definitions.param import ParamsDict

from wavelift.airflow import config
from wavelift.airflow.notifications import deadline_of
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import TEARDOWN_RETRIES, FlowTasks, flow_dag
from wavelift.operators.connector.network import (
    ActNetworkOperator,
    FinishNetworkOperator,
    LookNetworkOperator,
    ProbeNetworkOperator,
)
from wavelift.operators.control.cutover_plan import PAGE_KEY
from wavelift.operators.control.network import (
    PROBES_KEY,
    AdmitNetworkOperator,
    ApproveFinishOperator,
    ApproveNetworkOperator,
    FinishedNetworkOperator,
    NetworkReportOperator,
    OrderFinishOperator,
    OrderNetworkOperator,
    RecordNetworkOperator,
    RevertedNetworkOperator,
    RevertFailedNetworkOperator,
    SettleNetworkOperator,
)
from wavelift.rules.conf import NetworkConf
from wavelift.rules.flow import Plane
from wavelift.rules.flows import NETWORK
from wavelift.rules.network_plans import NetworkShape
from wavelift.specs import UsableNetworks, usable_networks

log = logging.getLogger(__name__)

MAX_ACTIVE_RUNS: Final = 16
"""Admission refuses a run that is not allowed at once. One that waits for a person must not hold a revert back."""
WAY_BACK_RETRIES: Final = TEARDOWN_RETRIES
"""On the way back nobody routes the network: it is tried for as long as a removal."""
ACTING_DELAY: Final = timedelta(seconds=10)
"""Before the first retry of a task that orders or acts: nobody routes meanwhile."""
DOC: Final = """
Moves the gateway of the extended network **{network}** from its router at the source to the destination, and back. What
a run does is its *mode*:

| mode | what it does |
|---|---|
| `plan` | looks at both sides, tells every step with its undo and what is in the way; changes nothing |
| `cutover` | asks for approval, too, then disconnects the source, ends the extension, connects the destination |
| `revert` | goes back: disconnects the destination, extends again, connects the source |
| `finish` | after the soak time: deletes the source network and renames the destination's; after it nothing goes back |

* **Approval** ({approval}): open *Required Actions*. Only the answer of somebody who may cut over in the environment
  counts. To mark the task a success approves nothing.
* **A person's step**: `wavelift network confirm ID source` says that it is done; `--undone`, on the way back.
* **When it fails** once the source was touched: {failure}.
* **Go on** after a failure: *Clear* the task `order_disconnect` with *downstream*. A task that acts (`disconnect`,
  `unextend`, `connect`, …), cleared alone, refuses: only an order that was given after the clear counts.
* **Stop a run**: `wavelift network cancel ID`, or mark it failed. Its report still runs.
"""
PLAN: Final = "{{ ti.xcom_pull(task_ids='record', key='" + PAGE_KEY + "') }}"
"""What a person approves, as the page shows it."""
_FAILURE: Final = {
    "revert": "a run in mode `revert` begins by itself",
    "stop": "a person decides: `wavelift network revert ID`, or go on",
}


def register_networks(namespace: dict[str, Any]) -> None:
    """Add the DAG of every usable network to ``namespace`` (a DAG file's ``globals()``). Never raises.

    A task process parses the file again, but needs only one DAG. In this case, only that DAG is built.
    """
    wanted = get_parsing_context().dag_id
    network = NETWORK.wave_of(wanted) if wanted else None
    if wanted and not network:
        return
    try:
        shapes = usable(only=network).shapes
    except Exception:  # the folders are not configured; wave_errors.py raises the same error, where it does no harm
        log.exception("the networks could not be read")
        return
    for shape in shapes.values():
        try:
            dag = network_dag(shape)
        except Exception:  # Airflow refuses a valid spec. No such case is known, but other networks must not fail too.
            log.exception("the DAG of network %s could not be built", shape.network)
            continue
        if wanted in (None, dag.dag_id):
            namespace[dag.dag_id] = dag


def usable(*, only: str | None) -> UsableNetworks:
    return usable_networks(
        config.networks_folder(), config.environments_folder(), config.last_valid_folder(), only=only
    )


def network_dag(shape: NetworkShape) -> DAG:
    """The DAG of one network."""
    asks = {"required": "somebody", "four_eyes": "somebody else than who asked", "none": "nobody is asked"}
    hours = f", within {shape.approval_hours:g} hours" if shape.approval != "none" else ""
    doc = DOC.format(
        network=shape.network,
        approval=f"{asks[shape.approval]}{hours}",
        failure=_FAILURE.get(shape.on_failure, _FAILURE["stop"]),
    )
    dag = flow_dag(
        NETWORK,
        shape.network,
        "network",
        shape,
        doc_md=doc,
        schedule=None,
        max_active_runs=MAX_ACTIVE_RUNS,
        deadline=deadline_of(shape.network, shape.deadline_minutes),
    )
    with dag:
        _Tasks(shape).make()
    dag.params = ParamsDict(form(NetworkConf))  # last: Airflow copies it into each task that is made afterwards
    return dag


class _Tasks(FlowTasks):
    """The tasks of :data:`wavelift.rules.flows.NETWORK`."""

    def __init__(self, shape: NetworkShape) -> None:
        queues = {
            Plane.CONNECTOR: shape.hcx_queue,
            Plane.SOURCE: shape.source_queue,
            Plane.DESTINATION: shape.destination_queue,
            Plane.PROBE: shape.probe_queue,
        }
        super().__init__(NETWORK, queues)
        self.network = shape.network

    def make(self) -> None:
        admitted = self.task(AdmitNetworkOperator, "admit", network=self.network).output
        self._forward(admitted)
        self._back()
        self._finish(admitted)
        self.task(NetworkReportOperator, "report", network=self.network)
        self.task(RevertFailedNetworkOperator, "revert_failed", network=self.network)

    def _forward(self, admitted: Any) -> None:
        looked = self.task(LookNetworkOperator, "look", order=admitted).output
        self.task(RecordNetworkOperator, "record", looked=looked)
        self.task(ApproveNetworkOperator, "approve", subject=f"Cut the network {self.network} over", body=PLAN)
        disconnected = self._act("disconnect", "source", "forward")
        unextended = self._act("unextend", "extension", "forward", acted=disconnected)
        connected = self._act("connect", "destination", "forward", acted=unextended)
        probes = self._made["order_connect"].output[PROBES_KEY]
        probed = self.task(ProbeNetworkOperator, "probe", order=probes).output
        self.task(SettleNetworkOperator, "settle", acted=connected, probed=probed)

    def _back(self) -> None:
        isolated = self._act("isolate", "destination", "back", retries=WAY_BACK_RETRIES)
        extended = self._act("extend", "extension", "back", acted=isolated, retries=WAY_BACK_RETRIES)
        reconnected = self._act("reconnect", "source", "back", acted=extended, retries=WAY_BACK_RETRIES)
        self.task(RevertedNetworkOperator, "reverted", acted=reconnected)

    def _finish(self, admitted: Any) -> None:
        looked = self.task(LookNetworkOperator, "look_again", order=admitted).output
        subject = f"Give the way back of the network {self.network} up"
        self.task(ApproveFinishOperator, "approve_finish", subject=subject, body="", looked=looked)
        order = self.task(OrderFinishOperator, "order_finish", looked=looked).output
        done = self.task(FinishNetworkOperator, "finish", order=order, ordered_by="order_finish").output
        self.task(FinishedNetworkOperator, "finished", done=done)

    def _act(self, name: str, step: str, direction: str, *, acted: Any = None, **arguments: Any) -> Any:
        """An order, and the task that carries it out. Returns what that one returns."""
        ordered_by = f"order_{name}"
        arguments.setdefault("retry_delay", ACTING_DELAY)
        order = self.task(OrderNetworkOperator, ordered_by, step=step, direction=direction, acted=acted, **arguments)
        return self.task(
            ActNetworkOperator,
            name,
            order=order.output,
            step=step,
            direction=direction,
            ordered_by=ordered_by,
            **arguments,
        ).output
