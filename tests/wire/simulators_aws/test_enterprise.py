"""What enterprises put around an account: keys of their own, bucket defaults, policies that demand tags and headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.wire.simulators_aws.lab import Lab, Refused

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

ALIAS = "alias/enterprise"


@pytest.fixture(scope="module")
def kms(running: AwsSimulator) -> Any:
    return running.client("kms")


@pytest.fixture
def own_key(kms: Any) -> Iterator[dict[str, Any]]:
    """A customer's key with an alias."""
    found = kms.create_key(Description="enterprise")["KeyMetadata"]
    kms.create_alias(AliasName=ALIAS, TargetKeyId=found["KeyId"])
    yield found
    kms.delete_alias(AliasName=ALIAS)
    kms.schedule_key_deletion(KeyId=found["KeyId"])


@pytest.fixture
def bucket_default(s3: Any, own_key: dict[str, Any]) -> Iterator[str]:
    """The staging bucket encrypts with a customer's key."""
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": own_key["KeyId"]}}
    s3.put_bucket_encryption(Bucket="staging", ServerSideEncryptionConfiguration={"Rules": [rule]})
    yield own_key["Arn"]
    s3.delete_bucket_encryption(Bucket="staging")


@pytest.fixture
def bucket_policy(s3: Any) -> Iterator[Callable[..., None]]:
    def deny(condition: dict[str, Any]) -> None:
        statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::staging/*"}
        policy = {"Version": "2012-10-17", "Statement": [{**statement, "Condition": condition}]}
        s3.put_bucket_policy(Bucket="staging", Policy=json.dumps(policy))

    yield deny
    s3.delete_bucket_policy(Bucket="staging")


def test_start_snapshot_takes_the_arn_of_a_good_key_only(
    sim: AwsSimulator, ebs: Any, ec2: Any, kms: Any, own_key: dict[str, Any], refused: Refused
) -> None:
    def start(key: str) -> dict[str, Any]:
        answer: dict[str, Any] = ebs.start_snapshot(VolumeSize=1, Encrypted=True, KmsKeyArn=key)
        return answer

    made = start(own_key["Arn"])
    assert (made["KmsKeyArn"], made["SseType"]) == (own_key["Arn"], "sse-kms")
    ec2.delete_snapshot(SnapshotId=made["SnapshotId"])
    alias_arn = own_key["Arn"].rpartition(":")[0] + f":{ALIAS}"
    for text in (ALIAS, own_key["KeyId"], alias_arn):
        assert refused("ValidationException", start, text).response["Reason"] == "INVALID_PARAMETER_VALUE"
    refused("ResourceNotFoundException", start, own_key["Arn"].replace(sim.region, "us-east-1"))
    asymmetric = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"]
    assert refused("ValidationException", start, asymmetric).response["Reason"] == "INVALID_CUSTOMER_KEY"
    kms.disable_key(KeyId=own_key["KeyId"])
    assert refused("ValidationException", start, own_key["Arn"]).response["Reason"] == "INVALID_CUSTOMER_KEY"


def test_kms_knows_no_key_of_another_region(sim: AwsSimulator, kms: Any, own_key: Any, refused: Refused) -> None:
    elsewhere = own_key["Arn"].replace(sim.region, "us-east-1")
    refused("NotFoundException", kms.describe_key, KeyId=elsewhere)


def test_objects_take_any_name_of_a_good_key(s3: Any, kms: Any, own_key: Any, key: str, refused: Refused) -> None:
    at = {"Bucket": "staging", "Key": key, "Body": b"x"}
    for text in (ALIAS, own_key["KeyId"], own_key["Arn"]):
        made = s3.put_object(**at, ServerSideEncryption="aws:kms", SSEKMSKeyId=text)
        assert made["SSEKMSKeyId"] == own_key["Arn"]
    s3.delete_object(Bucket="staging", Key=key)
    refused("InvalidArgument", s3.put_object, **at, SSEKMSKeyId=ALIAS)
    refused("AccessDenied", s3.put_object, **at, ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/aws/ebs")
    kms.disable_key(KeyId=own_key["KeyId"])
    refused("KMS.DisabledException", s3.put_object, **at, ServerSideEncryption="aws:kms", SSEKMSKeyId=ALIAS)


def test_the_bucket_s_default_encrypts_what_says_nothing(s3: Any, bucket_default: str, key: str) -> None:
    made = s3.put_object(Bucket="staging", Key=key, Body=b"x")
    assert (made["ServerSideEncryption"], made["SSEKMSKeyId"]) == ("aws:kms", bucket_default)
    made = s3.put_object(Bucket="staging", Key=key, Body=b"x", ServerSideEncryption="AES256")
    assert made["ServerSideEncryption"] == "AES256"
    assert "SSEKMSKeyId" not in made
    s3.delete_object(Bucket="staging", Key=key)


@pytest.mark.parametrize(
    "condition",
    [
        {"Null": {"s3:x-amz-server-side-encryption": "true"}},
        {"StringNotEquals": {"s3:x-amz-server-side-encryption": ["AES256", "aws:kms"]}},
    ],
)
def test_a_bucket_policy_demands_a_header(
    s3: Any, bucket_policy: Any, key: str, refused: Refused, condition: dict[str, Any]
) -> None:
    bucket_policy(condition)
    refused("AccessDenied", s3.put_object, Bucket="staging", Key=key, Body=b"x")
    refused("AccessDenied", s3.create_multipart_upload, Bucket="staging", Key=key)
    s3.put_object(Bucket="staging", Key=key, Body=b"x", ServerSideEncryption="AES256")
    s3.delete_object(Bucket="staging", Key=key)


def test_an_organisation_demands_tags_of_all_that_is_made(lab: Lab, ebs: Any, base: Bootstrap) -> None:
    actions = ["ec2:RunInstances", "ec2:ImportImage", "ec2:RegisterImage", "ebs:StartSnapshot"]
    deny = {"Effect": "Deny", "Action": actions, "Resource": "*"}
    lab.sim.settings(
        organisation_policy=json.dumps(
            {
                "Statement": [
                    {**deny, "Condition": {"Null": {"aws:RequestTag/CostCenter": "true"}}},
                    {
                        **deny,
                        "Action": "s3:PutObject",
                        "Condition": {"Null": {"s3:RequestObjectTag/CostCenter": "true"}},
                    },
                ]
            }
        )
    )
    tags = [{"Key": "CostCenter", "Value": "42"}]
    lab.refused("AccessDeniedException", ebs.start_snapshot, VolumeSize=1)
    lab.ec2.delete_snapshot(SnapshotId=ebs.start_snapshot(VolumeSize=1, Tags=tags)["SnapshotId"])
    lab.refused("AccessDenied", lab.s3.put_object, Bucket="staging", Key=lab.key, Body=b"x")
    lab.s3.put_object(Bucket="staging", Key=lab.key, Body=b"x", Tagging="CostCenter=42")
    lab.s3.delete_object(Bucket="staging", Key=lab.key)
    launch = {"ImageId": "ami-00000000000000001", "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}
    kinds = ("instance", "volume", "network-interface")
    for missing in kinds:
        told = [{"ResourceType": kind, "Tags": tags} for kind in kinds if kind != missing]
        lab.refused("UnauthorizedOperation", lab.ec2.run_instances, **launch, TagSpecifications=told)
    told = [{"ResourceType": kind, "Tags": tags} for kind in kinds]
    lab.refused("InvalidAMIID.NotFound", lab.ec2.run_instances, **launch, TagSpecifications=told)


def test_tags_have_limits(s3: Any, ec2: Any, ebs: Any, key: str, refused: Refused) -> None:
    at = {"Bucket": "staging", "Key": key, "Body": b"x"}
    refused("BadRequest", s3.put_object, **at, Tagging="&".join(f"k{n}=v" for n in range(11)))
    refused("InvalidTag", s3.put_object, **at, Tagging="owner=a%2Cb")
    s3.put_object(**at, Tagging="owner=%E3%82%B5%20-+x")
    s3.delete_object(Bucket="staging", Key=key)
    error = refused("ValidationException", ebs.start_snapshot, VolumeSize=1, Tags=[{"Key": "k", "Value": "v" * 256}])
    assert error.response["Reason"] == "INVALID_TAG"
    snapshot = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    long = [{"Key": "k" * 128, "Value": "v"}]
    refused("InvalidParameterValue", ec2.create_tags, Resources=[snapshot], Tags=long)
    ec2.create_tags(Resources=[snapshot], Tags=[{"Key": "k" * 127, "Value": "サ" * 256}])
    ec2.delete_snapshot(SnapshotId=snapshot)


def test_an_import_is_taken_with_any_key_and_fails_later(lab: Lab, kms: Any, own_key: Any, stream_vmdk: Any) -> None:
    """EC2 API reference: KmsKeyId is parsed after the call has been answered."""
    kms.disable_key(KeyId=own_key["KeyId"])
    lab.s3.put_object(Bucket="staging", Key=lab.key, Body=stream_vmdk(lab.disk(2)))
    for text in (ALIAS, "alias/nobody"):
        task = lab.finished(lab.import_image(lab.key, Encrypted=True, KmsKeyId=text)["ImportTaskId"])
        assert (task["Status"], "KMS key" in task["StatusMessage"]) == ("deleted", True)
    lab.s3.delete_object(Bucket="staging", Key=lab.key)


def test_the_role_must_read_what_the_bucket_s_key_encrypted(lab: Lab, bucket_default: str, stream_vmdk: Any) -> None:
    iam = lab.sim.client("iam")
    lab.s3.put_object(Bucket="staging", Key=lab.key, Body=stream_vmdk(lab.disk(2)))
    statement = {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": bucket_default}
    deny = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_role_policy(RoleName="vmimport", PolicyName="no-key", PolicyDocument=json.dumps(deny))
    try:
        lab.refused("InvalidParameter", lab.import_image, lab.key)
    finally:
        iam.delete_role_policy(RoleName="vmimport", PolicyName="no-key")
        lab.s3.delete_object(Bucket="staging", Key=lab.key)


def test_texts_of_images_and_tasks_are_plain(ec2: Any, import_image: Any, ebs: Any, refused: Refused) -> None:
    made: dict[str, Any] = {"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": [{"DeviceName": "/dev/sda1"}]}
    refused("InvalidAMIName.Malformed", ec2.register_image, Name="сервер", **made)
    refused("InvalidParameterValue", ec2.register_image, Name="plain", Description="a \u2014 b", **made)
    refused("InvalidParameterValue", import_image, "k", Description="\u00e9")
    refused("InvalidParameterValue", import_image, "k", ClientToken="t" * 65)
    refused("ValidationException", ebs.start_snapshot, VolumeSize=1, Description="")


def test_a_stranger_s_bucket_and_a_lost_key(s3: Any, kms: Any, own_key: Any, key: str, refused: Refused) -> None:
    refused("403", s3.head_bucket, Bucket="staging", ExpectedBucketOwner="111122223333")
    s3.put_object(Bucket="staging", Key=key, Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=ALIAS)
    kms.disable_key(KeyId=own_key["KeyId"])
    refused("KMS.DisabledException", s3.get_object, Bucket="staging", Key=key)
    s3.delete_object(Bucket="staging", Key=key)


def test_an_upload_of_another_size_than_was_said(s3: Any, key: str, refused: Refused) -> None:
    upload = s3.create_multipart_upload(Bucket="staging", Key=key)["UploadId"]
    at = {"Bucket": "staging", "Key": key, "UploadId": upload}
    tag = s3.upload_part(**at, PartNumber=1, Body=b"abc")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
    refused("InvalidRequest", s3.complete_multipart_upload, **at, MultipartUpload=parts, MpuObjectSize=4)
    s3.complete_multipart_upload(**at, MultipartUpload=parts, MpuObjectSize=3)
    s3.delete_object(Bucket="staging", Key=key)
