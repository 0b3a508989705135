"""Start the HCX simulator as a process, and use it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wavelift.simulators.hcx.sessions import PASSWORD, USERNAME
from wavelift.simulators.hcx.sites import Site
from wavelift.simulators.kit.client import Simulator, launch
from wavelift.simulators.kit.process import SimulatorProcess


class HcxSimulator(Simulator):
    """A running simulator of an HCX manager at the source site."""

    def __init__(self, process: SimulatorProcess, hello: Mapping[str, Any], state: Path) -> None:
        super().__init__(process, hello, state)
        parts = urlsplit(self.url)
        self.host: str = parts.hostname or ""
        self.port: int = parts.port or 0
        self.username, self.password = USERNAME, PASSWORD

    def migrations(self) -> list[dict[str, Any]]:
        """All that were ever started: id, group, vm, type, phase, history, message, ended."""
        found: list[dict[str, Any]] = self.control("GET", "migrations")
        return found

    def extension_log(self) -> list[list[Any]]:
        """``[time, what, network]`` of every change of an extension."""
        found: list[list[Any]] = self.control("GET", "extensions")
        return found

    def extend(self, network: str, *, gateway: str, tier: str) -> str:
        """Extend a network of the source (name or id) at once; the extension's id.

        :param gateway: with prefix length: ``10.1.2.1/24``. :param tier: path of the destination's tier-1.
        """
        return str(self.control("POST", "extension", {"network": network, "gateway": gateway, "tier": tier})["id"])

    def set_mon(self, extension: str, *, on: bool) -> None:
        """Switch Mobility Optimized Networking of an extension, as somebody does in the user interface."""
        self.control("POST", "mon", {"id": extension, "on": on})

    def route(self, prefix: str, *, routed: bool) -> None:
        """Let the source site's router, which is no NSX, route a prefix, or no longer."""
        self.control("POST", "router", {"prefix": prefix, "routed": routed})

    def routed(self) -> dict[str, str]:
        """Prefixes that the router routes now."""
        found: dict[str, str] = self.control("GET", "prefixes")["routed"]
        return found

    def prefix_log(self) -> list[tuple[float, str, str, str]]:
        """``(epoch, prefix, "ON"|"OFF", "router")`` of every change, oldest first."""
        return [(row[0], row[1], row[2], row[3]) for row in self.control("GET", "prefixes")["log"]]

    def expire_sessions(self) -> int:
        """End all sessions; how many."""
        return int(self.control("POST", "sessions/expire")["expired"])


def start(
    state: Path, *, source: Site, destination: Site, listen: str = "127.0.0.1:0", **settings: Any
) -> HcxSimulator:
    """Start a simulator that writes below ``state`` and ends with this process at the latest. It serves HTTPS only.

    ``settings`` are fields of :class:`.settings.Settings`. Raises SimulatorError with the end of its log if it does
    not start.
    """
    state.mkdir(parents=True, exist_ok=True)
    sites = state / "sites.json"  # the tokens of the vCenters are no arguments
    sites.touch(mode=0o600)
    sites.write_text(json.dumps({"source": asdict(source), "destination": asdict(destination)}))
    program = [sys.executable, "-m", "wavelift.simulators.hcx", "--sites", os.fspath(sites)]
    process = launch(program, state, tls=True, listen=listen, settings=settings)
    return HcxSimulator(process, process.ready(), state)
