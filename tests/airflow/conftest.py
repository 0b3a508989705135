"""One real Airflow, one vCenter and one AWS for all tests of this folder; each test has waves and servers of its own.

Disks are a few MiB, so that a run costs seconds, and runs that need nothing from their test begin with the session.
What a test's waves left outside is looked at after every test; at the end of the session both simulators must hold what
they held at its start and the results that the ledger names, and no process of Airflow may be left.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.cli.local_airflow import LocalAirflow, wait_for
from wavelift.cli.simulators import Stage
from wavelift.ledger import Ledger, Migration, lineage, migrations, replication_runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.slots import list_slots
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDisk, SimVm
from wavelift.simulators.vcenter import start as start_vcenter

MIB: Final = 1024 * 1024
KIB: Final = 1024
BUCKET: Final = "wavelift-tests"
ROOT: Final = Path(__file__).resolve().parents[2]
RUN_SECONDS: Final = 240.0
SLOTS: Final = 2
"""Transfers per connector here: two make a queue of four servers."""
ORDER: Final = (
    "test_two_schedulers",
    "test_base",
    "test_timetables",
    "test_replication_operators",
    "test_hooks",
    "test_dags",
    "test_modes",
    "test_preload",
    "test_task_imports",
    "test_triggers",
    "test_connection",
    "test_specs",
    "test_wave",
    "test_replicate",
    "test_console",
    "test_catalog",
    "test_operators",
    "test_stop",
    "test_imports",
    "test_quota",
    "test_kill",
)
"""What has an Airflow of its own comes before that of the session: no two at once. Then what needs no run, while the
first waves run; what breaks Airflow comes last."""


# --- waves --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vm:
    """A server of a wave: what the vCenter holds, and its entry in the wave's file."""

    name: str
    disks: tuple[int, ...] = (12,)
    """Sizes, MiB. A third is data, and all but the first MiB of a ``full`` one."""
    full: bool = False
    power: str = "poweredOn"
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WaveOf:
    """A wave: its servers and what its file says beside them."""

    servers: tuple[Vm, ...]
    spec: dict[str, Any] = field(default_factory=dict)


RUNNING: Final = {"launch": "running", "allow_twin": True}
OFF: Final = {"source_power": "require_off"}
WAVES: Final[dict[str, WaveOf]] = {
    "full": WaveOf(
        (
            Vm("full-web", entry=RUNNING),
            Vm("full-db", (12, 10)),
            Vm("full-win", power="poweredOff", entry=OFF),
        )
    ),
    "broken": WaveOf((Vm("broken-a"), Vm("broken-b"), Vm("broken-c"))),
    "late": WaveOf((Vm("late-a"),), {"deadline_minutes": 1}),
    "modes": WaveOf((Vm("modes-a"),)),
    "fragile": WaveOf((Vm("fragile-a"),)),
    "halted": WaveOf((Vm("halted-a"), Vm("halted-b"))),
    "queued": WaveOf(tuple(Vm(f"queued-{one}") for one in "abcd")),
    "cleared": WaveOf((Vm("cleared-a"), Vm("cleared-b"))),
    "limited": WaveOf(tuple(Vm(f"limited-{one}", (4,)) for one in "abc"), {"environment": "narrow"}),
    "killed": WaveOf((Vm("killed-a", (72,), full=True),)),
    "orphan": WaveOf((Vm("orphan-a"), Vm("orphan-b"))),
    "paused": WaveOf((Vm("paused-a"), Vm("paused-b"))),
    "copies": WaveOf((Vm("copies-a"), Vm("copies-b", (4,))), {"replication": {"frequency_hours": 24}}),
    "asked": WaveOf((Vm("asked-a", (4,)),), {"replication": {"frequency_hours": 24}}),
}
TOOLS_VM: Final = "tools-vm"
CATALOG_VMS: Final = ("catalog-a", "catalog-b")
"""What the catalogue's test renames and removes."""
EARLY: Final = ("late", "full", "broken")
"""Waves whose runs begin with the session, if one of :data:`EARLY_FOR` is to run."""
EARLY_FOR: Final = {"test_wave", "test_console", "test_specs"}
SLOW: Final = {
    "late-a": (75 * KIB, 1),
    "fragile-a": (100 * KIB, 1),
    "halted-a": (100 * KIB, 0),
    "halted-b": (100 * KIB, 0),
    "queued-a": (120 * KIB, 1),
    "queued-b": (120 * KIB, 1),
    "queued-c": (120 * KIB, 1),
    "queued-d": (120 * KIB, 1),
    "cleared-a": (60 * KIB, 1),
    "killed-a": (4 * MIB, 1),
    "orphan-a": (100 * KIB, 1),
    "orphan-b": (100 * KIB, 1),
    "paused-a": (100 * KIB, 1),
}
"""Bytes per second of the lease's answers, and for how many of them (0: all). Slow enough for a busy machine: what a
test does in mid-export must not come too late. Most of these exports are cut, so it costs no time."""
BAD_WAVE: Final = """\
wave: bad
source: {connection: vsphere_demo}
environment: lab
servers:
  - name: one
    lanch: running
retries: 1
"""


def _disk(path: Path, size: int, *, full: bool) -> Path:
    """An MBR, then random data."""
    rng = random.Random(zlib.crc32(path.name.encode()))
    with path.open("wb") as file:
        file.truncate(size)
        file.write(bytes(446) + bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little"))
        file.write((size // 512 - 2048).to_bytes(4, "little") + bytes(48) + b"\x55\xaa")
        for block in range(MIB, size, (1 if full else 3) * MIB):
            file.seek(block)
            file.write(rng.randbytes(MIB))
    return path


def machines(folder: Path, waves: Mapping[str, WaveOf]) -> list[SimVm]:
    """The servers of the waves, each with disks of its own below ``folder``."""
    folder.mkdir()
    found: list[SimVm] = []
    for wave, shape in waves.items():
        for vm in shape.servers:
            disks = [
                SimDisk(_disk(folder / f"{vm.name}-{index}.raw", size * MIB, full=vm.full), unit=index)
                for index, size in enumerate(vm.disks)
            ]
            power: Any = vm.power
            found.append(SimVm(vm.name, disks, folder=wave, guest_id="debian12_64Guest", power=power))
    return found


def _others() -> list[SimVm]:
    """Servers of no wave."""
    found = [SimVm(TOOLS_VM, [SimDisk(capacity=MIB)], folder="tools", guest_id="debian12_64Guest")]
    found += [SimVm(name, [SimDisk(capacity=MIB)], folder="catalog", power="poweredOff") for name in CATALOG_VMS]
    return found


def wave_file(name: str, **changes: Any) -> str:
    """The YAML text of one of :data:`WAVES`."""
    return wave_text(name, WAVES[name], **changes)


def wave_text(name: str, shape: WaveOf, **changes: Any) -> str:
    spec = {
        "wave": name,
        "source": {"connection": "vsphere_demo", "connector": name},
        "environment": "lab",
        "defaults": {"verify": "full", "instance_type": "t3.small"},
        "servers": [{"name": vm.name, **vm.entry} for vm in shape.servers],
        "retries": 3,
        "retry_delay_s": 1,
        **shape.spec,
        **changes,
    }
    return yaml.safe_dump(spec, sort_keys=False)


# --- the world ----------------------------------------------------------------------------------------------------


@dataclass
class World:
    """The session's Airflow and simulators, and what a person does with them."""

    airflow: LocalAirflow
    stage: Stage
    dags: Path
    ledger_url: str = ""
    """Empty: beside Airflow's home."""
    ledger: Ledger = field(init=False)
    early: dict[str, Run] = field(default_factory=dict)
    active: list[Run] = field(default_factory=list)
    """Runs that were triggered and not yet seen to end."""

    def __post_init__(self) -> None:
        self.ledger = Ledger.open(self.ledger_url or f"sqlite:///{self.airflow.home / 'wavelift.db'}")

    @property
    def api(self) -> ApiClient:
        return self.airflow.api

    @property
    def vcenter(self) -> Any:
        return self.stage.vcenter

    @property
    def aws(self) -> Any:
        return self.stage.aws

    def trigger(self, wave: str, conf: dict[str, Any] | None = None, *, dag: str = "migrate") -> Run:
        run = Run(self, f"{wave}.{dag}", self.airflow.trigger(f"{wave}.{dag}", conf))
        self.active.append(run)
        return run

    def wave_of(self, name: str) -> Path:
        return self.dags / "waves" / f"{name}.yaml"

    def snapshots_taken(self, server: str) -> list[dict[str, Any]]:
        """Every snapshot that was ever taken of a server."""
        return [one for one in self.vcenter.evidence() if one["vm"] == server]

    def machine(self, server: str) -> dict[str, Any]:
        """A server as the vCenter holds it."""
        return next(one for one in self.vcenter.state()["vms"] if one["name"] == server)

    def uploads(self, text: str) -> list[dict[str, Any]]:
        """Unfinished uploads whose key contains ``text``."""
        return [one for one in self.aws.state()["buckets"][BUCKET]["uploads"] if text in one["key"]]

    def assert_proven(self, server: str, image_id: str) -> None:
        """What ImportImage read of the server's first disk is what its last snapshot froze, byte for byte."""
        frozen = Path(self.snapshots_taken(server)[-1]["disks"][0]["file"]).read_bytes()
        read = [
            one
            for one in self.aws.evidence()["imports"]
            if one["image"] == image_id and one["key"].endswith(f"{server}/disk-0.vmdk")
        ]
        assert len(read) == 1, read
        assert Path(read[0]["raw"]).read_bytes().rstrip(b"\0") == frozen.rstrip(b"\0")

    def leftovers(self, waves: set[str]) -> list[str]:
        """What lies outside of these waves and is no result that the ledger names."""
        return [*self._left_in_vcenter(waves), *self._left_in_aws(waves)]

    def _left_in_vcenter(self, waves: set[str]) -> Iterator[str]:
        for vm in self.vcenter.state()["vms"]:
            if vm["path"].split("/")[-2] in waves and (vm["snapshots"] or vm["leases"]):
                yield f"{vm['name']}: {vm['snapshots']} {vm['leases']}"

    def _left_in_aws(self, waves: set[str]) -> Iterator[str]:
        bucket = self.aws.state()["buckets"][BUCKET]
        results = {one.run_key: one for one in self.ended() if one.image_id}
        copies = [one for one in self.copies() if one.recorded_at]
        hashes = {one.id.removeprefix("mig-") for one in results.values()}
        hashes |= {one.id.removeprefix("run-") for one in copies}
        for key in (*bucket["objects"], *(upload["key"] for upload in bucket["uploads"])):
            parts = key.split("/")
            manifest = key.endswith(".manifest") and parts[2] in hashes
            if parts[0] == "staging" and parts[1] in waves and not manifest:
                yield f"s3: {key}"
        ec2 = self.aws.client("ec2")
        named = {one.image_id for one in results.values()} | {one.ami_id for one in copies}
        for task in ec2.describe_import_image_tasks()["ImportImageTasks"]:
            wave = {tag["Key"]: tag["Value"] for tag in task.get("Tags", [])}.get("wavelift:wave")
            if wave in waves and task["Status"] not in ("completed", "deleted"):
                yield f"import: {task['ImportTaskId']} {task['Status']}"
            if wave in waves and task["Status"] == "completed" and task["ImageId"] not in named:
                yield f"image: {task['ImageId']} is named by nobody"

    def ended(self) -> list[Migration]:
        return list(migrations.list_migrations(self.ledger, limit=500).items)

    def copies(self) -> list[ReplicationRun]:
        """Every replication run."""
        return list(replication_runs.list_runs(self.ledger, limit=500).items)

    def snapshots_of_copies(self) -> set[str]:
        """EBS snapshots that replication holds: of its AMIs, and what next runs build on."""
        found = {disk.snapshot_id for one in self.copies() for disk in lineage.read_lineage(self.ledger, one.job_id)}
        amis = [one.ami_id for one in self.copies() if one.ami_id]
        images = self.aws.client("ec2").describe_images(ImageIds=amis)["Images"] if amis else []
        return found | {disk["Ebs"]["SnapshotId"] for image in images for disk in image["BlockDeviceMappings"]}

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

    def until(self, what: str, ready: Callable[[], Any], timeout: float = 120) -> None:
        """Wait for a condition; when the run ends before, that is told."""

        def look() -> bool:
            return bool(ready())

        wait_for(look, timeout=timeout, what=what, log=self.describe, interval=0.3)

    def until_state(self, task: str, index: int, *states: str, timeout: float = 120) -> None:
        self.until(f"{task}[{index}] to be {states}", lambda: self.row(task, index)["state"] in states, timeout=timeout)

    def exported(self, index: int) -> int:
        """Bytes of the server's disks that its running export has passed."""
        progress = self.world.api.state_store(self.dag_id, self.run_id, "server.export", "progress", map_index=index)
        return sum(disk["done"] for disk in (progress or {}).get("disks", {}).values())

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
        cleared = self.world.api.clear(self.dag_id, self.run_id, list(tasks))
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


def _environment(stage: Stage, name: str, **changes: Any) -> str:
    spec = yaml.safe_load(stage.environment(ROOT / "dags" / "environments" / "demo.yaml"))
    return yaml.safe_dump({**spec, "environment": name, **changes})


def lay_out(dags: Path, stage: Stage, waves: Mapping[str, WaveOf]) -> None:
    """The DAGs folder: our DAG files, the environment ``lab``, and the waves."""
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    for folder in ("waves", "environments"):
        (dags / folder).mkdir(exist_ok=True)
    (dags / "environments" / "lab.yaml").write_text(_environment(stage, "lab"))
    for name, shape in waves.items():
        (dags / "waves" / f"{name}.yaml").write_text(wave_text(name, shape))


def _lay_out_more(dags: Path, stage: Stage) -> None:
    narrow = _environment(stage, "narrow", aws_conn_id="aws_narrow", limits={"imports_per_region": 2})
    (dags / "environments" / "narrow.yaml").write_text(narrow)
    (dags / "waves" / "bad.yaml").write_text(BAD_WAVE)
    shutil.copy(Path(__file__).parent / "lab_tools.py", dags)


def _order_faults(stage: Stage) -> None:
    """Rules that hit one server of one test each, from the start: none has to be taken away while others run."""
    for vm, (rate, times) in SLOW.items():
        stage.vcenter.rule(kind="nfc", action="slow", vm=vm, rate=rate, times=times)
    unsupported = "ClientError: Unsupported kernel version 5.99"
    stage.aws.rule(kind="import", key="*broken-b*", outcome="deleted", message=unsupported, count=1)
    stage.aws.rule(kind="import", key="*cleared-b*", outcome="stuck", count=1)


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("airflow")
    with ExitStack() as stack:
        aws = stack.enter_context(start_aws(folder / "aws", tls=True, evidence=True))
        network = aws.bootstrap(bucket=BUCKET, role=True)
        servers = [*_others(), *machines(folder / "disks", WAVES)]
        vcenter = stack.enter_context(start_vcenter(folder / "vcenter", servers, evidence=True, lease_timeout=10))
        stage = Stage(vcenter, aws, network)
        lay_out(folder / "dags", stage, WAVES)
        _lay_out_more(folder / "dags", stage)
        _order_faults(stage)
        before = (vcenter.state(), aws.state())
        connections = stage.connections()
        settings = {
            **connections,
            "AIRFLOW_CONN_AWS_NARROW": connections["AIRFLOW_CONN_AWS_DEMO"],
            "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
            "AIRFLOW__WAVELIFT__TRANSFERS_PER_CONNECTOR": str(SLOTS),
            "WAVELIFT_LAB": f"{folder}:{BUCKET}",
            # How late Airflow hears of a process's end, and how soon a killed task is told: 1 s here, 5 by default.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # SQLite: wait for a writer instead of answering "database is locked" after 5 s.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'home' / 'airflow.db'}?timeout=60",
            "PYTHONDONTWRITEBYTECODE": "",  # or every task compiles all of wavelift anew
        }
        airflow = stack.enter_context(LocalAirflow(folder / "home", folder / "dags", settings))
        airflow.migrate()
        airflow.start()
        made = World(airflow, stage, folder / "dags")
        if EARLY_FOR & {item.path.stem for item in request.session.items}:
            made.early = {wave: made.trigger(wave) for wave in EARLY}
        yield made
        _nothing_is_left(made, *before)
        made.ledger.close()
    assert not airflow.processes(), "processes of this Airflow outlived it"


def _nothing_is_left(world: World, vcenter: dict[str, Any], aws: dict[str, Any]) -> None:
    """Both simulators hold what they held, and what the ledger names as results."""
    for run in list(world.active):
        run.wait()
    assert not list_slots(world.ledger)
    assert not world.leftovers(set(WAVES))
    now = world.vcenter.state()
    assert (now["sessions"], now["leases"]) == (vcenter["sessions"], vcenter["leases"])
    rows = world.ended()
    after = world.aws.state()
    assert set(after["instances"]) == {one.instance_id for one in rows if one.instance_id}
    copied = {one.ami_id for one in world.copies() if one.ami_id}
    assert set(after["images"]) == copied | {one.image_id for one in rows if one.image_id}
    named = world.snapshots_of_copies() | {id for one in rows for id in one.snapshot_ids}
    assert {one["id"] for one in after["snapshots"]} == named
    assert after["import_tasks"] == aws["import_tasks"]
    assert not after["buckets"][BUCKET]["uploads"]


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test whose waves left anything outside; a run that it left running is its fault too."""
    if "world" not in request.fixturenames:
        yield
        return
    world: World = request.getfixturevalue("world")
    others = set(EARLY)
    before = {run.run_id for run in world.active}
    yield
    mine = [run for run in world.active if run.run_id not in before]
    for run in mine:  # its test failed: the next ones shall not wait for it
        run.stop()
    assert not mine, f"was still running: {[run.describe() for run in mine]}"
    finished = set(WAVES) - {run.wave for run in world.active}
    deadline = time.monotonic() + 5  # a cancelled import needs a moment to be gone
    while left := world.leftovers(finished):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    if not world.active and not others & {run.wave for run in world.active}:
        assert not world.vcenter.state()["sessions"], "a session is still signed in"
        assert not list_slots(world.ledger), "a slot is still held"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order this folder's files by :data:`ORDER`, in their own places among the others."""
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if item.path.parent == here]
    ordered = sorted((items[place] for place in places), key=lambda item: ORDER.index(item.path.stem))
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


__all__ = ["ApiError", "Run", "World"]
