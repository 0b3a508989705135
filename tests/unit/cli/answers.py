"""Answers of the REST API as a real installation gives them, for the tests of what commands print."""

from __future__ import annotations

from typing import Any, Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
BASE_FILE: Final = "[vsanDatastore-prod-frankfurt-02] 5f3c2b61-4a9d/erp-db01.vmdk"
DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def migration(**changes: Any) -> dict[str, Any]:
    """One that went well, without what ``migrations show`` adds."""
    return {
        "id": "mig-0b6f9c1d2e3a",
        "wave": "erp-frankfurt",
        "server": "erp-db01",
        "state": "completed",
        "phase": "",
        "progress_pct": 100,
        "bytes_done": 140 * GIB,
        "bytes_total": 140 * GIB,
        "bytes_sent": None,
        "import_task_id": "import-ami-0f1e2d3c4b5a69788",
        "image_id": "ami-0a1b2c3d4e5f60718",
        "instance_id": "i-0123456789abcdef0",
        "error": "",
        "cancel_requested": False,
        "dag_id": "erp-frankfurt.migrate",
        "dag_run_id": "manual__2026-12-01T09:00:00.123456+00:00",
        "created_at": "2026-12-01T09:00:05.123456+00:00",
        "finished_at": "2026-12-01T11:31:44.654321+00:00",
        **changes,
    }


def details(**changes: Any) -> dict[str, Any]:
    """All that the API tells of one migration."""
    stored = {
        "key": 2000, "bucket": "b", "object_key": "k", "manifest_key": "m", "manifest_digest": DIGEST,
        "content_digest": DIGEST, "parts": 12, "parts_kept": 0, "seconds": 2520.4, "reader": "nfc",
        "reader_reason": "an import needs whole disks, and the export lease of every datastore streams them",
    }  # fmt: skip
    return migration() | {
        "run_key": "k",
        "server_id": 7,
        "map_index": 3,
        "connector": "frankfurt-dc1",
        "region": "eu-central-1",
        "snapshot_name": "wavelift-5c1f0b6f9c1d2e3a",
        "snapshot_vm": "vm-1042",
        "snapshot_state": "removed",
        "export_result": {
            "server": "erp-db01",
            "snapshot": "snapshot-77",
            "disks": [
                {**stored, "index": 0, "address": "SCSI 0:0", "boot": True, "capacity": 40 * GIB,
                 "object_bytes": 5 * GIB, "data_bytes": 12 * GIB},
                {**stored, "index": 1, "address": "SCSI 0:1", "boot": False, "capacity": 100 * GIB,
                 "object_bytes": 31 * GIB, "data_bytes": 77 * GIB, "seconds": 7322.0},
            ],
        },
        "verify_result": {
            "server": "erp-db01", "level": "sample:1", "bytes_verified": 1434 * MIB, "bytes_read_back": 612 * MIB,
            "mismatches": 0, "manifests": [DIGEST, DIGEST],
        },
        "snapshot_ids": ["snap-0aaa1111bbbb2222c", "snap-0ddd3333eeee4444f"],
        "conversion_report": [
            {"index": 0, "snapshot_id": "snap-0aaa1111bbbb2222c", "boot": True, "blocks_compared": 819,
             "changed": [{"offset": 1572864, "length": 512 << 10}, {"offset": 9 * GIB, "length": 3 * MIB}]},
            {"index": 1, "snapshot_id": "snap-0ddd3333eeee4444f", "boot": False, "blocks_compared": 2048,
             "changed": []},
        ],
        "launch_result": {"server": "erp-db01", "instance_id": "i-0123456789abcdef0", "private_ip": "10.20.30.41",
                          "skipped": ""},
        "updated_at": "2026-12-01T11:31:44.654321+00:00",
        "version": 14,
        **changes,
    }  # fmt: skip


FAILED: Final = migration(
    id="mig-1c7a0d2e3f4b", server="erp-app-server-with-a-long-name-01", state="failed", progress_pct=40, image_id="",
    instance_id="", bytes_total=80 * GIB,
    error="The import failed: ClientError: Unsupported kernel version [server=erp-app-server-with-a-long-name-01, "
    "task=import-ami-0f1e2d3c4b5a69788]. Install a kernel that AWS supports, then clear its reserve task",
)  # fmt: skip
IMPORTING: Final = migration(
    id="mig-2d8b1e3f4a5c", server="erp-web01", state="importing", phase="import: converting", progress_pct=40,
    image_id="", instance_id="", bytes_total=20 * GIB, finished_at=None,
)  # fmt: skip


def run(**changes: Any) -> dict[str, Any]:
    """A replication run that went well."""
    return {
        "id": "run-0123456789ab",
        "job_id": "job-0123456789ab",
        "wave": "erp-frankfurt",
        "server": "erp-db01",
        "type": "Automatic",
        "state": "Completed",
        "status": "",
        "rule": "",
        "refused_until": None,
        "scheduled_start": "2026-12-01T09:00:00+00:00",
        "requested_at": "2026-12-01T09:00:00.4+00:00",
        "requested_by": "schedule",
        "started_at": "2026-12-01T09:00:03.2+00:00",
        "completed_at": "2026-12-01T09:42:13.9+00:00",
        "ami_id": "ami-0a1b2c3d4e5f60718",
        "ami_state": "available",
        "progress_pct": 100,
        "bytes_done": 0,
        "bytes_total": 140 * GIB,
        "bytes_read": 3 * GIB,
        "bytes_sent": 1536 * MIB,
        "rate": 52 * MIB,
        "duration_s": 2530.7,
        "error": "",
        "quarantine": "",
        "cancel_requested": False,
        "dag_id": "erp-frankfurt.replicate",
        "dag_run_id": "scheduled__2026-12-01T09:00:00+00:00",
        **changes,
    }


def run_details(**changes: Any) -> dict[str, Any]:
    """All that the API tells of one run."""
    lineage = {"address": "SCSI 0:0", "capacity": 40 * GIB, "snapshot_id": "snap-0aaa1111bbbb2222c"}
    disk = {
        "index": 0, "boot": True, "label": "disk 0 (SCSI 0:0)", "kind": "delta", "kind_reason": "",
        "reader": "datastore", "reader_reason": f"{BASE_FILE} is served by ranges through vCenter",
        "parent_snapshot_id": "snap-0999", "lineage": lineage, "content_digest": DIGEST, "data_bytes": 12 * GIB,
        "bytes_read": 512 * MIB, "bytes_sent": 256 * MIB, "blocks_sent": 512, "blocks_audited": 40, "seconds": 93.2,
    }  # fmt: skip
    stream = {
        "index": 1, "boot": False, "label": "disk 1 (SCSI 0:1)", "reader": "nfc", "kind": "delta",
        "kind_reason": "the stream of our snapshot is whole: every block's digest is compared",
        "reader_reason": f"no range of {BASE_FILE} is served while the VM runs (vCenter: 404 Not Found)",
        "lineage": {**lineage, "address": "SCSI 0:1", "capacity": 100 * GIB, "snapshot_id": "snap-0ddd3333eeee4444f"},
        "bytes_read": 77 * GIB, "bytes_sent": 1280 * MIB, "blocks_sent": 2560, "blocks_audited": 0, "seconds": 2400.0,
    }  # fmt: skip
    return run() | {
        "result": {"server": "erp-db01", "snapshot": "snapshot-78", "disks": [disk, {**disk, **stream}]},
        "superseded": [{"key": 2000, "snapshot_id": "snap-0999888877776666a"}],
        "verified": {"server": "erp-db01", "level": "full", "blocks_checked": 3072, "bytes_read_back": 1536 * MIB,
                     "snapshots": []},
        **changes,
    }  # fmt: skip


def job(**changes: Any) -> dict[str, Any]:
    """A job with an active run."""
    active = run(state="Active", status="Uploading", progress_pct=37, completed_at=None, ami_id="")
    return {
        "id": "job-0123456789ab",
        "wave": "erp-frankfurt",
        "server": "erp-db01",
        "state": "active",
        "state_reason": "",
        "seed_at": "2026-12-01T09:00:00+00:00",
        "frequency_hours": 12,
        "next_at": "2026-12-01T21:00:00+00:00",
        "license_type": "auto",
        "description": "ERP database",
        "keep_amis": None,
        "pause_after_failures": 3,
        "ami": "import",
        "force_register": False,
        "failures": 0,
        "latest_ami_id": "ami-0a1b2c3d4e5f60718",
        "current_run": active,
        "first_replication_at": "2026-12-01T09:00:00+00:00",
        "term_ends_at": "2027-03-01T09:00:00.5+00:00",
        "term_days_left": 90,
        "source": "vcenter-frankfurt",
        "identity": "5029a1b2-c3d4-e5f6-0718-293a4b5c6d7e",
        "created_by": "ana",
        "created_at": "2026-11-30T16:20:11.2+00:00",
        "updated_at": "2026-12-01T09:00:00+00:00",
        "deleted_at": None,
        "dag_id": "erp-frankfurt.replicate",
        **changes,
    }


SERVER: Final[dict[str, Any]] = {
    "id": "s-0123456789ab",
    "connection": "vcenter-frankfurt",
    "type": "VIRTUAL_MACHINE",
    "manager_name": "vc.example.com",
    "manager_type": "VirtualCenter",
    "manager_id": "uuid-vc",
    "instance_uuid": "uuid-7",
    "guest_id": "rhel8_64Guest",
    "connection_state": "connected",
    "first_seen": "2026-11-22T10:00:00+00:00",
    "last_seen": "2026-11-22T10:00:00+00:00",
    "vm_id": "vm-1042",
    "name": "erp-db01",
    "path": "/Frankfurt/vm/Production/ERP/erp-db01",
    "power": "poweredOn",
    "template": False,
    "gone": False,
    "cpus": 8,
    "memory_mib": 65536,
    "disk_bytes": 140 * GIB,
    "guest_full_name": "Red Hat Enterprise Linux 8 (64-bit)",
    "tags": ["environment:production", "owner:erp-team"],
    "job": {"id": "job-0123456789ab", "state": "ACTIVE", "terminated": False},
}
APPLIED: Final[dict[str, Any]] = {
    "wave": "erp-frankfurt",
    "dry_run": True,
    "changes": [
        {"kind": "create", "server": "erp-web01", "job_id": None, "fields": {}},
        {"kind": "update", "server": "erp-db01", "job_id": "job-0123456789ab", "fields": {
            "keep_amis": {"ledger": None, "spec": 3},
            "seed_at": {"ledger": "2026-12-01T09:00:00+00:00", "spec": "2026-12-02T22:30:00+00:00"},
            "force_register": {"ledger": False, "spec": True}}},
        {"kind": "missing", "server": "old", "job_id": "job-ffeeddccbbaa", "fields": {}},
    ],
    "unbound": ["/Frankfurt/vm/Shop"],
    "clashes": [{"server": "erp-app01", "what": "Two entries select the same VM", "do": "Remove one of them"}],
    "dag_id": "erp-frankfurt.replicate",
    "dag_paused": True,
}  # fmt: skip
