"""The simulators with the demo's three servers, and the Airflow connections to them.

Of the product, only this module and :mod:`wavelift.cli.simulated_sites` start simulators.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rich.console import Console

from wavelift.base.printable import printable
from wavelift.base.units import MIB
from wavelift.cli.connect import fail
from wavelift.cli.simulated_sites import Sites, connection, on_network, start_sites

BUCKET = "wavelift-demo"
NAMES = ("vcenter", "aws", "hcx", "nsx")
USUAL = frozenset({"vcenter", "aws"})
BETWEEN_SITES = frozenset({"hcx", "nsx"})
"""What needs no AWS: two vCenters come with it."""


def require_simulators() -> None:
    """Leave with a message if the simulators are not installed: production has none."""
    if importlib.util.find_spec("wavelift.simulators") is None:
        fail(
            "The simulators are not installed. They are the distribution wavelift-simulators of the same source tree, "
            "for the demo and the tests only. In that tree, run `python -m build --wheel packaging/simulators` and "
            "install the wheel of packaging/simulators/dist with pip, or run `make demo`"
        )


@dataclass(frozen=True)
class Stage:
    """The running simulators. Each can be missing."""

    vcenter: Any = None
    aws: Any = None
    network: Any = None
    """The resources that ``bootstrap`` made in the AWS simulator."""
    sites: Sites = field(default_factory=Sites)

    def connections(self) -> dict[str, str]:
        """Airflow connections as environment variables, so that the demo writes no secrets to a file."""
        found = {}
        if self.vcenter is not None:
            found["AIRFLOW_CONN_VSPHERE_DEMO"] = connection("vsphere", self.vcenter)
        if self.aws is not None:
            found["AIRFLOW_CONN_AWS_DEMO"] = json.dumps(
                {
                    "conn_type": "aws",
                    "login": self.aws.access_key,
                    "password": self.aws.secret_key,
                    "extra": {
                        "region_name": self.aws.region,
                        "endpoint_url": self.aws.endpoint_url,
                        "verify": str(self.aws.verify) if self.aws.ca_file else True,
                    },
                }
            )
        return found | self.sites.connections()

    def environment(self, template: Path, *, users: Collection[str] = ()) -> str:
        """The demo's environment file, with the ids of the resources in the simulator.

        :param users: who else may do everything in it.
        """
        spec = yaml.safe_load(template.read_text())
        for listed in spec["may"].values():
            listed += [entry for user in users if (entry := f"user:{user}") not in listed]
        spec["region"] = self.aws.region
        spec["staging"]["bucket"] = self.network.bucket
        spec["vpc"] = self.network.vpc_id
        spec["subnets"] = list(self.network.subnet_ids)[:1]
        spec["security_groups"] = [self.network.security_group_id]
        isolated, own = list(self.network.subnet_ids)[1:], self.network.isolated_group_id
        spec["isolation"] = {"subnets": isolated[:1], "security_groups": [own]}
        return str(yaml.safe_dump(spec, sort_keys=False))

    def principals(self, *, users: Collection[str] = ()) -> str:
        """Who the users of Airflow are in the simulated vCenter, which has one user.

        :param users: who else beside ``admin``.
        """
        named = dict.fromkeys(("admin", *users), self.vcenter.username)
        return str(yaml.safe_dump({"vcenter": {"users": named}}, sort_keys=False))


@contextmanager
def stage(folder: Path, *, only: Collection[str] = USUAL) -> Iterator[Stage]:
    """Start simulators with their state below ``folder``. They end with the block.

    :param only: which, of :data:`NAMES`. HCX needs vCenters and has them started.
    """
    with ExitStack() as stack:
        running_vcenter = running_aws = network = None
        if "aws" in only:
            from wavelift.simulators.aws import start as start_aws

            running_aws = stack.enter_context(start_aws(folder / "aws", tls=True, evidence=True))
            network = running_aws.bootstrap(bucket=BUCKET, role=True)
        if "vcenter" in only or "hcx" in only:
            from wavelift.simulators.vcenter import start as start_vcenter

            servers = demo_servers(folder / "disks")
            if "hcx" in only:
                servers = on_network(servers, segment="nsx" in only)
            running_vcenter = stack.enter_context(start_vcenter(folder / "vcenter", servers, evidence=True))
        sites = start_sites(stack, folder, running_vcenter, hcx="hcx" in only, nsx="nsx" in only)
        yield Stage(running_vcenter, running_aws, network, sites)


def demo_servers(folder: Path) -> list[Any]:
    """A Linux server, a Linux server with UEFI and two disks on different controllers, and a Windows-like server."""
    from wavelift.simulators import images
    from wavelift.simulators.vcenter import SimDisk, SimVm

    folder.mkdir(parents=True, exist_ok=True)
    web, db, data, win = (folder / f"{name}.raw" for name in ("web01", "db01", "db01-data", "win01"))
    images.linux_bios(web, size=512 * MIB, seed=1)
    images.linux_uefi(db, size=320 * MIB, seed=2)
    images.data_disk(data, size=256 * MIB, seed=3)
    images.windows_like(win, size=256 * MIB, seed=4)
    return [
        SimVm("web01", [SimDisk(web)], folder="shop", guest_id="debian12_64Guest", ip="192.0.2.11"),
        SimVm(
            "db01",
            [SimDisk(db), SimDisk(data, controller="lsi", bus=1)],
            folder="shop",
            guest_id="rhel8_64Guest",
            firmware="efi",
            ip="192.0.2.12",
        ),
        SimVm(
            "win01",
            [SimDisk(win, controller="sata")],
            folder="shop",
            guest_id="windows2019srv_64Guest",
            power="poweredOff",
            tools="not_running",
        ),
    ]


def up(out: Console, *, only: str, state: Path | None, write: Path | None = None) -> None:
    """``wavelift simulators up``: run until Ctrl-C.

    :param only: names of simulators, separated by commas. Default: vcenter, aws.
    :param write: folder for the files of a first wave. The connections are printed if it is not given.
    """
    wanted = frozenset(name.strip() for name in only.split(",")) if only else USUAL
    if unknown := sorted(wanted - set(NAMES)):
        fail(f"--only has {unknown[0]!r}; allowed are {', '.join(NAMES)}")
    if write and wanted not in (USUAL, BETWEEN_SITES):
        fail(
            "--write needs the simulators of vCenter and AWS: leave out --only. For a first wave of HCX and its "
            "network, write '--only hcx,nsx'"
        )
    require_simulators()
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with ExitStack() as stack:
        folder = state or Path(stack.enter_context(TemporaryDirectory(prefix="wavelift-sim-")))
        running = stack.enter_context(stage(folder, only=wanted))
        if running.vcenter is not None:
            out.print(f"vCenter  {running.vcenter.url}  user {running.vcenter.username}")
        if running.aws is not None:
            out.print(f"AWS      {running.aws.endpoint_url}  region {running.aws.region}")
        for name, address, user in running.sites.addresses():
            out.print(f"{name}  {address}  user {user}")
        if write is None:
            for name, value in running.connections().items():
                print(f"{name}='{value}'", flush=True)
        else:
            _write(out, write.absolute(), running)
        out.print("Ctrl-C stops")
        done.wait()


def _write(out: Console, folder: Path, running: Stage) -> None:
    from wavelift.cli.first_wave import write

    try:
        for words in write(folder, running):
            out.print(printable(words), markup=False, highlight=False, soft_wrap=True)
    except (OSError, ValueError) as error:
        fail(f"The files of the first wave could not be written to {folder}: {error}")
