"""The cost of a wave apart from its bytes: CPU and memory of a real Airflow, per server and per task start.

Three DAG runs, one after the other, on the same Airflow: a wave of small servers that are really migrated; a wave of
many servers whose step functions return at once (``wave_stubs``), so that only admission, ledger, logins and task
starts remain; and the peer, a hand-written DAG with the same number of mapped tasks that do nothing. The CPU of the
simulators is not counted.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import harness
from wavelift.base.units import MIB
from wavelift.cli.local_airflow import LocalAirflow
from wavelift.cli.simulators import BUCKET, Stage
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.simulators.vcenter import start as start_vcenter

ROOT: Final = Path(__file__).resolve().parents[1]
SERVER_MIB: Final = 8
TASKS_PER_SERVER: Final = 8
"""Mapped tasks of one server in ``<wave>.migrate``."""
RUN_SECONDS: Final = 3600.0
SAMPLE_SECONDS: Final = 2.0
TICKS: Final = os.sysconf("SC_CLK_TCK")
STARTS: Final = re.compile(r"Pre Execute")
"""Airflow writes it once whenever a task's process reaches its work, resumed deferrals included."""

WAVES_PY: Final = """\
from airflow.sdk import DAG  # noqa: F401
from airflow.sdk import get_parsing_context

from wavelift.dag_factory import register_waves

if str(get_parsing_context().dag_id).startswith("stubbed."):
    from benchmarks.wave_stubs import install

    install()
register_waves(globals())
"""
EMPTY_PY: Final = """\
from airflow.sdk import DAG, task, task_group

with DAG("empty", schedule=None, catchup=False, default_args={{"retries": 2}}):

    @task
    def admit():
        return [{{"name": f"server-{{number}}"}} for number in range({servers})]

    @task_group(group_id="server")
    def per_server(server):
        before = None
        for number in range({tasks}):
            step = task(task_id=f"step_{{number}}", map_index_template="{{{{ task.op_args[0] }}}}")(lambda server: None)
            this = step(server)
            if before is not None:
                before >> this
            before = this

    per_server.expand(server=admit())
"""


@dataclass
class Usage:
    """CPU seconds of all processes of an Airflow, those that have ended included."""

    airflow: LocalAirflow

    def cpu_s(self) -> float:
        """Every component lives on and has waited for its children: their times are in its own."""
        ticks = 0
        for pid in self.airflow.processes():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / TICKS

    def pss_mib(self) -> float:
        total = 0
        for pid in self.airflow.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            found = re.search(r"^Pss: +(\d+)", text, re.MULTILINE)
            total += int(found[1]) if found else 0
        return total / 1024


@contextmanager
def peak_of(usage: Usage) -> Iterator[list[float]]:
    """Samples of the memory that all processes have together, in MiB."""
    samples, done = [usage.pss_mib()], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(usage.pss_mib())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def run(airflow: LocalAirflow, dag_id: str, servers: int, conf: dict[str, Any] | None = None) -> dict[str, Any]:
    """One DAG run's cost. :raises RuntimeError: when it does not succeed."""
    airflow.wait_for_dag(dag_id)
    airflow.api.unpause(dag_id)
    usage = Usage(airflow)
    with peak_of(usage) as samples:
        cpu, began = usage.cpu_s(), time.monotonic()
        run_id = airflow.api.trigger(dag_id, conf)
        state = airflow.wait_for_run(dag_id, run_id, timeout=RUN_SECONDS)
        wall, cpu = time.monotonic() - began, usage.cpu_s() - cpu
    if state != "success":
        rows = airflow.describe(dag_id, run_id).splitlines()
        bad = [row for row in rows if "success" not in row and "skipped" not in row]
        raise RuntimeError(f"{dag_id} ended as {state}: {', '.join(bad)}")
    logs = (airflow.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}").rglob("attempt=*.log")
    starts = sum(len(STARTS.findall(path.read_text(errors="replace"))) for path in logs)
    found = {
        "servers": servers,
        "task_starts": starts,
        "starts_per_server": round(starts / servers, 2),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "wall_s_per_server": round(wall / servers, 2),
        "cpu_s_per_server": round(cpu / servers, 2),
        "cpu_s_per_start": round(cpu / starts, 3),
        "peak_mib": round(max(samples)),
    }
    print(f"wave_overhead {dag_id}: {found}", file=sys.stderr, flush=True)
    return found


def machines(folder: Path, moved: int, stubbed: int) -> list[SimVm]:
    folder.mkdir()
    found = []
    for number in range(moved):
        path = folder / f"moved-{number}.raw"
        rng = random.Random(number)
        mbr = bytes(446) + bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little")
        mbr += (SERVER_MIB * MIB // 512 - 2048).to_bytes(4, "little") + bytes(48) + b"\x55\xaa"
        path.write_bytes(mbr + bytes(MIB - 512) + rng.randbytes(2 * MIB) + bytes((SERVER_MIB - 3) * MIB))
        found.append(SimVm(f"moved-{number}", [SimDisk(path)], folder="moved", guest_id="debian12_64Guest"))
    found += [
        SimVm(f"stubbed-{number}", [SimDisk(capacity=MIB)], folder="stubbed", guest_id="debian12_64Guest")
        for number in range(stubbed)
    ]
    return found


def lay_out(dags: Path, stage: Stage, moved: int, stubbed: int) -> None:
    for folder in ("waves", "environments"):
        (dags / folder).mkdir(parents=True)
    demo = yaml.safe_load(stage.environment(ROOT / "dags" / "environments" / "demo.yaml"))
    sources = [{"connection": "vsphere_demo", "connectors": ["moved", "stubbed"]}]
    (dags / "environments" / "lab.yaml").write_text(yaml.safe_dump({**demo, "environment": "lab", "sources": sources}))
    for wave, servers, defaults in (("moved", moved, {"verify": "full"}), ("stubbed", stubbed, {"verify": "off"})):
        spec = {
            "wave": wave,
            "source": {"connection": "vsphere_demo", "connector": wave},
            "environment": "lab",
            "defaults": {"instance_type": "t3.small", **defaults},
            "servers": [{"name": f"{wave}-{number}"} for number in range(servers)],
        }
        (dags / "waves" / f"{wave}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    (dags / "waves.py").write_text(WAVES_PY)
    (dags / "empty.py").write_text(EMPTY_PY.format(servers=stubbed, tasks=TASKS_PER_SERVER))


def measure(folder: Path, moved: int, stubbed: int) -> dict[str, Any]:
    with (
        start_aws(folder / "aws", tls=True, evidence=False) as aws,
        start_vcenter(folder / "vcenter", machines(folder / "disks", moved, stubbed), evidence=False) as vcenter,
    ):
        stage = Stage(vcenter, aws, aws.bootstrap(bucket=BUCKET, role=True))
        lay_out(folder / "dags", stage, moved, stubbed)
        settings = {
            **stage.connections(),
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'home' / 'airflow.db'}?timeout=60",
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTHONPATH": str(ROOT),
        }
        with LocalAirflow(folder / "home", folder / "dags", settings) as airflow:
            airflow.migrate()
            airflow.start()
            idle = Usage(airflow).pss_mib()
            return {
                "idle_mib": round(idle),
                "moved": run(airflow, "moved.migrate", moved),
                "stubbed": run(airflow, "stubbed.migrate", stubbed),
                "peer": run(airflow, "empty", stubbed),
            }


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--servers", type=int, default=16, help="servers whose bytes are moved")
    parser.add_argument("--stubbed", type=int, default=150, help="servers without bytes, and of the peer")
    options = parser.parse_args()
    with harness.workspace(options) as folder:
        found = measure(folder, options.servers, options.stubbed)
    beyond = found["stubbed"]["cpu_s_per_start"] - found["peer"]["cpu_s_per_start"]
    result = {
        "bench": "wave_overhead",
        "params": {"servers": options.servers, "stubbed": options.stubbed, "server_mib": SERVER_MIB},
        **found,
        "start_cpu_s_beyond_an_empty_task": round(beyond, 3),
        "starts_to_the_peer_s": round(found["stubbed"]["cpu_s_per_start"] / found["peer"]["cpu_s_per_start"], 2),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
