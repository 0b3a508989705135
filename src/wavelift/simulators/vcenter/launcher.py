"""Starts the vCenter simulator and calls its control endpoint."""

from __future__ import annotations

import base64
import shutil
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from wavelift.simulators.kit.client import Control
from wavelift.simulators.kit.process import SimulatorError, SimulatorProcess
from wavelift.simulators.vcenter.build import ensure_binary
from wavelift.simulators.vcenter.inventory import (
    ADMIN,
    DEFAULT_HOSTS,
    NetworkKind,
    Options,
    SimDatastore,
    SimHost,
    SimNic,
    SimUser,
    SimVm,
    to_json,
    to_plain,
)


class VCenterControl(Control):
    """The control endpoint of a vCenter simulator, also of one that another process started."""

    def __init__(self, control_url: str, token: str) -> None:
        super().__init__(control_url, headers={"X-Sim-Token": token})
        self.token = token

    def guest_write(self, vm: str, disk_index: int, offset: int, data: bytes) -> None:
        """Write as the guest does: into the top layer, recorded by change tracking. `offset` in bytes."""
        query = urllib.parse.urlencode({"vm": vm, "disk": disk_index, "offset": offset})
        self.control("POST", f"guest/write?{query}", raw=data)

    def guest_read(self, vm: str, disk_index: int, offset: int, length: int) -> bytes:
        """The disk's current bytes, as the guest reads them."""
        query = urllib.parse.urlencode({"vm": vm, "disk": disk_index, "offset": offset, "length": length})
        return base64.b64decode(self.control("GET", f"guest/read?{query}")["data"])

    def rule(self, **fields: Any) -> int:
        """Add a fault rule; its id. Kinds and fields: ``server/rules.go``. It applies once, or ``times`` times."""
        return super().rule(**fields)

    def evidence(self) -> list[dict[str, Any]]:
        """All snapshots ever taken, each with a sparse raw file per disk of its frozen content (option `evidence`)."""
        found: list[dict[str, Any]] = self.control("GET", "evidence")
        return found

    def address_log(self) -> list[dict[str, Any]]:
        """When each address came up on a connected card of a running VM, and went down (``up``), oldest first."""
        found: list[dict[str, Any]] = self.state()["address_log"]
        return found

    def start_writer(self, *, rate: int = 1 << 20, blocks: int = 256, size: int = 4096, seed: int = 1) -> None:
        """Let the running guests write: `rate` bytes/s in all, `size` bytes at one of `blocks` places per disk."""
        self.control("POST", "writer", {"action": "start", "rate": rate, "blocks": blocks, "size": size, "seed": seed})

    def stop_writer(self) -> None:
        self.control("POST", "writer", {"action": "stop"})

    def expire_sessions(self, user: str = "") -> int:
        """End all sessions, or one user's; returns how many."""
        answer: dict[str, int] = self.control("POST", "sessions/expire", {"user": user})
        return answer["expired"]

    def migrate(self, vm: str, host: str, *, leases: Literal["break", "keep"] = "break") -> None:
        """Move the VM to another host without an API call, as DRS does."""
        self.control("POST", "migrate", {"vm": vm, "host": host, "leases": leases})

    def set_vm(self, vm: str, **fields: Any) -> None:
        """Set `power`, `tools`, `consolidation_needed`, `reset_change_tracking` or `hardware` without the API; or one
        of `power_loss=True` (HA restarts it elsewhere), `grow={"disk": 0, "capacity": n}`, `remove_disk=0`,
        `add_disk={"capacity": n, "unit": 3}` (the fields of SimDisk), `place={"disk": 0, "unit": 3}` (a disk that is
        there takes the old place), `revert_to="snapshot"`, `leave_delta=True`, `start_by="ha"` (or "autostart": it is
        powered on by nobody), `snapshot="its name"`, `remove_snapshots=True`, `cdrom="[datastore1] tools.iso"` (or ""),
        `template=True`. `shutdown={"how": "reboot"}` (the fields of SimShutdown) is for requests from then on."""
        self.control("POST", "vm", {"vm": vm, **fields})

    # --- what leaves one vCenter and appears in another ---

    def inventory(self) -> dict[str, Any]:
        """`instance_uuid` of the vCenter, and with `moref`, `name` and `path` each of its `networks`, `datacenters`,
        `clusters`, `folders`, `pools`, `datastores` and `hosts`."""
        found: dict[str, Any] = self.control("GET", "inventory")
        return found

    def add_network(
        self,
        name: str,
        kind: NetworkKind = "standard",
        *,
        folder: str = "",
        key: str = "",
        segment: str = "",
        id: str = "",
    ) -> dict[str, Any]:
        """Add a network; its `moref`, `path`, `key` (of a port group) and `id` (of a segment's logical switch).

        :param folder: below the data centre's network folder; it is made. :param segment: the NSX segment's path, by
            which it is found too. Only segments may have the name of another network in their folder.
        """
        order = {"name": name, "kind": kind, "folder": folder, "key": key, "segment": segment, "id": id}
        found: dict[str, Any] = self.control("POST", "network/add", order)
        return found

    def remove_network(self, network: str) -> None:
        """Remove a network, by name, path, moref or segment. Raises SimulatorError when a card is on it."""
        self.control("POST", "network/remove", {"network": network})

    def add_folder(self, path: str) -> str:
        """Make a folder of VMs, as "prod/web"; its moref. One that is there already stays."""
        return str(self.control("POST", "folder/add", {"path": path})["moref"])

    def add_pool(self, path: str) -> str:
        """Make a resource pool below the cluster's root pool, as "Compute/Web"; its moref."""
        return str(self.control("POST", "pool/add", {"path": path})["moref"])

    def add_vm(self, vm: SimVm | Mapping[str, Any]) -> dict[str, Any]:
        """Add a VM: a SimVm, or the `spec` that another vCenter's `get_vm` gave. Answers its `moref`, `path`, `uuid`,
        `instance_uuid` and `nics`.

        Folder, pool, datastore and networks are named by name, path or moref and must be there. Without UUIDs it gets
        new ones. Raises SimulatorError: one is missing or ambiguous, or the name or instance UUID is taken.
        """
        order = to_plain(vm) if isinstance(vm, SimVm) else dict(vm)
        found: dict[str, Any] = self.control("POST", "vm/add", order)
        return found

    def get_vm(self, vm: str) -> dict[str, Any]:
        """All of a VM as it is now, and as `spec` the order that makes the same elsewhere, with empty disks."""
        found: dict[str, Any] = self.control("GET", f"vm/get?{urllib.parse.urlencode({'vm': vm})}")
        return found

    def remove_vm(self, vm: str) -> None:
        """Take a VM away with its files, at once and also while it is on: it lives on elsewhere."""
        self.control("POST", "vm/remove", {"vm": vm})

    def rename_vm(self, vm: str, name: str) -> None:
        self.control("POST", "vm/rename", {"vm": vm, "name": name})

    def add_nic(self, vm: str, nic: SimNic) -> list[dict[str, Any]]:
        """Add a card; all cards of the VM."""
        found: list[dict[str, Any]] = self.control("POST", "vm/nic", {"vm": vm, "add": asdict(nic)})["nics"]
        return found

    def set_nic(self, vm: str, *, key: int = 0, mac: str = "", **change: Any) -> list[dict[str, Any]]:
        """Change the card of this key or MAC: `network="its new one"` (the MAC stays), `connected=False`, `ips=[…]`, or
        `remove=True`. Answers all cards of the VM."""
        order = {"vm": vm, "key": key, "mac": mac, **change}
        found: list[dict[str, Any]] = self.control("POST", "vm/nic", order)["nics"]
        return found

    def set_datastore(self, name: str, *, free: int) -> None:
        """Set the free bytes; clients see the new value after a RefreshDatastore."""
        self.control("POST", "datastore", {"name": name, "free": free})

    def forward_clock(self, seconds: float) -> None:
        """Move vCenter's clock forward. Its events age with it (`event.maxAge`, in days)."""
        self.control("POST", "clock", {"forward": seconds})

    def reset_clock(self) -> None:
        """Set it back to the machine's time. The events since it was moved are no longer shown."""
        self.control("POST", "clock", {"reset": True})

    def forget_events(self) -> None:
        """Lose all events, as a database does that is pruned by size, or restored."""
        self.control("POST", "events/forget")

    def start_anew(self, inventory: str) -> dict[str, Any]:
        """Replace everything by a vCenter that holds `inventory` (the text of `to_json`). Returns its readiness object.

        The program is replaced in its process: only the ports, the certificates and the token stay. Raises
        SimulatorError: if the text is wrong, before anything changes; if the inventory can't be built, and then the
        process has ended.
        """
        expected: int = self.control("POST", "reset", raw=inventory.encode())["generation"]
        try:
            ready: dict[str, Any] = self.control("GET", "ready")
        except OSError as error:
            raise SimulatorError(f"the vCenter simulator did not come back from its reset: {error}") from None
        if ready["generation"] != expected:
            raise SimulatorError(f"another reset came between: {ready['generation']} in place of {expected}")
        return ready

    def crash(self) -> None:
        """End the process at once, without clean-up and without an answer."""
        try:
            self.control("POST", "crash")
        except (OSError, SimulatorError):
            pass  # expected: the process ends before it answers


class VCenterSimulator(VCenterControl):
    """A running simulator; a context manager that ends it and removes what it wrote."""

    def __init__(self, process: SimulatorProcess, state: Path, ready: dict[str, Any]) -> None:
        super().__init__(ready["control"], ready["token"])
        self._process = process
        self._state = state
        self._take(ready)

    def _take(self, ready: dict[str, Any]) -> None:
        self.ready = ready
        url = urllib.parse.urlsplit(ready["url"])
        self.url: str = ready["url"]
        self.host: str = url.hostname or ""
        self.port: int = url.port or 0
        self.username: str = ready["username"]
        self.password: str = ready["password"]
        self.ca_file = Path(ready["ca_file"])
        self.thumbprint: str = ready["thumbprint"]
        self.hosts: dict[str, dict[str, Any]] = ready["hosts"]
        self.esxi_port: int = ready["esxi_port"]
        self.pid: int = ready["pid"]
        self.instance_uuid: str = ready["instance_uuid"]

    def reset(
        self,
        vms: Sequence[SimVm],
        *,
        hosts: Sequence[SimHost] = DEFAULT_HOSTS,
        datastores: Sequence[SimDatastore] = (SimDatastore(),),
        users: Sequence[SimUser] = (ADMIN,),
        **options: Unpack[Options],
    ) -> None:
        """Make a new vCenter in the same process, as `start` does; `start_anew` says what stays. A host's port and
        thumbprint may change: read them again."""
        text = to_json(vms, hosts=hosts, datastores=datastores, users=users, options=options)
        try:
            self._take(self.start_anew(text))
        except SimulatorError as error:
            raise SimulatorError(f"{error}\n{self.log_tail()}") from None

    def alive(self) -> bool:
        return self._process.alive()

    def log_tail(self) -> str:
        return self._process.log_tail()

    def close(self) -> None:
        """End the process and remove its files. The log, and files of others in the state folder, stay."""
        self._process.stop()
        remove_leftovers(self._state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_leftovers(state: Path) -> None:
    """Remove what a killed simulator left."""
    for name in ("vcenter", "evidence"):
        shutil.rmtree(state / name, ignore_errors=True)
    for name in ("ca.pem", "inventory.json"):
        (state / name).unlink(missing_ok=True)


def start(
    state: Path,
    vms: Sequence[SimVm],
    *,
    listen: str = "127.0.0.1:0",
    hosts: Sequence[SimHost] = DEFAULT_HOSTS,
    datastores: Sequence[SimDatastore] = (SimDatastore(),),
    users: Sequence[SimUser] = (ADMIN,),
    **options: Unpack[Options],
) -> VCenterSimulator:
    """Start a vCenter that holds `vms`, with everything it writes below `state` (a folder of its own).

    The first user is the one whose name and password the result carries. Raises SimulatorError.
    """
    state.mkdir(parents=True, exist_ok=True)
    remove_leftovers(state)
    inventory = state / "inventory.json"
    inventory.write_text(to_json(vms, hosts=hosts, datastores=datastores, users=users, options=options))
    process = SimulatorProcess(
        [ensure_binary(), "-state", state, "-inventory", inventory, "-listen", listen, "-stdin-exit"],
        log=state / "vcenter.log",
    )
    return VCenterSimulator(process, state, process.ready())
