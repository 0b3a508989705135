"""The other side: start a simulator as a process, and call its control endpoint."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from wavelift.simulators.kit.process import SimulatorError, SimulatorProcess

CONTROL_SECONDS: Final = 120.0
"""Time limit of one call: evidence of several GiB is written within one."""


class Control:
    """The control endpoint of a running simulator, also of one that another process started."""

    def __init__(
        self, control_url: str, *, headers: Mapping[str, str] | None = None, ca_file: Path | None = None
    ) -> None:
        self.control_url = control_url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._tls = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None

    def control(self, method: str, path: str, body: object = None, *, raw: bytes | None = None) -> Any:
        """One call. ``body`` is sent as JSON, ``raw`` as it is. Raises SimulatorError with the simulator's answer."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.control_url}/{path}", data=data, method=method, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=CONTROL_SECONDS, context=self._tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SimulatorError(f"{method} {path}: {error.read().decode(errors='replace').strip()}") from None

    def rule(self, **fields: Any) -> int:
        """Add a fault rule; its id."""
        return int(self.control("POST", "rules", fields)["id"])

    def rules(self) -> list[dict[str, Any]]:
        """The rules in force, with how often each matched and applied."""
        found: list[dict[str, Any]] = self.control("GET", "rules")
        return found

    def clear_rules(self, id: int = 0) -> None:
        """Drop all rules, or only the one of this id. Calls that a rule holds back continue."""
        self.control("DELETE", "rules", {"id": id} if id else None)

    def state(self) -> dict[str, Any]:
        """What exists now: equal before and after a test that cleans up."""
        found: dict[str, Any] = self.control("GET", "state")
        return found

    def counters(self) -> dict[str, Any]:
        """How often each operation was called."""
        found: dict[str, Any] = self.control("GET", "counters")
        return found

    def reset_counters(self) -> None:
        self.control("DELETE", "counters")


class Simulator(Control):
    """A running simulator that is built on the kit. As a context manager it ends with the block."""

    def __init__(self, process: SimulatorProcess, hello: Mapping[str, Any], state: Path) -> None:
        self.ca_file: Path | None = Path(hello["ca_file"]) if hello["ca_file"] else None
        super().__init__(hello["control"], ca_file=self.ca_file)
        self._process = process
        self.state_folder = state
        self.url: str = hello["url"]
        self.pid: int = hello["pid"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process: SIGTERM, then SIGKILL. Its folder stays. Safe to call twice."""
        self._process.stop()

    def counters(self) -> dict[str, dict[str, int]]:
        """``calls``, ``errors`` and ``bytes_in`` by ``service.Operation``."""
        return super().counters()

    def evidence(self) -> dict[str, Any]:
        """What the simulator kept for a checker, by kind."""
        found: dict[str, Any] = self.control("GET", "evidence")
        return found

    def settings(self, **values: Any) -> dict[str, Any]:
        """Change settings; returns all of them."""
        found: dict[str, Any] = self.control("POST", "settings", values)
        return found

    def clock(self) -> dict[str, float]:
        """``now`` in seconds since the epoch, and ``offset`` from the machine's time."""
        found: dict[str, float] = self.control("GET", "clock")
        return found

    def advance(self, seconds: float) -> None:
        """Move the simulator's clock forward."""
        self.control("POST", "clock", {"advance": seconds})

    def reset(self) -> None:
        """As a restart, but in milliseconds: no resources, rules, counts, sessions, tokens, evidence or files stay, the
        clock and the settings are those of the start. The address, the certificate and the process stay."""
        self.control("POST", "reset")


def launch(
    program: Sequence[str | Path],
    state: Path,
    *,
    tls: bool = False,
    listen: str = "127.0.0.1:0",
    settings: Mapping[str, Any] | None = None,
) -> SimulatorProcess:
    """Start ``program``, whose main is :func:`.main.run`. It writes below ``state`` and ends with this process."""
    command = [*program, "--state", state, "--listen", listen, "--until-stdin-closes", *(["--tls"] if tls else [])]
    for name, value in (settings or {}).items():
        command += ["--set", f"{name}={value}"]
    return SimulatorProcess(command, log=state / "simulator.log")
