"""A server that is cut over in a running Airflow, by REST, and what can be seen of it from outside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.airflow.fleet import DNS_ZONE
from tests.airflow.world import Run, World

BLOCK: Final = 512 * 1024
FENCED: Final = {(False, False, False)}
"""Of its network cards: connected at power-on, connected, connected by the guest."""


class Story:
    """A server of a wave of its own, and what people do with it."""

    def __init__(self, world: World, wave: str, server: str) -> None:
        self.world, self.wave, self.server = world, wave, server
        self.op, self.guest = (world.airflow.client(user) for user in ("op", "guest"))
        for dag in ("replicate", "cutover"):
            world.airflow.wait_for_dag(f"{wave}.{dag}")
            world.api.unpause(f"{wave}.{dag}")

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return dict(self.op.call("POST", f"/wavelift{path}", body or {}))

    def known(self, cutover: str) -> dict[str, Any]:
        return dict(self.op.call("GET", f"/wavelift/cutovers/{cutover}"))

    def run(self, started: dict[str, Any]) -> Run:
        return self.world.known_run(started["dag_id"], started["dag_run_id"])

    def seed(self) -> None:
        """A replication job, and its first run on demand."""
        later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
        self.post("/jobs", {"wave": self.wave, "servers": [self.server], "seed_time": later})
        self.run(self.post(f"/waves/{self.wave}/replications", {"servers": [self.server]})).ends("success")

    def cut_over(self, **more: Any) -> tuple[Run, str]:
        body = {"mode": "cutover", "servers": [self.server], **more}
        started = self.post(f"/waves/{self.wave}/cutovers", body)
        (row,) = started["cutovers"]
        assert (row["server"], row["state"], row["serves"]) == (self.server, "reserved", "source")
        return self.run(started), str(row["id"])

    def asked(self, run: Run, task: str = "approve") -> None:
        run.until(f"{task} to ask", lambda: self.op.asks(run.dag_id, run.run_id, task))

    def record(self) -> tuple[str, int]:
        """What Route 53 answers for the server's name, and for how long it may be kept."""
        dns = self.world.aws.client("route53")
        (zone,) = (one["Id"] for one in dns.list_hosted_zones()["HostedZones"] if one["Name"] == f"{DNS_ZONE}.")
        answer = dns.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        name = f"{self.server}.{DNS_ZONE}."
        (found,) = (one for one in answer if (one["Name"], one["Type"]) == (name, "A"))
        return found["ResourceRecords"][0]["Value"], found["TTL"]

    def cards(self) -> set[tuple[bool, bool, bool]]:
        nics = self.world.machine(self.server)["nics"]
        return {(nic["start_connected"], nic["connected"], nic["allow_guest_control"]) for nic in nics}

    def power(self) -> str:
        return str(self.world.machine(self.server)["power"])

    def instance(self, instance: str) -> str:
        (reservation,) = self.world.aws.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
        return str(reservation["Instances"][0]["State"]["Name"])

    def assert_switched(self, cutover: str, text: bytes) -> dict[str, Any]:
        """The instance serves with what the guest wrote last, and the source can't come back by itself."""
        known = self.known(cutover)
        assert (known["state"], known["serves"]) == ("switched", "instance"), known
        assert (self.power(), self.cards()) == ("poweredOff", FENCED)
        assert self.instance(known["instance_id"]) == "running"
        assert self.record()[0] == known["private_ip"]
        self.world.assert_held(self.server, known["image_id"])
        frozen = Path(self.world.snapshots_taken(self.server)[-1]["disks"][0]["file"]).read_bytes()
        assert frozen[5 * BLOCK + 7 :].startswith(text), "the last snapshot has what was written last"
        assert known["downtime_s"] > 0
        return known

    def write(self, text: bytes) -> None:
        self.world.vcenter.guest_write(self.server, 0, 5 * BLOCK + 7, text)

    def assert_back(self, cutover: str, address: str) -> None:
        known = self.known(cutover)
        assert (known["state"], known["serves"]) == ("reverted", "source"), known
        assert self.instance(known["instance_id"]) == "stopped"
        assert self.power() == "poweredOn"
        assert not self.cards() & FENCED
        assert self.record()[0] == address
        self.world.alarm.check()

    def verified(self, known: dict[str, Any]) -> None:
        """The report of a cutover started a run that reads back what was recorded."""
        self.world.known_run(f"{self.wave}.replicate", known["verify_run"]).ends("success")
