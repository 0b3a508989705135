"""What people do with a wave of HCX and its network in the running Airflow, and what can be seen from outside."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from tests.airflow.sites import LANS, UNEXTEND, Lan, Sites
from tests.airflow.world import Run, World

COMMAND_SECONDS: Final = 600


class Crossing:
    """One story of :data:`LANS`: its wave, if it has servers, and its network."""

    def __init__(self, world: World, name: str, *, awake: bool = True) -> None:
        assert world.sites is not None
        self.world, self.name = world, name
        self.sites: Sites = world.sites
        self.lan: Lan = LANS[name]
        self.op, self.guest = (world.airflow.client(user) for user in ("op", "guest"))
        for dag in ("network_cutover", *(["live"] if self.lan.servers else [])):
            world.airflow.wait_for_dag(f"{name}.{dag}")
            if awake:
                world.api.unpause(f"{name}.{dag}")

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return dict(self.op.call("POST", f"/wavelift{path}", body or {}))

    def get(self, path: str) -> dict[str, Any]:
        return dict(self.op.call("GET", f"/wavelift{path}"))

    def run(self, started: dict[str, Any]) -> Run:
        return self.world.known_run(started["dag_id"], started["dag_run_id"])

    def asked(self, run: Run, task: str = "approve") -> None:
        """Parked, too: Airflow loses an answer that comes between the question and the end of the task's process."""

        def parked() -> bool:
            return run.row(task)["state"] == "awaiting_input" and self.op.asks(run.dag_id, run.run_id, task)

        run.until(f"{task} to ask", parked)

    def cli(self, *arguments: str, user: str = "op") -> str:
        """What ``wavelift ARGUMENTS`` of this user prints."""
        airflow = self.world.airflow
        login = {"WAVELIFT_USER": user, "WAVELIFT_PASSWORD": airflow.password_of(user), "WAVELIFT_URL": airflow.url}
        done = subprocess.run(
            [str(Path(sys.executable).parent / "wavelift"), *arguments],
            env={**airflow.environment, **login, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    # live migrations

    def live(self, mode: str = "migrate", **more: Any) -> dict[str, Any]:
        return self.post(f"/waves/{self.name}/live", {"mode": mode, **more})

    def approve_live(self, run: Run) -> None:
        answered = self.post(f"/waves/{self.name}/live/{run.run_id}/approval", {"answer": "approve"})
        assert answered["answered_by"] == "op"

    def migration(self, id: str) -> dict[str, Any]:
        return self.get(f"/live/{id}")

    def migrations_in_hcx(self, server: str) -> list[str]:
        """How each that was ever started ended, or its phase."""
        return [str(one["phase"]).lower() for one in self.sites.hcx.migrations() if one["vm"] == server]

    def assert_moved(self, server: str) -> None:
        """By both vCenters: it is there once, on, with its card on the extended network, and gone from here."""
        assert server not in self.sites.vms("source")
        there = self.sites.vms("destination")[server]
        assert there["power"] == "poweredOn"
        assert [nic["network"] for nic in self.sites.destination.get_vm(server)["nics"]] == [self.lan.there]
        assert [nic["mac"] for nic in there["nics"]] == [self.lan.mac(self.lan.servers.index(server))]

    # the network's cutover

    def plan(self) -> list[dict[str, Any]]:
        """What is in the way, by a run in mode plan."""
        run = self.run(self.post(f"/networks/{self.name}/cutovers", {"mode": "plan"}))
        run.wait()
        report = self.world.api.xcom(run.dag_id, run.run_id, "record", key="report")
        return [each for each in report["findings"] if each["severity"] == "error"]

    def cut_over(self, **more: Any) -> tuple[Run, str]:
        started = self.post(f"/networks/{self.name}/cutovers", {"mode": "cutover", **more})
        return self.run(started), str(started["cutover"]["id"])

    def approve(self, run: Run, task: str = "approve") -> None:
        self.asked(run, task)
        answered = self.post(f"/networks/{self.name}/cutovers/{run.run_id}/approval", {"answer": "approve"})
        assert answered["answered_by"] == "op"

    def known(self, cutover: str) -> dict[str, Any]:
        return self.get(f"/network_cutovers/{cutover}")

    def routed_by(self) -> list[str]:
        return self.sites.alarm.routing(self.lan.prefix)

    def extended(self) -> bool:
        """Whether HCX extends the network now."""
        changes = [what for _, what, network in self.sites.hcx.extension_log() if network == self.lan.name]
        return bool([what for what in changes if what in ("extended", "unextended")][-1] == "extended")

    def assert_switched(self, cutover: str) -> dict[str, Any]:
        known = self.known(cutover)
        assert (known["state"], known["alert"]) == ("switched", ""), known
        assert self.routed_by() == [self.lan.extended]
        assert not self.extended()
        assert {step["name"]: step["state"] for step in known["steps"]} == dict.fromkeys(
            ("source", "extension", "destination"), "settled"
        )
        self.sites.alarm.check()
        return known

    def assert_back(self, cutover: str) -> dict[str, Any]:
        known = self.known(cutover)
        assert (known["state"], known["alert"]) == ("reverted", ""), known
        assert self.routed_by() == [self.lan.here if self.lan.segment else "router"]
        assert self.extended()
        self.sites.alarm.check()
        return known

    def gaps(self) -> list[float]:
        """Seconds of each time in which nobody routed the network."""
        return [round(stop - start, 1) for start, stop in self.sites.alarm.gaps(self.lan.prefix)]

    def without_routing(self, cutover: str) -> list[str]:
        """How long nobody routed the network, and what the ledger says of that time."""
        times = sorted((datetime.fromisoformat(at), name) for name, at in self.known(cutover)["times"].items())
        steps = [f"{name} +{(at - before).total_seconds():.1f} s" for (before, _), (at, name) in pairwise(times)]
        return [f"nobody routed for {self.gaps()} s, {UNEXTEND:g} s of the first by HCX", ", ".join(steps)]
