"""One real Airflow, one vCenter and one AWS for all tests of this folder; every test has waves and servers of its own.

Disks are a few MiB, so that a run costs seconds. What a test's servers and waves left outside is compared around every
test; at the end of the session nothing at all may be left, and no process of Airflow.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from wavelift.airflow.rest import ApiClient
from wavelift.cli.local_airflow import LocalAirflow, wait_for
from wavelift.cli.simulators import Stage
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.simulators.vcenter import start as start_vcenter

MIB: Final = 1024 * 1024
BUCKET: Final = "wavelift-tests"
ROOT: Final = Path(__file__).resolve().parents[2]
RUN_SECONDS: Final = 240.0
SLOTS: Final = 2
"""Transfers per connector here: two make a queue with three servers."""
IMPORTS: Final = 3
"""Imports per region here."""


@dataclass(frozen=True)
class Vm:
    """A server of a wave: what the vCenter holds, and its entry in the wave's file."""

    name: str
    disks: tuple[int, ...] = (12,)
    """Sizes, MiB; all but the first MiB is data in ``full``, else a third."""
    full: bool = False
    power: str = "poweredOn"
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WaveOf:
    """A wave: its servers and what its file says beside them."""

    servers: tuple[Vm, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


RUNNING: Final = {"launch": "running", "allow_twin": True}
WAVES: Final[dict[str, WaveOf]] = {
    "full": WaveOf((Vm("full-web", entry=RUNNING), Vm("full-db", (12, 10)), Vm("full-win", power="poweredOff"))),
    "broken": WaveOf((Vm("broken-a"), Vm("broken-b"), Vm("broken-c"))),
}


def _disk(path: Path, size: int, seed: int, *, full: bool) -> Path:
    """An MBR, then random data; a third of the disk is data unless ``full``."""
    rng = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        file.write(bytes(446) + bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little"))
        file.write((size // 512 - 2048).to_bytes(4, "little") + bytes(48) + b"\x55\xaa")
        step = 1 if full else 3
        for block in range(MIB, size, step * MIB):
            file.seek(block)
            file.write(rng.randbytes(MIB))
    return path


def _machines(folder: Path) -> list[SimVm]:
    folder.mkdir()
    found = []
    for wave, shape in WAVES.items():
        for vm in shape.servers:
            disks = [
                SimDisk(
                    _disk(folder / f"{vm.name}-{index}.raw", size * MIB, hash((vm.name, index)), full=vm.full),
                    unit=index,
                )
                for index, size in enumerate(vm.disks)
            ]
            found.append(SimVm(vm.name, disks, folder=wave, guest_id="debian12_64Guest", power=vm.power))  # type: ignore[arg-type]
    return found


def wave_file(name: str, **changes: Any) -> str:
    """The YAML text of one of :data:`WAVES`."""
    shape = WAVES[name]
    return yaml.safe_dump(
        {
            "wave": name,
            "source": {"connection": "vsphere_demo", "connector": name},
            "environment": "lab",
            "defaults": {"verify": "full", "instance_type": "t3.small", **shape.defaults},
            "servers": [{"name": vm.name, **vm.entry} for vm in shape.servers],
            "retries": 3,
            "retry_delay_s": 1,
            **shape.spec,
            **changes,
        },
        sort_keys=False,
    )


@dataclass
class World:
    """The session's Airflow and simulators, and what a person does with them."""

    airflow: LocalAirflow
    stage: Stage
    dags: Path

    @property
    def api(self) -> ApiClient:
        return self.airflow.api

    @property
    def vcenter(self) -> Any:
        return self.stage.vcenter

    @property
    def aws(self) -> Any:
        return self.stage.aws

    def trigger(self, wave: str, conf: dict[str, Any] | None = None) -> Run:
        return Run(self, f"{wave}.migrate", self.airflow.trigger(f"{wave}.migrate", conf))


@dataclass
class Run:
    """A DAG run."""

    world: World
    dag_id: str
    run_id: str

    def wait(self, timeout: float = RUN_SECONDS) -> str:
        return self.world.airflow.wait_for_run(self.dag_id, self.run_id, timeout=timeout)

    def succeed(self) -> Run:
        state = self.wait()
        assert state == "success", f"{self.describe()}\n{self.world.airflow.log_tail('scheduler', 5)}"
        return self

    def describe(self) -> str:
        return f"{self.dag_id} {self.run_id}\n{self.world.airflow.describe(self.dag_id, self.run_id)}"

    def rows(self) -> list[dict[str, Any]]:
        return self.world.api.task_instances(self.dag_id, self.run_id)

    def states(self) -> dict[tuple[str, int], str]:
        return {(row["task_id"].removeprefix("server."), row["map_index"]): row["state"] for row in self.rows()}

    def until(self, what: str, ready: Callable[[], Any], timeout: float = 120) -> None:
        wait_for(lambda: bool(ready()), timeout=timeout, what=what, log=self.describe, interval=0.3)

    def report(self) -> dict[str, Any]:
        return dict(self.world.api.xcom(self.dag_id, self.run_id, "report", key="report"))

    def log(self, task: str, index: int = -1) -> str:
        return self.world.airflow.task_log(self.dag_id, self.run_id, task, map_index=index)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    with ExitStack() as stack:
        aws = stack.enter_context(start_aws(folder / "aws", tls=True, evidence=True))
        network = aws.bootstrap(bucket=BUCKET, role=True)
        vcenter = stack.enter_context(start_vcenter(folder / "vcenter", _machines(folder / "disks"), evidence=True))
        stage = Stage(vcenter, aws, network)
        (dags / "waves").mkdir(exist_ok=True)
        (dags / "environments").mkdir(exist_ok=True)
        environment = yaml.safe_load(stage.environment(ROOT / "dags" / "environments" / "demo.yaml"))
        (dags / "environments" / "lab.yaml").write_text(yaml.safe_dump({**environment, "environment": "lab"}))
        for name in WAVES:
            (dags / "waves" / f"{name}.yaml").write_text(wave_file(name))
        settings = {
            **stage.connections(),
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            "AIRFLOW__WAVELIFT__TRANSFERS_PER_CONNECTOR": str(SLOTS),
            "AIRFLOW__WAVELIFT__IMPORTS_PER_REGION": str(IMPORTS),
        }
        airflow = stack.enter_context(LocalAirflow(folder / "home", dags, settings))
        airflow.migrate()
        airflow.start()
        yield World(airflow, stage, dags)
    assert not airflow.processes(), "processes of this Airflow outlived it"
