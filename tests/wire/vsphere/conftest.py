"""One simulated vCenter, reset for every module, and left as it was found by every test."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.eventually import eventually
from tests.vcenters import Processes, Take

from wavelift.adapters.vsphere import properties
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.units import MIB
from wavelift.simulators import vcenter
from wavelift.simulators.vcenter import SimDisk, SimUser, SimVm, VCenterSimulator
from wavelift.simulators.vcenter.inventory import Controller

_CONTROLLERS: tuple[tuple[Controller, int], ...] = (
    *(("nvme", 1), ("pvscsi", 3), ("sata", 0), ("lsisas", 1), ("ide", 1)),
    *(("pvscsi", 0), ("nvme", 0), ("lsilogic", 2), ("sata", 1), ("ide", 0)),
)
"""In no order: the device keys follow this one."""


def _content(seed: int, size: int = 2 * MIB) -> bytes:
    """Half noise, half zeros."""
    noise = random.Random(seed).randbytes(size // 4)
    return noise + bytes(size // 4) + noise[::-1] + bytes(size // 4)


def raw_disk(folder: Path, seed: int, size: int = 2 * MIB) -> Path:
    file = folder / f"disk-{seed}.raw"
    file.write_bytes(_content(seed, size))
    return file


def fleet(folder: Path) -> list[SimVm]:
    """The VMs that the tests of a module share; a test that changes one changes it back."""
    many = [
        SimDisk(raw=raw_disk(folder, 100 + at), controller=kind, bus=bus, unit=0)
        for at, (kind, bus) in enumerate(_CONTROLLERS)
    ]
    return [
        SimVm(
            name="web01",
            folder="prod",
            guest_id="ubuntu64Guest",
            ip="10.0.0.5",
            file_systems=(("/", "ext4"), ("/boot/efi", "vfat")),
            disks=[
                SimDisk(raw=raw_disk(folder, 1), controller="pvscsi", bus=0, unit=0),
                SimDisk(raw=raw_disk(folder, 2, 3 * MIB), controller="pvscsi", bus=0, unit=1),
            ],
        ),
        SimVm(name="twin", folder="prod", disks=[SimDisk(raw=raw_disk(folder, 3))]),
        SimVm(name="twin", folder="test", disks=[SimDisk(raw=raw_disk(folder, 4))]),
        SimVm(name="off01", folder="prod/sub", power="poweredOff", disks=[SimDisk(raw=raw_disk(folder, 5))]),
        SimVm(name="mute01", folder="prod", tools="not_running", disks=[SimDisk(raw=raw_disk(folder, 6))]),
        SimVm(name="many01", folder="odd", firmware="efi", secure_boot=True, disks=many),
        SimVm(
            name="hard01",
            folder="odd",
            cdrom="[datastore1] tools.iso",
            snapshots=["before the update"],
            disks=[
                SimDisk(raw=raw_disk(folder, 7)),
                SimDisk(raw=raw_disk(folder, 8), unit=1, mode="independent_persistent"),
                SimDisk(raw=raw_disk(folder, 9), unit=2, sharing="sharingMultiWriter"),
            ],
        ),
        SimVm(name="consolidate01", folder="odd", consolidation_needed=True, disks=[SimDisk(raw=raw_disk(folder, 10))]),
        SimVm(name="gold", folder="prod", power="poweredOff", template=True, disks=[SimDisk(raw=raw_disk(folder, 11))]),
    ]


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    owned = Processes(tmp_path_factory.mktemp("vcenters"))
    yield owned
    owned.close()


@pytest.fixture
def start_vc(processes: Processes) -> Iterator[Take]:
    """A vCenter as a start would make it, in a process of the session's."""
    with processes.lend() as take:
        yield take


@pytest.fixture(scope="session")
def fleet_vms(tmp_path_factory: pytest.TempPathFactory) -> list[SimVm]:
    return fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a wait without an update is seen after one second, not two: the least there is."""
    monkeypatch.setattr(properties, "WAIT_S", 1)


def footprint(sim: VCenterSimulator) -> dict[str, Any]:
    """What must be the same before and after every test."""
    state = sim.state()
    return {
        "sessions": sorted(item["key"] for item in state["sessions"]),
        "leases": state["leases"],
        "snapshots": {vm["moref"]: vm["snapshots"] for vm in state["vms"]},
    }


@pytest.fixture
def sim(
    start_vc: Take, processes: Processes, fleet_vms: list[SimVm], request: pytest.FixtureRequest
) -> Iterator[VCenterSimulator]:
    limited = SimUser("limited", "limited-pw", without=("VApp.Export", "Datastore.Browse"))
    users = (vcenter.ADMIN, limited)
    shared = start_vc(fleet_vms, world=f"fleet of {request.module.__name__}", users=users, lease_timeout=600.0)
    before, threads = footprint(shared), set(threading.enumerate())
    yield shared
    shared.clear_rules()
    try:
        left = set(threading.enumerate()) - threads
        assert not left, f"threads left: {left}"
        # a cut transfer is noticed by the server a moment later
        assert eventually(lambda: footprint(shared) == before), (before, footprint(shared))
    except BaseException:
        processes.spoil(shared)
        raise


def _config_of(sim: VCenterSimulator, **options: Any) -> VsphereConfig:
    values: dict[str, Any] = {
        "host": sim.host,
        "port": sim.port,
        "username": sim.username,
        "password": sim.password,
        "ca_bundle": str(sim.ca_file),
        "timeout": 60.0,
    }
    return VsphereConfig(**(values | options))


@pytest.fixture(scope="session")
def config_of() -> Callable[..., VsphereConfig]:
    """``config_of(sim, **changes)``: how to reach a simulator."""
    return _config_of


@pytest.fixture
def session(sim: VCenterSimulator) -> Iterator[VsphereSession]:
    with connect(_config_of(sim)) as opened:
        yield opened


@pytest.fixture(scope="session")
def content() -> Callable[..., bytes]:
    """``content(seed, size)``: what the disk of this seed holds."""
    return _content


@pytest.fixture(scope="session")
def controllers() -> tuple[tuple[str, int], ...]:
    """Of ``many01``; the disk at index n has seed 100 + n."""
    return _CONTROLLERS


@pytest.fixture
def big_sim(start_vc: Take) -> VCenterSimulator:
    """A thousand VMs below ``/dc1/vm/bulk``, for all who only read."""
    return start_vc([], world="a thousand", extra_vms=1000)
