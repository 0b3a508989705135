"""A fake of Airflow for the named steps of other people's DAGs: which DAG runs are made, and their states."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from wavelift.airflow import runs
from wavelift.base.run import DagRun

__test__ = False


class Airflow:
    """What other DAG runs are made, and their states."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[tuple[DagRun, dict[str, Any]]] = []
        self.states: dict[str, str] = {}
        self.error: Exception | None = None
        monkeypatch.setattr(runs, "start_run", self.start)

    def start(self, run: DagRun, conf: Any, *, note: str = "") -> None:
        if self.error is not None:
            raise self.error
        self.started.append((run, dict(conf)))
        self.states.setdefault(run.dag_run_id, "queued")

    def context(self, user: str = "alice") -> Any:
        ti = SimpleNamespace(
            dag_id="mine",
            run_id="m1",
            task_id="cut",
            map_index=-1,
            try_number=1,
            max_tries=0,
            get_dagrun_state=lambda dag_id, run_id: self.states.get(run_id),
            xcom_push=lambda **_: None,
        )
        run = SimpleNamespace(
            clear_number=0, triggering_user_name=user, run_type="manual", logical_date=datetime.now(UTC)
        )
        return {"ti": ti, "dag_run": run, "task_state_store": {}, "params": {}}
