"""What stands in the simulated vCenter: servers with every shape of disk, and the accounts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from wavelift.base.units import KIB, MIB
from wavelift.simulators.vcenter import SimDisk, SimUser, SimVm

VICTIM: Final = SimUser("victim@vsphere.local", "victim-pw-77")
"""Signs in from the processes that are killed, so that their sessions can be told from ours."""
LIMITED: Final = SimUser("limited@vsphere.local", "limited-pw-88", without=("VApp.Export",))

MOVER: Final = SimUser("mover@vsphere.local", "mover-pw-99", no_access=("/dc1/vm/copies",))
"""With the role on the data centre, and *No access* on a folder."""


STORES: Final = ("datastore1", "VMFS5", "NFS", "vsan")
"""``datastore1`` is VMFS6, where the lock of a running VM is; the others are named as their kinds."""


def noise(seed: int, size: int) -> bytes:
    """Bytes that no codec makes smaller."""
    return random.Random(seed).randbytes(size)


def raw_disk(file: Path, *, size: int, seed: int, data: tuple[tuple[int, int], ...]) -> Path:
    """A sparse image of ``size`` bytes with noise at (offset, length)."""
    with file.open("wb") as out:
        out.truncate(size)
        for number, (offset, length) in enumerate(data):
            out.seek(offset)
            out.write(noise(seed * 100 + number, length))
    return file


def fleet(folder: Path) -> list[SimVm]:
    """The VMs that the tests share; a test that changes one changes it back."""

    def disk(name: str, size: int, *data: tuple[int, int]) -> Path:
        seed = sum(name.encode())
        return raw_disk(folder / f"{name}.raw", size=size, seed=seed, data=data or ((0, size // 4), (size // 2, MIB)))

    guest = "debian12_64Guest"
    odd = 10 * MIB + 3 * KIB
    return [
        SimVm(
            "web01",
            [SimDisk(disk("web01", 16 * MIB))],
            folder="shop",
            guest_id=guest,
            ip="192.0.2.11",
            file_systems=(("/", "xfs"),),
        ),
        # In the lease's reverse order, on controllers whose keys follow the list and not the bus.
        SimVm(
            "db01",
            [
                SimDisk(disk("db01-data", 12 * MIB), controller="lsi", bus=1),
                SimDisk(disk("db01-log", odd, (0, MIB), (odd - 5 * KIB, 5 * KIB)), controller="pvscsi", unit=3),
                SimDisk(disk("db01", 9 * MIB), controller="pvscsi", unit=0),
            ],
            folder="shop",
            guest_id="rhel8_64Guest",
            firmware="efi",
        ),
        SimVm("big01", [SimDisk(disk("big01", 40 * MIB, (0, 37 * MIB)))], folder="shop/big", guest_id=guest),
        SimVm(
            "pair01",
            [SimDisk(disk("pair01-a", 20 * MIB, (0, 19 * MIB))), SimDisk(disk("pair01-b", 8 * MIB), unit=1)],
            folder="shop/big",
            guest_id=guest,
        ),
        SimVm(
            "off01", [SimDisk(disk("off01", 6 * MIB))], folder="trio", guest_id=guest, power="poweredOff",
            tools="not_running",
        ),
        SimVm("mute01", [SimDisk(disk("mute01", 6 * MIB))], folder="trio", guest_id=guest, tools="not_running"),
        SimVm("empty01", [SimDisk(capacity=6 * MIB)], folder="trio", guest_id=guest),
        # Of the tests of replication, which change it: size and content are nobody else's business.
        SimVm("copy01", [SimDisk(disk("copy01", 16 * MIB))], folder="copies", guest_id=guest),
        SimVm(
            "thin01",
            [SimDisk(disk("thin01", 64 * MIB, (0, MIB), (40 * MIB + 7, MIB)))],
            folder="thin",
            guest_id=guest,
            datastore="VMFS5",
        ),
        SimVm(
            "thin02",
            [SimDisk(disk("thin02", 32 * MIB, (0, MIB), (20 * MIB, MIB)))],
            folder="thin",
            guest_id=guest,
            datastore="NFS",
        ),
        SimVm("walk01", [SimDisk(disk("walk01", 6 * MIB))], folder="copies", guest_id=guest),
        *(
            SimVm(f"{kind.lower()}-01", [SimDisk(disk(kind, 4 * MIB))], folder="kinds", guest_id=guest, datastore=kind)
            for kind in STORES
        ),
        SimVm("odd01", [SimDisk(disk("odd01", 7 * MIB + 512))], folder="odd", guest_id=guest),
        SimVm("enc01", [SimDisk(disk("enc01", 4 * MIB), encrypted=True)], folder="odd", guest_id=guest, encrypted=True),
        SimVm("rdm01", [SimDisk(disk("rdm01", 4 * MIB), rdm="physical")], folder="odd", guest_id=guest),
        SimVm("twin", [SimDisk(disk("twin-1", 4 * MIB))], folder="left", guest_id=guest),
        SimVm("twin", [SimDisk(disk("twin-2", 4 * MIB))], folder="right", guest_id=guest),
    ]  # fmt: skip
