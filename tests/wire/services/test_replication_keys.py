"""The KMS key belongs to the lineage: a child keeps its parent's key, so another key needs a seed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from wavelift.base.domain import ReplicatedDisk

from .journey import Stage
from .replica import Replica

pytestmark = pytest.mark.wire


@pytest.fixture
def kms(stage: Stage) -> Any:
    return stage.aws.client("kms")


@pytest.fixture
def copy(stage: Stage) -> Iterator[Replica]:
    made = Replica(stage, "nfs-01")
    yield made
    made.discard()


@pytest.fixture
def default_key(stage: Stage) -> Iterator[Any]:
    """EC2, whose default key is reset at the end."""
    ec2 = stage.aws.client("ec2")
    yield ec2
    ec2.reset_ebs_default_kms_key_id()


def _key(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def _run(copy: Replica, **environment: Any) -> tuple[ReplicatedDisk, str]:
    """A run in such an environment, and the key that its EBS snapshot has."""
    copy.stage.environment_changes = environment
    disk = copy.run().disks[0]
    found = copy.stage.aws.client("ec2").describe_snapshots(SnapshotIds=[disk.lineage.snapshot_id])["Snapshots"][0]
    assert found["Encrypted"] == disk.lineage.encrypted
    return disk, found.get("KmsKeyId", "")


def test_another_key_makes_a_new_seed_and_a_key_by_its_alias_is_the_same(copy: Replica, kms: Any) -> None:
    first, second = _key(kms), _key(kms)
    kms.create_alias(AliasName="alias/replicas", TargetKeyId=second)
    assert _run(copy, encrypt=True, kms_key=first)[1] == first
    assert _run(copy, encrypt=True, kms_key=first)[0].kind == "delta"
    disk, key = _run(copy, encrypt=True, kms_key=second)
    assert (disk.kind, key) == ("seed", second)
    assert f"the KMS key was changed from {first} to {second}" in disk.kind_reason
    for same in ("alias/replicas", second.partition("/")[2], f"{second.partition(':key')[0]}:alias/replicas"):
        disk, key = _run(copy, encrypt=True, kms_key=same)
        assert (disk.kind, key) == ("delta", second)
    kms.delete_alias(AliasName="alias/replicas")


@pytest.mark.proof
def test_a_key_that_is_named_no_more_gives_way_to_the_default_and_so_does_a_default(
    copy: Replica, kms: Any, default_key: Any
) -> None:
    named, default = _key(kms), _key(kms)
    _run(copy, encrypt=True, kms_key=named)
    disk, managed = _run(copy, encrypt=True)
    assert disk.kind == "seed"
    assert managed not in ("", named)
    assert _run(copy, encrypt=True)[0].kind == "delta"
    default_key.modify_ebs_default_kms_key_id(KmsKeyId=default)
    disk, key = _run(copy, encrypt=True)
    assert (disk.kind, key) == ("seed", default)
    assert _run(copy, encrypt=True)[0].kind == "delta"


def test_who_may_not_ask_for_the_default_key_keeps_the_replica_and_is_told(
    copy: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    _run(copy, encrypt=True)
    copy.stage.aws.rule(service="ec2", operation="GetEbsDefaultKmsKeyId", code="UnauthorizedOperation", status=403)
    with caplog.at_level(logging.WARNING):
        assert _run(copy, encrypt=True)[0].kind == "delta"
    assert "ec2:GetEbsDefaultKmsKeyId" in caplog.text
