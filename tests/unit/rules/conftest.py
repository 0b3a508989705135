from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from wavelift.base.domain import DiskFacts, NicFacts, ServerFacts
from wavelift.base.units import GIB
from wavelift.rules.environment import Environment
from wavelift.rules.plans import ResolvedWave, ServerPlan, resolve
from wavelift.rules.vsphere_facts import SourceFacts
from wavelift.rules.wave import Wave


@dataclass(frozen=True)
class HostStub:
    name: str = "esx1.lab"
    version: str = "8.0.3"
    connection_state: str = "connected"
    in_maintenance: bool = False


@dataclass(frozen=True)
class ReachStub:
    host: str = "esx1.lab"
    reachable: bool = True
    certificate_valid: bool = True
    error: Exception | None = None

    @property
    def fully_qualified(self) -> bool:
        return "." in self.host


@dataclass(frozen=True)
class StoreStub:
    name: str = "ds1"
    capacity: int = 100 * GIB
    free: int = 50 * GIB
    accessible: bool = True


@dataclass(frozen=True)
class MissingStub:
    principal: str = "LAB\\mover"
    name: str = "web01"
    privileges: tuple[str, ...] = ("VApp.Export",)


@dataclass(frozen=True)
class RoleStub:
    name: str = "vmimport"
    exists: bool = True
    trust_problem: str = ""
    missing_actions: tuple[str, ...] = ()
    missing_on_staging_key: tuple[str, ...] = ()
    unknown: str = ""


@dataclass(frozen=True)
class BucketStub:
    name: str = "staging-bucket"
    exists: bool = True
    region: str = "eu-central-1"
    owned: bool | None = True
    versioned: bool | None = True
    encryption: str = "AES256"
    kms_key: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class KeyStub:
    arn: str = "arn:aws:kms:eu-central-1:111122223333:key/k"
    region: str = "eu-central-1"
    problem: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class SubnetStub:
    vpc_id: str = "vpc-00000001"
    zone: str = "eu-central-1a"
    cidr: str = "10.0.1.0/24"
    free_addresses: int = 200


@dataclass(frozen=True)
class HolderStub:
    words: str = "instance i-1 (eni-1)"
    attached: bool = True
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkStub:
    vpcs: frozenset[str] = frozenset({"vpc-00000001"})
    subnets: Mapping[str, SubnetStub] = field(default_factory=lambda: {"subnet-aaaa0001": SubnetStub()})
    security_groups: Mapping[str, str] = field(default_factory=lambda: {"sg-aaaa0001": "vpc-00000001"})
    taken: Mapping[tuple[str, str], HolderStub] = field(default_factory=dict)
    unknown: str = ""
    addresses_unknown: str = ""


@dataclass(frozen=True)
class OfferStub:
    zones: frozenset[str] = frozenset({"eu-central-1a"})
    boot_modes: tuple[str, ...] = ("legacy-bios", "uefi")


@dataclass(frozen=True)
class AccountStub:
    account: str = "123456789012"
    role: RoleStub = RoleStub()
    bucket: BucketStub = BucketStub()
    key: KeyStub | None = None
    network: NetworkStub = field(default_factory=NetworkStub)
    instance_types: Mapping[str, OfferStub] = field(
        default_factory=lambda: {"m6i.large": OfferStub(), "t2.small": OfferStub(), "m6g.large": OfferStub()}
    )
    ebs_encrypted_by_default: bool | None = False


class Stubs:
    """The records that adapters make, in the smallest form that pre-flight accepts."""

    host, reach, store, missing, holder = HostStub, ReachStub, StoreStub, MissingStub, HolderStub
    role, bucket, key, subnet, network, offer, account = (
        RoleStub,
        BucketStub,
        KeyStub,
        SubnetStub,
        NetworkStub,
        OfferStub,
        AccountStub,
    )


@pytest.fixture
def stubs() -> type[Stubs]:
    return Stubs


def _disk(**changes: Any) -> DiskFacts:
    values: dict[str, Any] = {
        "key": 2000,
        "label": "Hard disk 1",
        "capacity": 20 * GIB,
        "controller": "SCSI",
        "controller_class": "ParaVirtualSCSIController",
        "bus": 0,
        "unit": 0,
        "backing": "VirtualDiskFlatVer2BackingInfo",
        "datastore": "ds1",
        "boot": True,
    }
    return DiskFacts(**{**values, **changes})


def _facts(**changes: Any) -> ServerFacts:
    values: dict[str, Any] = {
        "name": "web01",
        "moref": "vm-1",
        "instance_uuid": "5000",
        "path": "/DC0/vm/web01",
        "power": "poweredOff",
        "guest_id": "debian11_64Guest",
        "hardware_version": "vmx-19",
        "tools_status": "toolsOk",
        "tools_running": True,
        "host": "esx1.lab",
        "host_version": "8.0.3",
        "cbt_supported": True,
        "nics": (NicFacts(key=4000, kind="vmxnet3", mac="00:50:56:00:00:01", network="VM Network"),),
        "disks": (_disk(),),
    }
    return ServerFacts(**{**values, **changes})


@pytest.fixture
def disk() -> Callable[..., DiskFacts]:
    return _disk


@pytest.fixture
def facts() -> Callable[..., ServerFacts]:
    """A server that pre-flight likes, with changes."""
    return _facts


@pytest.fixture
def source(stubs: type[Stubs]) -> SourceFacts:
    return SourceFacts("8.0.3", stubs.host(), stubs.reach(), (stubs.store(),), ())


def _environment(**changes: Any) -> Environment:
    values: dict[str, Any] = {
        "environment": "prod",
        "aws_conn_id": "aws",
        "account": "123456789012",
        "may": {"migrate": ["user:admin"], "cut_over": ["user:admin"], "administer": ["user:admin"]},
        "region": "eu-central-1",
        "staging": {"bucket": "staging-bucket", "prefix": "waves"},
        "vpc": "vpc-00000001",
        "subnets": ["subnet-aaaa0001"],
        "security_groups": ["sg-aaaa0001"],
        "instance_types": ["m6i.large", "t2.small", "m6g.large", "t2.nano"],
        "sources": [{"connection": "vc", "connectors": ["default"]}],
    }
    return Environment.load({**values, **changes})


@pytest.fixture
def environment() -> Callable[..., Environment]:
    return _environment


def _wave(*servers: Any, **changes: Any) -> Wave:
    values: dict[str, Any] = {
        "wave": "erp",
        "source": {"connection": "vc"},
        "environment": "prod",
        "defaults": {"instance_type": "m6i.large"},
        "servers": list(servers) or ["web01"],
    }
    return Wave.load({**values, **changes})


@pytest.fixture
def wave() -> Callable[..., Wave]:
    return _wave


@pytest.fixture
def resolved() -> Callable[..., ResolvedWave]:
    return lambda *servers, **changes: resolve(_wave(*servers, **changes), _environment())


@pytest.fixture
def plan() -> Callable[..., ServerPlan]:
    """The plan of ``web01`` with the settings of its entry."""

    def make(
        *, environment: Mapping[str, Any] | None = None, wave: Mapping[str, Any] | None = None, **entry: Any
    ) -> Any:
        return resolve(_wave({"name": "web01", **entry}, **(wave or {})), _environment(**(environment or {}))).servers[
            0
        ]

    return make
