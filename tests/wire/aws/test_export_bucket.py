"""The exports bucket: what is seen of it, its making and its grants, with others at the same time (VIE-02, AMP-10)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.export_bucket import ExportBuckets
from wavelift.base.domain import Severity
from wavelift.base.errors import (
    BusyError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.rules.export_checks import check_bucket
from wavelift.rules.export_facts import BucketFacts
from wavelift.rules.policies import Staging, identity_policy
from wavelift.simulators.aws import AwsSimulator, Bootstrap, start
from wavelift.simulators.aws.settings import ACCOUNT

pytestmark = pytest.mark.wire
GRANTEE: Final = "c4d8eabf8db69dbe46bfe0e517100c554f01200b104d59cd408e777ba442a322"
"""VM Export's, of this region."""
ANOTHER: Final = "3f7744aeebaf91dd60ab135eb1cf908700c8d2bc9133e61261e6c582be6e33ee"
LOG_DELIVERY: Final = "http://acs.amazonaws.com/groups/s3/LogDelivery"
FOREIGN: Final = "210987654321"


@pytest.fixture
def buckets(access: AwsAccess) -> ExportBuckets:
    return ExportBuckets(access, ACCOUNT)


@pytest.fixture
def name(aws: AwsSimulator, account: Bootstrap) -> Iterator[str]:
    """Of a bucket that may be made; it is removed."""
    found = f"export-to-s3-t{uuid4().hex[:8]}-{aws.region}"
    yield found
    aws.clear_rules()
    aws.drop_bucket(found)


def make(aws: AwsSimulator, name: str, **options: Any) -> None:
    """As somebody else does."""
    place = {"LocationConstraint": aws.region}
    aws.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=place, **options)


def written(aws: AwsSimulator) -> list[str]:
    """Calls of S3 so far that may have changed a bucket."""
    names = {key.rpartition(".")[2]: one["calls"] for key, one in aws.counters().items() if "s3." in key}
    return [f"{one} {calls}" for one, calls in sorted(names.items()) if one.startswith(("Put", "Create", "Delete"))]


def policy_of(name: str) -> str:
    """As AWS's page prepares a bucket (edition of 2025)."""
    allow = {"Effect": "Allow", "Principal": {"CanonicalUser": GRANTEE}}
    whole = [
        {**allow, "Action": "s3:GetBucketAcl", "Resource": f"arn:aws:s3:::{name}"},
        {**allow, "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{name}/*"},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": whole})


def granted(facts: BucketFacts, grantee: str = GRANTEE) -> set[str]:
    return {one.permission for one in facts.grants if one.grantee == grantee}


def test_vie_02_a_bucket_is_made_as_vm_export_needs_it(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    assert buckets.facts(name) == BucketFacts(name=name, exists=False, owned=False)
    made = buckets.make(name, GRANTEE)
    facts = made.facts
    assert made.ours
    assert made.done == (
        f"made the bucket {name} in {aws.region}",
        f"granted READ_ACP to {GRANTEE}",
        f"granted WRITE to {GRANTEE}",
    )
    assert (facts.exists, facts.owned, facts.region, facts.ownership) == (
        True,
        True,
        aws.region,
        "BucketOwnerPreferred",
    )
    assert facts.acls_enabled
    assert facts.public_access_blocked
    assert (facts.encryption, facts.unknown) == ("AES256", ())
    assert granted(facts) == {"READ_ACP", "WRITE"}
    assert len(facts.grants) == 3, "and the owner's"
    assert facts == buckets.facts(name)


def test_making_it_again_changes_nothing(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    buckets.make(name, GRANTEE)
    before = written(aws)
    again = buckets.make(name, GRANTEE)
    assert (again.done, again.ours) == ((), True)
    assert written(aws) == before


@pytest.mark.parametrize("killed_at", ["HeadBucket", "GetBucketAcl", "PutBucketAcl"])
def test_inv_6_a_set_up_that_was_killed_is_completed(
    aws: AwsSimulator, buckets: ExportBuckets, name: str, killed_at: str
) -> None:
    """After CreateBucket, at each of the calls that follow."""
    aws.rule(service="s3", operation=killed_at, status=500, skip=1 if killed_at == "HeadBucket" else 0)
    with pytest.raises(UnreachableError):
        buckets.make(name, GRANTEE)
    aws.clear_rules()
    assert aws.client("s3").head_bucket(Bucket=name)
    done = buckets.make(name, GRANTEE)
    assert done.ours
    assert done.done == (f"granted READ_ACP to {GRANTEE}", f"granted WRITE to {GRANTEE}")


def test_inv_5_a_lost_answer_to_its_making_is_no_other_s_bucket(
    aws: AwsSimulator, buckets: ExportBuckets, name: str
) -> None:
    aws.rule(service="s3", operation="CreateBucket", cut_response_after=0, count=1)
    assert granted(buckets.make(name, GRANTEE).facts) == {"READ_ACP", "WRITE"}


@pytest.mark.parametrize("ownership", ["BucketOwnerPreferred", "BucketOwnerEnforced"])
def test_vie_02_a_bucket_that_somebody_else_made_is_never_changed(
    aws: AwsSimulator, buckets: ExportBuckets, name: str, ownership: str
) -> None:
    """Also one that is as ours is before its grants."""
    make(aws, name, ObjectOwnership=ownership)
    before = written(aws)
    found = buckets.make(name, GRANTEE)
    assert (found.ours, found.done) == (False, ())
    assert found.facts.exists
    assert granted(found.facts) == set()
    assert written(aws) == before


def test_what_a_person_changed_on_our_bucket_stays(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    s3 = aws.client("s3")
    buckets.make(name, GRANTEE)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.delete_public_access_block(Bucket=name)
    done = buckets.make(name, GRANTEE)
    assert done.done == ("blocked public access",)
    assert (done.facts.encryption, done.facts.public_access_blocked) == ("aws:kms", True)


def test_vie_02_grants_are_added_on_request_and_others_stay(
    aws: AwsSimulator, buckets: ExportBuckets, name: str
) -> None:
    make(aws, name, ObjectOwnership="ObjectWriter")
    s3 = aws.client("s3")
    acl = s3.get_bucket_acl(Bucket=name)
    more = [
        {"Grantee": {"Type": "CanonicalUser", "ID": ANOTHER}, "Permission": "READ"},
        {"Grantee": {"Type": "Group", "URI": LOG_DELIVERY}, "Permission": "WRITE"},
        {"Grantee": {"Type": "CanonicalUser", "ID": GRANTEE}, "Permission": "WRITE"},
    ]
    policy = {"Owner": acl["Owner"], "Grants": [*acl["Grants"], *more]}
    s3.put_bucket_acl(Bucket=name, AccessControlPolicy=policy)
    done = buckets.grant(name, GRANTEE)
    assert done.done == (f"granted READ_ACP to {GRANTEE}",)
    assert not done.ours
    found = {(one.grantee, one.permission) for one in done.facts.grants}
    assert found >= {(ANOTHER, "READ"), (LOG_DELIVERY, "WRITE"), (GRANTEE, "WRITE"), (GRANTEE, "READ_ACP")}
    assert len(found) == 5
    assert (acl["Owner"]["ID"], "FULL_CONTROL") in found
    before = written(aws)
    assert buckets.grant(name, GRANTEE).done == ()
    assert written(aws) == before
    assert done.facts.ownership == "ObjectWriter", "nothing else of it is changed"


def test_full_control_is_more_than_enough(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    make(aws, name, ObjectOwnership="ObjectWriter", GrantFullControl=f"id={GRANTEE}")
    assert buckets.grant(name, GRANTEE).done == ()


def test_grants_that_somebody_takes_away_at_the_same_time_are_added_again(
    aws: AwsSimulator, access: AwsAccess, buckets: ExportBuckets, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 knows whole ACLs only: who wrote last has written them all."""
    make(aws, name, ObjectOwnership="ObjectWriter")
    client, other = access.client("s3"), aws.client("s3")
    put, times = client.put_bucket_acl, [2]

    def raced(**values: Any) -> Any:
        answer = put(**values)
        if times[0]:
            times[0] -= 1
            other.put_bucket_acl(Bucket=name, ACL="private")
        return answer

    monkeypatch.setattr(client, "put_bucket_acl", raced)
    times[0] = 1
    assert granted(buckets.grant(name, GRANTEE).facts) == {"READ_ACP", "WRITE"}
    other.put_bucket_acl(Bucket=name, ACL="private")
    times[0] = 1000
    with pytest.raises(BusyError, match="gone again right after"):
        buckets.grant(name, GRANTEE)


def test_vie_02_grants_need_acls(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    make(aws, name)
    with pytest.raises(PermanentError, match=r"its ACLs are disabled.*bucket owner preferred"):
        buckets.grant(name, GRANTEE)


def test_vie_02_a_bucket_in_another_region_is_seen_there_and_left(
    aws: AwsSimulator, buckets: ExportBuckets, name: str
) -> None:
    aws.bucket_elsewhere(name, region="eu-west-3")
    facts = buckets.facts(name)
    assert (facts.exists, facts.owned, facts.region, facts.ownership) == (
        True,
        True,
        "eu-west-3",
        "BucketOwnerEnforced",
    )
    assert buckets.make(name, GRANTEE).done == ()
    with pytest.raises(PermanentError, match="the bucket is in eu-west-3: nothing is granted"):
        buckets.grant(name, GRANTEE)


def test_vie_02_a_bucket_of_another_account_is_named_and_left(
    aws: AwsSimulator, buckets: ExportBuckets, name: str
) -> None:
    aws.bucket_elsewhere(name, account=FOREIGN)
    facts = buckets.facts(name)
    assert (facts.exists, facts.owned, facts.region) == (True, False, aws.region)
    assert "belongs to another account, or s3:ListBucket" in facts.unknown[0]
    made = buckets.make(name, GRANTEE)
    assert (made.ours, made.done) == (False, ())
    with pytest.raises(PermanentError, match="another account's"):
        buckets.grant(name, GRANTEE)
    aws.rule(service="s3", operation="HeadBucket", status=404, code="NoSuchBucket")
    with pytest.raises(PermanentError, match=r"taken by another account.*exports\.name"):
        buckets.make(name, GRANTEE)


def test_there_is_nothing_to_grant_on(buckets: ExportBuckets, name: str) -> None:
    with pytest.raises(NotFoundError, match="Without --grant"):
        buckets.grant(name, GRANTEE)


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        ("GetBucketOwnershipControls", "object ownership: could not look at"),
        ("GetBucketAcl", "access control list: could not look at"),
        ("GetBucketEncryption", "encryption: could not look at"),
        ("GetPublicAccessBlock", "block of public access: could not look at"),
        ("GetBucketPolicy", "policy: could not look at"),
    ],
)
def test_what_may_not_be_read_is_unknown_and_the_rest_is_told(
    aws: AwsSimulator, buckets: ExportBuckets, name: str, operation: str, what: str
) -> None:
    buckets.make(name, GRANTEE)
    aws.client("s3").put_bucket_policy(Bucket=name, Policy=policy_of(name))
    whole = buckets.facts(name)
    aws.rule(service="s3", operation=operation, code="AccessDenied", status=403)
    facts = buckets.facts(name)
    [line] = facts.unknown
    assert line.startswith(what)
    assert "Allow s3:" in line
    parts = ("region", "ownership", "grants", "encryption", "public_access_blocked")
    assert sum(getattr(facts, one) != getattr(whole, one) for one in parts) == 1


def test_vie_02_a_bucket_that_its_policy_opens_as_aws_s_page_has_it_passes(
    aws: AwsSimulator, buckets: ExportBuckets, name: str
) -> None:
    make(aws, name, ObjectOwnership="BucketOwnerPreferred")
    aws.client("s3").put_bucket_policy(Bucket=name, Policy=policy_of(name))
    facts = buckets.facts(name)
    assert [(one.grantee, one.permission, one.by) for one in facts.grants[1:]] == [
        (GRANTEE, "READ_ACP", "policy"),
        (GRANTEE, "WRITE", "policy"),
    ]
    found = check_bucket(facts, "instance", region=aws.region, account=ACCOUNT, environment="prod")
    assert [(one.code, one.severity) for one in found] == [("bucket.policy", Severity.INFO)]
    assert buckets.grant(name, GRANTEE).done == (f"granted READ_ACP to {GRANTEE}", f"granted WRITE to {GRANTEE}")


def test_an_answer_that_is_no_policy_is_asked_for_again(
    aws: AwsSimulator, buckets: ExportBuckets, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 takes no such policy: something between answers with a page of its own."""
    buckets.make(name, GRANTEE)
    page = {"Policy": "<html>Please sign in</html>"}
    monkeypatch.setattr(buckets._client, "get_bucket_policy", lambda **_: page)
    with pytest.raises(UnreachableError, match="what came as the bucket's policy is none"):
        buckets.facts(name)


def test_an_outage_is_no_unknown(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    buckets.make(name, GRANTEE)
    aws.rule(service="s3", operation="GetBucketAcl", status=500)
    with pytest.raises(WaveliftError) as told:
        buckets.facts(name)
    assert told.value.retryable


def test_settings_that_were_deleted_are_as_s3_takes_them(aws: AwsSimulator, buckets: ExportBuckets, name: str) -> None:
    make(aws, name)
    s3 = aws.client("s3")
    s3.delete_bucket_ownership_controls(Bucket=name)
    s3.delete_public_access_block(Bucket=name)
    facts = buckets.facts(name)
    assert (facts.ownership, facts.acls_enabled, facts.public_access_blocked) == ("ObjectWriter", True, False)


def test_sms_13_the_printed_rights_are_enough_to_set_up_and_to_look(
    aws: AwsSimulator, name: str, shared_access: AwsAccess, connect: Any
) -> None:
    staging = Staging("staging", exports=name)
    for feature in ("export-setup", "export"):
        policy = identity_policy("caller", staging, features=[feature])
        session = aws.hold(f"{feature}-{name}", [policy])
        own = ExportBuckets(connect(session), ACCOUNT)
        if feature == "export-setup":
            own.make(name, GRANTEE)
            aws.client("s3").put_bucket_acl(Bucket=name, ACL="private")
            own.grant(name, GRANTEE)
        assert own.facts(name).unknown == ()
    held = aws.held()
    assert not any(one["denied"] for one in held.values())
    with pytest.raises(MissingPrivilegeError, match="could not look at the bucket's tags"):
        own.make(name, GRANTEE)
    aws.let_go()


def test_vie_02_in_us_east_1_making_it_twice_takes_no_grants_away(tmp_path: Any) -> None:
    """There S3 answers 200 to whoever makes his own bucket again, and resets its ACL."""
    with start(tmp_path, region="us-east-1") as aws:
        config = Config(retries={"mode": "standard", "total_max_attempts": 2})
        session: boto3.Session = aws.session()
        access = AwsAccess(session, endpoint_url=aws.endpoint_url, verify=aws.verify, config=config)
        buckets = ExportBuckets(access, ACCOUNT)
        aws.rule(service="s3", operation="CreateBucket", cut_response_after=0, count=1)
        made = buckets.make("export-to-s3-acme-us-east-1", GRANTEE)
        assert (made.facts.region, granted(made.facts)) == ("us-east-1", {"READ_ACP", "WRITE"})
        assert buckets.make("export-to-s3-acme-us-east-1", GRANTEE).done == ()
        aws.client("s3").create_bucket(
            Bucket="export-to-s3-b-us-east-1", GrantRead=f"id={ANOTHER}", ObjectOwnership="ObjectWriter"
        )
        assert buckets.make("export-to-s3-b-us-east-1", GRANTEE).ours is False
        assert granted(buckets.facts("export-to-s3-b-us-east-1"), ANOTHER) == {"READ"}
