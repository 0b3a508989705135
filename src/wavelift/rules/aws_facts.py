"""Protocols for what pre-flight needs to know about the target. The AWS adapter's records satisfy them.

``unknown`` is the reason why something could not be checked; empty if it was checked.
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
    """The staging bucket. ``owned`` and ``versioned`` are None if AWS did not report them."""

    @property
    def name(self) -> str: ...
    @property
    def exists(self) -> bool: ...
    @property
    def region(self) -> str: ...
    @property
    def owned(self) -> bool | None: ...
    @property
    def versioned(self) -> bool | None: ...
    @property
    def encryption(self) -> str: ...
    @property
    def kms_key(self) -> str: ...
    @property
    def unknown(self) -> str: ...


class Key(Protocol):
    """A KMS key. ``problem`` is why it can't be used, worded so that it can follow the key's name."""

    @property
    def arn(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def unknown(self) -> str: ...


class Subnet(Protocol):
    """An existing subnet."""

    @property
    def vpc_id(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def cidr(self) -> str: ...
    @property
    def free_addresses(self) -> int: ...


class Holder(Protocol):
    """The interface that has an address. ``attached``: to an instance, or a service's."""

    @property
    def words(self) -> str: ...
    @property
    def attached(self) -> bool: ...
    @property
    def tags(self) -> Mapping[str, str]: ...


class Network(Protocol):
    """The parts of the requested network that exist. ``security_groups`` maps each group to its VPC."""

    @property
    def vpcs(self) -> AbstractSet[str]: ...
    @property
    def subnets(self) -> Mapping[str, Subnet]: ...
    @property
    def security_groups(self) -> Mapping[str, str]: ...
    @property
    def taken(self) -> Mapping[tuple[str, str], Holder]:
        """Subnet and address → who has it, of the addresses that the wave asks for."""
        ...

    @property
    def unknown(self) -> str: ...
    @property
    def addresses_unknown(self) -> str:
        """Why it is not known who has the addresses; empty if it is."""
        ...


class OfferedType(Protocol):
    """An instance type that the region offers."""

    @property
    def zones(self) -> AbstractSet[str]: ...
    @property
    def boot_modes(self) -> tuple[str, ...]: ...


class Account(Protocol):
    """Everything about the account and region of one environment, from one query."""

    @property
    def account(self) -> str:
        """Its number, as STS says."""
        ...

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
        """The requested types that the region offers; empty if no type was requested."""
        ...

    @property
    def ebs_encrypted_by_default(self) -> bool | None: ...
