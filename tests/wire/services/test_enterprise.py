"""Accounts as enterprises run them: keys by alias, tags that must be there at once, buckets that demand a header."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wavelift.base.errors import WaveliftError

from .journey import Stage
from .replica import Replica

pytestmark = pytest.mark.wire

ALIAS = "alias/enterprise"


@pytest.fixture
def key(stage: Stage) -> Iterator[dict[str, Any]]:
    """A customer's key, known by its alias."""
    kms = stage.aws.client("kms")
    found = kms.create_key(Description="enterprise")["KeyMetadata"]
    kms.create_alias(AliasName=ALIAS, TargetKeyId=found["KeyId"])
    yield found
    if ALIAS in {one["AliasName"] for one in kms.list_aliases()["Aliases"]}:
        kms.delete_alias(AliasName=ALIAS)
    kms.schedule_key_deletion(KeyId=found["KeyId"])


@pytest.fixture
def replica(stage: Stage) -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make(server: str = "web01", **changes: Any) -> Replica:
        made.append(Replica(stage, server, **changes))
        return made[-1]

    yield make
    for one in made:
        one.discard()


def _snapshots(stage: Stage, ids: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stage.aws.client("ec2").describe_snapshots(SnapshotIds=ids)["Snapshots"]
    return found


@pytest.mark.parametrize(
    "form", [ALIAS, *(pytest.param(form, marks=pytest.mark.proof) for form in ("id", "alias-arn", "arn"))]
)
def test_a_key_by_any_name_encrypts_a_replica(
    stage: Stage, replica: Callable[..., Replica], key: dict[str, Any], form: str
) -> None:
    """EBS takes ARNs of keys only: pre-flight asks KMS once, and the tasks get what it said."""
    alias_arn = f"{key['Arn'].rpartition(':')[0]}:{ALIAS}"
    text = {"id": key["KeyId"], "alias-arn": alias_arn, "arn": key["Arn"]}.get(form, form)
    stage.environment_changes.update(kms_key=text, encrypt=True)
    result = replica().run()
    (disk,) = result.disks
    (snapshot,) = _snapshots(stage, [disk.lineage.snapshot_id])
    assert (snapshot["Encrypted"], snapshot["KmsKeyId"]) == (True, key["Arn"])
    s3 = stage.aws.client("s3")
    manifest = s3.head_object(Bucket=disk.lineage.bucket, Key=disk.lineage.manifest_key)
    assert (manifest["ServerSideEncryption"], manifest["SSEKMSKeyId"]) == ("aws:kms", key["Arn"])


def test_a_key_by_alias_encrypts_a_migration(stage: Stage, key: dict[str, Any]) -> None:
    stage.environment_changes.update(kms_key=ALIAS, encrypt=True)
    done = stage.journey("web01", defaults={"launch": "none"}).run()
    assert done.error is None
    assert done.image is not None
    assert {one["Encrypted"] for one in _snapshots(stage, list(done.image.snapshot_ids))} == {True}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda kms, key: kms.disable_key(KeyId=key["KeyId"]), "is not usable (Disabled)"),
        (lambda kms, key: kms.schedule_key_deletion(KeyId=key["KeyId"]), "is not usable (PendingDeletion)"),
        (
            lambda kms, key: kms.update_alias(
                AliasName=ALIAS,
                TargetKeyId=kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"],
            ),
            "is not a symmetric encryption key (RSA_2048)",
        ),
        (lambda kms, key: kms.delete_alias(AliasName=ALIAS), "does not exist in this region"),
    ],
    ids=["disabled", "deleted", "asymmetric", "gone"],
)
def test_an_unfit_key_is_refused_by_name_before_anything_is_made(
    stage: Stage, key: dict[str, Any], spoil: Callable[[Any, dict[str, Any]], object], words: str
) -> None:
    stage.environment_changes.update(kms_key=ALIAS, encrypt=True)
    spoil(stage.aws.client("kms"), key)
    with pytest.raises(WaveliftError, match="kms_key") as refused:
        stage.journey("web01").preflight()
    assert f"the key {ALIAS} {words}" in str(refused.value)


def test_a_key_that_nobody_may_look_at_must_be_named_by_its_arn(stage: Stage, key: dict[str, Any]) -> None:
    stage.aws.rule(service="kms", operation="DescribeKey", code="AccessDeniedException", status=403)
    stage.environment_changes.update(kms_key=ALIAS, encrypt=True)
    with pytest.raises(WaveliftError, match="write the key's ARN"):
        stage.journey("web01").preflight()
    stage.environment_changes.update(kms_key=key["Arn"])
    (task,) = stage.journey("web01").preflight()
    assert task.plan.target.kms_key == key["Arn"]


# --- tags and headers -----------------------------------------------------------------------------------------------

TAGS = {"CostCenter": "4711", "Owner": "Zoë, R&D (team 7)"}
MADE = ["ec2:RunInstances", "ec2:ImportImage", "ec2:RegisterImage", "ec2:CreateTags", "ebs:StartSnapshot"]


@pytest.fixture
def tags_demanded(stage: Stage) -> Iterator[None]:
    """An organisation that lets nothing be made without the two tags."""
    before = stage.aws.settings()
    statements = [
        {"Effect": "Deny", "Action": actions, "Resource": "*", "Condition": {"Null": {f"{key}/{name}": "true"}}}
        for actions, key in ((MADE, "aws:RequestTag"), (["s3:PutObject"], "s3:RequestObjectTag"))
        for name in TAGS
    ]
    stage.aws.settings(organisation_policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    stage.environment_changes["tags"] = TAGS
    yield
    stage.aws.settings(**before)


def _tags(found: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in found["Tags"]}


@pytest.mark.usefixtures("tags_demanded")
def test_everything_that_a_migration_makes_has_the_environment_s_tags(stage: Stage) -> None:
    done = stage.journey("web01").run()
    assert done.error is None
    assert done.image is not None
    assert done.export is not None
    ec2, s3 = stage.aws.client("ec2"), stage.aws.client("s3")
    (image,) = ec2.describe_images(ImageIds=[done.image.image_id])["Images"]
    for found in (image, *_snapshots(stage, list(done.image.snapshot_ids))):
        assert TAGS.items() <= _tags(found).items()
    (task,) = ec2.describe_import_image_tasks(ImportTaskIds=[done.image.task_id])["ImportImageTasks"]
    assert TAGS.items() <= _tags(task).items()
    disk = done.export.disks[0]
    manifest = s3.get_object_tagging(Bucket=disk.bucket, Key=disk.manifest_key)["TagSet"]
    found = {tag["Key"]: tag["Value"] for tag in manifest}
    assert found["CostCenter"] == "4711"
    assert found["Owner"] == "Zoë_ R_D _team 7_"
    assert "wavelift:run" in found


@pytest.mark.usefixtures("tags_demanded")
def test_everything_that_a_replication_makes_has_the_environment_s_tags(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    result = replica().run()
    (disk,) = result.disks
    (snapshot,) = _snapshots(stage, [disk.lineage.snapshot_id])
    assert TAGS.items() <= _tags(snapshot).items()


HEADER = "s3:x-amz-server-side-encryption"


@pytest.fixture
def policy(stage: Stage) -> Iterator[Callable[[dict[str, Any]], None]]:
    s3, bucket = stage.aws.client("s3"), stage.account.bucket

    def demand(condition: dict[str, Any]) -> None:
        statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Condition": condition}
        document = {"Version": "2012-10-17", "Statement": [{**statement, "Resource": f"arn:aws:s3:::{bucket}/*"}]}
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(document))

    yield demand
    s3.delete_bucket_policy(Bucket=bucket)


@pytest.fixture
def bucket_key(stage: Stage, key: dict[str, Any]) -> Iterator[str]:
    """The staging bucket encrypts with a customer's key by default."""
    s3, bucket = stage.aws.client("s3"), stage.account.bucket
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key["KeyId"]}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    yield key["Arn"]
    s3.delete_bucket_encryption(Bucket=bucket)


def test_a_bucket_that_demands_the_header_gets_what_it_does_anyway(
    stage: Stage, policy: Callable[[dict[str, Any]], None]
) -> None:
    policy({"Null": {HEADER: "true"}})
    done = stage.journey("web01", defaults={"launch": "none"}).run()
    assert done.error is None


def test_a_bucket_s_own_key_is_named_not_overruled(
    stage: Stage, policy: Callable[[dict[str, Any]], None], bucket_key: str
) -> None:
    """A policy that wants ``aws:kms``: to say AES256 would be refused, and weaken what the bucket's owner chose."""
    policy({"StringNotEquals": {HEADER: "aws:kms"}})
    journey = stage.journey("web01", defaults={"launch": "none"})
    heads: list[dict[str, Any]] = []

    def look() -> None:
        assert journey.outcome.export is not None
        disk = journey.outcome.export.disks[0]
        heads.append(stage.aws.client("s3").head_object(Bucket=disk.bucket, Key=disk.object_key))

    journey.before["verify"] = look
    assert journey.run().error is None
    (head,) = heads
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", bucket_key)


def test_amp_06_the_service_role_must_be_allowed_the_bucket_s_key(stage: Stage, bucket_key: str) -> None:
    iam = stage.aws.client("iam")
    statement = {"Effect": "Deny", "Action": ["kms:Decrypt"], "Resource": bucket_key}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName=stage.account.role, PolicyName="no-key", PolicyDocument=document)
    try:
        with pytest.raises(WaveliftError, match="lacks kms:Decrypt on arn:aws:kms:") as refused:
            stage.journey("web01").preflight()
    finally:
        iam.delete_role_policy(RoleName=stage.account.role, PolicyName="no-key")
    assert bucket_key in str(refused.value)
