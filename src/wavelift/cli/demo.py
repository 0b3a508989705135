"""``wavelift demo``: the main job for real, against simulated vCenter and AWS, through a real Airflow.

Ends with one JSON object on standard output; everything for people goes to standard error.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from wavelift.cli.dag_files import dags_source
from wavelift.cli.demo_checker import checked, connection
from wavelift.cli.demo_cutover import CutoverAct, lay_out, result_of
from wavelift.cli.local_airflow import LocalAirflow, end_processes_in
from wavelift.cli.simulators import Stage, require_simulators, stage
from wavelift.cli.watch import Watch, shown
from wavelift.rules.flows import MIGRATE

DAG_ID = MIGRATE.dag_id("demo")
RUN_SECONDS = 900.0
WRITER = {"rate": 2 << 20, "blocks": 64, "size": 4096}
"""The guests write 2 MiB/s during the export. A reader that ignores the snapshot would read other bytes."""
PROGRAMS = {"qemu-img": "qemu-utils", "mkfs.ext4": "e2fsprogs"}
STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REMOVE_TRIES = 25
ACTS = ("", "migrate", "cutover")
"""What the demo shows; the first two are the same."""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: leave through every ``finally``."""


def run(out: Console, *, exit_when_done: bool, fault: str, act: str = "") -> int:
    """The whole demo; the process's exit status."""
    if fault not in ("", "flip"):
        out.print(f"DEMO_FAULT is {fault!r}; the one that exists is flip")
        return 2
    if act not in ACTS:
        out.print(f"DEMO_ACT is {act!r}; there are {' and '.join(name for name in ACTS if name)}")
        return 2
    if fault and act not in ("", "migrate"):
        out.print(f"DEMO_FAULT={fault} damages what is migrated: it goes without DEMO_ACT={act}")
        return 2
    require_simulators()
    missing = [f"{program} (Debian's {package})" for program, package in PROGRAMS.items() if not _which(program)]
    if missing:
        out.print(f"missing: {', '.join(missing)}")
        return 2
    for number in STOPPERS:
        signal.signal(number, _stop)
    folder = Path(mkdtemp(prefix="wavelift-demo-"))
    try:
        return _Demo(out, folder, exit_when_done=exit_when_done, fault=fault, act=act).run()
    except Stopped:
        out.print("stopped")
        return 130
    except RuntimeError as error:  # of a simulator, Airflow or its API: each says what is wrong
        out.print(f"the demo failed: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    finally:
        _ignore_stoppers()
        end_processes_in(folder)
        _remove(folder)


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _stop(number: int, frame: FrameType | None) -> None:
    _ignore_stoppers()
    raise Stopped


def _ignore_stoppers() -> None:
    """Ignore further signals, so that the clean-up is not interrupted."""
    for number in STOPPERS:
        signal.signal(number, signal.SIG_IGN)


def _remove(folder: Path) -> None:
    """Remove the folder, also from under a process that just ended and wrote its last file."""
    for _ in range(REMOVE_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)
    print(f"could not remove {folder}", file=sys.stderr)


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
    act: str = ""

    def run(self) -> int:
        started = time.monotonic()
        self.out.print("building three servers, starting vCenter and AWS simulators")
        with stage(self.folder) as running:
            lay_out_dags(self.folder / "dags", running)
            if self.act == "cutover":
                lay_out(self.folder / "dags", running)
            settings = {**running.connections(), "AIRFLOW__WAVELIFT__POLL_SECONDS": "1"}
            airflow = LocalAirflow(self.folder / "airflow", self.folder / "dags", settings)
            with airflow:
                self.out.print("starting Airflow (api-server, scheduler, dag-processor, triggerer)")
                airflow.migrate()
                airflow.start()
                if self.act == "cutover":
                    return self._cutover(running, airflow, started)
                return self._wave(running, airflow, started)

    def _cutover(self, running: Stage, airflow: LocalAirflow, started: float) -> int:
        act = CutoverAct(self.out, running, airflow)
        journey = act.play()
        act.summary(journey)
        if not journey.proven:
            self._say("NOT PROVEN: see above what differs", style="red")
        if not self.exit_when_done:
            self._stay(airflow)
        print(result_of(journey, time.monotonic() - started), flush=True)
        return 0 if journey.proven else 1

    def _wave(self, running: Stage, airflow: LocalAirflow, started: float) -> int:
        if self.fault == "flip":
            running.aws.rule(kind="flip", key="*db01/*/disk-1.vmdk", count=1)
        airflow.wait_for_dag(DAG_ID)
        api = airflow.api
        api.unpause(DAG_ID)
        running.vcenter.start_writer(**WRITER)
        run_id = api.trigger(DAG_ID, {"note": "make demo"})
        self._say(f"triggered {DAG_ID} through Airflow's REST API: {run_id}")
        with shown(Watch(api, DAG_ID, run_id), self.out) as show:

            def look() -> None:
                airflow.raise_if_dead()
                show()

            state = api.wait_for_run(DAG_ID, run_id, timeout=RUN_SECONDS, every=look, interval=1.0)
        running.vcenter.stop_writer()
        report = api.xcom(DAG_ID, run_id, "report", key="report") or {"outcomes": []}
        verdict = self._judge(running, report)
        self._summary(report, verdict)
        result = _result(report, verdict, time.monotonic() - started)
        proven = state == "success" and not result["mismatches"] and result["servers"] == len(report["outcomes"]) > 0
        if not proven:
            self._tell_failure(running, report, verdict, state)
        if not self.exit_when_done:
            self._stay(airflow)
        print(json.dumps(result), flush=True)
        return 0 if proven and not self.fault else 1

    def _say(self, words: str, *, style: str = "") -> None:
        """One line that a narrow terminal may wrap and a log keeps whole."""
        self.out.print(words, style=style, markup=False, highlight=False, soft_wrap=True)

    def _judge(self, running: Stage, report: dict[str, Any]) -> dict[str, Any]:
        """Ask the checker, a process that imports nothing of wavelift."""
        done = [one for one in report["outcomes"] if one["image_id"]]
        images = running.aws.client("ec2").describe_images(ImageIds=[one["image_id"] for one in done]) if done else {}
        snapshots = {
            image["ImageId"]: [mapping["Ebs"]["SnapshotId"] for mapping in image["BlockDeviceMappings"]]
            for image in images.get("Images", [])
        }
        request = {
            **connection(running),
            "servers": [
                {
                    "server": one["server"],
                    "snapshot": "wavelift-" + one["migration"].removeprefix(MIGRATE.prefix),
                    "snapshot_ids": snapshots.get(one["image_id"], []),
                }
                for one in done
            ],
        }
        return checked(request, timeout=RUN_SECONDS)

    def _tell_failure(self, running: Stage, report: dict[str, Any], verdict: dict[str, Any], state: str) -> None:
        for flip in running.aws.evidence()["flips"]:
            self._say(
                f"DEMO_FAULT={self.fault} changed one byte of {flip['key']}, in the grain at disk offset "
                f"{flip['disk_offset']}"
            )
        for one in report["outcomes"]:
            if one["error"]:
                self._say(f"{one['server']} {one['state']}: {one['error']}", style="red")
        for disk in verdict["disks"]:
            if disk.get("mismatches") or disk.get("error"):
                self._say(f"the independent checker: {disk}", style="red")
        self._say(f"NOT PROVEN: the run ended as {state}", style="red")

    def _summary(self, report: dict[str, Any], verdict: dict[str, Any]) -> None:
        """AMIs and instances, then the digests: ids and digests are never cut short, at 80 columns either."""
        results, digests = (
            Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title) for title in ("Result", "Proof")
        )
        for name in ("server", "state", "AMI", "instance", "checker"):
            results.add_column(name, no_wrap=True, overflow="fold")
        for name in ("disk", "SHA-256 of its block digests"):
            digests.add_column(name, no_wrap=True, overflow="fold")
        for one in report["outcomes"]:
            disks = [disk for disk in verdict["disks"] if disk["server"] == one["server"]]
            equal = "equal" if disks and not any(disk["mismatches"] for disk in disks) else "not proven"
            instance = one["instance_id"] or ("image only" if one["image_id"] else "")
            results.add_row(one["server"], one["state"], one["image_id"], instance, equal)
            for index, digest in enumerate(one["content"]):
                digests.add_row(f"{one['server']} {index}", digest)
        self.out.print(results, digests)

    def _stay(self, airflow: LocalAirflow) -> None:
        self._say(f"Airflow stays up: {airflow.url}  user admin  password {airflow.password}")
        self._say(f"command line: WAVELIFT_URL={airflow.url} WAVELIFT_USER=admin wavelift migrations list")
        self._say("Ctrl-C stops everything")
        try:
            threading.Event().wait()
        except Stopped:
            self._say("stopping")


def _result(report: dict[str, Any], verdict: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The line for programs. A server that failed counts as a mismatch, because its bytes are not proven."""
    done = [one for one in report["outcomes"] if one["state"] == "completed"]
    return {
        "wave": "demo",
        "servers": len(done),
        "disks": len(verdict["disks"]),
        "bytes_verified": verdict["bytes_verified"],
        "bytes_read_back": sum(one["bytes_read_back"] for one in report["outcomes"]),
        "mismatches": verdict["mismatches"] + sum(one["state"] != "completed" for one in report["outcomes"]),
        "seconds": round(seconds, 1),
    }
