"""The simulators, and the fixture that fails a test when anything of ours is left in them, or a thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.addresses import AddressAlarm
from tests.authorities import no_authorities_of_the_machine

from wavelift.adapters.aws import bulk
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere import lease, snapshots
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.services.dataplane.messages import PreflightReport
from wavelift.simulators import vcenter
from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.simulators.aws import start as start_aws
from wavelift.simulators.vcenter import SimDatastore, VCenterSimulator

from .export_lab import ExportLab, exports_bucket, make_image
from .journey import Stage
from .servers import LIMITED, MOVER, STORES, VICTIM, fleet

__all__ = ["no_authorities_of_the_machine"]

QUICK: Final = RetryPolicy(patience_s=3.0, base_s=0.01, cap_s=0.1)
"""The shipped policy's shape with short pauses."""
SETTLE_SECONDS: Final = 60.0
"""A cut transfer, an ended process or a cancelled import is noticed by the simulators a moment later."""
LEASE_SECONDS: Final = 10.0
"""Of a lease whose holder is dead; so long that a busy machine is not taken for one."""


@pytest.fixture(scope="session")
def aws_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSimulator]:
    with start_aws(tmp_path_factory.mktemp("aws"), tls=True, phase_seconds=0.01, instance_pending_seconds=0.01) as sim:
        yield sim


@pytest.fixture(scope="session")
def account(aws_simulator: AwsSimulator) -> Bootstrap:
    return aws_simulator.bootstrap(bucket="staging-bucket")


@pytest.fixture(scope="session")
def vcenter_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VCenterSimulator]:
    folder = tmp_path_factory.mktemp("vcenter")
    with vcenter.start(
        folder / "state",
        fleet(folder),
        datastores=[SimDatastore(), *(SimDatastore(kind, kind) for kind in STORES[1:])],
        users=(vcenter.ADMIN, VICTIM, LIMITED, MOVER),
        lease_timeout=LEASE_SECONDS,
        lease_ready_after=0.02,
        task_seconds=0.02,
        lease_exclusive=True,
        evidence=True,
    ) as sim:
        yield sim


# --- nothing is left ----------------------------------------------------------------------------------------------


def _vcenter_footprint(sim: VCenterSimulator) -> dict[str, Any]:
    state = sim.state()
    keys = ("snapshots", "power", "host", "busy", "leases", "consolidation_needed", "change_tracking")
    return {
        "sessions": sorted(item["key"] for item in state["sessions"]),
        "leases": state["leases"],
        "transfers": state["transfers"],
        "vms": {vm["moref"]: {key: vm[key] for key in keys} for vm in state["vms"]},
        "layers": {vm["moref"]: [disk["layers"] for disk in vm["disks"]] for vm in state["vms"]},
    }


def _footprint(vc: VCenterSimulator, aws: AwsSimulator) -> dict[str, Any]:
    """What must be the same before and after every test."""
    return {"vcenter": _vcenter_footprint(vc), "aws": aws.state(), "settings": aws.settings()}


def _settled_footprint(stage: Stage, before: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while (after := _footprint(stage.vc, stage.aws)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    return after


def _sweep(stage: Stage) -> None:
    stage.session_options.clear()
    with stage.connect() as session:
        for ref in snapshots.find_ours(session):
            snapshots.remove_snapshot(session, ref.vm, ref.name, cancel=CancelFlag())


@pytest.fixture(scope="session")
def shared_access(
    aws_simulator: AwsSimulator, account: Bootstrap, tmp_path_factory: pytest.TempPathFactory
) -> AwsAccess:
    """boto3's clients are dear to make."""
    return Stage(vc=None, aws=aws_simulator, account=account, folder=tmp_path_factory.getbasetemp()).access()  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def looked() -> dict[str, PreflightReport]:
    return {}


@pytest.fixture
def stage(
    vcenter_simulator: VCenterSimulator,
    aws_simulator: AwsSimulator,
    account: Bootstrap,
    shared_access: AwsAccess,
    looked: dict[str, PreflightReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    """The simulators, swept clean: the test fails when it leaves a snapshot, lease, session, upload, object, import,
    EBS snapshot, image, instance or thread, or when one address was up in vCenter and in AWS at once."""
    monkeypatch.setattr(bulk, "RetryPolicy", lambda **_: QUICK)
    monkeypatch.setattr(snapshots, "BUSY_POLL_S", 0.1)
    monkeypatch.setattr(lease, "BUSY_POLL_S", 0.1)
    before, threads = _footprint(vcenter_simulator, aws_simulator), set(threading.enumerate())
    alarm = AddressAlarm(vcenter_simulator, aws_simulator)
    made = Stage(vcenter_simulator, aws_simulator, account, tmp_path, shared_access=shared_access, looked=looked)
    yield made
    made.clear_rules()
    clashes = alarm.clashes()
    for journey in made.journeys:
        journey.discard()
        journey.close()
    left = {thread for thread in threading.enumerate() if thread not in threads}
    assert not left, f"threads left: {left}"
    after = _settled_footprint(made, before)
    if after != before:
        _sweep(made)  # for the next test's sake; this one has failed
    assert json.dumps(after, indent=1, sort_keys=True) == json.dumps(before, indent=1, sort_keys=True)
    assert not clashes, [str(clash) for clash in clashes]


# --- exports of instances, which need no vCenter ------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported_image(aws_simulator: AwsSimulator, account: Bootstrap) -> Iterator[tuple[str, list[dict[int, bytes]]]]:
    """An AMI of two disks, and what they hold."""
    image, snapshot_ids, contents = make_image(aws_simulator)
    yield image, contents
    ec2 = aws_simulator.client("ec2")
    ec2.deregister_image(ImageId=image)
    for snapshot_id in snapshot_ids:
        ec2.delete_snapshot(SnapshotId=snapshot_id)


@pytest.fixture
def lab(
    aws_simulator: AwsSimulator,
    account: Bootstrap,
    shared_access: AwsAccess,
    exported_image: tuple[str, list[dict[int, bytes]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ExportLab]:
    """An instance with two disks and a bucket for exports. The test fails when it leaves an upload, an object, a
    snapshot or a thread."""
    monkeypatch.setattr(bulk, "RetryPolicy", lambda **_: QUICK)
    before, threads = aws_simulator.state(), set(threading.enumerate())
    image, contents = exported_image
    with exports_bucket(aws_simulator) as bucket:
        made = ExportLab(
            aws_simulator, shared_access, bucket, image, contents, account.subnet_ids[0], tmp_path / "exports"
        )
        made.folder.mkdir()
        made.launch()
        yield made
        aws_simulator.clear_rules()
        uploads = made.uploads()
        made.tidy()
        assert uploads == []
    left = {thread for thread in threading.enumerate() if thread not in threads}
    assert not left, f"threads left: {left}"
    assert json.dumps(aws_simulator.state(), sort_keys=True) == json.dumps(before, sort_keys=True)
