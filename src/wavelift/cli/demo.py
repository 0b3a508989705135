"""``wavelift demo``: the main job for real, against simulated vCenter and AWS, through a real Airflow.

Ends with one JSON object on standard output; everything for people goes to standard error.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

import wavelift
from wavelift.airflow.rest import ApiClient
from wavelift.base.units import human_bytes
from wavelift.cli.local_airflow import LocalAirflow, LocalAirflowError
from wavelift.cli.simulators import Stage, stage

DAG_ID = "demo.migrate"
RUN_SECONDS = 900.0
WRITER = {"rate": 2 << 20, "blocks": 64, "size": 4096}
"""The guests write 2 MiB/s while they are exported: a reader that ignores the snapshot is found out."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: leave through every ``finally``."""


def run(out: Console, *, exit_when_done: bool, fault: str) -> int:
    """The whole demo; the process's exit status."""
    if fault not in ("", "flip"):
        out.print(f"DEMO_FAULT is {fault!r}; the one that exists is flip")
        return 2
    for program in ("qemu-img",):
        if not shutil.which(program):
            out.print(f"{program} is missing: install Debian's qemu-utils")
            return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    folder = Path(mkdtemp(prefix="wavelift-demo-"))
    try:
        return _Demo(out, folder, exit_when_done=exit_when_done, fault=fault).run()
    except Stopped:
        out.print("stopped")
        return 130
    except LocalAirflowError as error:
        out.print(str(error), style="red", markup=False)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Stopped


def dags_source() -> Path:
    """The DAG files: beside the source tree, or in the installed wheel."""
    beside = Path(wavelift.__file__).resolve().parents[2] / "dags"
    return beside if (beside / "waves.py").exists() else Path(wavelift.__file__).parent / "_dags"


def lay_out_dags(target: Path, running: Stage) -> None:
    """A DAGs folder with the demo's wave and an environment that names what the simulator made."""
    source = dags_source()
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "environments" / "demo.yaml").write_text(running.environment(source / "environments" / "demo.yaml"))


@dataclass
class _Demo:
    out: Console
    folder: Path
    exit_when_done: bool
    fault: str

    def run(self) -> int:
        started = time.monotonic()
        self.out.print("building three servers, starting vCenter and AWS simulators")
        with stage(self.folder) as running:
            lay_out_dags(self.folder / "dags", running)
            settings = {**running.connections(), "AIRFLOW__WAVELIFT__POLL_SECONDS": "1"}
            airflow = LocalAirflow(self.folder / "airflow", self.folder / "dags", settings)
            with airflow:
                self.out.print("starting Airflow (api-server, scheduler, dag-processor, triggerer)")
                airflow.migrate()
                airflow.start()
                return self._wave(running, airflow, started)

    def _wave(self, running: Stage, airflow: LocalAirflow, started: float) -> int:
        if self.fault == "flip":
            running.aws.rule(kind="flip", key="*db01/disk-1.vmdk", count=1)
        airflow.wait_for_dag(DAG_ID)
        api = airflow.api
        api.unpause(DAG_ID)
        running.vcenter.start_writer(**WRITER)
        run_id = api.trigger(DAG_ID, {"note": "make demo"})
        self.out.print(f"triggered {DAG_ID} through Airflow's REST API: {run_id}")
        with Live(console=self.out, refresh_per_second=2, transient=False) as live:
            watch = _Watch(api, run_id)
            state = api.wait_for_run(
                DAG_ID, run_id, timeout=RUN_SECONDS, every=lambda: live.update(watch.table()), interval=1.0
            )
        running.vcenter.stop_writer()
        report = api.xcom(DAG_ID, run_id, "report", key="report") or {"outcomes": []}
        verdict = self._judge(running, report)
        self.out.print(_summary(report, verdict))
        result = _result(report, verdict, state, time.monotonic() - started)
        proven = state == "success" and not result["mismatches"] and result["servers"] == len(report["outcomes"]) > 0
        if not proven:
            self._tell_failure(report, verdict)
        if not self.exit_when_done:
            self._stay(airflow)
        print(json.dumps(result), flush=True)
        return 0 if proven else 1

    def _judge(self, running: Stage, report: dict[str, Any]) -> dict[str, Any]:
        """Ask the checker, a process that imports nothing of wavelift."""
        done = [one for one in report["outcomes"] if one["image_id"]]
        images = running.aws.client("ec2").describe_images(ImageIds=[one["image_id"] for one in done]) if done else {}
        snapshots = {
            image["ImageId"]: [mapping["Ebs"]["SnapshotId"] for mapping in image["BlockDeviceMappings"]]
            for image in images.get("Images", [])
        }
        job = {
            "endpoint": running.aws.endpoint_url,
            "ca_file": str(running.aws.ca_file) if running.aws.ca_file else "",
            "region": running.aws.region,
            "access_key": running.aws.access_key,
            "secret_key": running.aws.secret_key,
            "vcenter": running.vcenter.evidence(),
            "aws": running.aws.evidence(),
            "servers": [
                {
                    "server": one["server"],
                    "snapshot": "wavelift-" + one["migration"].removeprefix("mig-"),
                    "snapshot_ids": snapshots.get(one["image_id"], []),
                }
                for one in done
            ],
        }
        checker = Path(wavelift.__file__).parent / "simulators" / "checker.py"
        answer = subprocess.run(
            [sys.executable, "-I", str(checker)],
            input=json.dumps(job, default=str),
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_SECONDS,
        )
        if not answer.stdout:
            raise LocalAirflowError(f"the checker failed:\n{answer.stderr[-2000:]}")
        return dict(json.loads(answer.stdout))

    def _tell_failure(self, report: dict[str, Any], verdict: dict[str, Any]) -> None:
        for one in report["outcomes"]:
            if one["error"]:
                self.out.print(f"{one['server']} {one['state']}: {one['error']}", style="red", markup=False)
        for disk in verdict["disks"]:
            if disk.get("mismatches") or disk.get("error"):
                self.out.print(f"the independent checker: {disk}", style="red", markup=False)

    def _stay(self, airflow: LocalAirflow) -> None:
        self.out.print(f"\nAirflow stays up: {airflow.url}  user admin  password {airflow.password}")
        self.out.print(f"the command line: WAVELIFT_URL={airflow.url} WAVELIFT_USER=admin wavelift migrations list")
        self.out.print("Ctrl-C stops everything")
        try:
            threading.Event().wait()
        except Stopped:
            self.out.print("stopping")


class _Watch:
    """The live table: server, phase, bytes, rate, ETA, from the task state store by REST."""

    def __init__(self, api: ApiClient, run_id: str) -> None:
        self._api = api
        self._run_id = run_id
        self._names: dict[int, str] = {}
        self._seen: dict[int, tuple[float, int]] = {}

    def table(self) -> Table:
        table = Table("server", "phase", "bytes", "rate", "ETA", title=f"{DAG_ID}")
        rows = self._api.task_instances(DAG_ID, self._run_id)
        if not self._names:
            servers = self._api.xcom(DAG_ID, self._run_id, "preflight") or []
            self._names = {index: server["name"] for index, server in enumerate(servers)}
        for index, name in self._names.items():
            mine = {row["task_id"].removeprefix("server."): row["state"] for row in rows if row["map_index"] == index}
            table.add_row(name, *self._line(index, mine))
        if not self._names:
            active = ", ".join(row["task_id"] for row in rows if row["state"] in ("running", "queued"))
            table.add_row("", active or "waiting for the scheduler", "", "", "")
        return table

    def _line(self, index: int, tasks: dict[str, str | None]) -> tuple[str, str, str, str]:
        for name in ("launch", "import_image", "verify", "export", "snapshot", "reserve"):
            state = tasks.get(name)
            if state in ("running", "deferred", "up_for_retry", "failed", "queued") or (
                name == "launch" and state == "success"
            ):
                phase = "done" if name == "launch" and state == "success" else f"{name} ({state})"
                return (phase, *self._speed(index, name))
        return ("between tasks", "", "", "")

    def _speed(self, index: int, task: str) -> tuple[str, str, str]:
        if task not in ("export", "verify"):
            return ("", "", "")
        progress = self._api.state_store(DAG_ID, self._run_id, f"server.{task}", "progress", map_index=index) or {}
        disks = progress.get("disks", {}).values()
        done, total = sum(disk["done"] for disk in disks), sum(disk["total"] for disk in disks)
        if not total:
            return ("", "", "")
        before = self._seen.setdefault(index, (time.monotonic(), done))
        passed = time.monotonic() - before[0]
        rate = (done - before[1]) / passed if passed > 0 else 0.0
        eta = f"{(total - done) / rate:.0f} s" if rate > 0 else ""
        return (f"{human_bytes(done)} of {human_bytes(total)}", f"{human_bytes(rate)}/s" if rate > 0 else "", eta)


def _summary(report: dict[str, Any], verdict: dict[str, Any]) -> Table:
    table = Table("server", "state", "AMI", "instance", "content digests (SHA-256)", "checker", title="Result")
    for one in report["outcomes"]:
        disks = [disk for disk in verdict["disks"] if disk["server"] == one["server"]]
        equal = "equal" if disks and not any(disk["mismatches"] for disk in disks) else "not proven"
        digests = "\n".join(digest[:16] + "…" for digest in one["content"])
        table.add_row(one["server"], one["state"], one["image_id"], one["instance_id"], digests, equal)
    return table


def _result(report: dict[str, Any], verdict: dict[str, Any], state: str, seconds: float) -> dict[str, Any]:
    done = [one for one in report["outcomes"] if one["state"] == "completed"]
    return {
        "wave": "demo",
        "state": state,
        "servers": len(done),
        "disks": len(verdict["disks"]),
        "bytes_verified": verdict["bytes_verified"],
        "bytes_read_back": sum(one["bytes_read_back"] for one in report["outcomes"]),
        "mismatches": verdict["mismatches"] + sum(one["state"] != "completed" for one in report["outcomes"]),
        "seconds": round(seconds, 1),
    }
