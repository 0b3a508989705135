"""Answers of the routes of cutovers, as a real installation gives them, for the tests of what commands print."""

from __future__ import annotations

from typing import Any, Final

ZONE: Final = "Z0123456789ABCDEFGHIJ"


def cutover(**changes: Any) -> dict[str, Any]:
    """One that is switched, without what ``cutover show`` adds."""
    return {
        "id": "cut-0b6f9c1d2e3a",
        "wave": "erp-frankfurt",
        "server": "erp-db01",
        "environment": "prod-frankfurt",
        "tier": "database",
        "state": "switched",
        "phase": "Its instance serves",
        "serves": "instance",
        "downtime_s": 1391.4,
        "requested_by": "ana",
        "requested_at": "2026-12-05T20:00:05.123456+00:00",
        "request_id": "",
        "note": "change 4711",
        "window_start": "2026-12-05T21:00:00+00:00",
        "window_end": "2026-12-06T01:00:00+00:00",
        "run_id": "run-0123456789ab",
        "image_id": "ami-0a1b2c3d4e5f60718",
        "instance_id": "i-0123456789abcdef0",
        "private_ip": "10.20.30.41",
        "presync_runs": ["cutover__0011223344556677"],
        "verify_run": "verify__89abcdef01234567",
        "revert_run": "",
        "finalize_run": "",
        "error": "",
        "cancel_requested": False,
        "dag_id": "erp-frankfurt.cutover",
        "dag_run_id": "on_demand__2026-12-05T20:00:05_a1b2c3d4e5f6",
        "updated_at": "2026-12-05T21:24:00+00:00",
        "finished_at": None,
        **changes,
    }


def step(**changes: Any) -> dict[str, Any]:
    return {
        "name": f"dns {ZONE}/erp-db.corp.example",
        "kind": "dns",
        "state": "settled",
        "words": "Point A erp-db.corp.example to the instance",
        "undo_words": "Restore the record as it was",
        "before": {"values": ["192.0.2.17"], "ttl": 60},
        "wanted": {"values": ["10.20.30.41"], "ttl": 60},
        "waits": "",
        "error": "",
        "changed_at": "2026-12-05T21:23:10+00:00",
        **changes,
    }


PERSON: Final = step(
    name="person Tell the carrier to move the phone gateway",
    kind="person",
    state="intended",
    words="Tell the carrier to move the phone gateway",
    undo_words="Tell the carrier to move it back",
    before={},
    wanted={},
    waits="until somebody says that it is done",
    changed_at="2026-12-05T21:23:30+00:00",
)


def details(**changes: Any) -> dict[str, Any]:
    """All that the API tells of one cutover."""
    return cutover() | {
        "steps": [step()],
        "prepared": [
            step(
                name=f"ttl {ZONE}/erp-db.corp.example", kind="ttl",
                words="Lower the TTL of erp-db.corp.example to 60 s",
                undo_words="Restore its TTL", before={"ttl": 86400}, wanted={"ttl": 60},
                changed_at="2026-12-03T09:00:00+00:00",
            )
        ],
        "approval": {
            "answer": "approve", "answered_by": "bo", "answered_at": "2026-12-05T20:10:00+00:00",
            "valid_until": "2026-12-06T01:00:00+00:00", "digest": "9f86d081884c7d65",
        },
        "forecast": {
            "reachable_p50_s": 1260.0, "reachable_p90_s": 1710.0, "full_speed_p50_s": 4980.0,
            "full_speed_p90_s": 6060.0, "runs": 14, "cutovers": 3, "basis": "from 14 runs and 3 cutovers",
        },
        "plan_digest": "9f86d081884c7d65",
        "source": {
            "connection": "vcenter-frankfurt", "connector": "frankfurt-dc1", "vm": "vm-1042", "instance_uuid": "u",
            "path": "/Frankfurt/vm/erp/erp-db01", "powered_on": True, "addresses": ["192.0.2.17"], "cards": [],
        },
        "target": {"aws_conn_id": "aws_frankfurt", "region": "eu-central-1", "account": "123456789012"},
        "checks": [
            {"name": "status", "passed": True, "words": "2 of 2 EC2 status checks are ok"},
            {"name": "tcp 5432", "passed": True, "words": ""},
        ],
        "times": {
            "going": "2026-12-05T21:00:02+00:00", "stopping": "2026-12-05T21:00:09+00:00",
            "down": "2026-12-05T21:02:40+00:00", "recorded": "2026-12-05T21:08:00+00:00",
            "image": "2026-12-05T21:17:00+00:00", "launched": "2026-12-05T21:20:00+00:00",
            "checked": "2026-12-05T21:22:50+00:00", "switched": "2026-12-05T21:23:20+00:00",
        },
        "job_id": "job-0123456789ab",
        "run_key": "k",
        "version": 14,
        **changes,
    }  # fmt: skip


WAITS: Final = cutover(
    id="cut-1c7a0d2e3f4b", server="erp-app01", tier="app", state="waiting", phase="planned", serves="source",
    downtime_s=None, run_id="", image_id="", instance_id="", private_ip="", presync_runs=[], verify_run="",
)  # fmt: skip
MOVES: Final = cutover(
    id="cut-2d8b1e3f4a5c", server="erp-app02", tier="app", state="moving", phase="", serves="nobody", downtime_s=251.0,
    image_id="", instance_id="", private_ip="", verify_run="", step="transfer", step_state="running", step_try=1,
)  # fmt: skip
FAILED: Final = cutover(
    id="cut-3e9c2f4a5b6d", server="erp-web01", tier="web", state="failed",
    phase="it broke after its source was touched", serves="nobody", downtime_s=3000.0,
    error="The target never became healthy within 10 minutes. Look at its health checks (target=i-0fedcba9876543210)",
)  # fmt: skip
TEST: Final[dict[str, Any]] = {
    "id": "tst-0b6f9c1d2e3a", "wave": "erp-frankfurt", "server": "erp-db01", "environment": "prod-frankfurt",
    "state": "passed", "phase": "", "passed": True, "run_id": "run-0123456789ab", "image_id": "ami-0a1b2c3d4e5f60718",
    "instance_id": "i-0aabbccddeeff0011", "private_ip": "10.99.0.17", "checks": [], "requested_by": "ana", "error": "",
    "launched_at": "2026-12-01T09:00:00+00:00", "ends_at": "2026-12-02T09:00:00+00:00", "dag_id": "erp-frankfurt.test",
    "dag_run_id": "on_demand__1", "created_at": "2026-12-01T08:59:00+00:00", "updated_at": "2026-12-01T09:05:00+00:00",
    "finished_at": None,
}  # fmt: skip
ENDED_TEST: Final = {
    **TEST, "id": "tst-1c7a0d2e3f4b", "server": "erp-web01", "state": "ended", "passed": False,
    "error": "tcp 443: connection refused", "finished_at": "2026-12-02T09:03:00+00:00",
}  # fmt: skip
BACKUP: Final[dict[str, Any]] = {
    "id": "bak-0b6f9c1d2e3a", "wave": "erp-frankfurt", "server": "erp-db01", "environment": "prod-frankfurt",
    "subject": "cut-0b6f9c1d2e3a", "state": "completed", "reboot": False, "instance_id": "i-0123456789abcdef0",
    "image_id": "ami-0fedcba9876543210", "template_id": "lt-0123456789abcdef0", "template_version": 2,
    "requested_by": "ana", "error": "", "dag_id": "instance_backup", "dag_run_id": "on_demand__1",
    "created_at": "2026-12-07T09:00:00+00:00", "updated_at": "2026-12-07T09:20:00+00:00",
    "finished_at": "2026-12-07T09:20:00+00:00",
}  # fmt: skip
BROKEN_BACKUP: Final = {
    **BACKUP, "id": "bak-1c7a0d2e3f4b", "subject": "mig-0b6f9c1d2e3a", "state": "failed", "reboot": True,
    "image_id": "", "template_id": "", "template_version": None, "error": "AWS could not make it: IncorrectState",
}  # fmt: skip
