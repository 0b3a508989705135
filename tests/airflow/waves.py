"""Waves of small servers: what the vCenter holds of them, their files, and a DAGs folder with all that reads them.

Disks are a few MiB, so that a run costs seconds.
"""

from __future__ import annotations

import random
import shutil
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from wavelift.cli.simulators import Stage
from wavelift.simulators.vcenter import ADMIN, SimDisk, SimVm

MIB: Final = 1024 * 1024
KIB: Final = 1024
BLOCK: Final = 512 * KIB
"""Of an EBS snapshot."""
BUCKET: Final = "wavelift-tests"
ROOT: Final = Path(__file__).resolve().parents[2]
CONNECTION: Final = "vsphere_demo"


@dataclass(frozen=True)
class Vm:
    """A server of a wave: what the vCenter holds, and its entry in the wave's file."""

    name: str
    disks: tuple[int, ...] = (12,)
    """Sizes, MiB. A third is data, and all but the first MiB of a ``full`` one."""
    full: bool = False
    power: str = "poweredOn"
    ip: str = ""
    """Of its only network card."""
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WaveOf:
    """A wave: its servers and what its file says beside them."""

    servers: tuple[Vm, ...]
    spec: dict[str, Any] = field(default_factory=dict)


PRINCIPALS: Final = dict.fromkeys(("admin", "op", "dag_test"), ADMIN.name)
"""Users of these tests → who they are in vCenter. ``dag.test()`` makes runs of the last one."""
RUNNING: Final = {"launch": "running", "allow_twin": True}
OFF: Final = {"source_power": "require_off"}


def _disk(path: Path, size: int, *, full: bool) -> Path:
    """An MBR, then random data."""
    rng = random.Random(zlib.crc32(path.name.encode()))
    with path.open("wb") as file:
        file.truncate(size)
        file.write(bytes(446) + bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + (2048).to_bytes(4, "little"))
        file.write((size // 512 - 2048).to_bytes(4, "little") + bytes(48) + b"\x55\xaa")
        for block in range(MIB, size, (1 if full else 3) * MIB):
            file.seek(block)
            file.write(rng.randbytes(MIB))
    return path


def machines(folder: Path, waves: Mapping[str, WaveOf]) -> list[SimVm]:
    """The servers of the waves, each with disks of its own below ``folder``."""
    folder.mkdir()
    found: list[SimVm] = []
    for wave, shape in waves.items():
        for vm in shape.servers:
            disks = [
                SimDisk(_disk(folder / f"{vm.name}-{index}.raw", size * MIB, full=vm.full), unit=index)
                for index, size in enumerate(vm.disks)
            ]
            power: Any = vm.power
            found.append(SimVm(vm.name, disks, folder=wave, guest_id="debian12_64Guest", power=power, ip=vm.ip))
    return found


def source_of(wave: str) -> dict[str, str]:
    """Where a wave's servers are, unless its spec says otherwise."""
    return {"connection": CONNECTION, "connector": wave}


def wave_text(name: str, shape: WaveOf, **changes: Any) -> str:
    spec = {
        "wave": name,
        "source": source_of(name),
        "environment": "lab",
        "defaults": {"verify": "full", "instance_type": "t3.small"},
        "servers": [{"name": vm.name, **vm.entry} for vm in shape.servers],
        "retries": 3,
        "retry_delay_s": 1,
        **shape.spec,
        **changes,
    }
    return yaml.safe_dump(spec, sort_keys=False)


def environment_text(stage: Stage, name: str, connectors: Collection[str], **changes: Any) -> str:
    sources = [{"connection": CONNECTION, "connectors": [*connectors]}]
    template = ROOT / "dags" / "environments" / "demo.yaml"
    spec = yaml.safe_load(stage.environment(template, users=tuple(PRINCIPALS)))
    return yaml.safe_dump({**spec, "environment": name, "sources": sources, **changes})


def lay_out(dags: Path, stage: Stage, waves: Mapping[str, WaveOf]) -> None:
    """The DAGs folder: our DAG files, the environment ``lab``, and the waves."""
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    for folder in ("waves", "environments"):
        (dags / folder).mkdir(exist_ok=True)
    sources: dict[str, list[str]] = {CONNECTION: ["default"]}
    for name, shape in waves.items():
        source = shape.spec.get("source") or source_of(name)
        sources.setdefault(source["connection"], []).append(source["connector"])
    allowed = [{"connection": connection, "connectors": connectors} for connection, connectors in sources.items()]
    (dags / "environments" / "principals.yaml").write_text(yaml.safe_dump({"vcenter": {"users": PRINCIPALS}}))
    (dags / "environments" / "lab.yaml").write_text(environment_text(stage, "lab", [], sources=allowed))
    for name, shape in waves.items():
        (dags / "waves" / f"{name}.yaml").write_text(wave_text(name, shape))
