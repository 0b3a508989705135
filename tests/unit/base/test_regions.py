"""Every region and partition that botocore knows, and what wavelift derives from their names."""

from __future__ import annotations

from typing import Any, Final

import pytest
from botocore.session import get_session

from wavelift.base.regions import console_of, partition_of, partitions
from wavelift.rules.environment import Environment, environment_problems
from wavelift.rules.policies import Staging, identity_policy, role_policy, trust_policy

pytestmark = pytest.mark.unit

REGIONS: Final = {
    "eu-central-1": ("aws", "console.aws.amazon.com"),
    "mx-central-1": ("aws", "console.aws.amazon.com"),
    "us-gov-west-1": ("aws-us-gov", "console.amazonaws-us-gov.com"),
    "cn-north-1": ("aws-cn", "console.amazonaws.cn"),
    "us-iso-east-1": ("aws-iso", ""),
    "us-isob-east-1": ("aws-iso-b", ""),
    "eu-isoe-west-1": ("aws-iso-e", ""),
    "eusc-de-east-1": ("aws-eusc", "console.amazonaws-eusc.eu"),
}


def environment(**changes: Any) -> Environment:
    values = {
        "environment": "lab",
        "aws_conn_id": "aws_lab",
        "account": "123456789012",
        "may": {"migrate": ["user:admin"], "cut_over": ["user:admin"], "administer": ["user:admin"]},
        "region": "eu-central-1",
        "staging": {"bucket": "staging"},
        "vpc": "vpc-00000001",
        "subnets": ("subnet-00000001",),
        "security_groups": ("sg-00000001",),
        "instance_types": ("m6i.large",),
        "sources": [{"connection": "vc", "connectors": ["default"]}],
    }
    return Environment.model_validate(values | changes)


@pytest.mark.parametrize("region", REGIONS)
def test_regions_of_every_partition(region: str) -> None:
    partition, console = REGIONS[region]
    assert environment(region=region).region == region
    assert (partition_of(region), console_of(region)) == (partition, console)
    assert get_session().get_partition_for_region(region) == partition


def test_all_that_botocore_lists_is_known() -> None:
    session = get_session()
    listed = {
        name: session.get_available_regions("ec2", partition_name=name) for name in session.get_available_partitions()
    }
    assert {one.name for one in partitions()} >= set(listed)
    for name, regions in listed.items():
        assert {partition_of(region) for region in regions} <= {name}


@pytest.mark.parametrize("region", ["frankfurt", "eu-central", "eu-central-1a", "aws-global", "xx-central-1", ""])
def test_no_region(region: str) -> None:
    with pytest.raises(ValueError, match="is not an AWS region"):
        environment(region=region)


@pytest.mark.parametrize("region", REGIONS)
def test_every_arn_of_a_policy_is_of_the_partition(region: str) -> None:
    partition = partition_of(region)
    key = f"arn:{partition}:kms:{region}:111122223333:key/11111111-2222-3333-4444-555555555555"
    staging = Staging("disks", "waves", key, partition)
    documents = [role_policy(staging), *(identity_policy(who, staging) for who in ("connector", "caller"))]
    arns = [one["Resource"] for document in documents for one in document["Statement"] if one["Resource"] != "*"]
    assert len(arns) > 8
    assert {arn.split(":")[1] for arn in arns} == {partition}
    assert trust_policy()["Statement"][0]["Principal"] == {"Service": "vmie.amazonaws.com"}, "in every partition"
    assert environment_problems(environment(region=region, kms_key=key, encrypt=True)) == []


def test_a_key_of_another_partition_is_refused() -> None:
    key = "arn:aws:kms:eusc-de-east-1:111122223333:key/11111111-2222-3333-4444-555555555555"
    (found,) = environment_problems(environment(region="eusc-de-east-1", kms_key=key, encrypt=True))
    assert "the key is in eusc-de-east-1 (aws), the environment in eusc-de-east-1 (aws-eusc)" in found.message
