"""The environment: where servers may be migrated to (AMP-02). An administrator writes one YAML file for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from wavelift.base.domain import Message
from wavelift.base.printable import printable
from wavelift.base.regions import partition_of
from wavelift.rules.connectors import Connector
from wavelift.rules.export_plan import ObjectPrefix, bucket_name, bucket_problem
from wavelift.rules.fields import (
    FLAG,
    WHOLE,
    ConnectionId,
    Description,
    InstanceType,
    Name,
    SecurityGroupId,
    SubnetId,
    Tags,
    Text,
    VpcId,
    matched,
)
from wavelift.rules.limits import ENVIRONMENT_LIMITS, LIMITS
from wavelift.rules.problem import Path, Problem, allowed, did_you_mean, quoted
from wavelift.rules.wave_cutover import (
    AllocationId,
    InstanceProfile,
    KeyName,
    RouteTableId,
    TargetGroupArn,
    TgwRouteTableId,
    ZoneId,
)

DEFAULT_ROLE = "vmimport"
"""The service role that VM Import/Export assumes if ImportImage names no other (AWS page on required permissions)."""


def _region(value: str) -> str:
    if not partition_of(value):
        raise ValueError(
            f"{quoted(value)} is not an AWS region such as 'eu-central-1'; a new region may need a newer botocore"
        )
    return value


Region = Annotated[str, AfterValidator(_region)]
Bucket = Annotated[
    str, matched(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", "an S3 bucket name (3 to 63 of a-z, 0-9, '.', '-')")
]
_ALIAS = r"[A-Za-z0-9/_-]+"
_KEY_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}"
KmsKey = Annotated[
    str,
    matched(
        rf"^(alias/{_ALIAS}|{_KEY_ID}|arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{{12}}:(key/({_KEY_ID})|alias/{_ALIAS}))$",
        "a KMS key: its ARN, key id or 'alias/…'",
    ),
]
Prefix = Annotated[
    str,
    Field(max_length=250),
    matched(r"^[A-Za-z0-9._/-]*$", "an S3 prefix (letters, digits, '.', '_', '-', '/')"),
]
PRINCIPALS: Final = "principals"
"""The stem of the file of groups, in the folder of the environments. No environment can have this name."""
CHECK_DAG: Final = "environment_check"
"""The DAG that checks the account of an environment. No wave has a DAG of this name."""
CHECK_TASK: Final = "check"
BACKUP_DAG: Final = "instance_backup"
"""The DAG that makes an image of an instance. No wave has a DAG of this name."""
BACKUP_TASK: Final = "backup"
MAX_CHOICES: Final = 2000
"""Values in one list of an environment. AWS has about 1,000 instance types."""


class Staging(Message):
    """Where disks are stored until AWS converts them."""

    bucket: Bucket = Field(description="S3 bucket in the environment's region.")
    prefix: Prefix = Field(
        default="", description="Prefix of all staging objects and manifests; empty: the bucket's root."
    )


class Exports(Message):
    """Where instances are exported to. Whether the name makes a bucket name, the region says, too."""

    name: Text = Field(
        description="Part of the name of the S3 bucket 'export-to-s3-<name>-<region>' (a-z, 0-9, '-'). Environments of "
        "one account and region have the same."
    )
    prefix: ObjectPrefix = Field(
        default="",
        description="What the keys of all exported objects of this environment begin with, as it stands: a folder ends "
        "with '/'. Empty: the bucket's root.",
    )


_PRINCIPAL = r"^(user|group):\S(.{0,198}\S)?$"


def exact_name(value: str) -> str:
    """Refuse what is no user's and no group's name, so that it would silently name nobody.

    :raises ValueError: it has a ``*``, an invisible character, or a ``user:`` of its own.
    """
    if "*" in value:
        raise ValueError(f"{quoted(value)}: names are compared exactly, and '*' stands for nobody; name each")
    if (shown := printable(value)) != value:
        raise ValueError(f"'{shown}' contains an invisible character; remove it")
    if value.startswith(("user:", "group:")):
        raise ValueError(f"{quoted(value)}: a name is written without another 'user:' or 'group:' here")
    return value


def _principal(value: str) -> str:
    exact_name(value.partition(":")[2])
    return value


Principal = Annotated[
    str,
    matched(_PRINCIPAL, "'user:NAME' or 'group:NAME'"),
    AfterValidator(_principal),
    WithJsonSchema({"type": "string", "pattern": _PRINCIPAL}),
]
"""Who may do something. Names are compared exactly, with upper and lower case."""
Account = Annotated[
    str,
    matched(r"^([0-9]{12})?$", "an AWS account number (12 digits)"),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{12}$"}),
]
"""Empty only in what runs of older versions froze; a file is told that it is missing."""


VcenterCheck = Literal["require", "mapped", "off"]
"""Whose right to export a VM is asked of vCenter: every requester's, that of users whom ``principals.yaml`` maps, or
nobody's."""


class May(Message):
    """Who may do what in an environment (AMP-02). An empty list: nobody."""

    migrate: tuple[Principal, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Who may migrate and replicate servers into it."
    )
    cut_over: tuple[Principal, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Who may cut servers over, revert and finalize."
    )
    administer: tuple[Principal, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Who may do both, and what concerns all waves in it."
    )


class AllowedSource(Message):
    """A vCenter from which servers may come, and the connectors that may read it."""

    connection: ConnectionId = Field(description="Airflow connection of type 'vsphere'.")
    connectors: tuple[Connector, ...] = Field(
        min_length=1,
        max_length=MAX_CHOICES,
        description="Connectors (Airflow queues) that may read it; 'default' is the default queue.",
    )


class Isolation(Message):
    """Where test instances are launched: nothing else can be reached from there."""

    subnets: tuple[SubnetId, ...] = Field(
        min_length=1, max_length=MAX_CHOICES, description="Subnets for test instances; the first one is used."
    )
    security_groups: tuple[SecurityGroupId, ...] = Field(
        min_length=1, max_length=16, description="Security groups of every test instance."
    )


class Network(Message):
    """What cutovers may change. What is not listed is never touched."""

    hosted_zones: tuple[ZoneId, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Hosted zones of Route 53 whose records may be changed."
    )
    target_groups: tuple[TargetGroupArn, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Target groups in which targets may be changed."
    )
    elastic_ips: tuple[AllocationId, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Elastic IPs that an instance may get."
    )
    route_tables: tuple[RouteTableId, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Route tables of VPCs whose routes may be changed."
    )
    transit_gateway_route_tables: tuple[TgwRouteTableId, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Route tables of transit gateways whose routes may be changed."
    )


def _require_all(schema: dict[str, Any]) -> None:
    """In the schema for editors: see :class:`Environment`."""
    schema["required"] = [name for name in schema["properties"] if name in {*schema["required"], "account", "may"}]
    for name in ("account", "may"):
        field = schema["properties"][name]
        field.pop("default", None)
        if choices := field.pop("anyOf", None):
            field |= next(one for one in choices if one.get("type") != "null")


class Environment(Message):
    """Where servers may be migrated to: account, region, staging, network, and the values that a wave may choose.

    ``sources`` limits where its servers come from. ``account`` and ``may`` have defaults only for what runs of older
    versions froze: a file must have both.
    """

    model_config = ConfigDict(json_schema_extra=_require_all)

    environment: Name = Field(description="Name of the environment; must equal the file's name without '.yaml'.")
    kind: Literal["aws"] = Field(
        default="aws", description="'aws' (default): servers land in EC2. 'hcx': HCX migrates to another vCenter."
    )
    description: Description = Field(default="", description="One line for people.")
    aws_conn_id: ConnectionId = Field(description="Airflow connection with the AWS credentials.")
    account: Account = Field(
        default="", description="Number of the AWS account. Pre-flight compares it with that of the connection."
    )
    may: May | None = Field(
        default=None, description="Who may do what here; each entry is 'user:NAME' or 'group:NAME', exactly as Airflow."
    )
    vcenter_check: VcenterCheck = Field(
        default="require",
        description="Whether vCenter is asked if the person behind a run may export each VM: 'require' (always), "
        "'mapped' (only if principals.yaml maps the user) or 'off'.",
    )
    queue: Text = Field(
        default="default", description="Airflow queue of a worker near this region, which reads transferred data back."
    )
    region: Region = Field(description="AWS region.")
    staging: Staging = Field(description="Where disks are stored until AWS converts them.")
    kms_key: KmsKey | None = Field(
        default=None,
        description="KMS key for volumes and staged objects: its ARN, key id or 'alias/…'. It must be symmetric, "
        "enabled and in the environment's region. Requires 'encrypt: true'. Default: the account's EBS key for "
        "volumes, and the bucket's key for objects.",
    )
    encrypt: Annotated[bool, FLAG] = Field(
        default=False,
        description="Encrypt the converted volumes. If false, the account's 'EBS encryption by default' applies.",
    )
    role: Annotated[str, matched(r"^[\w+=,.@/-]{1,128}$", "a role name")] = Field(
        default=DEFAULT_ROLE, description="Service role that VM Import/Export assumes."
    )
    vpc: VpcId = Field(description="VPC that the subnets and security groups belong to.")
    subnets: tuple[SubnetId, ...] = Field(
        min_length=1, max_length=MAX_CHOICES, description="Subnets that a wave may choose."
    )
    security_groups: tuple[SecurityGroupId, ...] = Field(
        min_length=1, max_length=MAX_CHOICES, description="Security groups that a wave may choose."
    )
    instance_types: tuple[InstanceType, ...] = Field(
        min_length=1, max_length=MAX_CHOICES, description="Instance types that a wave may choose."
    )
    sources: tuple[AllowedSource, ...] = Field(
        min_length=1,
        max_length=MAX_CHOICES,
        description="The vCenters whose servers may land here, and the connectors that may read each. An entry is "
        "'- {connection: vsphere_dc1, connectors: [datacenter1]}'.",
    )
    isolation: Isolation | None = Field(
        default=None, description="Where test instances are launched. Without it, nothing can be tested here."
    )
    exports: Exports | None = Field(
        default=None,
        description="Where instances are exported to. Without it, no instance of this environment is exported.",
    )
    network: Network = Field(default=Network(), description="What cutovers may change: nothing, unless it is listed.")
    instance_profiles: tuple[InstanceProfile, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Instance profiles that a wave may choose."
    )
    key_names: tuple[KeyName, ...] = Field(
        default=(), max_length=MAX_CHOICES, description="Key pairs that a wave may choose."
    )
    tags: Tags = Field(
        default={}, description="Tags for everything that is created here. A wave's and a server's tags override them."
    )
    limits: Mapping[str, Annotated[int, Field(ge=1), WHOLE]] = Field(
        default={},
        max_length=len(ENVIRONMENT_LIMITS),
        description="Service limits that AWS raised for this account, as name and value.",
    )

    @property
    def exports_bucket(self) -> str:
        """The bucket of its exports; empty: no instance is exported here."""
        return bucket_name(self.exports.name, self.region) if self.exports is not None else ""


def is_key_arn(key: str) -> bool:
    """Whether ``key`` is the ARN of a key, as EBS requires, and not an alias or a key id."""
    return key.startswith("arn:") and ":key/" in key


def environment_problems(environment: Environment) -> list[Problem]:
    """Problems that depend on more than one field."""
    problems = missing_keys(environment.account, environment.may)
    if environment.environment == PRINCIPALS:
        problems.append(Problem(("environment",), f"'{PRINCIPALS}' is the name of the file of groups; take another"))
    if environment.kms_key and not environment.encrypt:
        problems.append(
            Problem(("kms_key",), "a KMS key has no effect without 'encrypt: true'; set it or remove the key")
        )
    if (key := environment.kms_key or "").startswith("arn:"):
        problems += _key_place(key.split(":")[1:4:2], [partition_of(environment.region), environment.region])
    for index, subnet in enumerate(environment.isolation.subnets if environment.isolation else ()):
        if subnet in environment.subnets:
            words = f"'{subnet}' is among 'subnets', where migrated servers are: a test instance there is not isolated"
            problems.append(Problem(("isolation", "subnets", index), words))
    if environment.exports and (words := bucket_problem(environment.exports.name, environment.region)):
        problems.append(Problem(("exports", "name"), words))
    problems += _limit_problems(environment.limits)
    for field in ("subnets", "security_groups", "instance_types"):
        problems += repeated((field,), getattr(environment, field))
    for index, source in enumerate(environment.sources):
        problems += repeated(("sources", index, "connectors"), source.connectors)
    connections = tuple(source.connection for source in environment.sources)
    return problems + repeated(("sources",), connections, "connection")


def _limit_problems(limits: Mapping[str, int]) -> list[Problem]:
    problems = []
    for name, value in limits.items():
        if name not in ENVIRONMENT_LIMITS:
            hint = did_you_mean(name, ENVIRONMENT_LIMITS)
            words = f"unknown limit {quoted(name)}{hint}; {allowed(sorted(ENVIRONMENT_LIMITS))}"
            problems.append(Problem(("limits", name), words))
        elif words := LIMITS[name].refusal(value):
            problems.append(Problem(("limits", name), words))
    return problems


def named_apart(own: Exports, others: Mapping[str, str]) -> list[Problem]:
    """Exports that go into another bucket than those of the same account and region: each region has one.

    :param others: environment of the same account and region → the name in its exports.
    """
    apart = next((name for name in sorted(others) if others[name] != own.name), None)
    if apart is None:
        return []
    words = (
        f"environment '{apart}' of the same account and region has {quoted(others[apart])}: a region has one bucket "
        "for exports; give both the same name"
    )
    return [Problem(("exports", "name"), words)]


def missing_keys(account: object, may: object) -> list[Problem]:
    """Keys that every file must have, although the model has defaults for them (see :class:`Environment`)."""
    problems = []
    if not account:
        words = "is missing: the number of the AWS account, such as account: '111122223333'"
        problems.append(Problem(("account",), words))
    if may is None:
        example = "may: {migrate: ['user:ana'], cut_over: ['user:ana'], administer: ['group:role/Admin']}"
        words = f"is missing: who may migrate into it, cut over and administer it, such as {example}"
        problems.append(Problem(("may",), words))
    return problems


def _key_place(key: list[str], here: list[str]) -> list[Problem]:
    """Compare the place of the key with that of the environment.

    :param key: partition and region from the key's ARN.
    :param here: partition and region of the environment.
    """
    if key == here:
        return []
    return [
        Problem(
            ("kms_key",),
            f"the key is in {key[1]} ({key[0]}), the environment in {here[1]} ({here[0]}); EBS can use only keys of "
            "its own region (a multi-region key has a separate ARN in each region)",
        )
    ]


def repeated(place: Path, values: tuple[str, ...], *key: str) -> list[Problem]:
    """Values that a list has twice. :param key: of each item, if the items are mappings."""
    seen: set[str] = set()
    problems = []
    for index, value in enumerate(values):
        if value in seen:
            problems.append(Problem((*place, index, *key), f"'{value}' is listed twice; remove one"))
        seen.add(value)
    return problems
