"""Policies and the vSphere role follow from the table of calls, and the table covers what the code calls."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from botocore import xform_name
from botocore.session import Session
from pyVmomi import vim

import wavelift
from wavelift.rules.calls import (
    AWS_CALLS,
    BACKUP,
    FREE,
    LAUNCHING,
    OF_EXPORTS,
    OFFERED,
    UNASKED,
    VSPHERE_CALLS,
    AwsFeature,
    Identity,
)
from wavelift.rules.policies import (
    Staging,
    actions_of,
    bucket_policy,
    identity_policy,
    printable,
    required_privileges,
    role_policy,
    trust_policy,
    vsphere_role,
)

pytestmark = pytest.mark.unit
ADAPTERS = Path(wavelift.__file__).parent / "adapters"
OF_ADMINISTRATORS = ("iam_setup.py", "iam_read.py")
"""What they call, a person calls at a prompt with rights of his own. An import contract keeps the flows away."""
SERVICES = ("ec2", "s3", "iam", "kms", "sts", "ebs", "elbv2", "route53", "ssm")
IAM_NAMES = {"elbv2": "elasticloadbalancing"}
"""Services whose actions begin with another name than botocore's."""
IDENTITIES: tuple[Identity, ...] = ("connector", "caller")
STAGING = Staging("disks", "waves/", "arn:aws:kms:eu-central-1:111122223333:key/k")
EXPORTS = "export-to-s3-a-name-as-long-as-names-may-be-eu-central-1"
WITH_EXPORTS = replace(STAGING, exports=EXPORTS)


def operations() -> dict[str, str]:
    """snake_case name → ``service:name``, of every operation of the services that we use."""
    session = Session()
    return {
        xform_name(name): f"{service}:{xform_name(name)}"
        for service in SERVICES
        for name in session.get_service_model(service).operation_names
    }


def names_called(folder: Path) -> Iterator[str]:
    """Every attribute named and every literal given to a call in the sources below ``folder``."""
    for path in folder.rglob("*.py"):
        if path.name in OF_ADMINISTRATORS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                yield node.attr
            elif isinstance(node, ast.Call):
                yield from (
                    arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                )


def test_sms_13_the_table_names_every_aws_call_of_the_adapter() -> None:
    known = operations()
    # Ours by name, but no call: the library's own word for something else.
    called = {known[name] for name in names_called(ADAPTERS / "aws") if "_" in name and name in known} - {
        "s3:get_object_torrent"
    }
    declared = {call.operation for call in AWS_CALLS}
    assert called - declared == set()
    assert declared <= set(known.values()), "each is an operation of AWS"
    assert len(called) > 25, "the scan found the calls"


def test_every_action_is_one_of_its_service() -> None:
    for call in AWS_CALLS:
        assert call.actions
        assert call.identities
        service = call.operation.split(":")[0]
        assert {action.split(":")[0] for action in call.actions} == {IAM_NAMES.get(service, service)}, call.operation


def test_sms_13_the_connector_changes_nothing_but_its_objects_and_our_snapshots() -> None:
    changing = ("Import", "Run", "Terminate", "Create", "Delete", "Deregister", "Cancel", "Put", "Pass")
    assert not [action for action in actions_of("connector", "any") if action.split(":")[1].startswith(changing)]
    assert set(actions_of("connector", "any")) - set(actions_of("caller", "any")) == {"ec2:GetEbsDefaultKmsKeyId"}
    assert actions_of("connector", "our-imports") == ("ec2:CancelImportTask",)
    assert actions_of("caller", "snapshots") == actions_of("caller", "our-snapshots") == ()
    assert "s3:PutObject" in actions_of("connector", "objects")
    assert actions_of("connector", "snapshots") == ("ebs:StartSnapshot", "ec2:CreateTags")
    statements = {one["Sid"]: one for one in identity_policy("connector", STAGING)["Statement"]}
    assert statements["WaveliftOurSnapshots"] == {
        "Sid": "WaveliftOurSnapshots",
        "Effect": "Allow",
        "Action": ["ebs:CompleteSnapshot", "ebs:PutSnapshotBlock", "ec2:DeleteSnapshot"],
        "Resource": "arn:aws:ec2:*::snapshot/*",
        "Condition": {"StringLike": {"aws:ResourceTag/wavelift:run": "*"}},
    }
    assert statements["WaveliftOurImports"]["Condition"] == statements["WaveliftOurSnapshots"]["Condition"]


def _rights(identity: Identity, *features: AwsFeature) -> set[tuple[str, str]]:
    document = identity_policy(identity, STAGING, role_arn="arn:aws:iam::1:role/vmimport", features=features)
    return {(one["Resource"], action) for one in document["Statement"] for action in one["Action"]}


TERMINATE = "ec2:TerminateInstances"
TESTING: tuple[AwsFeature, ...] = ("test",)


def test_a_launch_may_pass_only_the_roles_that_are_named_and_only_to_ec2() -> None:
    role = "arn:aws:iam::111122223333:role/ssm-core"

    def passed(*features: AwsFeature, roles: tuple[str, ...] = (role,)) -> list[dict[str, Any]]:
        document = identity_policy("caller", STAGING, features=features, profile_roles=roles)
        return [one for one in document["Statement"] if one["Sid"] == "WaveliftHandProfilesOn"]

    [statement] = passed("cutover")
    assert statement["Resource"] == [role]
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    assert passed("test")
    assert not passed("migrate", "replicate", "backup")
    assert not passed("cutover", roles=())


def test_what_ends_instances_ends_only_ours() -> None:
    document = identity_policy("caller", STAGING, features=TESTING)
    [statement] = [one for one in document["Statement"] if TERMINATE in one["Action"]]
    assert statement["Condition"] == {"StringLike": {"aws:ResourceTag/wavelift:run": "*"}}
    assert statement["Action"] == [TERMINATE]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_all_features_fit_into_one_managed_policy(identity: Identity) -> None:
    role = "arn:aws:iam::111122223333:role/vmimport"
    document = identity_policy(identity, WITH_EXPORTS, role_arn=role, features=OFFERED)
    assert len(printable(document).replace(" ", "").replace("\n", "")) < 6144


@pytest.mark.parametrize("identity", IDENTITIES)
def test_nobody_gets_rights_of_a_feature_that_was_not_asked_for(identity: Identity) -> None:
    both = _rights(identity, "migrate", "replicate")
    assert _rights(identity, *UNASKED) == both == _rights(identity, "migrate") | _rights(identity, "replicate")
    assert _rights(identity, "migrate") < both
    assert not _rights(identity, "network")
    ends = {feature for feature in OFFERED for _, action in _rights(identity, feature) if action == TERMINATE}
    assert ends == ({"test"} if identity == "caller" else set()), "a cutover stops its instance, and never ends it"


def test_each_feature_has_what_only_it_needs() -> None:
    def actions(identity: Identity, feature: AwsFeature) -> set[str]:
        return {action for _, action in _rights(identity, feature)}

    assert actions("caller", "migrate") - actions("caller", "replicate") == {"ec2:RunInstances", "s3:GetObjectVersion"}
    assert actions("caller", "replicate") - actions("caller", "migrate") == {"ec2:RegisterImage"}
    assert actions("connector", "migrate") < actions("connector", "replicate")
    assert {"ebs:PutSnapshotBlock", "kms:CreateGrant"} <= actions("connector", "replicate")
    assert not {"ebs:PutSnapshotBlock", "kms:CreateGrant"} & actions("connector", "migrate")
    launching: tuple[AwsFeature, ...] = (*LAUNCHING, *BACKUP)
    for each in launching:
        assert {"kms:CreateGrant", "kms:GenerateDataKeyWithoutPlaintext"} <= actions("caller", each), "encrypted"
        assert "kms:CreateGrant" not in actions("connector", each)
    assert "ec2:StopInstances" in actions("caller", "cutover") - actions("caller", "test")
    assert set(OFFERED) < set(get_args(AwsFeature))
    assert {feature for call in AWS_CALLS for feature in call.feature} <= set(get_args(AwsFeature))


def test_only_the_connector_puts_objects_and_nobody_deletes_versions() -> None:
    writes = {action for action in actions_of("connector", "objects") if action.startswith("s3:Put")}
    assert writes == {"s3:PutObject", "s3:PutObjectTagging"}
    assert actions_of("caller", "objects") == (
        "s3:AbortMultipartUpload",
        "s3:DeleteObject",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:ListMultipartUploadParts",
    )
    for identity in IDENTITIES:
        assert "s3:DeleteObjectVersion" not in printable(identity_policy(identity, STAGING))


def _statements(*features: AwsFeature, staging: Staging = WITH_EXPORTS) -> dict[str, dict[str, Any]]:
    role = "arn:aws:iam::111122223333:role/vmimport"
    document = identity_policy("caller", staging, role_arn=role, features=features)
    return {one["Sid"].removeprefix("Wavelift"): one for one in document["Statement"]}


def test_amp_10_who_exports_ends_and_deletes_only_what_is_ours() -> None:
    found = _statements("export")
    ours = {name: one for name, one in found.items() if "Condition" in one}
    assert {name: one["Action"] for name, one in ours.items()} == {
        "OurSnapshots": ["ec2:DeleteSnapshot"],
        "OurExports": ["ec2:CancelExportTask"],
        "OurImages": ["ec2:DeregisterImage"],
    }
    assert {str(one["Condition"]) for one in ours.values()} == {
        str({"StringLike": {"aws:ResourceTag/wavelift:run": "*"}})
    }
    assert found["OurExports"]["Resource"] == "arn:aws:ec2:*:*:export-*-task/*", "tasks of instances and of images"
    ending = ("Delete", "Deregister", "Cancel", "Terminate", "Stop", "Modify")
    assert not [action for action in found["Account"]["Action"] if action.split(":")[1].startswith(ending)]
    assert found["HandRoleOn"]["Resource"] == "arn:aws:iam::111122223333:role/vmimport"


def test_amp_10_only_the_exports_bucket_is_written_and_only_its_setup_changes_it() -> None:
    exporting, setting_up = _statements("export"), _statements("export-setup")
    assert exporting["Exports"]["Resource"] == f"arn:aws:s3:::{EXPORTS}"
    assert exporting["ExportObjects"]["Resource"] == f"arn:aws:s3:::{EXPORTS}/*"
    assert not {"Staging", "StagingObjects"} & {*exporting, *setting_up}
    changing = ("s3:Put", "s3:Create", "s3:Tag", "s3:Delete")
    assert not [action for action in exporting["Exports"]["Action"] if action.startswith(changing)]
    assert {action for action in setting_up["Exports"]["Action"] if action.startswith(changing)} == {
        *("s3:CreateBucket", "s3:PutBucketOwnershipControls", "s3:TagResource"),
        *("s3:PutBucketAcl", "s3:PutBucketPublicAccessBlock", "s3:PutEncryptionConfiguration"),
    }
    assert "ExportObjects" not in setting_up
    assert not [one for one in OFFERED if one not in OF_EXPORTS and "Exports" in _statements(one)]
    assert not {"Exports", "ExportObjects"} & set(_statements("export", staging=STAGING)), "no bucket, no statement"
    for feature in OF_EXPORTS:
        assert identity_policy("connector", WITH_EXPORTS, features=[feature])["Statement"] == []


def test_the_policy_of_the_bucket_only_denies_and_only_below_the_prefix() -> None:
    document = bucket_policy(STAGING, connectors=["arn:aws:iam::1:role/c"], callers=["arn:aws:iam::1:role/a"])
    statements = {one["Sid"]: one for one in document["Statement"]}
    assert {one["Effect"] for one in statements.values()} == {"Deny"}
    assert {one["Principal"] for one in statements.values()} == {"*"}
    assert statements["WaveliftOnlyConnectorsWrite"] == {
        "Sid": "WaveliftOnlyConnectorsWrite",
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject*", "s3:ReplicateObject", "s3:ReplicateTags"],
        "Resource": "arn:aws:s3:::disks/waves/*",
        "Condition": {"ArnNotLike": {"aws:PrincipalArn": ["arn:aws:iam::1:role/c"]}},
    }
    assert "Condition" not in statements["WaveliftNobodyDeletesVersions"]
    deletes = statements["WaveliftOnlyOursDelete"]
    assert {"s3:DeleteObject", "s3:AbortMultipartUpload"} <= set(deletes["Action"])
    assert deletes["Condition"]["ArnNotLike"]["aws:PrincipalArn"] == ["arn:aws:iam::1:role/c", "arn:aws:iam::1:role/a"]
    assert statements["WaveliftOnlyByTls"]["Resource"] == ["arn:aws:s3:::disks", "arn:aws:s3:::disks/waves/*"]
    allowed = {action for identity in IDENTITIES for action in actions_of(identity, "objects")}
    assert not set(statements["WaveliftNobodyDeletesVersions"]["Action"]) & allowed


def test_sms_13_trust_policy() -> None:
    assert trust_policy() == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "vmie.amazonaws.com"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:Externalid": "vmimport"}},
            }
        ],
    }
    narrow = trust_policy("111122223333")["Statement"][0]["Condition"]
    assert narrow["StringEquals"]["aws:SourceAccount"] == "111122223333"
    assert narrow["ArnLike"] == {"aws:SourceArn": "arn:*:vmie:*:111122223333:*"}


def test_amp_06_role_policy_is_the_documents() -> None:
    statements = {one["Sid"]: one for one in role_policy(STAGING)["Statement"]}
    assert statements["WaveliftReadStaging"]["Resource"] == "arn:aws:s3:::disks"
    assert statements["WaveliftReadDisks"] == {
        "Sid": "WaveliftReadDisks",
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": "arn:aws:s3:::disks/waves/*",
    }
    assert set(statements["WaveliftMakeImages"]["Action"]) == {
        "ec2:ModifySnapshotAttribute",
        "ec2:CopySnapshot",
        "ec2:RegisterImage",
        "ec2:Describe*",
    }
    assert statements["WaveliftUseKey"]["Resource"] == STAGING.kms_key_arn
    assert len(role_policy(Staging("disks"))["Statement"]) == 3


def test_amp_10_the_role_may_also_write_exports() -> None:
    """As the second statement of AWS's own policy (VM Import/Export user guide, "Required service role")."""
    before, after = role_policy(STAGING), role_policy(STAGING, exports=EXPORTS)
    assert after == role_policy(WITH_EXPORTS)
    more = [one for one in after["Statement"] if one not in before["Statement"]]
    assert {one["Resource"]: one["Action"] for one in more} == {
        f"arn:aws:s3:::{EXPORTS}": ["s3:GetBucketLocation", "s3:ListBucket", "s3:GetBucketAcl"],
        f"arn:aws:s3:::{EXPORTS}/*": ["s3:GetObject", "s3:PutObject"],
    }


@pytest.mark.parametrize("identity", ["connector", "caller"])
def test_identity_policies_print_as_iam_takes_them(identity: Any) -> None:
    document = identity_policy(identity, STAGING, role_arn="arn:aws:iam::111122223333:role/vmimport")
    assert json.loads(printable(document)) == document
    for statement in document["Statement"]:
        assert statement["Sid"].isalnum()
        assert statement["Action"]
        assert statement["Resource"]
    handed_on = [one for one in document["Statement"] if "iam:PassRole" in one["Action"]]
    assert bool(handed_on) is (identity == "caller")
    assert len(printable(document).replace(" ", "").replace("\n", "")) < 6144, "the size of a managed policy"


def test_the_partition_reaches_every_arn() -> None:
    document = identity_policy("caller", Staging("b", partition="aws-us-gov"))
    assert "arn:aws:" not in printable(document)
    assert "arn:aws-us-gov:s3:::b/*" in printable(document)


# -- vSphere ------------------------------------------------------------------------------------------------------


def methods() -> dict[str, str | None]:
    """Wire name → privilege, from pyvmomi's type tables."""
    kinds = (vim.VirtualMachine, vim.vm.Snapshot, vim.HttpNfcLease, vim.AuthorizationManager)
    return {
        info.wsdlName: info.privId
        for kind in kinds
        for info in (getattr(getattr(kind, name), "info", None) for name in dir(kind))
        if info is not None and hasattr(info, "wsdlName")
    }


def test_sms_12_privileges_are_those_of_pyvmomis_table() -> None:
    table = methods()
    assert len(table) > 60, "the table was read"
    for call in VSPHERE_CALLS:
        told = table.get(call.method)
        if told is not None:
            assert call.privilege == told, call.method


def test_sms_12_the_table_names_every_vsphere_call_that_needs_a_right() -> None:
    table = {name: privilege for name, privilege in methods().items() if privilege and privilege not in FREE}
    # The HTTP stub has a method of the same name as one of VirtualMachine's.
    called = {name for name in names_called(ADAPTERS / "vsphere") if name in table} - {"DropConnections"}
    assert {"CreateSnapshot_Task", "ExportSnapshot"} <= called, "the scan found the calls"
    assert called <= {call.method for call in VSPHERE_CALLS}


def test_sms_12_the_five_of_sms_and_ours() -> None:
    role = {privilege.id: privilege.feature for privilege in vsphere_role()}
    five = {
        "Datastore.Browse",
        "Datastore.FileManagement",
        "VApp.Export",
        "VirtualMachine.State.CreateSnapshot",
        "VirtualMachine.State.RemoveSnapshot",
    }
    assert five == {privilege.id for privilege in vsphere_role(["migrate", "sms"])}
    assert role["VirtualMachine.Provisioning.DiskRandomRead"] == "replicate"
    assert role["VirtualMachine.Config.ChangeTracking"] == "replicate"
    cutover = {name for name, feature in role.items() if feature == "cutover"}
    assert cutover == {
        "VirtualMachine.Config.EditDevice",
        "VirtualMachine.Interact.DeviceConnection",
        "VirtualMachine.Interact.PowerOff",
        "VirtualMachine.Interact.PowerOn",
    }
    assert all(privilege.calls and privilege.purpose for privilege in vsphere_role())
    assert not FREE & set(role)


def test_sms_12_hcx_needs_to_look_from_the_root_and_no_more() -> None:
    assert vsphere_role(["hcx"]) == []
    assert required_privileges(["hcx"]) == {
        "vm": ("System.Read",),
        "datastore": ("System.Read",),
        "root": ("System.View", "System.Read"),
    }


def test_sms_12_pre_flight_asks_for_the_role_and_the_right_to_look() -> None:
    required = required_privileges(["migrate", "sms"])
    assert {where: set(names) - FREE for where, names in required.items()} == {
        "vm": {privilege.id for privilege in vsphere_role(["migrate"])},
        "datastore": {"Datastore.Browse", "Datastore.FileManagement"},
        "root": set(),
    }
    assert {where: names[0] for where, names in required.items()} == {
        "vm": "System.Read",
        "datastore": "System.Read",
        "root": "System.View",
    }
