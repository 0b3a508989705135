"""A driver that does to one server what the tasks of ``<wave>.migrate`` do, without Airflow."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from botocore.config import Config
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.domain import ExportResult, Finding, ImportResult, LaunchResult, Severity, VerifyResult
from wavelift.base.errors import FencedError, WaveliftError
from wavelift.base.names import run_hash
from wavelift.base.run import CancelFlag, CheckpointStore, DagRun, MemoryCheckpoints, RunContext
from wavelift.ledger import Migration, migrations
from wavelift.ledger.slots import standing
from wavelift.rules.environment import Environment
from wavelift.rules.plans import ResolvedWave, ServerPlan, resolve
from wavelift.rules.wave import Wave
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.report import TaskOutcome
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.abandon import abandon
from wavelift.services.dataplane.conversion import compare_image
from wavelift.services.dataplane.disk_crew import FrozenServer, TransferOptions
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting
from wavelift.services.dataplane.messages import Admitted, PreflightReport, ServerTask, TakenSnapshot
from wavelift.services.dataplane.preflight import Sides, run_preflight
from wavelift.services.dataplane.snapshot import take_snapshot
from wavelift.services.dataplane.snapshot_removal import remove_snapshot
from wavelift.services.dataplane.transfer import export_server
from wavelift.services.dataplane.verify import verify_server
from wavelift.services.migration import admit as runs
from wavelift.services.migration import reserve as slots
from wavelift.services.migration.image import ImportDone, Staged, advance_import
from wavelift.services.migration.launch import launch
from wavelift.services.migration.report import Ended, WaveReport, finish
from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.simulators.vcenter import VCenterSimulator

TRIES: Final = 3

T = TypeVar("T")


@dataclass
class Stage:
    """Both simulators, and what a test may turn."""

    vc: VCenterSimulator
    aws: AwsSimulator
    account: Bootstrap
    folder: Path
    journeys: list[Journey] = field(default_factory=list)
    session_options: dict[str, Any] = field(default_factory=dict)
    """Changes to the vSphere connection."""
    shared_access: AwsAccess | None = None
    looked: dict[str, PreflightReport] = field(default_factory=dict)
    """What pre-flight found for a wave, for journeys that are not about it."""
    cookies: set[str] = field(default_factory=set)
    """Of every vSphere session, to look for in what was said."""
    environment_changes: dict[str, Any] = field(default_factory=dict)

    def config(self, **changes: Any) -> VsphereConfig:
        values: dict[str, Any] = {
            "host": self.vc.host,
            "port": self.vc.port,
            "username": self.vc.username,
            "password": self.vc.password,
            "ca_bundle": str(self.vc.ca_file),
            "timeout": 20.0,
            "patience_s": 3.0,
        }
        return VsphereConfig(**(values | self.session_options | changes))

    @contextmanager
    def connect(self) -> Iterator[VsphereSession]:
        with connect(self.config()) as session:
            self.cookies.add(session.cookie.partition("=")[2].strip('"'))
            yield session

    def access(self, session: Any = None) -> AwsAccess:
        """To the simulator; ``session`` instead of the one with permanent keys, whose clients all tests share."""
        if session is None and self.shared_access is not None:
            return self.shared_access
        quick = Config(retries={"mode": "standard", "total_max_attempts": 3})
        return AwsAccess(
            session or self.aws.session(), endpoint_url=self.aws.endpoint_url, verify=self.aws.verify, config=quick
        )

    def environment(self, **changes: Any) -> Environment:
        values: dict[str, Any] = {
            "environment": "lab",
            "aws_conn_id": "aws_lab",
            "account": "123456789012",
            "may": {"migrate": ["user:admin"], "cut_over": ["user:admin"], "administer": ["user:admin"]},
            "region": self.aws.region,
            "staging": {"bucket": self.account.bucket, "prefix": "stage"},
            "role": self.account.role,
            "vpc": self.account.vpc_id,
            "subnets": self.account.subnet_ids[:1],
            "security_groups": (self.account.security_group_id,),
            "instance_types": ("t3.small",),
            "sources": [{"connection": "vsphere_lab", "connectors": ["hall-a"]}],
        }
        return Environment.model_validate(values | self.environment_changes | changes)

    def uploads(self) -> list[dict[str, Any]]:
        """Unfinished ones in the staging bucket."""
        found: list[dict[str, Any]] = self.aws.state()["buckets"][self.account.bucket]["uploads"]
        return found

    def clear_rules(self) -> None:
        self.vc.clear_rules()
        self.aws.clear_rules()

    def wave(self, *servers: str | dict[str, Any], **changes: Any) -> ResolvedWave:
        """A wave of these servers; ``changes`` are of the wave, with ``defaults`` merged."""
        defaults = {"verify": "full", "launch": "running", "allow_twin": True, **changes.pop("defaults", {})}
        values = {
            "wave": "lab",
            "source": {"connection": "vsphere_lab", "connector": "hall-a"},
            "environment": "lab",
            "defaults": defaults,
            "servers": servers,
            "min_free_pct": 5,
        }
        return resolve(Wave.model_validate(values | changes), self.environment())

    def journey(self, *servers: str | dict[str, Any], access: AwsAccess | None = None, **changes: Any) -> Journey:
        """The way of a wave's servers; see :meth:`wave`."""
        run = DagRun("lab.migrate", f"{self.folder.name}-{len(self.journeys)}")
        made = Journey(self, self.wave(*servers, **changes), run, access)
        self.journeys.append(made)
        return made

    # --- the proof, which asks nothing of wavelift ---

    def frozen_disk(self, snapshot: str, key: int) -> Path:
        """The raw image of the disk with this device key."""
        (entry,) = [one for one in self.vc.evidence() if one["snapshot_moref"] == snapshot]
        return next(Path(disk["file"]) for disk in entry["disks"] if disk["key"] == key)

    def assert_objects_equal_source(self, export: ExportResult) -> None:
        """qemu-img decodes each object to what the snapshot froze."""
        kept = {one["key"]: one["path"] for one in self.aws.evidence()["objects"]}
        for disk in export.disks:
            decoded = self.folder / "decoded.raw"
            command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", kept[disk.object_key], str(decoded)]
            subprocess.run(command, check=True, timeout=120)
            assert_same(self.frozen_disk(export.snapshot, disk.key), decoded, capacity=disk.capacity)
            decoded.unlink()

    def assert_imports_equal_source(self, outcome: Outcome) -> None:
        """What ImportImage read, disk by disk and in order, is what the snapshot froze."""
        assert outcome.export is not None
        assert outcome.image is not None
        imports = [one for one in self.aws.evidence()["imports"] if one["task"] == outcome.image.task_id]
        assert [one["number"] for one in imports] == list(range(len(outcome.export.disks)))
        for one, disk in zip(imports, outcome.export.disks, strict=True):
            assert one["key"] == disk.object_key
            assert_same(self.frozen_disk(outcome.export.snapshot, disk.key), Path(one["raw"]), capacity=disk.capacity)


def assert_same(frozen: Path, other: Path, *, capacity: int) -> None:
    """``other`` is the disk, apart from zeros that round it up."""
    expected, found = frozen.read_bytes(), other.read_bytes()
    assert len(expected) == capacity
    assert found[:capacity] == expected
    assert not found[capacity:].strip(b"\0")


# --- one server's way ---------------------------------------------------------------------------------------------


class Refused(WaveliftError):
    """Pre-flight kept the server back."""

    retryable = False


@dataclass
class Outcome:
    """How a journey ended, and what each step returned."""

    error: WaveliftError | None = None
    phase: str = ""
    """Of the error."""
    tries: dict[str, int] = field(default_factory=dict)
    errors: list[WaveliftError] = field(default_factory=list)
    """Of every try, those that a retry cured included."""
    preflight: PreflightReport | None = None
    snapshot: TakenSnapshot | None = None
    export: ExportResult | None = None
    verified: VerifyResult | None = None
    image: ImportResult | None = None
    launched: LaunchResult | None = None
    report: WaveReport | None = None
    migration: Migration | None = None

    @property
    def findings(self) -> list[Finding]:
        assert self.preflight is not None
        return [one for one in self.preflight.findings if one.severity is Severity.ERROR]


class Journey:
    """The tasks of one server in the DAG's order, each with its own checkpoint store and up to three tries."""

    def __init__(self, stage: Stage, wave: ResolvedWave, run: DagRun, access: AwsAccess | None = None) -> None:
        self.stage = stage
        self.run_ref = run
        self.admitted = Admitted(
            wave=wave, mode="migrate", dag_id=run.dag_id, run_id=run.dag_run_id, requested_by="tester"
        )
        self.ledger = fresh_ledger(stage.folder / f"{run.dag_run_id}.db")
        self.access = access or stage.access()
        self.options = TransferOptions()
        self.retask: Callable[[ServerTask], ServerTask] = lambda task: task
        """What the tasks after pre-flight get of it."""
        self.stores: dict[tuple[str, str], CheckpointStore] = {}
        self.before: dict[str, Callable[[], object]] = {}
        """Phase → what happens in the world just before its first try."""
        self.progress: Callable[[Any], None] = lambda progress: None
        self.home = ""
        """Host of a VM that the test moves."""
        self.looked_before = False
        """Take what an earlier journey's pre-flight found: nothing has changed since."""
        self.until = ""
        """``verify``: what follows is not what the test is about."""
        self.outcome = Outcome()
        self.cancel = CancelFlag()
        self.import_limit = 5
        self.watch_import: Callable[[ImportRunning | ImportWaiting | InQueue], None] = lambda found: None
        runs.admit(
            self.ledger, RunRequest(wave.wave, {}), lambda name: wave, run_context(run, requester="tester"), rights=OPEN
        )

    def context(self, server: str, phase: str) -> RunContext:
        return run_context(
            self.run_ref,
            server,
            checkpoints=self.stores.setdefault((server, phase), MemoryCheckpoints()),
            progress=self.progress,
            cancel=self.cancel,
        )

    def run(self) -> Outcome:
        """All of it, for one server: what succeeds is in the outcome, and so is the error that ended it."""
        self.run_all()
        return self.outcome

    def run_all(self) -> dict[str, Outcome]:
        """Every server that pre-flight lets pass, one after the other, and the report."""
        done = {}
        try:
            for task in self.preflight():
                self.outcome = done[task.name] = Outcome(preflight=self.outcome.preflight)
                self._guarded(task)
        except WaveliftError as error:
            self.outcome.error = error
        self.report(done)
        return done

    def _guarded(self, task: ServerTask) -> None:
        task = self.retask(task)
        try:
            self.reserve(task)
            self._server(task)
        except WaveliftError as error:
            self.outcome.error = error
        if "remove" not in self.outcome.tries and not isinstance(self.outcome.error, FencedError):
            self.remove(task)

    def _server(self, task: ServerTask) -> None:
        done = self.outcome
        done.snapshot = self.step("snapshot", lambda: self.take_snapshot(task))
        done.export = self.step("export", lambda: self.export(task))
        self.remove(task)
        done.verified = self.step("verify", lambda: self.verify(task))
        if self.until == "verify":
            return
        imported = self.step("import", lambda: self.import_image(task))
        image = done.image = self.step("compare", lambda: self.compare(task, imported))
        done.launched = self.step(
            "launch", lambda: launch(self.ledger, self.access, task, image, self.ctx(task, "launch"))
        )

    def ctx(self, task: ServerTask, phase: str) -> RunContext:
        return self.context(task.name, phase)

    def step(self, phase: str, call: Callable[[], T]) -> T:
        """Like Airflow: a fresh call over the same store, for errors that a retry may cure."""
        self.before.get(phase, lambda: None)()
        while True:
            count = self.outcome.tries[phase] = self.outcome.tries.get(phase, 0) + 1
            try:
                return call()
            except WaveliftError as error:
                self.outcome.errors.append(error)
                self.outcome.phase = phase
                if not error.retryable or count >= TRIES:
                    raise

    def preflight(self) -> tuple[ServerTask, ...]:
        def look() -> PreflightReport:
            sides = Sides(self.stage.connect, lambda: self.access)
            return run_preflight(sides, self.admitted, self.context("*", "preflight")).believed()

        wave = self.admitted.wave.model_dump_json()
        report = self.stage.looked.get(wave) if self.looked_before else None
        if report is None:
            report = self.step("preflight", look)
        if self.looked_before:
            self.stage.looked[wave] = report
        self.outcome.preflight = report
        if not report.passed:
            self.outcome.phase = "preflight"
            raise Refused("; ".join(report.lines()))
        return report.passed

    def reserve(self, task: ServerTask) -> None:
        def ask() -> slots.Reserved | InQueue:
            ctx = replace(self.ctx(task, "reserve"), map_index=0)
            return slots.reserve(self.ledger, task, ctx, limit=4)

        assert isinstance(self.step("reserve", ask), slots.Reserved)

    def take_snapshot(self, task: ServerTask) -> TakenSnapshot:
        with self.stage.connect() as session:
            return take_snapshot(session, task, self.ctx(task, "snapshot"))

    def export(self, task: ServerTask) -> ExportResult:
        snapshot = self.outcome.snapshot
        assert snapshot is not None
        with self.stage.connect() as session:
            source = FrozenServer(session, task, snapshot)
            return export_server(source, self.access, self.ctx(task, "export"), self.options)

    def verify(self, task: ServerTask) -> VerifyResult:
        assert self.outcome.export is not None
        return verify_server(self.access, task, self.outcome.export, self.ctx(task, "verify"))

    def import_image(self, task: ServerTask) -> ImportResult:
        """What the operator does between its deferrals, with a short sleep for the trigger."""
        export, verified = self.outcome.export, self.outcome.verified
        assert export is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            staged = Staged(task, export, verified)
            found = advance_import(self.ledger, self.access, staged, self.ctx(task, "import"), limit=self.import_limit)
            if isinstance(found, ImportDone):
                return found.result
            self.watch_import(found)
            time.sleep(0.05)
        raise AssertionError("the import never ended")

    def compare(self, task: ServerTask, image: ImportResult) -> ImportResult:
        assert self.outcome.export is not None
        return compare_image(self.access, task, self.outcome.export, image, self.ctx(task, "compare"))

    def remove(self, task: ServerTask) -> None:
        """The teardown after the export: with a cancel flag of its own, as it is a task of its own."""
        self.cancel = CancelFlag()

        def removal() -> bool:
            with self.stage.connect() as session:
                return remove_snapshot(session, lambda: self.access, task, self.ctx(task, "remove"))

        failed: WaveliftError | None = None
        try:
            self.step("remove", removal)
        except WaveliftError as error:
            failed = error
        else:
            mine = run_hash(self.ctx(task, "remove").run_key)
            assert not [one for one in self.stage.uploads() if mine in one["key"]], "an upload outlived its snapshot"
        exported = self.outcome.export is not None
        slots.release(self.ledger, self.ctx(task, "release"), removed=failed is None, exported=exported)
        if failed is not None:
            raise failed

    def report(self, servers: Mapping[str, Outcome]) -> None:
        """The last task: close the ledger's rows, and take away what failed servers left in AWS."""
        words = [TaskOutcome(name, (one.phase,), str(one.error)) for name, one in servers.items()]
        preflight = self.outcome.preflight
        report = finish(self.ledger, Ended(preflight, words), self.context("", "report"), tidy=self.tidy)
        self.outcome.report = report
        assert not within(self.ledger.read(), standing), "a slot is still held"
        for row in within(self.ledger.read(), migrations.of_dag_run, self.run_ref):
            if row.server in servers:
                servers[row.server].migration, servers[row.server].report = row, report
            else:
                assert row.server_id is None, "a server without tasks never began"

    def tidy(self, row: Migration, plan: ServerPlan) -> str:
        return abandon(self.access, plan, row.run_key)

    def discard(self) -> None:
        """Take away what a finished migration rightly left: image, snapshots, instance, manifests."""
        for row in within(self.ledger.read(), migrations.of_dag_run, self.run_ref):
            ec2 = Ec2(self.access)
            if row.instance_id:
                ec2.terminate([row.instance_id])
            if row.image_id:
                ec2.deregister(row.image_id, delete_snapshots=True)
                self._discard_manifests(run_hash(row.run_key))

    def _discard_manifests(self, run: str) -> None:
        """Of every instant that the server was exported at."""
        bucket, s3 = self.stage.account.bucket, self.stage.aws.client("s3")
        for key in self.stage.aws.state()["buckets"][bucket]["objects"]:
            if f"/{run}/" in key and key.endswith(".manifest"):
                s3.delete_object(Bucket=bucket, Key=key)

    def discard_image(self, image_id: str) -> None:
        """What a person does with an image that was never proven, and with the manifests that stayed beside it."""
        Ec2(self.access).deregister(image_id, delete_snapshots=True)
        for row in within(self.ledger.read(), migrations.of_dag_run, self.run_ref):
            self._discard_manifests(run_hash(row.run_key))

    def close(self) -> None:
        self.ledger.close()
