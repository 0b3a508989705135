"""Pre-flight of the AWS side: role, bucket, key, network, instance types (AMP-01, AMP-06)."""

from __future__ import annotations

from collections.abc import Sequence

from wavelift.base.domain import Finding, ServerFacts
from wavelift.rules.aws_facts import Account, Network
from wavelift.rules.environment import is_key_arn
from wavelift.rules.findings import WHOLE_WAVE, Findings
from wavelift.rules.instance_types import type_facts
from wavelift.rules.limits import is_nearly_full
from wavelift.rules.plans import ServerPlan, Target
from wavelift.rules.preflight_addresses import check_address, is_prepared
from wavelift.rules.preflight_guest import boot_mode

MULTIDISK = "Additional permissions are required to migrate multidisk virtual machines"
"""AMP-11: the exact text of the original document, so that users can search for it."""
PRINT_POLICIES = "'wavelift iam show' prints the policies to apply"
OBJECT_TAGS = 9
"""How many of a spec's tags fit on an S3 object, in addition to the run's tag."""


def check_environment(target: Target, account: Account, plans: Sequence[ServerPlan] = ()) -> list[Finding]:
    """Findings about the whole wave. Each subject begins with ``*``."""
    found = Findings(WHOLE_WAVE)
    if target.account not in ("", account.account):
        found.error(
            "account.number",
            f"the AWS connection {target.aws_conn_id} is of account {account.account}, not {target.account}",
            why="the servers would land in another account than the one for which the rights were given",
            do=f"Correct the connection, or 'account' in environment '{target.environment}'",
            row="AMP-02",
            part=f"environment {target.environment}",
        )
    _role(target, account, found)
    _bucket(target, account, found)
    _key(target, account, found)
    if account.network.unknown:
        found.warning(
            "network.unknown",
            f"the network can't be checked: {account.network.unknown}",
            why="a missing subnet would be noticed only at launch",
            do=PRINT_POLICIES,
            part=target.vpc,
        )
    elif target.vpc not in account.network.vpcs and any(plan.launch == "running" for plan in plans):
        found.error(
            "network.vpc",
            f"{target.vpc} does not exist in {target.region}",
            why="the wave launches instances in this VPC",
            do=f"Correct 'vpc' in environment '{target.environment}'",
            row="AMP-01",
            part=target.vpc,
        )
    if left := sorted({name for plan in plans for name in list(plan.tags)[OBJECT_TAGS:]}):
        found.warning(
            "tags.objects",
            f"staged objects get only the first {OBJECT_TAGS} tags; these are left out: {', '.join(left)}",
            why="S3 allows ten tags on an object, and the run's tag is one of them",
            do="If a policy requires tags on objects, list these tags first",
            part=f"bucket {target.bucket}",
        )
    if account.ebs_encrypted_by_default and not target.encrypt:
        found.info(
            "encryption.default",
            "the account encrypts EBS by default: converted volumes will be encrypted with its default key",
            why="if that key is customer managed, the service role needs access to it too",
            do="Set the key in the environment ('kms_key', 'encrypt: true') so that pre-flight checks it",
            part=f"environment {target.environment}",
        )
    return found.all


def _role(target: Target, account: Account, found: Findings) -> None:
    role, part = account.role, f"role {target.role}"
    if role.unknown:
        found.warning(
            "role.unknown",
            f"the service role {target.role} can't be checked: {role.unknown}",
            why="if the role lacks a permission, the import fails, and only after the transfer",
            do=PRINT_POLICIES,
            row="AMP-06",
            part=part,
        )
    elif not role.exists:
        found.error(
            "role.missing",
            f"the service role {target.role} does not exist",
            why="VM Import assumes this role to read the disks and to create the image",
            do=f"Create the role: {PRINT_POLICIES}",
            row="AMP-06",
            part=part,
        )
    else:
        if role.trust_problem:
            found.error(
                "role.trust",
                f"the service role {target.role} can't be assumed by VM Import: {role.trust_problem}",
                why="its trust policy must name vmie.amazonaws.com with the external id 'vmimport'",
                do=f"Replace the trust policy: {PRINT_POLICIES}",
                row="AMP-06",
                part=part,
            )
        if role.missing_actions:
            found.error(
                "role.policy",
                f"the service role {target.role} lacks {', '.join(role.missing_actions)}",
                why=f"the import of objects in {target.bucket} would fail after the transfer",
                do=f"Extend the role's policy: {PRINT_POLICIES}",
                row="AMP-06",
                part=part,
            )
        if role.missing_on_staging_key:
            key = account.bucket.kms_key
            found.error(
                "role.staging_key",
                f"the service role {target.role} lacks {', '.join(role.missing_on_staging_key)} on {key}",
                why=f"the bucket {target.bucket} encrypts with that key by default: VM Import could not read the disks",
                do=f"Extend the role's policy ('wavelift iam show --kms-key {key}') and the key policy",
                row="AMP-06",
                part=part,
            )


def _bucket(target: Target, account: Account, found: Findings) -> None:
    bucket, part = account.bucket, f"bucket {target.bucket}"
    where = f"environment '{target.environment}'"
    if bucket.unknown:
        found.warning(
            "bucket.unknown",
            f"the bucket {target.bucket} can't be checked: {bucket.unknown}",
            why="S3 may refuse the upload",
            do=PRINT_POLICIES,
            part=part,
        )
    elif not bucket.exists:
        found.error(
            "bucket.missing",
            f"the bucket {target.bucket} does not exist",
            why="disks are stored there until AWS converts them",
            do=f"Create it in {target.region}, or correct 'staging.bucket' in {where}",
            part=part,
        )
    else:
        if bucket.region != target.region:
            found.error(
                "bucket.region",
                f"the bucket {target.bucket} is in {bucket.region}, the environment in {target.region}",
                why="VM Import reads only from buckets in its own region",
                do=f"Choose a bucket in {target.region} for {where}",
                part=part,
            )
        if bucket.owned is False:
            found.error(
                "bucket.owner",
                f"the bucket {target.bucket} belongs to another account",
                why="the content of your disks would be stored in another account",
                do=f"Choose a bucket of this account for {where}",
                part=part,
            )
        if bucket.versioned is False:
            found.info(
                "bucket.unversioned",
                f"the bucket {target.bucket} keeps no versions of objects",
                why="AWS reads a staged disk long after it was verified. Versions show which bytes lay there "
                "meanwhile; without them, only S3's time does, and what was replaced is lost",
                do="Enable versioning, with a lifecycle rule that deletes noncurrent versions after some days",
                part=part,
            )


def _key(target: Target, account: Account, found: Findings) -> None:
    key = account.key
    if key is None or target.kms_key is None:
        return
    part = f"key {target.kms_key}"
    problem = key.problem or (f"is in {key.region}" if key.arn and key.region != target.region else "")
    if key.unknown:
        note = found.warning if is_key_arn(target.kms_key) else found.error
        note(
            "key.unknown",
            f"the key {target.kms_key} can't be checked: {key.unknown}",
            why="volumes and staged objects are to be encrypted with it, and EBS accepts only the key's ARN",
            do=f"{PRINT_POLICIES}; or write the key's ARN as 'kms_key' in environment '{target.environment}'",
            part=part,
        )
    elif problem:
        found.error(
            "key.unusable",
            f"the key {target.kms_key} {problem}",
            why=f"volumes in {target.region} and staged objects are to be encrypted with it",
            do=f"Set 'kms_key' to an enabled symmetric customer key in {target.region}, in environment "
            f"'{target.environment}'",
            part=part,
        )


def check_account_use(target: Target, in_use: int, limit: int) -> list[Finding]:
    """That the servers may wait long, because nearly all places of the account are taken (SMS-10).

    :param in_use: servers on their way into the account. :param limit: how many may be.
    """
    found = Findings(WHOLE_WAVE)
    if is_nearly_full(in_use, limit):
        found.warning(
            "account.nearly_full",
            f"{in_use} servers are on their way into account {target.account or target.aws_conn_id}; at most {limit} "
            "may be at a time",
            why="further servers wait until others have ended",
            do="Look at 'wavelift queue'; raise migrations_per_account if the account takes more",
            row="SMS-10",
            part=f"environment {target.environment}",
        )
    return found.all


def settled(target: Target, account: Account) -> Target:
    """The target for the tasks: the key as its current ARN, and the explicit encryption of staged objects.

    The encryption is explicit because a bucket policy may refuse uploads that rely on the bucket's default.
    """
    key, bucket = account.key, account.bucket
    if key is None:
        return target.model_copy(update={"staging_sse": bucket.encryption, "staging_key": bucket.kms_key})
    sse = bucket.encryption if bucket.encryption.startswith("aws:kms") else "aws:kms"
    arn = key.arn or target.kms_key
    return target.model_copy(update={"kms_key": arn, "staging_sse": sse, "staging_key": arn})


def check_landing(facts: ServerFacts, plan: ServerPlan, account: Account, found: Findings) -> None:
    """Check what one server needs in the account."""
    if len(facts.disks) > 1 and (account.role.missing_actions or not (account.role.exists or account.role.unknown)):
        found.error(
            "role.multidisk",
            f"{MULTIDISK}: the service role {plan.target.role} lacks "
            f"{', '.join(account.role.missing_actions) or 'all permissions: it does not exist'}",
            why=f"the VM has {len(facts.disks)} disks",
            do=f"Extend the role's policy: {PRINT_POLICIES}",
            row="AMP-11",
        )
    zone = ""
    if not account.network.unknown:
        zone = _network(plan, account.network, found)
    if plan.instance_type:
        _offer(facts, plan, account, zone, found)


def _network(plan: ServerPlan, network: Network, found: Findings) -> str:
    """Check subnet, security groups and address.

    :return: the subnet's availability zone; empty if there is none.
    """
    vpc = plan.target.vpc
    for group in plan.security_groups:
        if network.security_groups.get(group) != vpc:
            state = "is in another VPC" if group in network.security_groups else "does not exist"
            _wrong_network(plan, "network.security_group", f"security group {group} {state}", found)
    if not plan.subnet:
        return ""
    subnet = network.subnets.get(plan.subnet)
    if subnet is None or subnet.vpc_id != vpc:
        state = "does not exist" if subnet is None else f"is in {subnet.vpc_id}"
        _wrong_network(plan, "network.subnet", f"subnet {plan.subnet} {state}", found)
        return ""
    check_address(plan, subnet, network, found)
    if subnet.free_addresses < 1 and plan.launch == "running" and not is_prepared(plan, network):
        found.error(
            "network.full",
            f"subnet {plan.subnet} has no free address",
            why="the instance needs a free address",
            do="Choose another subnet",
            row="AMP-01",
        )
    return subnet.zone


def _wrong_network(plan: ServerPlan, code: str, what: str, found: Findings) -> None:
    note = found.error if plan.launch == "running" else found.warning
    note(
        code,
        f"{what} (environment '{plan.target.environment}' has {plan.target.vpc})",
        why="the instance could not start there",
        do=f"Correct environment '{plan.target.environment}'",
        row="AMP-01",
    )


def _by_name(facts: ServerFacts, plan: ServerPlan, name: str) -> bool:
    """Whether the type's name implies this boot mode. If it does not, ``check_guest`` has already reported it."""
    return boot_mode(facts, plan) in type_facts(name).boot_modes


def _offer(facts: ServerFacts, plan: ServerPlan, account: Account, zone: str, found: Findings) -> None:
    """Check what the region offers. ``check_guest`` checks what follows from the type's name."""
    if not account.instance_types:
        return
    name = plan.instance_type or ""
    offer = account.instance_types.get(name)
    note = found.error if plan.launch == "running" else found.warning
    if offer is None or (zone and offer.zones and zone not in offer.zones):
        note(
            "type.not_offered",
            f"{name} is not offered in {zone if offer else plan.target.region}",
            why="the instance could not start",
            do="Choose another type, or a subnet in another zone",
            row="AMP-06",
        )
    elif offer.boot_modes and boot_mode(facts, plan) not in offer.boot_modes and _by_name(facts, plan, name):
        note(
            "type.boot_mode",
            f"{name} boots with {' or '.join(offer.boot_modes)}, the image with {boot_mode(facts, plan)}",
            why="the instance could not start",
            do="Choose a type that supports the image's boot mode",
            row="AMP-06",
        )
