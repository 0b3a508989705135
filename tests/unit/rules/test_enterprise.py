"""Keys, tags and encryption of an environment: pre-flight findings, and the values that it sets for the tasks."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.base.domain import Severity
from wavelift.base.errors import SpecError
from wavelift.rules.preflight import check_environment
from wavelift.rules.preflight_target import settled

pytestmark = pytest.mark.unit

ARN = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("key", "severity"), [(ARN, Severity.WARNING), ("alias/x", Severity.ERROR), (ARN[-36:], Severity.ERROR)]
)
def test_a_key_that_can_t_be_looked_at_must_be_an_arn(plan: Any, stubs: Any, key: str, severity: Severity) -> None:
    target = plan(environment={"kms_key": key, "encrypt": True}).target
    (found,) = check_environment(target, stubs.account(key=stubs.key(arn="", region="", unknown="no right")))
    assert (found.code, found.severity) == ("key.unknown", severity)


@pytest.mark.parametrize(
    ("key", "bucket", "expected"),
    [
        (None, {}, (None, "AES256", "")),
        (None, {"encryption": ""}, (None, "", "")),
        (None, {"encryption": "aws:kms", "kms_key": "K"}, (None, "aws:kms", "K")),
        (None, {"encryption": "aws:kms"}, (None, "aws:kms", "")),
        ("alias/x", {}, (ARN, "aws:kms", ARN)),
        ("alias/x", {"encryption": "aws:kms:dsse", "kms_key": "K"}, (ARN, "aws:kms:dsse", ARN)),
    ],
)
def test_tasks_get_an_arn_and_an_encryption(
    plan: Any, stubs: Any, key: str | None, bucket: dict[str, str], expected: tuple[str | None, str, str]
) -> None:
    target = plan(environment={"kms_key": key, "encrypt": True} if key else {}).target
    account = stubs.account(bucket=stubs.bucket(**bucket), key=stubs.key(arn=ARN) if key else None)
    found = settled(target, account)
    assert (found.kms_key, found.staging_sse, found.staging_key) == expected


@pytest.mark.parametrize(
    "key", ["mrk-" + "0" * 32, ARN, ARN.replace("aws", "aws-cn", 1).replace("eu-central-1", "cn-north-1")]
)
def test_keys_by_form(plan: Any, key: str) -> None:
    changes = {"region": "cn-north-1"} if ":aws-cn:" in key else {}
    assert plan(environment={"kms_key": key, "encrypt": True, **changes}).target.kms_key == key


def test_a_key_of_another_region_is_refused_in_the_spec(plan: Any) -> None:
    with pytest.raises(SpecError, match=r"the key is in us-east-1 \(aws\), the environment in eu-central-1"):
        plan(environment={"kms_key": ARN.replace("eu-central-1", "us-east-1"), "encrypt": True})


def test_a_role_without_rights_on_the_bucket_s_key_is_named(plan: Any, stubs: Any) -> None:
    account = stubs.account(
        role=stubs.role(missing_on_staging_key=("kms:Decrypt",)), bucket=stubs.bucket(encryption="aws:kms", kms_key=ARN)
    )
    (found,) = check_environment(plan().target, account)
    assert (found.code, found.severity) == ("role.staging_key", Severity.ERROR)
    assert f"lacks kms:Decrypt on {ARN}" in found.what


def test_tags_that_find_no_room_on_objects_are_told(plan: Any, stubs: Any) -> None:
    one = plan(environment={"tags": {f"tag{n:02}": "x" for n in range(11)}})
    (found,) = check_environment(one.target, stubs.account(), [one])
    assert (found.code, found.severity) == ("tags.objects", Severity.WARNING)
    assert "left out: tag09, tag10" in found.what
    assert list(one.made_with("d/r/web01"))[:2] == ["wavelift:run", "tag00"]
