"""What pre-flight wants to know of the target, by shape: the AWS adapter's own records fit as they are.

``unknown`` is why something could not be looked at; empty when it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol


class Role(Protocol):
    """The service role that VM Import assumes."""

    @property
    def name(self) -> str: ...
    @property
    def exists(self) -> bool: ...
    @property
    def trust_problem(self) -> str: ...
    @property
    def missing_actions(self) -> tuple[str, ...]: ...
    @property
    def missing_on_staging_key(self) -> tuple[str, ...]: ...
    @property
    def unknown(self) -> str: ...


class StagingBucket(Protocol):
    """The staging bucket; ``owned``: None where nobody would say."""

    @property
    def name(self) -> str: ...
    @property
    def exists(self) -> bool: ...
    @property
    def region(self) -> str: ...
    @property
    def owned(self) -> bool | None: ...
    @property
    def encryption(self) -> str: ...
    @property
    def kms_key(self) -> str: ...
    @property
    def unknown(self) -> str: ...


class Key(Protocol):
    """A KMS key; ``problem``: why it can't be used, in words that follow its name."""

    @property
    def arn(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def unknown(self) -> str: ...


class Subnet(Protocol):
    """A subnet that exists."""

    @property
    def vpc_id(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def cidr(self) -> str: ...
    @property
    def free_addresses(self) -> int: ...


class Network(Protocol):
    """What exists of the asked-for network; security groups map to their VPC."""

    @property
    def vpcs(self) -> AbstractSet[str]: ...
    @property
    def subnets(self) -> Mapping[str, Subnet]: ...
    @property
    def security_groups(self) -> Mapping[str, str]: ...
    @property
    def unknown(self) -> str: ...


class OfferedType(Protocol):
    """An instance type that the region offers."""

    @property
    def zones(self) -> AbstractSet[str]: ...
    @property
    def boot_modes(self) -> tuple[str, ...]: ...


class Account(Protocol):
    """Everything of one environment's account and region, in one pass."""

    @property
    def role(self) -> Role: ...
    @property
    def bucket(self) -> StagingBucket: ...
    @property
    def key(self) -> Key | None: ...
    @property
    def network(self) -> Network: ...
    @property
    def instance_types(self) -> Mapping[str, OfferedType]:
        """Those of the asked-for types that exist here; empty when none was asked for."""
        ...

    @property
    def ebs_encrypted_by_default(self) -> bool | None: ...
