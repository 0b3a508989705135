"""The policy of the staging bucket that ``wavelift iam show bucket`` prints, as S3 evaluates it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from tests.wire.aws.conftest import Connect
from tests.wire.aws.disk_replica import QUICK

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.errors import WaveliftError
from wavelift.base.units import KIB
from wavelift.rules.policies import Staging, bucket_policy
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

CALLER = "arn:aws:iam::123456789012:user/simulator"
"""The simulator's user with permanent keys."""


@pytest.fixture
def policy(access: AwsAccess, account: Bootstrap) -> Iterator[None]:
    """The role that can be assumed is the connector's, the user the caller."""
    document = bucket_policy(
        Staging(account.bucket, "waves"), connectors=[account.assumable_role_arn], callers=[CALLER]
    )
    s3 = access.client("s3")
    s3.put_bucket_policy(Bucket=account.bucket, Policy=json.dumps(document))
    yield
    s3.delete_bucket_policy(Bucket=account.bucket)


@pytest.fixture
def stranger(aws: AwsSimulator) -> Iterator[boto3.Session]:
    """Another role of the account, which may do everything but for the bucket's policy."""
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = iam.create_role(RoleName="stranger", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    keys = aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="stranger")["Credentials"]
    yield boto3.Session(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        region_name=aws.region,
    )
    iam.delete_role(RoleName="stranger")


def _refused(call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(WaveliftError, match="AccessDenied"):
        call(*arguments, **options)


def test_below_the_prefix_only_the_connector_puts(
    policy: None, connect: Connect, assumed: boto3.Session, stranger: boto3.Session, staging: S3Staging
) -> None:
    connector = S3Staging(connect(assumed), staging.bucket, policy=QUICK)
    other = S3Staging(connect(stranger), staging.bucket, policy=QUICK)
    connector.put_object("waves/w/disk-0.manifest", b"ours")
    for refused in (staging, other):
        _refused(refused.put_object, "waves/w/disk-0.manifest", b"theirs")
        _refused(refused.multipart, "waves/w/disk-0.vmdk", metadata={})
    assert staging.get_object("waves/w/disk-0.manifest", at_most=KIB) == b"ours"
    upload = connector.multipart("waves/w/disk-0.vmdk", metadata={})
    _refused(other.abort_upload, "waves/w/disk-0.vmdk", upload.upload_id)
    _refused(other.delete, "waves/w/disk-0.manifest")
    assert staging.head("waves/w/disk-0.manifest") is not None
    staging.abort_upload("waves/w/disk-0.vmdk", upload.upload_id)
    staging.delete("waves/w/disk-0.manifest")
    assert staging.head("waves/w/disk-0.manifest") is None
    for each in (staging, other, connector):  # the prefix is ours, the bucket may be shared
        each.put_object("elsewhere/x", b"x")
        each.delete("elsewhere/x")
    connector.close()
    other.close()


def test_nobody_deletes_a_version(
    policy: None, connect: Connect, assumed: boto3.Session, access: AwsAccess, account: Bootstrap
) -> None:
    """Else a swap could be taken back so that nothing shows it."""
    connector = S3Staging(connect(assumed), account.bucket, policy=QUICK)
    connector.put_object("waves/w/x", b"x")
    for client in (access.client("s3"), connect(assumed).client("s3")):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket=account.bucket, Key="waves/w/x", VersionId="null")
    connector.delete("waves/w/x")
    connector.close()
