"""``instance_export.<environment>``: exports instances of an environment to S3 (AMP-10).

:data:`wavelift.rules.flows.EXPORT` defines the steps. There is one DAG per environment that has ``exports``, so that
Airflow's own rights separate environments, too. Its structure depends on nothing but the environment's queue.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from airflow.sdk import DAG, TriggerRule, get_parsing_context
from airflow.sdk.definitions.param import ParamsDict

from wavelift.airflow import config
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import TEARDOWN_RETRIES, FlowTasks, flow_dag
from wavelift.operators.connector.export_instance import ReadInstanceOperator, VerifyExportOperator
from wavelift.operators.control.export import (
    AdmitExportOperator,
    BeginExportOperator,
    CheckExportOperator,
    ExportReportOperator,
    RecordExportOperator,
    ReleaseExportOperator,
    RemoveExportOperator,
    ReserveExportOperator,
    SetupExportOperator,
)
from wavelift.rules.conf import ExportConf
from wavelift.rules.export_shape import ExportShape
from wavelift.rules.flow import Plane
from wavelift.rules.flows import EXPORT
from wavelift.specs import UsableExports, usable_exports

log = logging.getLogger(__name__)

MAX_ACTIVE_RUNS: Final = 64
"""Runs wait for a slot of account and region, deferred; a check must not wait behind them."""
DOC: Final = """
Exports one EC2 instance of environment **{environment}** to its S3 bucket `export-to-s3-<name>-<region>`. Whoever
starts it must be in `may.administer` of the environment's file. What a run does is its *mode*:

| mode | what it does |
|---|---|
| `export` | checks, waits for one of the region's slots, exports, opens the object, removes what it made beside it |
| `check` | looks at bucket and instance and tells which method would be taken; makes nothing |
| `setup` | makes the region's bucket, or sees that it is right |

* **Stop a run**: `wavelift export cancel ID`, or mark it failed. Its last tasks remove task, snapshots, image, upload
  and object. Once the object stands in S3, it is too late.
* **After a failure**: *Clear* the task `admit` with *downstream*: the run begins anew, with a new instant.
"""


def register_exports(namespace: dict[str, Any]) -> None:
    """Add the DAG of every environment with ``exports`` to ``namespace`` (a DAG file's ``globals()``). Never raises.

    A task process parses the file again, but needs only one DAG. In this case, only that DAG is built.
    """
    wanted = get_parsing_context().dag_id
    environment = EXPORT.wave_of(wanted) if wanted else None
    if wanted and not environment:
        return
    try:
        shapes = usable(only=environment).shapes
    except Exception:  # the folders are not configured; wave_errors.py raises the same error, where it does no harm
        log.exception("the environments could not be read")
        return
    for shape in shapes.values():
        try:
            dag = export_dag(shape)
        except Exception:  # Airflow refuses a valid name. No such case is known, but other environments must not fail.
            log.exception("the export DAG of environment %s could not be built", shape.environment)
            continue
        if wanted in (None, dag.dag_id):
            namespace[dag.dag_id] = dag


def usable(*, only: str | None) -> UsableExports:
    return usable_exports(config.environments_folder(), config.last_valid_folder(), only=only)


def export_dag(shape: ExportShape) -> DAG:
    """The DAG of one environment."""
    dag = flow_dag(
        EXPORT,
        shape.environment,
        "export",
        shape,
        doc_md=DOC.format(environment=shape.environment),
        schedule=None,
        max_active_runs=MAX_ACTIVE_RUNS,
    )
    with dag:
        _Tasks(shape).make()
    dag.params = ParamsDict(form(ExportConf))  # last: Airflow copies it into each task that is made afterwards
    return dag


class _Tasks(FlowTasks):
    """The tasks of :data:`wavelift.rules.flows.EXPORT`."""

    def __init__(self, shape: ExportShape) -> None:
        super().__init__(EXPORT, {Plane.ENVIRONMENT: shape.queue})
        self.environment = shape.environment

    def make(self) -> None:
        self.task(AdmitExportOperator, "admit", environment=self.environment)
        self.task(SetupExportOperator, "setup")
        self.task(CheckExportOperator, "check")
        self.task(ReserveExportOperator, "reserve")
        order = self.task(BeginExportOperator, "begin").output
        written = self.task(ReadInstanceOperator, "read", order=order).output
        # `read` is skipped where AWS made the object.
        verified = self.task(
            VerifyExportOperator, "verify", order=order, written=written, trigger_rule=TriggerRule.NONE_FAILED
        ).output
        self.task(
            RecordExportOperator, "record", written=written, verified=verified, trigger_rule=TriggerRule.NONE_FAILED
        )
        self.task(RemoveExportOperator, "remove", retries=TEARDOWN_RETRIES)
        self.task(ReleaseExportOperator, "release")
        self.task(ExportReportOperator, "report")
