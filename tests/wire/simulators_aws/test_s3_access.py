"""Object ownership, ACLs, the block of public access, and buckets of others."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, start

pytestmark = pytest.mark.wire

EXPORTER = "c4d8eabf8db69dbe46bfe0e517100c554f01200b104d59cd408e777ba442a322"
MILAN = "04636d9a349e458b0c1cbf1421858b9788b4ec28b066148d4907bb15c52b5b9c"
CHINA = "834bafd86b15b6ca71074df0fd1f93d234b9d5e848a2cb31f880c149003ce36f"
ONE_TRY = Config(retries={"total_max_attempts": 1})
EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
Refused = Callable[..., ClientError]


@pytest.fixture
def make(s3: Any, sim: AwsSimulator) -> Iterator[Callable[..., str]]:
    """CreateBucket; the bucket's name. All are deleted at the end."""
    made: list[str] = []

    def create(**more: Any) -> str:
        name = f"acl-{uuid.uuid4().hex[:12]}"
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": sim.region}, **more)
        made.append(name)
        return name

    yield create
    for name in made:
        s3.delete_bucket(Bucket=name)


def _grants(s3: Any, bucket: str) -> set[tuple[str, str]]:
    rows = s3.get_bucket_acl(Bucket=bucket)["Grants"]
    return {(row["Grantee"].get("ID") or row["Grantee"]["URI"], row["Permission"]) for row in rows}


def test_a_new_bucket_has_no_acls_and_no_public_access(s3: Any, make: Any, refused: Refused) -> None:
    bucket = make()
    rule = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert rule == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    blocks = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert blocks == dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    shown = s3.get_bucket_acl(Bucket=bucket)  # can be read all the same
    assert len(shown["Owner"]["ID"]) == 64
    assert _grants(s3, bucket) == {(shown["Owner"]["ID"], "FULL_CONTROL")}
    for acl in ({"ACL": "private"}, {"GrantWrite": f'id="{EXPORTER}"'}):
        refused("AccessControlListNotSupported", s3.put_bucket_acl, Bucket=bucket, **acl)
    refused("MalformedACLError", s3.put_bucket_acl, Bucket=bucket, AccessControlPolicy={"Grants": []})
    whole = {"Owner": shown["Owner"], "Grants": shown["Grants"]}
    refused("AccessControlListNotSupported", s3.put_bucket_acl, Bucket=bucket, AccessControlPolicy=whole)
    refused("AccessControlListNotSupported", s3.put_object, Bucket=bucket, Key="x", Body=b"x", ACL="public-read")
    refused("AccessControlListNotSupported", s3.create_multipart_upload, Bucket=bucket, Key="x", ACL="private")
    s3.put_object(Bucket=bucket, Key="x", Body=b"x", ACL="bucket-owner-full-control")
    s3.delete_object(Bucket=bucket, Key="x")


def test_a_bucket_begins_with_grants_only_if_its_ownership_allows_acls(
    s3: Any, sim: AwsSimulator, make: Any, refused: Refused
) -> None:
    place = {"Bucket": "acl-never-made", "CreateBucketConfiguration": {"LocationConstraint": sim.region}}
    grants = {"GrantWrite": f'id="{EXPORTER}"', "GrantReadACP": f"id={EXPORTER}"}
    refused("InvalidBucketAclWithObjectOwnership", s3.create_bucket, **place, **grants)
    enforced = {**grants, "ObjectOwnership": "BucketOwnerEnforced"}
    refused("InvalidBucketAclWithObjectOwnership", s3.create_bucket, **place, **enforced)
    preferred = {"ObjectOwnership": "BucketOwnerPreferred"}
    refused("InvalidArgument", s3.create_bucket, **place, **preferred, GrantWrite=f"id={EXPORTER[:-1]}")
    refused("InvalidArgument", s3.create_bucket, **place, **preferred, GrantWrite=f"id={'0' * 64}")
    refused("InvalidArgument", s3.create_bucket, **place, **preferred, GrantWrite=f"id={CHINA}")
    refused("InvalidArgument", s3.create_bucket, **place, **preferred, GrantWrite='emailAddress="a@b.example"')
    refused("InvalidRequest", s3.create_bucket, **place, **preferred, **grants, ACL="private")
    refused("InvalidBucketAclWithBlockPublicAccessError", s3.create_bucket, **place, **preferred, ACL="public-read")
    bucket = make(**preferred, **grants)
    assert _grants(s3, bucket) == {(EXPORTER, "WRITE"), (EXPORTER, "READ_ACP")}
    plain = make(ObjectOwnership="ObjectWriter")
    owner = s3.get_bucket_acl(Bucket=plain)["Owner"]["ID"]
    assert _grants(s3, plain) == {(owner, "FULL_CONTROL")}


def test_an_acl_is_replaced_as_a_whole(s3: Any, make: Any, refused: Refused) -> None:
    bucket = make(ObjectOwnership="BucketOwnerPreferred")
    owner = s3.get_bucket_acl(Bucket=bucket)["Owner"]

    def grant(who: dict[str, str], permission: str) -> dict[str, Any]:
        return {"Grantee": who, "Permission": permission}

    exporter = {"Type": "CanonicalUser", "ID": EXPORTER}
    rows = [grant({"Type": "CanonicalUser", **owner}, "FULL_CONTROL"), grant(exporter, "WRITE")]
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": rows})
    assert _grants(s3, bucket) == {(owner["ID"], "FULL_CONTROL"), (EXPORTER, "WRITE")}
    s3.put_bucket_acl(Bucket=bucket, GrantReadACP=f'id="{MILAN}", id="{EXPORTER}"')
    assert _grants(s3, bucket) == {(MILAN, "READ_ACP"), (EXPORTER, "READ_ACP")}
    unknown = [grant({"Type": "CanonicalUser", "ID": "0" * 64}, "WRITE")]
    refused(
        "InvalidArgument", s3.put_bucket_acl, Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": unknown}
    )
    odd = [grant(exporter, "WRITE_EVERYTHING")]
    refused("MalformedACLError", s3.put_bucket_acl, Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": odd})
    other = {"Owner": {"ID": MILAN}, "Grants": rows}
    refused("AccessDenied", s3.put_bucket_acl, Bucket=bucket, AccessControlPolicy=other)
    refused("AccessDenied", s3.put_bucket_acl, Bucket=bucket, ACL="public-read")
    both = {"GrantWrite": f"id={EXPORTER}", "AccessControlPolicy": {"Owner": owner, "Grants": rows}}
    refused("UnexpectedContent", s3.put_bucket_acl, Bucket=bucket, **both)
    refused("MissingSecurityHeader", s3.put_bucket_acl, Bucket=bucket)
    s3.delete_public_access_block(Bucket=bucket)
    refused("NoSuchPublicAccessBlockConfiguration", s3.get_public_access_block, Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert (EVERYBODY, "READ") in _grants(s3, bucket)


def test_ownership_is_enforced_only_without_grants_to_others(s3: Any, make: Any, refused: Refused) -> None:
    bucket = make(ObjectOwnership="BucketOwnerPreferred", GrantWrite=f"id={EXPORTER}")
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    call = s3.put_bucket_ownership_controls
    refused("InvalidBucketAclWithObjectOwnership", call, Bucket=bucket, OwnershipControls=enforced)
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    call(Bucket=bucket, OwnershipControls=enforced)
    refused("AccessControlListNotSupported", s3.put_bucket_acl, Bucket=bucket, GrantWrite=f"id={EXPORTER}")
    refused("MalformedXML", call, Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "Nobody"}]})
    s3.delete_bucket_ownership_controls(Bucket=bucket)
    refused("OwnershipControlsNotFoundError", s3.get_bucket_ownership_controls, Bucket=bucket)
    s3.put_bucket_acl(Bucket=bucket, GrantWrite=f"id={EXPORTER}")  # as of old
    assert _grants(s3, bucket) == {(EXPORTER, "WRITE")}


def test_a_public_policy_is_blocked(s3: Any, make: Any, refused: Refused) -> None:
    bucket = make()

    def policy(**more: Any) -> str:
        allow = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
        return json.dumps({"Version": "2012-10-17", "Statement": [{**allow, **more}]})

    refused("AccessDenied", s3.put_bucket_policy, Bucket=bucket, Policy=policy())
    refused("AccessDenied", s3.put_bucket_policy, Bucket=bucket, Policy=policy(Principal={"AWS": ["*"]}))
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(Effect="Deny"))
    some = {"BlockPublicAcls": True, "IgnorePublicAcls": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=some)
    shown = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert shown == {**some, "BlockPublicPolicy": False, "RestrictPublicBuckets": False}
    s3.put_bucket_policy(Bucket=bucket, Policy=policy())


def test_the_default_encryption_is_checked(s3: Any, make: Any, refused: Refused) -> None:
    bucket = make()

    def put(**default: str) -> dict[str, Any]:
        return {
            "Bucket": bucket,
            "ServerSideEncryptionConfiguration": {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
        }

    refused("MalformedXML", s3.put_bucket_encryption, **put(SSEAlgorithm="rot13"))
    refused("InvalidArgument", s3.put_bucket_encryption, **put(SSEAlgorithm="AES256", KMSMasterKeyID="alias/aws/s3"))
    s3.put_bucket_encryption(**put(SSEAlgorithm="AES256"))
    found = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert found["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_a_bucket_of_another_account_says_only_where_it_is(s3: Any, sim: AwsSimulator, refused: Refused) -> None:
    sim.bucket_elsewhere("somebody-s", account="210987654321")
    denied = refused("403", s3.head_bucket, Bucket="somebody-s")
    assert denied.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == sim.region
    for call in (s3.get_bucket_acl, s3.get_bucket_location, s3.list_objects_v2, s3.get_bucket_encryption):
        refused("AccessDenied", call, Bucket="somebody-s")
    refused("AccessDenied", s3.put_object, Bucket="somebody-s", Key="x", Body=b"x")
    place = {"LocationConstraint": sim.region}
    refused("BucketAlreadyExists", s3.create_bucket, Bucket="somebody-s", CreateBucketConfiguration=place)
    assert "somebody-s" not in {row["Name"] for row in s3.list_buckets()["Buckets"]}
    sim.drop_bucket("somebody-s")
    refused("404", s3.head_bucket, Bucket="somebody-s")


def test_a_bucket_of_another_region_redirects(s3: Any, sim: AwsSimulator, refused: Refused) -> None:
    sim.bucket_elsewhere("in-ireland", region="eu-west-1")
    before = sim.counters().get("s3.HeadBucket", {"calls": 0})["calls"]
    fresh = sim.client("s3", config=ONE_TRY)
    assert fresh.head_bucket(Bucket="in-ireland")["BucketRegion"] == "eu-west-1"  # botocore follows the redirect
    assert sim.counters()["s3.HeadBucket"]["calls"] == before + 2
    there = sim.session().client("s3", endpoint_url=sim.endpoint_url, region_name="eu-west-1")
    assert there.head_bucket(Bucket="in-ireland")["BucketRegion"] == "eu-west-1"
    assert there.get_bucket_location(Bucket="in-ireland")["LocationConstraint"] == "eu-west-1"
    place = {"LocationConstraint": sim.region}
    refused("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="in-ireland", CreateBucketConfiguration=place)
    sim.drop_bucket("in-ireland")


def test_every_region_but_one_must_be_named(s3: Any, refused: Refused, tmp_path: Any) -> None:
    refused("IllegalLocationConstraintException", s3.create_bucket, Bucket="nowhere-in-particular")
    refused("InvalidBucketName", s3.create_bucket, Bucket="192.168.0.1")
    with start(tmp_path, region="us-east-1") as virginia:
        there = virginia.client("s3")
        named = {"LocationConstraint": "us-east-1"}
        refused("InvalidLocationConstraint", there.create_bucket, Bucket="old-one", CreateBucketConfiguration=named)
        there.create_bucket(Bucket="old-one", ObjectOwnership="ObjectWriter", GrantWrite=f"id={EXPORTER}")
        assert there.get_bucket_location(Bucket="old-one")["LocationConstraint"] is None
        there.create_bucket(Bucket="old-one")  # again: 200, and the ACL is as at first
        assert {permission for _, permission in _grants(there, "old-one")} == {"FULL_CONTROL"}
        assert virginia.bootstrap("staging").bucket == "staging"
        assert (EXPORTER, "WRITE") in _grants(there, virginia.export_bucket())


def test_a_bucket_may_be_made_with_tags(s3: Any, sim: AwsSimulator, refused: Refused) -> None:
    tags = [{"Key": "for", "Value": "exports & more"}, {"Key": "by", "Value": ""}]
    place = {"LocationConstraint": sim.region, "Tags": tags}
    s3.create_bucket(Bucket="tagged-at-birth", CreateBucketConfiguration=place)
    assert s3.get_bucket_tagging(Bucket="tagged-at-birth")["TagSet"] == tags
    s3.delete_bucket(Bucket="tagged-at-birth")
    s3.create_bucket(Bucket="tagged-at-birth", CreateBucketConfiguration={"LocationConstraint": sim.region})
    refused("NoSuchTagSet", s3.get_bucket_tagging, Bucket="tagged-at-birth")
    s3.delete_bucket(Bucket="tagged-at-birth")


def test_rights_on_a_bucket_s_access(sim: AwsSimulator, refused: Refused, make: Any) -> None:
    allow = [{"Effect": "Allow", "Action": ["s3:CreateBucket"], "Resource": "*"}]
    client = sim.hold("maker", [{"Version": "2012-10-17", "Statement": allow}]).client(
        "s3", endpoint_url=sim.endpoint_url, region_name=sim.region
    )
    place = {"Bucket": "acl-never-made", "CreateBucketConfiguration": {"LocationConstraint": sim.region}}
    ownership = {"ObjectOwnership": "BucketOwnerPreferred"}
    assert "s3:PutBucketOwnershipControls" in str(refused("AccessDenied", client.create_bucket, **place, **ownership))
    assert "s3:PutBucketAcl" in str(refused("AccessDenied", client.create_bucket, **place, GrantWrite="id=x"))
    tagged = {"LocationConstraint": sim.region, "Tags": [{"Key": "for", "Value": "exports"}]}
    whole = {**place, "CreateBucketConfiguration": tagged}
    assert "s3:TagResource" in str(refused("AccessDenied", client.create_bucket, **whole))
    bucket = make()
    for action, call in {
        "s3:GetBucketAcl": client.get_bucket_acl,
        "s3:GetBucketOwnershipControls": client.get_bucket_ownership_controls,
        "s3:GetBucketPublicAccessBlock": client.get_public_access_block,
        "s3:GetBucketLocation": client.get_bucket_location,
        "s3:GetBucketPolicy": client.get_bucket_policy,
        "s3:GetBucketTagging": client.get_bucket_tagging,
    }.items():
        assert action in str(refused("AccessDenied", call, Bucket=bucket))
    sim.let_go()
