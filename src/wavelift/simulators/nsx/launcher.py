"""Start the NSX simulator as a process, and use it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wavelift.simulators.kit.client import Simulator, launch
from wavelift.simulators.kit.process import SimulatorProcess


class NsxSimulator(Simulator):
    """A running simulator of one site's NSX."""

    def __init__(self, process: SimulatorProcess, hello: Mapping[str, Any], state: Path) -> None:
        super().__init__(process, hello, state)
        parts = urlsplit(self.url)
        self.host: str = parts.hostname or ""
        self.port: int = parts.port or 0
        self.username: str = hello["username"]
        self.password: str = hello["password"]
        self.vmc: bool = hello["vmc"]
        self.org: str = hello.get("org", "")
        self.sddc: str = hello.get("sddc", "")
        self.refresh_token: str = hello.get("refresh_token", "")

    def put_segment(self, path: str, **fields: Any) -> dict[str, Any]:
        """Make or change a segment: ``gateway="10.1.2.1/24"``, ``connectivity="OFF"``, ``connectivity_path=...``,
        ``extended=True``, ``at_once=False`` (realised with delay), or any field of NSX's."""
        if gateway := fields.pop("gateway", None):
            fields["subnets"] = [{"gateway_address": gateway}]
        found: dict[str, Any] = self.control("POST", "segment/put", {"path": path, **fields})
        return found

    def segment(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.control("POST", "segment/get", {"path": path})
        return found

    def segments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.control("GET", "segments")
        return found

    def delete_segment(self, path: str) -> None:
        """With its ports."""
        self.control("POST", "segment/delete", {"path": path, "force": True})

    def add_port(self, segment: str, name: str = "") -> str:
        """Attach a VM; the port's id."""
        return str(self.control("POST", "port/add", {"segment": segment, "name": name})["id"])

    def remove_port(self, segment: str, port: str) -> None:
        """Take the VM away; the port lingers."""
        self.control("POST", "port/remove", {"segment": segment, "id": port})

    def routed(self) -> dict[str, str]:
        """Prefix → path of the segment that routes it now."""
        found: dict[str, str] = self.control("GET", "prefixes")["routed"]
        return found

    def prefix_log(self) -> list[tuple[float, str, str, str]]:
        """``(epoch, prefix, "ON"|"OFF", segment's path)`` of every change, oldest first."""
        return [(row[0], row[1], row[2], row[3]) for row in self.control("GET", "prefixes")["log"]]

    def put_tier(self, name: str) -> None:
        self.control("POST", "tier/put", {"id": name})

    def expire_tokens(self) -> int:
        """End all access tokens of VMware Cloud; how many."""
        return int(self.control("POST", "tokens/expire")["expired"])


def start(state: Path, *, vmc: bool = False, listen: str = "127.0.0.1:0", **settings: Any) -> NsxSimulator:
    """Start a simulator that writes below ``state`` and ends with this process at the latest. It serves HTTPS only.

    ``settings`` are fields of :class:`.settings.Settings`. Raises SimulatorError with the end of its log if it does
    not start.
    """
    state.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, "-m", "wavelift.simulators.nsx"]
    process = launch(program, state, tls=True, listen=listen, settings={"vmc": vmc, **settings})
    return NsxSimulator(process, process.ready(), state)
