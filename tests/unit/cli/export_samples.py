"""Answers of the routes of instance exports, for the tests of what commands print."""

from __future__ import annotations

from typing import Any, Final

GIB: Final = 1 << 30
EXP: Final = "exp-0b6f9c1d2e3a"
INSTANCE: Final = "i-0123456789abcdef0"
AT: Final = "2026-12-01T09:00:05.123456+00:00"
ENDED: Final = "2026-12-01T10:12:05.123456+00:00"


def export(**changes: Any) -> dict[str, Any]:
    """One that AWS works on."""
    return {
        "id": EXP,
        "environment": "lab",
        "account": "123456789012",
        "region": "eu-central-1",
        "instance_id": INSTANCE,
        "subject": INSTANCE,
        "state": "active",
        "phase": "AWS: converting",
        "percent": 40,
        "choice": "auto",
        "method": "instance",
        "target": "vmware",
        "format": "ova",
        "bucket": "export-to-s3-acme-eu-central-1",
        "prefix": "out/",
        "object_key": "",
        "object_bytes": None,
        "location": "",
        "may_reboot": True,
        "task_id": "export-i-0fedcba9876543210",
        "requested_by": "ana",
        "requested_at": AT,
        "request_id": "",
        "note": "change 4711",
        "error": "",
        "cancel_requested": False,
        "dag_id": "instance_export.lab",
        "dag_run_id": "on_demand__1",
        "updated_at": AT,
        "finished_at": None,
        "step": "begin",
        "step_state": "deferred",
        **changes,
    }


FINDING: Final[dict[str, Any]] = {
    "severity": "error",
    "code": "export.reboot",
    "subject": INSTANCE,
    "what": "it runs, and AWS may restart it",
    "why": "AWS shuts a running instance down for the export",
    "next_action": "Allow it with --may-reboot",
    "requirement": "VIE-05",
}
PLAN: Final[dict[str, Any]] = {
    "method": "instance",
    "why": "nothing forbids it",
    "format": "ova",
    "target": "vmware",
    "prefix": "out/",
}
MORE: Final[dict[str, Any]] = {
    "why": "nothing forbids it",
    "findings": [{**FINDING, "severity": "warning", "next_action": "Nothing"}],
    "plan": PLAN,
    "made": {"attempt": 1, "method": "instance"},
    "result": None,
    "times": {"admitted": AT, "checked": "2026-12-01T09:00:35+00:00", "submitted": "2026-12-01T09:01:05+00:00"},
    "run_key": "k",
    "version": 7,
}
DETAILS: Final = {**export(), **MORE}
READS: Final = export(
    method="direct", task_id="", phase="reads the snapshots and writes the OVA", percent=25,
    bytes_done=10 * GIB, bytes_total=40 * GIB, rate=200 << 20, step="read", step_state="running", may_reboot=False,
)  # fmt: skip
KEY: Final = f"out/{EXP}.ova"
DONE: Final = {
    **READS,
    **MORE,
    "state": "completed", "phase": "", "percent": 100, "bytes_done": None, "bytes_total": None, "rate": 0,
    "step": "", "step_state": "", "object_key": KEY, "object_bytes": 25 * GIB // 2, "finished_at": ENDED,
    "location": f"s3://export-to-s3-acme-eu-central-1/{KEY}", "findings": [],
    "why": "method instance takes one disk, and there are 2",
    "made": {"attempt": 1, "method": "direct", "snapshot_ids": ["snap-0a1b2c3d4e5f60718", "snap-0b1b2c3d4e5f60718"],
             "removed": ["snapshot snap-0a1b2c3d4e5f60718", "snapshot snap-0b1b2c3d4e5f60718"], "kept": []},
    "result": {"level": "sample:1", "bytes_verified": 400 << 20, "bytes_read_back": 430 << 20,
               "opened": ["disk1.vmdk: stream-optimised VMDK of 8 GiB", "disk2.vmdk: stream-optimised VMDK of 32 GiB"]},
    "times": {"admitted": AT, "snapshots_taken": "2026-12-01T09:01:05+00:00", "completed": ENDED},
}  # fmt: skip
FAILED: Final = export(
    id="exp-1c7a0d2e3f4b", instance_id="i-0aaaaaaaaaaaaaaaa", subject="mig-0b6f9c1d2e3a", state="failed", phase="",
    percent=0, finished_at=ENDED, step="", step_state="",
    error="The export task ended as cancelled: ClientError: the conversion failed",
)  # fmt: skip
WAITS: Final = export(
    id="exp-2d8b1e3f4a5c", state="queued", phase="waits for a slot of eu-central-1: place 2", percent=0, method="",
    task_id="", step="reserve",
)  # fmt: skip
ENVIRONMENTS: Final[dict[str, Any]] = {
    "environments": [
        {"name": "lab", "description": "", "actions": ["migrate", "administer"], "exports_bucket": "export-to-s3-x"},
        {"name": "old", "description": "", "actions": ["migrate", "administer"]},
    ]
}
