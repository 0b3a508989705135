"""Whether the task behind a place for an import may still go on, as Airflow tells it; and what the list shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.ledgers import within

from wavelift.airflow.triggers.owned_imports import tell_list
from wavelift.base.run import DagRun, RunContext, SystemClock
from wavelift.ledger import Ledger, SlotKind, replication_runs
from wavelift.operators._liveness import AirflowLiveness
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.admission import Asked, admit_runs
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

STATES = {
    ("erp.migrate", "server.import_image", 0): "deferred",
    ("erp.migrate", "server.import_image", 1): "failed",
    ("erp.replicate", "server.ami", 0): "failed",
    ("erp.replicate", "server.ami", 1): "up_for_retry",
}


class Ti:
    """Of a task instance what is asked: other runs' XComs and states."""

    def xcom_pull(self, *, task_ids: str, map_indexes: int, dag_id: str, run_id: str) -> Any:
        assert (task_ids, map_indexes) == ("preflight", -1)
        return [{"name": "web01"}, {"name": "shop/web02"}] if run_id == "run" else None

    def get_task_states(self, *, dag_id: str, run_ids: list[str], task_ids: list[str], map_index: int) -> Any:
        found = {f"{id}_{map_index}": STATES.get((dag_id, id, map_index)) for id in task_ids}
        return {run_ids[0]: {name: state for name, state in found.items() if state}}


@pytest.mark.parametrize(
    ("dag", "run", "server", "expected"),
    [
        ("erp.migrate", "run", "web01", True),
        ("erp.migrate", "run", "shop/web02", False),
        ("erp.replicate", "run", "web01", False),
        ("erp.replicate", "run", "shop/web02", True),
        ("erp.replicate", "run", "new", True),
        ("erp.replicate", "cleared just now", "web01", True),
    ],
)
def test_inv_8_a_failed_task_of_either_flow_is_no_holder(dag: str, run: str, server: str, expected: bool) -> None:
    context: Any = {"ti": Ti()}
    held = f"{dag}/{run}/{server}"
    assert AirflowLiveness(context).holder(DagRun(dag, run), held, SlotKind.IMPORT) is expected


def test_amp_07_a_replica_s_conversion_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", url)
    with Ledger.open(url) as ledger:
        create_jobs(ledger, "erp", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=SystemClock())
        run = DagRun("erp.replicate", "manual__1")
        (known,) = admit_runs(ledger, "erp", Asked(), RunContext(run, requester="ana")).granted
        tags = {"wavelift:run": known.id.removeprefix("run-")}
        tell_list(
            {
                "import-ami-1": SimpleNamespace(phase="converting", progress=28, tags=tags),
                "import-ami-2": SimpleNamespace(phase="booting", progress=70, tags={}),
            }
        )
        shown = within(ledger.read(), replication_runs.get, known.id)
    assert (shown.status, shown.progress_pct) == ("Converting: converting", 28)
