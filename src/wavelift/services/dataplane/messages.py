"""The JSON messages between the tasks of a migrate run. They are small, and each one names its server."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from wavelift.base.domain import (
    ConvertedDisk,
    DiskFacts,
    ExportResult,
    Finding,
    Message,
    ServerFacts,
    SnapshotRef,
)
from wavelift.base.names import run_hash, run_key
from wavelift.rules.conf import MigrateMode
from wavelift.rules.estimate import Estimate
from wavelift.rules.findings import about, grouped, stopped, verdict
from wavelift.rules.plans import ResolvedWave, ServerPlan


class Imported(Message):
    """A finished import that is to be compared with its manifests again."""

    migration: str
    export: ExportResult
    snapshot_ids: tuple[str, ...]


class Reverified(Message):
    """What the comparison of :class:`Imported` found; changes of a boot disk are the conversion's."""

    server: str
    migration: str
    disks: tuple[ConvertedDisk, ...]


class KnownRun(Message):
    """A DAG run and its servers: whose a leftover is.

    The run hashes are computed from the names: a hash that came by XCom could be that of another, living run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # an older version froze hashes instead of servers

    dag_id: str
    run_id: str
    servers: tuple[str, ...] = ()

    @property
    def hashes(self) -> frozenset[str]:
        return frozenset(run_hash(run_key(self.dag_id, self.run_id, server)) for server in self.servers)


class StandingSnapshot(Message):
    """A vSphere snapshot that our ledger does not know to be gone (invariant 4)."""

    server: str
    connection: str
    """Where its run was, by the spec that was frozen for it."""
    vm: str
    """Managed object id."""
    name: str
    run: str
    """Run hash."""


class AccountUse(Message):
    """How many servers of ours were on their way into an account when a run was admitted, and how many may be."""

    in_use: int
    limit: int


class Admitted(Message):
    """What ``admit`` froze for the run: nothing of the spec's file is read again."""

    wave: ResolvedWave
    mode: MigrateMode
    dag_id: str
    run_id: str
    requested_by: str
    migrations: tuple[str, ...] = ()
    """Migration ids to launch, in mode ``launch``."""
    imported: tuple[Imported, ...] = ()
    """What to compare again, in mode ``verify``."""
    runs: tuple[KnownRun, ...] = ()
    """Every run of this wave that our ledger knows, in mode ``cleanup``: what others made is never ours to remove."""
    standing: tuple[StandingSnapshot, ...] = ()
    """In mode ``cleanup``: what the ledger takes for standing of this wave, to be compared with vCenter."""
    dry_run: bool = True
    """In mode ``cleanup``: only list."""
    token: str = Field(default="", repr=False)
    """The grant of pre-flight, a credential: Airflow masks a field of this name. The ledger does not keep it."""
    account_use: AccountUse | None = None
    """For pre-flight, which has no ledger. The ledger does not keep it either."""


class NfcShare(Message):
    """Whose NFC sessions a server's transfer through VDDK takes, and how many servers may do so at a time."""

    vcenter: str
    host: str
    """moref of the host that pre-flight saw: the transfer refuses to open anything on another one."""
    per_host: int
    per_vcenter: int


class ServerTask(Message):
    """One server of the run, as the mapped tasks get it."""

    name: str
    plan: ServerPlan
    facts: ServerFacts
    nfc: NfcShare | None = None
    """None: VDDK is not set up."""
    vcenter: str = ""
    """Host and port of the vCenter. Empty: the pre-flight of an older version."""
    final: bool = False
    """What is read now is launched in the source's place: it must be off, whatever ``source_power`` says. The tasks of
    a cutover set it themselves."""

    @property
    def boot_mode(self) -> Literal["", "legacy-bios", "uefi"]:
        """The plan's boot mode; ``auto`` follows the VM's firmware."""
        if self.plan.boot_mode != "auto":
            return self.plan.boot_mode
        return "uefi" if self.facts.firmware == "efi" else "legacy-bios"


class TakenSnapshot(Message):
    """Our snapshot and the disks as they were frozen in it."""

    ref: SnapshotRef
    disks: tuple[DiskFacts, ...]
    """Without change ids where tracking began with this very snapshot: they may not be built on."""
    vcenter_link: str = ""
    tracking: str = ""
    """That change tracking begins, or why it can't be turned on, in words."""
    tracked_from_here: bool = False
    """Tracking was turned on by this run, with no snapshot standing: what it calls in use may be asked for."""


class PreflightReport(Message):
    """Every finding of one pass, and who may go."""

    wave: str
    findings: tuple[Finding, ...]
    servers: tuple[ServerTask, ...]
    """All that were found, those with errors included."""
    estimate: Estimate = Estimate()

    def lines(self) -> list[str]:
        """The findings for a log, worst first; the last line says who is ready."""
        return [
            *(
                f"{finding.severity:<8} {about(servers)}: {finding.what}. {finding.next_action}"
                for finding, servers in grouped(self.findings)
            ),
            verdict(self.findings, [task.name for task in self.servers]),
        ]

    @property
    def blind(self) -> bool:
        """vCenter or AWS could not be read: it does not know all servers, or not all about them."""
        return any(finding.code.startswith("connection.") for finding in self.findings)

    @property
    def passed(self) -> tuple[ServerTask, ...]:
        """Servers without an error of their own; an error of the whole wave stops all."""
        return tuple(task for task in self.servers if not stopped(self.findings, task.name))


SNAPSHOT_KIND: Final = "vSphere snapshot"


class Leftover(Message):
    """One thing of ours outside."""

    kind: str
    """``vSphere snapshot``, ``upload``, ``staged disk``, ``import task``."""
    name: str
    run: str
    """Run hash."""
    owner: str
    """``living run`` (left alone), ``ended run`` (may go), ``unknown`` (in the wave's folder or with its tag, of a run
    that our ledger does not know, such as another installation's: left alone)."""
    removed: bool = False
    error: str = ""


class CleanupReport(Message):
    """What was found, and what became of it."""

    wave: str
    dry_run: bool
    leftovers: tuple[Leftover, ...]
