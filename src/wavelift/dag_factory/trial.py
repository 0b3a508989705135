"""``<wave>.test``: launches AMIs where they can reach nothing else, and checks them.

:data:`wavelift.rules.flows.TEST` defines the steps.
"""

from __future__ import annotations

from typing import Any, Final

from airflow.sdk import DAG, BaseOperator

from wavelift.airflow.notifications import wave_deadline
from wavelift.dag_factory.forms import form
from wavelift.dag_factory.wave import TEARDOWN_RETRIES, WaveTasks, wave_dag
from wavelift.operators.connector.checks import CheckTestOperator
from wavelift.operators.control.trial import (
    AdmitTestOperator,
    EndTestsOperator,
    LaunchTestOperator,
    TestImagesOperator,
    TestReportOperator,
    TestResultOperator,
)
from wavelift.rules.conf import TestConf
from wavelift.rules.flows import TEST
from wavelift.rules.plans import WaveShape

DOC: Final = """
Launches test instances of the servers of wave **{wave}** from their newest AMIs: into the environment's isolated
subnet, never on a planned address, tier by tier. Their checks are made, and the report says which have passed.
Instances stand until a run with mode *end*, or until their time is over.

* **Check a server again**: open its mapped `{check}` task instance and *Clear* it, with *downstream*.
"""


def test_dag(shape: WaveShape) -> DAG:
    """The test DAG of one wave."""
    return wave_dag(
        TestTasks(TEST, shape),
        doc=DOC,
        form=form(TestConf, servers=shape.server_names),
        schedule=None,
        deadline=wave_deadline(shape),
    )


class TestTasks(WaveTasks):
    """The tasks of :data:`wavelift.rules.flows.TEST`."""

    def of_run(self) -> Any:
        admitted = self.task(AdmitTestOperator, "admit", wave=self.shape.wave).output
        images = self.task(TestImagesOperator, "images", admitted=admitted)
        self.task(EndTestsOperator, "end_tests", admitted=admitted, retries=TEARDOWN_RETRIES)
        return images.output

    def of_server(self) -> None:
        launched = self.task(LaunchTestOperator, "launch").output
        self.task(CheckTestOperator, "check", launched=launched)
        self.task(TestResultOperator, "result", trigger_rule="all_done")

    def report(self) -> BaseOperator:
        made: BaseOperator = self.task(TestReportOperator, "report")
        return made
