"""Operators and the sensor of replication without a running Airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from tests.contexts import run_context
from tests.ledgers import within
from tests.rights import OPEN
from tests.unit.services.test_frozen import wave

from wavelift.airflow.triggers.replication_runs import ended_runs
from wavelift.base.domain import DiskLineage
from wavelift.base.errors import PermanentError, SpecError
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import Ledger, replication_runs
from wavelift.ledger.lineage import read_lineage, replace
from wavelift.operators._keys import PROOF_KEY, TRACKING_KEY
from wavelift.operators.connector.replication import ReplicationPreflightOperator
from wavelift.operators.control.admit import scheduled_instant
from wavelift.operators.control.report import ReplicationReportOperator
from wavelift.operators.control.slots import ReleaseRunOperator
from wavelift.rules.flows import REPLICATE
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.sensors import ReplicationRunSensor
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.report import TaskOutcome
from wavelift.services.dataplane.messages import PreflightReport
from wavelift.services.dataplane.replication_messages import AdmittedRuns
from wavelift.services.replication.admission import Asked, admit_runs
from wavelift.services.replication.admit import admit
from wavelift.services.replication.jobs import JobOrder, create_jobs
from wavelift.services.replication.outcome import fail_run
from wavelift.services.replication.report import Ended, ReplicationReport, ServerEnd, finish, raise_when_failed

pytestmark = pytest.mark.airflow

T0 = datetime(2026, 11, 22, 10, 0, 0, 123456, UTC)
RUN = DagRun("erp.replicate", "manual__1")
LINEAGE = DiskLineage(
    key=2000,
    address="SCSI 0:0",
    uuid="uuid-2000",
    file="[ds1] web01/web01.vmdk",
    capacity=8,
    change_id="52 a/1",
    snapshot_id="snap-1",
    bucket="staging",
    manifest_key="snap-1.manifest",
    manifest_digest="aa",
)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", url)
    ledger = Ledger.open(url)
    create_jobs(ledger, "erp", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=SystemClock())
    return ledger


def _begin(ledger: Ledger) -> str:
    found = admit_runs(ledger, "erp", Asked(), run_context(RUN, requester="ana"))
    return found.granted[0].id


def test_only_a_run_of_the_timetable_has_an_instant() -> None:
    at = pendulum.instance(T0)
    run = SimpleNamespace(run_type="scheduled", data_interval_end=at, logical_date=at, run_after=at)
    assert scheduled_instant(run) == T0
    assert type(scheduled_instant(run)) is datetime, "Pendulum's differences can't be divided"
    run.run_type = "manual"
    assert scheduled_instant(run) is None


def _load(wave: str) -> Any:
    return SimpleNamespace(servers=(), connector="dc1", dump=dict, environment=SimpleNamespace(environment="lab"))


@pytest.mark.parametrize("conf", [{"server": ["web01"]}, {"servers": "web01"}, {"servers": []}, {"servers": [1]}])
def test_a_conf_that_nobody_understands_is_refused_before_anything(ledger: Ledger, conf: dict[str, Any]) -> None:
    request = RunRequest("erp", conf)
    with pytest.raises(SpecError):
        admit(ledger, request, _load, run_context(RUN, requester="ana"), rights=OPEN)


def test_a_backfill_is_refused(ledger: Ledger) -> None:
    request = RunRequest("erp", {}, backfill=True)
    with pytest.raises(PermanentError, match="backfill"):
        admit(ledger, request, _load, run_context(RUN, requester="ana"), rights=OPEN)


def test_inv_1_a_failed_proof_quarantines_and_the_report_fails(ledger: Ledger) -> None:
    id = _begin(ledger)
    end = ServerEnd(TaskOutcome("web01", ("server.verify",), "EBS differs"), proof="EBS differs at 4096")
    report = finish(ledger, Ended(None, None, [end]), run_context(RUN), tidy=lambda known, plan: "")
    (outcome,) = report.outcomes
    assert (outcome.run, outcome.state, outcome.quarantine) == (id, "failed", "EBS differs at 4096")
    with pytest.raises(PermanentError, match="web01 failed: EBS differs"):
        raise_when_failed(report)


@pytest.mark.parametrize("state", ["failed", "success", "upstream_failed"])
@pytest.mark.parametrize("listed", [["web01", "db01"], ["db01", "web01"], ["web01"], []])
def test_inv_1_a_failed_proof_counts_for_its_server_whatever_became_of_its_task(state: str, listed: list[str]) -> None:
    """A person marked it as a success; the pre-flight was cleared alone and lists the servers in another order."""
    verify = REPLICATE.task_id("verify")

    def pull(task_ids: Any = None, key: str = "", map_indexes: Any = None) -> Any:
        if task_ids == [verify] and key == PROOF_KEY and map_indexes is None:
            return [{"server": "db01", "what": "block 7 differs"}]
        return None

    context: Any = {"ti": SimpleNamespace(xcom_pull=pull)}
    ends = ReplicationReportOperator(task_id="report").ends(context, {f"{verify}_1": state}, listed)
    assert {each.tasks.server: each.proof for each in ends if each.proof} == {"db01": "block 7 differs"}
    assert {each.tasks.server for each in ends} == {*listed, "db01"}


def test_inv_3_whose_change_tracking_lied_is_noted_though_the_run_came_to_nothing(ledger: Ledger) -> None:
    known = within(ledger.read(), replication_runs.get, _begin(ledger))
    job = known.job_id
    with ledger.write() as tx:
        replace(tx, job, known.id, [LINEAGE], at=T0)
    left = {REPLICATE.task_id("transfer"): {TRACKING_KEY: {"2000": "the map lost a block"}}}
    pull = lambda task_ids, key="return_value", map_indexes=None: left.get(task_ids, {}).get(key)  # noqa: E731
    ti = SimpleNamespace(dag_id=RUN.dag_id, run_id=RUN.dag_run_id, map_index=0, xcom_pull=pull)
    release = ReleaseRunOperator(task_id=REPLICATE.task_id("release"), server={"name": "web01"})
    context: Any = {"ti": ti, "task_state_store": None}
    for _ in range(2):
        assert release.work(context) == {"server": "web01", "snapshot_removed": False}
    assert [disk.quarantine for disk in within(ledger.read(), read_lineage, job)] == ["the map lost a block"]


def test_a_report_may_be_made_again(ledger: Ledger) -> None:
    _begin(ledger)
    reports = [
        finish(ledger, Ended(None, None, stopped="admit: no"), run_context(RUN), tidy=lambda known, plan: "")
        for _ in range(2)
    ]
    assert reports[0] == reports[1]


def test_a_run_in_which_nothing_was_due_or_all_was_skipped_is_a_success() -> None:
    raise_when_failed(ReplicationReport(wave="erp", scheduled=True))


def test_the_sensor_waits_for_a_run_and_tells_how_it_ended(ledger: Ledger) -> None:
    id = _begin(ledger)
    sensor = ReplicationRunSensor(task_id="wait", run_id=id)
    with pytest.raises(TaskDeferred):
        sensor.execute({})
    assert ended_runs([id, "run-nobody"]) == {"run-nobody": "unknown"}
    fail_run(ledger, id, "the VM is gone", clock=SystemClock())
    assert ended_runs([id]) == {id: "failed"}
    with pytest.raises(AirflowFailException, match="the VM is gone"):
        sensor.execute_complete({}, {"run_id": id})


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_scheduled_run_leaves_a_connection_that_fails_to_its_retries(
    monkeypatch: pytest.MonkeyPatch, scheduled: bool
) -> None:
    """Nobody waits for it, and a DNS server that is away must not cost a night's run."""
    admitted = AdmittedRuns(
        wave=wave("web01"), dag_id=RUN.dag_id, run_id=RUN.dag_run_id, requested_by="ana", scheduled=scheduled,
        granted=("web01",),
    )  # fmt: skip
    operator = ReplicationPreflightOperator(task_id="preflight", admitted=admitted.dump())
    seen = []

    def look(*_: Any) -> PreflightReport:
        seen.append(operator.first_contact)
        return PreflightReport(wave="erp", findings=(), servers=())

    monkeypatch.setattr(operator, "look", look)
    monkeypatch.setattr(operator, "hand_out", lambda _context, tasks: list(tasks))
    assert operator.work({}) == []
    assert seen == [not scheduled]
