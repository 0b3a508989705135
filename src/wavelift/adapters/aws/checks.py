"""What pre-flight must know of the account: role, bucket, key, network, instance types (AMP-06). It only reads.

It gives facts, no verdicts. What the caller may not read is ``unknown`` with the reason; it is never a false alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors, error_code
from wavelift.adapters.aws.policies import key_needs, missing_actions, role_needs, trust_problem
from wavelift.adapters.aws.tagging import from_aws
from wavelift.base.errors import MissingPrivilegeError, NotFoundError
from wavelift.base.printable import printable

T = TypeVar("T")

HOLDER_LONGEST = 80
"""Characters of an interface's description that are shown."""


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """The service role that VM Import assumes.

    :ivar trust_problem: what keeps VM Import from assuming it; empty when nothing does.
    :ivar missing_actions: what its policies don't allow on the staging bucket, in EC2 and on the key.
    :ivar missing_on_staging_key: what they don't allow on the key that the bucket encrypts with by default.
    """

    name: str
    exists: bool = False
    arn: str = ""
    trust_problem: str = ""
    missing_actions: tuple[str, ...] = ()
    missing_on_staging_key: tuple[str, ...] = ()
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """The staging bucket.

    :ivar owned: by the caller's account; None where nobody would say.
    :ivar versioned: versioning is enabled; None where nobody would say.
    :ivar encryption: how it encrypts by default: ``AES256``, ``aws:kms`` or ``aws:kms:dsse``; empty: nobody would say.
    :ivar kms_key: the customer's key of that, its ARN where KMS would tell it; empty: S3's own.
    """

    name: str
    exists: bool = False
    region: str = ""
    owned: bool | None = None
    versioned: bool | None = None
    encryption: str = ""
    kms_key: str = ""
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A KMS key.

    :ivar key: as it was asked for: id, ARN, alias or the alias's ARN.
    :ivar arn: of the key itself. It is what EBS takes: StartSnapshot knows neither ids nor aliases.
    :ivar state: AWS's word, ``Enabled`` when it works.
    :ivar spec: ``SYMMETRIC_DEFAULT`` or a kind that EBS and S3 can't use.
    :ivar manager: ``AWS`` of a key that AWS keeps for one service.
    """

    key: str
    exists: bool = False
    arn: str = ""
    state: str = ""
    usage: str = ""
    spec: str = ""
    manager: str = ""
    region: str = ""
    unknown: str = ""

    @property
    def problem(self) -> str:
        """Why volumes and staged objects can't be encrypted with it; empty when nothing is known against it."""
        if self.unknown:
            return ""
        if not self.exists:
            return "does not exist in this region"
        if self.state != "Enabled":
            return f"is not usable ({self.state})"
        if self.usage not in ("ENCRYPT_DECRYPT", "") or self.spec not in ("SYMMETRIC_DEFAULT", ""):
            return f"is not a symmetric encryption key ({self.spec or self.usage})"
        if self.manager == "AWS":
            return "is kept by AWS for one of its services"
        return ""


@dataclass(frozen=True, slots=True)
class SubnetFacts:
    """:ivar free_addresses: how many AWS could still give to new interfaces."""

    subnet_id: str
    vpc_id: str
    zone: str
    cidr: str
    free_addresses: int


@dataclass(frozen=True, slots=True)
class Holder:
    """The interface that has an address. :ivar words: for people. :ivar attached: to an instance, or a service's."""

    words: str
    attached: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What exists of the asked-for network; an id that is missing here does not exist.

    :ivar security_groups: group id to its VPC.
    :ivar taken: subnet id and address to who has it, of the addresses that were asked for.
    :ivar unknown: why not all of it, or not the instance types beside it, could be looked at.
    :ivar addresses_unknown: why nobody would say who has the addresses.
    """

    vpcs: frozenset[str] = frozenset()
    subnets: Mapping[str, SubnetFacts] = field(default_factory=dict)
    security_groups: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[tuple[str, str], Holder] = field(default_factory=dict)
    unknown: str = ""
    addresses_unknown: str = ""


@dataclass(frozen=True, slots=True)
class InstanceTypeFacts:
    """An instance type that the region offers, and in which zones."""

    name: str
    zones: frozenset[str] = frozenset()
    boot_modes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """Everything of one environment, in one pass."""

    account: str
    role: RoleFacts
    bucket: BucketFacts
    key: KeyFacts | None
    network: NetworkFacts
    instance_types: Mapping[str, InstanceTypeFacts]
    ebs_encrypted_by_default: bool | None


@dataclass(frozen=True, slots=True)
class AccountNames:
    """What one environment and a wave name in its account; empty: nothing.

    :ivar addresses: subnet and private address, for each address that the wave asks for.
    """

    role: str
    bucket: str
    prefix: str = ""
    kms_key: str | None = None
    vpc: str = ""
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    instance_types: Sequence[str] = ()
    addresses: Sequence[tuple[str, str]] = ()


class AccountChecks:
    """Read-only look-ups for pre-flight."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    def account(self, named: AccountNames) -> AccountFacts:
        """All facts about what an environment names.

        :raises LoginError: the credentials are refused; everything else that can't be seen is ``unknown``.
        """
        account = self.account_id()
        key = self.key(named.kms_key) if named.kms_key else None
        staging = self.bucket(named.bucket, account=account)
        staging_key = "" if named.kms_key else staging.kms_key
        network = self.network(
            vpcs=[named.vpc] if named.vpc else [], subnets=named.subnets, security_groups=named.security_groups
        )
        try:
            network = replace(network, taken=self.taken(named.addresses))
        except MissingPrivilegeError as error:
            network = replace(network, addresses_unknown=str(error))
        types: dict[str, InstanceTypeFacts] = {}
        try:
            types = self.instance_types(named.instance_types)
        except MissingPrivilegeError as error:
            network = replace(network, unknown=network.unknown or str(error))
        return AccountFacts(
            account=account,
            role=self.role(
                named.role,
                bucket=named.bucket,
                prefix=named.prefix,
                kms_key_arn=key.arn if key else "",
                staging_key_arn=staging_key,
            ),
            bucket=staging,
            key=key,
            network=network,
            instance_types=types,
            ebs_encrypted_by_default=self.ebs_encrypted_by_default(),
        )

    def account_id(self) -> str:
        """The caller's account; also the cheapest test of the credentials."""
        with aws_errors("could not log in to AWS", service="sts"):
            return str(self._access.client("sts").get_caller_identity()["Account"])

    # -- role -----------------------------------------------------------------------------------------------------

    def role(
        self,
        name: str,
        *,
        bucket: str,
        prefix: str = "",
        kms_key_arn: str = "",
        staging_key_arn: str = "",
        exports: str = "",
    ) -> RoleFacts:
        """Trust and permissions of the service role for imports from ``bucket``.

        :param staging_key_arn: what the bucket encrypts with by default, where that is a customer's key.
        :param exports: name of the exports bucket, where images are exported to.
        """
        try:
            found = self._read("iam", "the service role", lambda iam: iam.get_role(RoleName=name)["Role"])
            if found is None:
                return RoleFacts(name)
            documents = list(self._role_documents(name))
        except MissingPrivilegeError as error:
            return RoleFacts(name, unknown=str(error))
        partition = found["Arn"].split(":")[1]
        needs = role_needs(bucket, prefix=prefix, kms_key_arn=kms_key_arn, partition=partition, exports=exports)
        return RoleFacts(
            name,
            exists=True,
            arn=found["Arn"],
            trust_problem=trust_problem(found.get("AssumeRolePolicyDocument", {})),
            missing_actions=missing_actions(documents, needs),
            missing_on_staging_key=missing_actions(documents, key_needs(staging_key_arn)) if staging_key_arn else (),
        )

    def _role_documents(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Every policy of the role, inline and attached."""
        iam = self._access.client("iam")
        with aws_errors("could not read the role's policies", service="iam", role=name):
            for page in iam.get_paginator("list_role_policies").paginate(RoleName=name):
                for policy in page["PolicyNames"]:
                    yield iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for page in iam.get_paginator("list_attached_role_policies").paginate(RoleName=name):
                for policy in page["AttachedPolicies"]:
                    arn = policy["PolicyArn"]
                    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
                    yield iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]

    # -- bucket and key -------------------------------------------------------------------------------------------

    def bucket(self, name: str, *, account: str = "") -> BucketFacts:
        """Where the staging bucket is, whose it is, and how it encrypts."""
        try:
            location = self._read("s3", "the bucket", lambda s3: s3.get_bucket_location(Bucket=name))
            if location is None:
                return BucketFacts(name)
            rule = self._bucket_encryption(name)
            return BucketFacts(
                name,
                exists=True,
                region=_region_of(location.get("LocationConstraint")),
                owned=self._owned(name, account) if account else None,
                versioned=self._versioned(name) if account else None,
                encryption=rule.get("SSEAlgorithm", ""),
                kms_key=self._customer_key(rule.get("KMSMasterKeyID", "")),
            )
        except MissingPrivilegeError as error:
            return BucketFacts(name, unknown=str(error))

    def _customer_key(self, key: str) -> str:
        """The ARN of a bucket's key, since policies name ARNs; as it stands where KMS does not tell; empty: AWS's own,
        which whoever may read the object may use."""
        found = self.key(key) if key else None
        return "" if found is None or found.manager == "AWS" else found.arn or key

    def _owned(self, name: str, account: str) -> bool | None:
        """S3 refuses a call that names another owner than the bucket's, and one that may not look at all: then None."""
        try:
            self._read("s3", "the bucket", lambda s3: s3.head_bucket(Bucket=name, ExpectedBucketOwner=account))
        except MissingPrivilegeError:
            try:
                self._read("s3", "the bucket", lambda s3: s3.head_bucket(Bucket=name))
            except MissingPrivilegeError:
                return None
            return False
        return True

    def _versioned(self, name: str) -> bool | None:
        try:
            answer = self._read("s3", "the bucket's versioning", lambda s3: s3.get_bucket_versioning(Bucket=name))
        except MissingPrivilegeError:
            return None
        return (answer or {}).get("Status") == "Enabled"

    def _bucket_encryption(self, name: str) -> Mapping[str, str]:
        try:
            answer = self._read("s3", "the bucket's encryption", lambda s3: s3.get_bucket_encryption(Bucket=name))
        except MissingPrivilegeError:
            return {}
        rules = (answer or {}).get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        # S3's own encryption is the least that any bucket does, one that was never told how included.
        return dict(rules[0].get("ApplyServerSideEncryptionByDefault", {})) if rules else {"SSEAlgorithm": "AES256"}

    def key(self, key: str) -> KeyFacts:
        """Does the key (id, ARN or alias) exist and work?"""
        try:
            answer = self._read("kms", "the key", lambda kms: kms.describe_key(KeyId=key))
        except MissingPrivilegeError as error:
            return KeyFacts(key, unknown=str(error))
        if answer is None:
            return KeyFacts(key)
        found = answer["KeyMetadata"]
        return KeyFacts(
            key,
            exists=True,
            arn=found["Arn"],
            state=found.get("KeyState", ""),
            usage=found.get("KeyUsage", ""),
            spec=found.get("KeySpec", "") or found.get("CustomerMasterKeySpec", ""),
            manager=found.get("KeyManager", ""),
            region=found["Arn"].split(":")[3],
        )

    # -- EC2 ------------------------------------------------------------------------------------------------------

    def ebs_encrypted_by_default(self) -> bool | None:
        """The account's setting in this region; None where the caller may not see it."""
        try:
            answer = self._read("ec2", "the EBS encryption default", lambda ec2: ec2.get_ebs_encryption_by_default())
        except MissingPrivilegeError:
            return None
        return bool(answer and answer["EbsEncryptionByDefault"])

    def network(
        self, *, vpcs: Iterable[str] = (), subnets: Iterable[str] = (), security_groups: Iterable[str] = ()
    ) -> NetworkFacts:
        """Which of these exist, and which VPC they belong to."""
        try:
            return NetworkFacts(
                vpcs=frozenset(found["VpcId"] for found in self._described("describe_vpcs", "Vpcs", "vpc-id", vpcs)),
                subnets={
                    found["SubnetId"]: SubnetFacts(
                        found["SubnetId"],
                        found["VpcId"],
                        found.get("AvailabilityZone", ""),
                        found.get("CidrBlock", ""),
                        found.get("AvailableIpAddressCount", 0),
                    )
                    for found in self._described("describe_subnets", "Subnets", "subnet-id", subnets)
                },
                security_groups={
                    found["GroupId"]: found.get("VpcId", "")
                    for found in self._described(
                        "describe_security_groups", "SecurityGroups", "group-id", security_groups
                    )
                },
            )
        except MissingPrivilegeError as error:
            return NetworkFacts(unknown=str(error))

    def taken(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Holder]:
        """Of these (subnet, address), those that an interface has, with that interface; one call for all.

        :raises MissingPrivilegeError: the caller may not look.
        """
        asked = set(wanted)
        if not asked:
            return {}
        filters = {
            "subnet-id": sorted({subnet for subnet, _ in asked}),
            "addresses.private-ip-address": sorted({address for _, address in asked}),
        }
        pages = self._access.client("ec2").get_paginator("describe_network_interfaces")
        with aws_errors("could not call describe_network_interfaces", service="ec2"):
            found = [
                (found["SubnetId"], str(item["PrivateIpAddress"]), _holder(found))
                for page in pages.paginate(Filters=[{"Name": name, "Values": each} for name, each in filters.items()])
                for found in page["NetworkInterfaces"]
                for item in found.get("PrivateIpAddresses", ())
            ]
        return {(subnet, address): who for subnet, address, who in found if (subnet, address) in asked}

    def instance_types(self, names: Iterable[str]) -> dict[str, InstanceTypeFacts]:
        """Of these types, those that the region offers, with the zones that have them."""
        wanted = list(dict.fromkeys(names))
        zones: dict[str, set[str]] = {}
        for offer in self._described(
            "describe_instance_type_offerings",
            "InstanceTypeOfferings",
            "instance-type",
            wanted,
            LocationType="availability-zone",
        ):
            zones.setdefault(offer["InstanceType"], set()).add(offer["Location"])
        described = {
            found["InstanceType"]: found
            for found in self._described("describe_instance_types", "InstanceTypes", "instance-type", zones)
        }
        return {
            name: InstanceTypeFacts(
                name,
                frozenset(offered),
                tuple(described.get(name, {}).get("SupportedBootModes", ())),
            )
            for name, offered in zones.items()
        }

    def _described(
        self, operation: str, field_name: str, filter_name: str, values: Iterable[str], **options: Any
    ) -> list[dict[str, Any]]:
        """Describe by filter: unknown ids are left out instead of failing the call."""
        wanted = list(dict.fromkeys(values))
        if not wanted:
            return []
        pages = self._access.client("ec2").get_paginator(operation)
        with aws_errors(f"could not call {operation}", service="ec2"):
            return [
                found
                for page in pages.paginate(Filters=[{"Name": filter_name, "Values": wanted}], **options)
                for found in page[field_name]
            ]

    def _read(self, service: str, what: str, call: Callable[[Any], T]) -> T | None:
        """One look; None when it does not exist."""
        client = self._access.client(service)
        try:
            with aws_errors(f"could not look at {what}", service=service):
                try:
                    return call(client)
                except ClientError as error:
                    if error_code(error) == "ServerSideEncryptionConfigurationNotFoundError":
                        return None
                    raise
        except NotFoundError:
            return None


def _holder(interface: Mapping[str, Any]) -> Holder:
    attached = bool(interface.get("Attachment")) or interface.get("Status") != "available"
    return Holder(_words(interface), attached, from_aws(interface.get("TagSet", ())))


def _words(interface: Mapping[str, Any]) -> str:
    """``instance i-… (eni-…)``, or what the interface says of itself: load balancers and endpoints have some."""
    interface_id = str(interface.get("NetworkInterfaceId", ""))
    instance = str(interface.get("Attachment", {}).get("InstanceId") or "")
    if instance:
        return f"instance {instance} ({interface_id})"
    words = printable(interface.get("Description") or "", HOLDER_LONGEST)
    return f"{interface_id} ({words})" if words else interface_id


def _region_of(constraint: str | None) -> str:
    """S3's old spellings of two regions."""
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(constraint, constraint or "")
