"""Whether the task behind a place for an import may still go on, as Airflow tells it; and what the list shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import within

from wavelift.airflow.triggers.owned_imports import tell_list
from wavelift.base.run import DagRun, SystemClock
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
    ("erp.migrate", "server.reserve", 0): "success",
    ("erp.migrate", "server.reserve", 1): "success",
    ("erp.migrate", "server.release", 1): "failed",
    ("crm.migrate", "server.reserve", 0): "success",
    ("crm.migrate", "server.export", 0): None,
    ("crm.migrate", "server.release", 0): "success",
    ("crm.migrate", "server.reserve", 1): None,
    ("crm.migrate", "server.release", 1): None,
    ("erp.replicate", "server.reserve", 0): "running",
    ("erp.replicate", "server.release", 0): "success",
    ("erp.replicate", "server.reserve", 1): "failed",
    ("erp.replicate", "server.release", 1): "upstream_failed",
}


class Ti:
    """Of a task instance what is asked: other runs' XComs and states."""

    def xcom_pull(self, *, task_ids: str, map_indexes: int, dag_id: str, run_id: str) -> Any:
        assert (task_ids, map_indexes) == ("preflight", -1)
        return [{"name": "web01"}, {"name": "shop/web02"}] if run_id == "run" else None

    def get_task_states(self, *, dag_id: str, run_ids: list[str], task_ids: list[str]) -> Any:
        found = {f"{id}_{at}": state for (dag, id, at), state in STATES.items() if dag == dag_id and id in task_ids}
        return {run_ids[0]: found}


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
    assert AirflowLiveness(context).ended(DagRun(dag, run), [held], SlotKind.IMPORT) == ([] if expected else [held])


@pytest.mark.parametrize("kind", [SlotKind.TRANSFER, SlotKind.NFC_HOST, SlotKind.NFC_VCENTER])
@pytest.mark.parametrize(
    ("dag", "run", "server", "expected"),
    [
        ("erp.migrate", "run", "web01", True),
        ("erp.migrate", "run", "shop/web02", False),
        ("erp.replicate", "run", "web01", True),
        ("erp.replicate", "run", "shop/web02", False),
        ("erp.replicate", "cleared just now", "web01", True),
        ("crm.migrate", "run", "web01", True),
        ("crm.migrate", "run", "shop/web02", True),
    ],
    ids=[
        "it transfers",
        "its release failed",
        "it was cleared and reserves",
        "it never got the slot",
        "no pre-flight",
        "its export alone was cleared",
        "nothing began",
    ],
)
def test_inv_8_a_transfer_slot_that_nobody_gives_back_has_no_holder(
    dag: str, run: str, server: str, kind: SlotKind, expected: bool
) -> None:
    context: Any = {"ti": Ti()}
    held = f"{dag}/{run}/{server}"
    assert AirflowLiveness(context).ended(DagRun(dag, run), [held], kind) == ([] if expected else [held])


def test_amp_07_a_replica_s_conversion_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", url)
    with Ledger.open(url) as ledger:
        create_jobs(ledger, "erp", [JobOrder(server="web01", plan=ReplicationPlan())], by="ana", clock=SystemClock())
        run = DagRun("erp.replicate", "manual__1")
        (known,) = admit_runs(ledger, "erp", Asked(), run_context(run, requester="ana")).granted
        tags = {"wavelift:run": known.id.removeprefix("run-")}
        tell_list(
            {
                "import-ami-1": SimpleNamespace(phase="converting", progress=28, tags=tags),
                "import-ami-2": SimpleNamespace(phase="booting", progress=70, tags={}),
            }
        )
        shown = within(ledger.read(), replication_runs.get, known.id)
    assert (shown.status, shown.progress_pct) == ("Converting: converting", 28)
