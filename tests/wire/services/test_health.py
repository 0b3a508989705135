"""The connector check: it reports each failure and raises no error (SMS-01)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from tests.vddk import VddkStandIn

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere.session import connect
from wavelift.base.catalog import ConnectorHealth
from wavelift.base.errors import LoginError
from wavelift.base.run import SystemClock
from wavelift.services.dataplane import health
from wavelift.services.dataplane.health import check_connector

pytestmark = pytest.mark.wire


def checked(stage: Any, access: Callable[[], AwsAccess] | None = None, **changes: Any) -> ConnectorHealth:
    config = replace(stage.config(), **changes)
    return check_connector("dc1", lambda: connect(config), access, clock=SystemClock())


def outcome(found: ConnectorHealth) -> dict[str, bool]:
    return {check.name: check.ok for check in found.checks}


def test_sms_01_everything_is_tried(stage: Any) -> None:
    found = checked(stage, stage.access)
    assert found.ok, found
    assert outcome(found).keys() >= {"vcenter", "clock:vcenter", "aws:sts", "aws:s3"}
    assert [name for name in outcome(found) if name.startswith("host:")]


def test_a_vcenter_that_refuses_leaves_aws_to_be_tried(stage: Any) -> None:
    found = checked(stage, stage.access, password="wrong")
    assert outcome(found)["vcenter"] is False
    assert outcome(found)["aws:s3"] is True
    assert not found.ok
    assert "wrong" not in found.checks[0].what


def test_hosts_and_clock_are_told_by_name(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_SKEW", -health.MAX_SKEW)  # any skew is too much
    found = checked(stage, esxi_mode="pin", esxi_thumbprints=("ab" * 32,))
    bad = {check.name: check for check in found.checks if not check.ok}
    assert "clock:vcenter" in bad
    assert "clock is" in bad["clock:vcenter"].what
    assert any(name.startswith("host:") and "pinned" in check.what for name, check in bad.items())
    assert "aws:sts" not in outcome(found), "no AWS connection: AWS is left out"


def test_what_nbdkit_needs_is_checked_where_the_worker_names_a_plugin(stage: Any, tmp_path: Path) -> None:
    vddk = VddkStandIn(tmp_path / "vddk", stage.vc)
    assert outcome(checked(stage, vddk=vddk.config()))["vddk:plugin"] is True
    found = checked(stage, vddk=vddk.config(folder=str(tmp_path)))
    assert outcome(found)["vddk:vddk"] is False
    assert outcome(checked(stage, vddk=vddk.config(plugin="nfc", folder=str(tmp_path))))["vddk:plugin"] is False
    assert not [name for name in outcome(checked(stage)) if name.startswith("vddk")]


def test_aws_that_does_not_answer_or_has_no_keys(stage: Any) -> None:
    def nowhere() -> AwsAccess:
        session = boto3.Session("AKIAEXAMPLE", "secret", region_name="eu-central-1")
        once = Config(retries={"total_max_attempts": 1})
        return AwsAccess(session, endpoint_url="https://127.0.0.1:9", config=once)

    def broken() -> AwsAccess:
        raise LoginError("no AWS region is set", next_step="Set it")

    for access in (nowhere, broken):
        found = checked(stage, access)
        assert outcome(found)["aws:sts"] is False
        assert "secret" not in str(found)
