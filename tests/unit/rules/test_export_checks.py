"""The bucket's checks by method, and which method ``auto`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.export_samples import (
    ACCOUNT,
    NICS,
    REGION,
    bucket,
    facts_changes,
    grants,
    image,
    instance,
    volume,
    wishes,
)

from wavelift.base.domain import Severity
from wavelift.base.units import GIB, TIB
from wavelift.rules.export_accounts import export_account
from wavelift.rules.export_causes import Wish
from wavelift.rules.export_checks import check_bucket, check_instance, choose
from wavelift.rules.export_facts import (
    METHODS,
    BucketFacts,
    DenialFacts,
    ExportMethod,
    ExportTarget,
    GrantFacts,
    MethodChoice,
)

pytestmark = pytest.mark.unit
E, W, N = Severity.ERROR, Severity.WARNING, Severity.INFO
ENFORCED: Final = {"ownership": "BucketOwnerEnforced", "grants": grants()}


def told(facts: BucketFacts, method: ExportMethod, region: str = REGION) -> dict[str, Severity]:
    found = check_bucket(facts, method, region=region, account=ACCOUNT, environment="prod")
    assert all(each.what and each.why and each.next_action and each.requirement == "VIE-02" for each in found)
    return {each.code: each.severity for each in found}


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_in_the_way_of_a_bucket_that_setup_made(method: ExportMethod) -> None:
    assert told(bucket(), method) == {}
    assert told(bucket(encryption="", grants=grants("FULL_CONTROL")), method) == {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exists": False}, [{"bucket.missing": E}] * 3),
        ({"owned": False}, [{"bucket.account": E}] * 3),
        # Of another's bucket nothing more is read, and so nothing more is told.
        (
            {"owned": False, "ownership": "", "grants": (), "region": "eu-west-1"},
            [{"bucket.account": E, "bucket.region": E}] * 3,
        ),
        ({"region": "eu-west-1"}, [{"bucket.region": E}] * 3),
        (ENFORCED, [{"bucket.acls": E}, {}, {}]),
        ({"ownership": "ObjectWriter"}, [{}, {}, {}]),
        ({"grants": grants("WRITE")}, [{"bucket.grants": E}, {}, {}]),
        ({"grants": grants("READ_ACP")}, [{"bucket.grants": E}, {}, {}]),
        ({"grants": grants("READ", "WRITE_ACP")}, [{"bucket.grants": E}, {}, {}]),
        ({"grants": grants("WRITE", "READ_ACP", region="af-south-1")}, [{"bucket.grants": E}, {}, {}]),
        ({"encryption": "aws:kms"}, [{"bucket.encryption": E}, {"bucket.encryption": E}, {"bucket.encryption": W}]),
        (
            {"encryption": "aws:kms:dsse"},
            [{"bucket.encryption": E}, {"bucket.encryption": E}, {"bucket.encryption": W}],
        ),
        ({"public_access_blocked": False}, [{"bucket.public": W}] * 3),
        ({"ownership": ""}, [{"bucket.unknown": W}, {}, {}]),
        # What could not be read is told once, and is no error.
        (
            {"ownership": "", "grants": (), "public_access_blocked": False, "unknown": ("s3:GetBucketAcl is missing",)},
            [{"bucket.unknown": W}] * 3,
        ),
        (
            {"grants": grants("WRITE"), "unknown": ("s3:GetEncryptionConfiguration is missing",)},
            [{"bucket.unknown": W, "bucket.grants": E}, {"bucket.unknown": W}, {"bucket.unknown": W}],
        ),
    ],
)
def test_vie_02_each_check_of_the_bucket_by_method(
    changes: dict[str, Any], expected: list[dict[str, Severity]]
) -> None:
    assert [told(bucket(**changes), method) for method in METHODS] == expected


def test_the_missing_grants_and_rights_are_named() -> None:
    (found,) = check_bucket(bucket(grants=grants()), "instance", region=REGION, account=ACCOUNT, environment="prod")
    assert f"does not grant READ_ACP and WRITE to {export_account(REGION)}" in found.what
    assert "`wavelift export setup --environment prod --grant`" in found.next_action
    (found,) = check_bucket(
        bucket(unknown=("s3:GetBucketAcl is missing",)), "direct", region=REGION, account=ACCOUNT, environment="prod"
    )
    assert "s3:GetBucketAcl is missing" in found.what


ROOT: Final = "arn:aws:iam::210987654321:root"


def of_policy(*permissions: str, grantee: str = "") -> tuple[GrantFacts, ...]:
    """The ACL has the owner alone."""
    who = grantee or export_account(REGION)
    return (*grants(), *(GrantFacts(grantee=who, permission=each, by="policy") for each in permissions))


@pytest.mark.parametrize(
    ("facts", "expected", "words"),
    [
        (
            {"grants": of_policy("READ_ACP", "WRITE")},
            {"bucket.policy": N},
            "and not its ACL, grants READ_ACP and WRITE",
        ),
        (
            {"grants": (*grants("WRITE"), *of_policy("READ_ACP")[1:])},
            {"bucket.policy": N},
            "and not its ACL, grants READ_ACP to",
        ),
        ({"grants": of_policy("READ_ACP")}, {"bucket.policy": N, "bucket.grants": E}, "grants READ_ACP to"),
        ({"grants": of_policy("READ_ACP", "WRITE", grantee=ROOT)}, {"bucket.grants": W}, f"grants that to {ROOT}"),
        ({"grants": of_policy("READ_ACP", "WRITE", grantee="210987654321")}, {"bucket.grants": W}, "to 210987654321"),
        ({"grants": of_policy("WRITE", grantee=ROOT)}, {"bucket.grants": E}, "does not grant"),
        ({"grants": of_policy("READ_ACP", "WRITE", grantee=ACCOUNT)}, {"bucket.grants": E}, "does not grant"),
        ({"grants": of_policy("READ_ACP", "WRITE", grantee="*")}, {"bucket.grants": E}, "does not grant"),
        (
            {"grants": of_policy("READ_ACP", "WRITE", grantee=f"{ROOT[:-5]}:role/x")},
            {"bucket.grants": E},
            "does not grant",
        ),
        ({**ENFORCED, "grants": of_policy("READ_ACP", "WRITE")}, {"bucket.acls": E}, "ACLs are disabled"),
        # The ACL could not be read: what else grants nothing is no sign that it does not.
        (
            {"grants": of_policy("WRITE", grantee=ROOT)[1:], "unknown": ("s3:GetBucketAcl is missing",)},
            {"bucket.unknown": W},
            "s3:GetBucketAcl is missing",
        ),
    ],
)
def test_vie_02_a_policy_may_grant_what_the_acl_does_not(
    facts: dict[str, Any], expected: dict[str, Severity], words: str
) -> None:
    assert told(bucket(**facts), "instance") == expected
    found = check_bucket(bucket(**facts), "instance", region=REGION, account=ACCOUNT, environment="prod")
    assert words in found[0].what
    assert {code for method in ("image", "direct") for code in told(bucket(**facts), method)} <= {"bucket.unknown"}


@pytest.mark.parametrize(
    ("denial", "hit"),
    [
        ({"grantees": ("*",)}, True),
        ({"grantees": (export_account(REGION),)}, True),
        ({"grantees": (ACCOUNT, export_account("af-south-1"))}, False),
        ({"grantees": ("*",), "excepted": (ACCOUNT,)}, True),
        ({"grantees": ("*",), "excepted": (export_account(REGION),)}, False),
        ({"grantees": ("*",), "conditional": True}, True),
    ],
)
def test_vie_02_a_deny_of_the_policy_is_a_warning_if_it_hits_vm_export(denial: dict[str, Any], hit: bool) -> None:
    facts = bucket(denials=(DenialFacts(statement="Perimeter", actions=("s3:PutObject",), **denial),))
    assert told(facts, "instance") == ({"bucket.denied": W} if hit else {})
    assert told(facts, "direct") == {}
    if hit:
        (found,) = check_bucket(facts, "instance", region=REGION, account=ACCOUNT, environment="prod")
        conditional = ", conditional" if denial.get("conditional") else ""
        assert f"statement Perimeter (s3:PutObject{conditional})" in found.what


@pytest.mark.parametrize("region", ["af-south-1", "cn-north-1", "us-gov-west-1", "us-east-1"])
def test_the_grants_are_those_of_the_region(region: str) -> None:
    right = bucket(region=region, grants=grants("WRITE", "READ_ACP", region=region))
    assert told(right, "instance", region=region) == {}
    other = bucket(region=region, grants=grants("WRITE", "READ_ACP", region="il-central-1"))
    assert told(other, "instance", region=region) == {"bucket.grants": E}


def test_a_group_that_everybody_is_in_is_no_grant_to_aws() -> None:
    everybody = "http://acs.amazonaws.com/groups/global/AllUsers"
    open_to_all = tuple(GrantFacts(grantee=everybody, permission=each) for each in ("WRITE", "READ_ACP"))
    assert told(bucket(grants=open_to_all), "instance") == {"bucket.grants": E}


@given(
    st.builds(
        bucket,
        exists=st.booleans(),
        owned=st.booleans(),
        region=st.sampled_from(["", REGION, "eu-west-1"]),
        ownership=st.sampled_from(["", "BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"]),
        grants=st.lists(st.sampled_from(["READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"]), max_size=3).map(
            lambda all: grants(*all)
        ),
        encryption=st.sampled_from(["", "AES256", "aws:kms", "aws:kms:dsse"]),
        unknown=st.sampled_from([(), ("s3:GetBucketAcl is missing",)]),
    )
)
def test_a_bucket_without_errors_can_be_written_by_the_method(facts: BucketFacts) -> None:
    errors = {method: E in told(facts, method).values() for method in METHODS}
    assert errors["direct"] <= errors["image"] <= errors["instance"], "each method needs less than the one before"
    for method in METHODS:
        if not errors[method]:
            assert facts.exists
            assert facts.owned
            assert facts.region in ("", REGION)
            assert method == "direct" or facts.encryption in ("", "AES256")
    if not errors["instance"]:
        rights = {each.permission for each in facts.grants if each.grantee == export_account(REGION)}
        assert "FULL_CONTROL" in rights or rights >= {"WRITE", "READ_ACP"}
        assert facts.ownership != "BucketOwnerEnforced"


@pytest.mark.parametrize(
    ("changes", "wish", "in_bucket", "expected", "why"),
    [
        ({}, {}, {}, ("instance", "ova"), "AWS can export the instance itself"),
        ({}, {"target": "microsoft"}, {}, ("instance", "vhd"), "AWS can export the instance itself"),
        ({"state": "running"}, {"may_reboot": True}, {}, ("instance", "ova"), "AWS can export the instance itself"),
        ({"state": "running"}, {}, {}, ("direct", "ova"), "not instance: the running instance may be restarted"),
        ({"state": "running"}, {"target": "citrix"}, {}, ("image", "vhd"), "not instance: the running instance may be"),
        ({"state": "running"}, {"format": "vmdk"}, {}, ("image", "vmdk"), "not instance: the running instance may be"),
        ({"image": image(exists=False)}, {"format": "vmdk"}, {}, ("image", "vmdk"), "not instance: the image ami-00"),
        ({"nics": NICS}, {"target": "microsoft"}, {}, ("image", "vhd"), "not instance: the instance has 2 network"),
        ({"nics": NICS}, {}, {}, ("direct", "ova"), "not image: method image writes no ova for target vmware"),
        ({}, {"format": "raw"}, {}, ("image", "raw"), "not instance: method instance writes no raw"),
        ({"volumes": (volume(), volume(2))}, {}, {}, ("direct", "ova"), "not instance: the instance has 2 disks: vol-"),
        ({"volumes": (volume(encrypted=True),)}, {}, {}, ("direct", "ova"), "not instance: encrypted: vol-00000001"),
        ({"volumes": (volume(size=1500 * GIB),)}, {}, {}, ("direct", "ova"), "not instance: too large: vol-00000001"),
        (
            {"volumes": (volume(), volume(2, launched=False))},
            {},
            {},
            ("direct", "ova"),
            "not instance: attached after launch: vol-00000002 (/dev/sdb)",
        ),
        ({"volumes": (volume(launched=False),)}, {"target": "citrix"}, {}, ("image", "vhd"), "not instance: attached "),
        ({}, {"target": "citrix"}, ENFORCED, ("image", "vhd"), "not instance: ACLs are disabled on the bucket export-"),
        ({}, {}, {"encryption": "aws:kms"}, ("direct", "ova"), "not instance: the bucket export-to-s3-acme-eu-central"),
    ],
)
def test_auto_takes_the_first_method_that_no_error_forbids_and_says_why(
    changes: dict[str, Any],
    wish: dict[str, Any],
    in_bucket: dict[str, Any],
    expected: tuple[str, str],
    why: str,
) -> None:
    chosen = choose("auto", instance(**changes), bucket(**in_bucket), Wish(environment="prod", account=ACCOUNT, **wish))
    assert (chosen.method, chosen.format) == expected
    assert why in chosen.why
    assert chosen.errors == ()


@dataclass(frozen=True)
class Service:
    """The service role, as the adapter tells of it."""

    name: str = "vmimport"
    exists: bool = True
    trust_problem: str = ""
    missing_actions: tuple[str, ...] = ()
    missing_on_staging_key: tuple[str, ...] = ()
    unknown: str = ""


@pytest.mark.parametrize(
    ("role", "severity", "words"),
    [
        (Service(), None, ""),
        (Service(exists=False), E, "the service role vmimport does not exist"),
        (Service(trust_problem="vmie is not trusted"), E, "can't be assumed by VM Import/Export: vmie is not trusted"),
        (Service(missing_actions=("s3:PutObject", "s3:GetBucketAcl")), E, "lacks s3:PutObject, s3:GetBucketAcl"),
        (
            Service(trust_problem="vmie is not trusted", missing_actions=("s3:PutObject",)),
            E,
            "vmie is not trusted, and lacks s3:PutObject",
        ),
        (Service(exists=False, unknown="iam:GetRole is missing"), W, "can't be checked: iam:GetRole is missing"),
    ],
)
def test_the_service_role_is_in_the_way_of_method_image_alone(
    role: Service, severity: Severity | None, words: str
) -> None:
    for method in METHODS:
        found = [
            each for each in choose(method, instance(), bucket(), Wish(), role).findings if each.code == "export.role"
        ]
        assert [each.severity for each in found] == ([severity] if severity and method == "image" else [])
        for each in found:
            assert words in each.what
            assert "`wavelift iam " in each.next_action
            assert f"--exports {bucket().name}`" in each.next_action
            assert each.why


def test_auto_takes_no_image_that_the_service_role_can_t_write_and_goes_on_where_that_is_not_known() -> None:
    facts, wish = instance(nics=NICS), Wish(target="citrix")
    assert choose("auto", facts, bucket(), wish, Service(unknown="iam:GetRole is missing")).method == "image"
    refused = choose("auto", facts, bucket(), wish, Service(exists=False))
    assert refused.method is None
    assert "method image: the service role vmimport does not exist" in {each.what for each in refused.errors}
    raw = Wish(format="vmdk")
    assert choose("auto", facts, bucket(), raw, Service()).method == "image"
    assert choose("auto", facts, bucket(), raw, Service(exists=False)).method is None


def test_vie_03_what_no_method_exports_is_told_once_and_the_rest_by_method() -> None:
    windows = {"platform": "windows", "platform_details": "Windows", "usage_operation": "RunInstances:0002"}
    chosen = choose("auto", instance(volumes=(volume(), volume(2)), **windows), bucket(), Wish())
    assert (chosen.method, chosen.format, chosen.why) == (None, None, "no method can export it")
    assert chosen.findings == chosen.errors
    assert [(each.code, each.subject.partition("/")[2], each.what[:16]) for each in chosen.findings] == [
        ("export.windows", "", "it runs Windows "),
        ("export.disks", "method instance", "method instance:"),
        ("export.format", "method image", "method image wri"),
        ("export.disks", "method image", "method image: th"),
    ]


@pytest.mark.parametrize("choice", METHODS)
def test_a_method_that_was_asked_for_is_taken_with_all_that_is_in_its_way(choice: MethodChoice) -> None:
    chosen = choose(choice, instance(state="terminated"), bucket(exists=False), Wish(environment="prod"))
    assert chosen.method == choice
    assert chosen.why == "it was asked for"
    assert {each.code for each in chosen.errors} == {"bucket.missing", "export.terminated"}
    assert chosen.format == ("vmdk" if choice == "image" else "ova")


def test_vie_03_only_by_name_method_instance_leaves_out_what_was_attached_after_launch() -> None:
    facts = instance(volumes=(volume(), volume(2, launched=False, size=3 * TIB, encrypted=True)))
    chosen = choose("instance", facts, bucket(), Wish())
    assert chosen.errors == ()
    (later,) = [each for each in chosen.findings if each.severity is W]
    assert (later.code, later.what) == (
        "export.later",
        "attached after launch: vol-00000002 (/dev/sdb): left out of the export",
    )
    assert later.next_action == "Choose method image or direct: they take such volumes"
    unasked = choose("auto", facts, bucket(), Wish())
    assert unasked.method is None
    codes = [each.code for each in unasked.errors if each.subject.endswith("method instance")]
    assert codes == ["export.attached_later"], "no machine loses a disk unasked"


@pytest.mark.parametrize("target", ["vmware", "citrix"])
def test_what_would_leave_a_volume_out_is_not_recommended(target: ExportTarget) -> None:
    facts = instance(volumes=(volume(), volume(2, launched=False)))
    (disks,) = choose("image", facts, bucket(), Wish(target=target)).errors
    assert disks.code == "export.disks"
    assert disks.next_action == ("Choose method direct" if target == "vmware" else "No method can export it as it is")


def test_by_name_method_instance_exports_no_machine_without_its_boot_volume() -> None:
    chosen = choose("instance", instance(volumes=(volume(launched=False), volume(2))), bucket(), Wish())
    assert [each.code for each in chosen.errors] == ["export.attached_later"]


def test_the_advice_of_a_method_asked_for_by_name_is_by_the_default_of_the_others() -> None:
    chosen = choose("image", instance(volumes=(volume(), volume(2))), bucket(), Wish())
    (disks,) = chosen.errors
    assert disks.next_action == "Choose method direct"


@given(facts_changes, wishes, st.sampled_from([{}, ENFORCED, {"encryption": "aws:kms"}, {"exists": False}]))
def test_auto_is_the_first_without_an_error(changes: dict[str, Any], wish: Wish, in_bucket: dict[str, Any]) -> None:
    facts, where = instance(**changes), bucket(**in_bucket)
    chosen = choose("auto", facts, where, wish)
    named = {method: choose(method, facts, where, wish) for method in METHODS}
    if chosen.method is None:
        assert chosen.errors
        told_of = {each.subject.partition("/method ")[2] for each in chosen.errors}
        assert "" in told_of or told_of == set(METHODS), "what forbids each method is told"
        return
    assert not chosen.errors
    assert not named[chosen.method].errors, "by name, it would have no error either"
    assert chosen.format is not None
    for earlier in METHODS[: METHODS.index(chosen.method)]:
        assert f"not {earlier}: " in chosen.why
    assert chosen.method != "instance" or all(each.launched for each in facts.volumes), "no volume is left out"


def test_a_licence_is_told_by_every_method_alike() -> None:
    sold = instance(product_codes=("abc",))
    found = [
        [each for each in check_instance(sold, method, Wish()) if each.code == "export.marketplace"]
        for method in METHODS
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 1
    assert "Choose method" not in found[0][0].next_action
