"""A running Airflow over a pair of simulators, and what a person does with it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.airflow.outside import Outside
from tests.airflow.sites import Sites

from wavelift.airflow.rest import ApiClient
from wavelift.base.rates import TransferProgress
from wavelift.cli.local_airflow import LocalAirflow, wait_for
from wavelift.ledger import Migration

RUN_SECONDS: Final = 900.0
"""Far more than a run takes on a busy machine."""
STEP_SECONDS: Final = 400.0


@dataclass(kw_only=True)
class World(Outside):
    """The session's Airflow and simulators.

    :param early: runs that began with the session, by wave.
    :param active: runs that were triggered and not yet seen to end.
    :param sites: of HCX; None: no test of this session needs them.
    """

    airflow: LocalAirflow
    early: dict[str, Run] = field(default_factory=dict)
    active: list[Run] = field(default_factory=list)
    sites: Sites | None = None

    @property
    def api(self) -> ApiClient:
        return self.airflow.api

    def trigger(self, wave: str, conf: dict[str, Any] | None = None, *, dag: str = "migrate") -> Run:
        run = Run(self, f"{wave}.{dag}", self.airflow.trigger(f"{wave}.{dag}", conf))
        self.active.append(run)
        return run

    def known_run(self, dag_id: str, run_id: str) -> Run:
        """A run that something else has started."""
        run = Run(self, dag_id, run_id)
        self.active.append(run)
        return run

    def kill(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Run:
    """A DAG run."""

    world: World
    dag_id: str
    run_id: str
    player: str = field(default_factory=lambda: threading.current_thread().name)
    """The thread that began it, or cleared it last: its test must see it end."""

    @property
    def wave(self) -> str:
        return self.dag_id.rpartition(".")[0]

    def wait(self, timeout: float = RUN_SECONDS) -> str:
        state = self.world.airflow.wait_for_run(self.dag_id, self.run_id, timeout=timeout)
        if self in self.world.active:
            self.world.active.remove(self)
        return state

    def ends(self, expected: str, timeout: float = RUN_SECONDS) -> Run:
        """Wait for the run's end and compare its state."""
        state = self.wait(timeout)
        assert state == expected, f"{self.describe()}\n{self.log('report')[-1500:]}"
        return self

    def stop(self) -> None:
        """Mark the run failed and wait for its end."""
        self.world.api.call("PATCH", f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}", {"state": "failed"})
        self.until("the report", lambda: self.row("report")["state"] in ("success", "failed"))
        self.wait()

    def describe(self) -> str:
        return f"{self.dag_id} {self.run_id}\n{self.world.airflow.describe(self.dag_id, self.run_id)}"

    def rows(self) -> list[dict[str, Any]]:
        return self.world.api.task_instances(self.dag_id, self.run_id)

    def row(self, task: str, index: int = -1) -> dict[str, Any]:
        name = task if index < 0 else f"server.{task}"
        return next(
            (row for row in self.rows() if (row["task_id"], row["map_index"]) == (name, index)),
            {"state": None, "try_number": 0, "pid": None},
        )

    def tries(self, index: int) -> dict[str, int]:
        """How often each task of one server was tried."""
        return {
            row["task_id"].removeprefix("server."): row["try_number"]
            for row in self.rows()
            if row["map_index"] == index
        }

    def until(self, what: str, ready: Callable[[], Any], timeout: float = STEP_SECONDS) -> None:
        """Wait for a condition; when the run ends before, that is told."""

        def look() -> bool:
            return bool(ready())

        wait_for(look, timeout=timeout, what=what, log=self.describe, interval=0.3)

    def until_state(self, task: str, index: int, *states: str, timeout: float = STEP_SECONDS) -> None:
        self.until(f"{task}[{index}] to be {states}", lambda: self.row(task, index)["state"] in states, timeout=timeout)

    def exported(self, index: int) -> int:
        """Bytes of the server's disks that its running export has passed."""
        progress = self._progress(index)
        return progress.done if progress else 0

    def export_rate(self, index: int) -> float:
        """Bytes per second of the server's export."""
        progress = self._progress(index)
        return progress.rate if progress else 0.0

    def _progress(self, index: int) -> TransferProgress | None:
        return self.world.api.progress(self.dag_id, self.run_id, "server.export", map_index=index)

    def report(self) -> dict[str, Any]:
        return dict(self.world.api.xcom(self.dag_id, self.run_id, "report", key="report"))

    def outcome(self, server: str) -> dict[str, Any]:
        return next(one for one in self.report()["outcomes"] if one["server"] == server)

    def index(self, server: str) -> int:
        """The map index of a server; waits for the pre-flight, which decides it."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [one["name"] for one in self.world.api.xcom(self.dag_id, self.run_id, "preflight") or ()]
            return bool(found)

        self.until("the pre-flight", there)
        return found.index(server)

    def migration(self, server: str) -> Migration:
        return next(one for one in self.world.ended() if (one.dag_run_id, one.server) == (self.run_id, server))

    def words(self, task: str, index: int = -1) -> str:
        """What a failed task left for the report."""
        name = task if index < 0 else f"server.{task}"
        left = self.world.api.xcom(self.dag_id, self.run_id, name, map_index=index, key="wavelift_failure")
        return str((left or {}).get("what", ""))

    def clear(self, *tasks: Any) -> list[dict[str, Any]]:
        """Clear tasks with what comes after them, as a person does in the web UI."""
        return self._cleared(tasks, downstream=True)

    def clear_alone(self, task: Any) -> list[dict[str, Any]]:
        """Clear one task, and nothing that comes after it."""
        return self._cleared([task], downstream=False)

    def _cleared(self, tasks: Sequence[Any], *, downstream: bool) -> list[dict[str, Any]]:
        cleared = self.world.api.clear(self.dag_id, self.run_id, list(tasks), downstream=downstream)
        self.player = threading.current_thread().name
        if self not in self.world.active:
            self.world.active.append(self)
        return cleared

    def log(self, task: str, index: int = -1) -> str:
        name = task if index < 0 else f"server.{task}"
        return self.world.airflow.task_log(self.dag_id, self.run_id, name, map_index=index)

    def links(self, task: str, index: int) -> dict[str, Any]:
        """The extra links of a task instance, from the running Airflow."""
        path = f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/server.{task}/links"
        return dict(self.world.api.call("GET", f"{path}?map_index={index}")["extra_links"])
