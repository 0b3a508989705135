"""``wavelift demo --act cutover``: a server that writes is cut over by REST, its record moves, and it comes back.

Everything goes through the same REST routes that people and the command line use, with the login of the demo's user.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from wavelift.airflow.rest import ApiClient
from wavelift.base.names import snapshot_name
from wavelift.base.units import human_seconds
from wavelift.cli.demo_checker import checked, connection
from wavelift.cli.local_airflow import LocalAirflow, wait_for
from wavelift.cli.simulators import Stage
from wavelift.cli.watch import Waiting, tell, told
from wavelift.rules.flows import CUTOVER, REPLICATE

WAVE: Final = "shop"
SERVER: Final = "web01"
ZONE: Final = "corp.example"
NAME: Final = f"{SERVER}.{ZONE}"
SOURCE_ADDRESS: Final = "192.0.2.11"
TTL_S: Final = 300
OFFSET: Final = (64 << 20) + 7
"""Where the guest writes last: the middle of a block, behind the demo's file system tables."""
WRITER: Final = {"rate": 1 << 20, "blocks": 64, "size": 4096}
"""The guests write until they are shut down."""
RUN_SECONDS: Final = 900.0
STEPS: Final = (
    ("shut down and fence the source", "stopping", "down"),
    ("send what was written last", "down", "recorded"),
    ("register the image", "recorded", "image"),
    ("launch the instance", "image", "launched"),
    ("check it", "launched", "checked"),
    ("switch the record", "checked", "switched"),
)
"""Words, and the moments of the ledger between which a part of the downtime lies."""


def lay_out(dags: Path, running: Stage) -> None:
    """A zone with the server's record, an environment that permits to change it, and the wave, in a DAGs folder."""
    dns = running.aws.client("route53")
    made = dns.create_hosted_zone(Name=ZONE, CallerReference="demo")
    zone = made["HostedZone"]["Id"].rpartition("/")[2]
    record = {"Name": NAME, "Type": "A", "TTL": TTL_S, "ResourceRecords": [{"Value": SOURCE_ADDRESS}]}
    changes = [{"Action": "CREATE", "ResourceRecordSet": record}]
    dns.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
    environment = dags / "environments" / "demo.yaml"
    spec = {**yaml.safe_load(environment.read_text()), "network": {"hosted_zones": [zone]}}
    environment.write_text(yaml.safe_dump(spec, sort_keys=False))
    wave = {
        "wave": WAVE,
        "description": f"{SERVER} is replicated, and cut over",
        "source": {"connection": "vsphere_demo", "connector": "default"},
        "environment": "demo",
        "defaults": {"instance_type": "t3.small", "verify": "full"},
        "replication": {"frequency_hours": 24, "ami": "register"},
        # So long that no run before the cutover is needed: the demo shows the downtime, not how to shorten it.
        "cutover": {"ami": "register", "downtime_minutes": 10_000},
        "servers": [{"name": SERVER, "cutover": {"steps": [{"dns": {"zone": zone, "name": NAME}}]}}],
        "retries": 3,
        "retry_delay_s": 2,
    }
    (dags / "waves" / f"{WAVE}.yaml").write_text(yaml.safe_dump(wave, sort_keys=False))


@dataclass(frozen=True)
class Journey:
    """One cutover and its way back, as it was.

    :param known: the answer of ``GET /cutovers/{id}`` when the instance served. :param answers: what Route 53 answered
        before, after, and after the revert. :param verdict: of the independent checker. :param marker: what the guest
        wrote last, and whether the volume of the instance has it.
    """

    known: dict[str, Any]
    answers: tuple[str, str, str]
    verdict: dict[str, Any]
    marker: tuple[str, bool]
    states: dict[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> list[tuple[str, float]]:
        times = self.known["times"]
        return [(words, _seconds(times[first], times[last])) for words, first, last in STEPS]

    @property
    def actual_s(self) -> float:
        return _seconds(self.known["times"]["stopping"], self.known["times"]["switched"])

    @property
    def forecast_s(self) -> tuple[float, float]:
        """P50 and P90, as the plan said that was approved."""
        forecast = self.known["forecast"]
        return forecast["reachable_p50_s"], forecast["reachable_p90_s"]

    @property
    def proven(self) -> bool:
        address = self.known["private_ip"]
        moved = self.answers == (SOURCE_ADDRESS, address, SOURCE_ADDRESS) and address != SOURCE_ADDRESS
        back = self.states == {"cutover": "reverted", "instance": "stopped", "source": "poweredOn", "verify": "success"}
        return moved and back and self.marker[1] and bool(self.verdict["disks"]) and not self.verdict["mismatches"]


def _seconds(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


@dataclass
class CutoverAct:
    """Plays the act on a running Airflow."""

    out: Console
    running: Stage
    airflow: LocalAirflow

    @property
    def api(self) -> ApiClient:
        return self.airflow.api

    def play(self) -> Journey:
        self.seed()
        return self.journey()

    def seed(self) -> None:
        """A replication job and its first run."""
        for flow in (REPLICATE, CUTOVER):
            self.airflow.wait_for_dag(flow.dag_id(WAVE))
            self.api.unpause(flow.dag_id(WAVE))
        later = (datetime.now(UTC) + timedelta(days=7)).isoformat()
        self._post("/jobs", {"wave": WAVE, "servers": [SERVER], "seed_time": later})
        self._say(f"{SERVER}: the first replication, while its guest writes")
        self.running.vcenter.start_writer(**WRITER)
        self._ends(self._post(f"/waves/{WAVE}/replications", {"servers": [SERVER]}))

    def journey(self) -> Journey:
        """Cut the server over, prove what arrived, and go back."""
        before = self.answer()
        self.running.vcenter.start_writer(**WRITER)
        started = self._post(f"/waves/{WAVE}/cutovers", {"mode": "cutover", "servers": [SERVER], "note": "make demo"})
        (row,) = started["cutovers"]
        dag_id, run_id = started["dag_id"], started["dag_run_id"]
        self._say(f"POST /waves/{WAVE}/cutovers: {row['id']}, by run {run_id} of {dag_id}")
        self._until(dag_id, run_id, lambda: self.api.asks(dag_id, run_id, CUTOVER.task_id("approve")))
        for line in str(self.api.xcom(dag_id, run_id, "plan", key="words")).splitlines():
            self._say(f"  {line}")
        answer = self._post(f"/waves/{WAVE}/cutovers/{run_id}/approval", {"answer": "approve"})
        self._say(f"POST /waves/{WAVE}/cutovers/{run_id}/approval: approved by {answer['answered_by']}")
        marker = f"the guest wrote this last, for {row['id']}"
        self.running.vcenter.guest_write(SERVER, 0, OFFSET, marker.encode())
        self._ends(started)
        self.running.vcenter.stop_writer()
        known = self._cutover(row["id"])
        after = self.answer()
        self._say(f"{NAME} is {after} now; going back: POST /cutovers/{row['id']}/revert")
        verdict, found = self._judge(known, marker.encode())
        back = self._post(f"/cutovers/{row['id']}/revert")
        self._ends(back)
        verify = self.api.wait_for_run(REPLICATE.dag_id(WAVE), known["verify_run"], timeout=RUN_SECONDS)
        states = {**self._states(known), "verify": verify}
        return Journey(known, (before, after, self.answer()), verdict, (marker, found), states)

    def answer(self) -> str:
        """What Route 53 holds for the server's name."""
        dns = self.running.aws.client("route53")
        (zone,) = (one["Id"] for one in dns.list_hosted_zones()["HostedZones"] if one["Name"] == f"{ZONE}.")
        rows = dns.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        (found,) = (one for one in rows if (one["Name"], one["Type"]) == (f"{NAME}.", "A"))
        return str(found["ResourceRecords"][0]["Value"])

    def _cutover(self, cutover: str) -> dict[str, Any]:
        return dict(self.api.call("GET", f"/wavelift/cutovers/{cutover}"))

    def _states(self, known: dict[str, Any]) -> dict[str, str]:
        """Who serves now: by the ledger, by EC2, by vCenter."""
        answer = self.running.aws.client("ec2").describe_instances(InstanceIds=[known["instance_id"]])
        machine = next(vm for vm in self.running.vcenter.state()["vms"] if vm["name"] == SERVER)
        return {
            "cutover": self._cutover(known["id"])["state"],
            "instance": answer["Reservations"][0]["Instances"][0]["State"]["Name"],
            "source": machine["power"],
        }

    def _judge(self, known: dict[str, Any], marker: bytes) -> tuple[dict[str, Any], bool]:
        """Ask the checker, which imports nothing of wavelift, about the volumes of the instance."""
        ec2 = self.running.aws.client("ec2")
        instance = ec2.describe_instances(InstanceIds=[known["instance_id"]])["Reservations"][0]["Instances"][0]
        attached = sorted(instance["BlockDeviceMappings"], key=lambda one: str(one["DeviceName"]))
        ids = [one["Ebs"]["VolumeId"] for one in attached]
        volumes = {one["VolumeId"]: one["SnapshotId"] for one in ec2.describe_volumes(VolumeIds=ids)["Volumes"]}
        request = {
            **connection(self.running),
            "servers": [
                {
                    "server": SERVER,
                    "snapshot": snapshot_name(known["run_key"]),
                    "snapshot_ids": [volumes[id] for id in ids],
                    "registered": True,
                    "marker": {"disk": 0, "offset": OFFSET, "text": marker.decode()},
                }
            ],
        }
        verdict = checked(request, timeout=RUN_SECONDS)
        return verdict, bool(verdict.get("markers")) and all(verdict["markers"])

    # Progress

    def _post(self, path: str, body: Any = None) -> dict[str, Any]:
        return dict(self.api.call("POST", f"/wavelift{path}", body or {}))

    def _ends(self, started: dict[str, Any]) -> None:
        """:raises RuntimeError: the run did not succeed."""
        dag_id, run_id = started["dag_id"], started["dag_run_id"]
        self._until(dag_id, run_id, lambda: self.api.run_state(dag_id, run_id) in ("success", "failed"))
        if self.api.run_state(dag_id, run_id) != "success":
            raise RuntimeError(f"{dag_id} {run_id} failed:\n{self.airflow.describe(dag_id, run_id)}")

    def _until(self, dag_id: str, run_id: str, ready: Callable[[], bool]) -> None:
        """Tell where the run is, until something is so."""
        waiting = Waiting(self.api, dag_id, run_id)
        with told(self.out) as say:

            def look() -> bool:
                self.airflow.raise_if_dead()
                say(waiting.lines())
                return ready() or self.api.run_state(dag_id, run_id) in ("success", "failed")

            wait_for(look, timeout=RUN_SECONDS, what=f"{dag_id} {run_id}", interval=1.0)

    def _say(self, words: str) -> None:
        tell(self.out, words)

    def summary(self, journey: Journey) -> None:
        """Downtime by step, the forecast beside it, and what Route 53 answered."""
        steps = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Downtime by step")
        steps.add_column("step")
        steps.add_column("seconds", justify="right", no_wrap=True)
        for words, seconds in journey.steps:
            steps.add_row(words, f"{seconds:.1f}")
        steps.add_row("all of it", f"{journey.actual_s:.1f}", style="bold")
        answers = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=f"What Route 53 answers for {NAME}")
        for words in ("before", "after the cutover", "after the revert"):
            answers.add_column(words, no_wrap=True)
        answers.add_row(*journey.answers)
        self.out.print(steps, answers)
        usual, slow = journey.forecast_s
        self._say(
            f"Forecast: P50 {human_seconds(usual)}, P90 {human_seconds(slow)} ({journey.known['forecast']['basis']}); "
            f"it was {human_seconds(journey.actual_s)}"
        )
        marker, found = journey.marker
        equal = not journey.verdict["mismatches"]
        self._say(f"'{marker}': {'is' if found else 'IS NOT'} in the volume of {journey.known['instance_id']}")
        self._say(f"the independent checker: every block of it is {'equal' if equal else 'NOT EQUAL'} to the source's")
        self._say("; ".join(f"{name} {state}" for name, state in journey.states.items()))


def result_of(journey: Journey, seconds: float) -> str:
    """The line for programs."""
    usual, slow = journey.forecast_s
    return json.dumps(
        {
            "wave": WAVE,
            "act": "cutover",
            "cutover": journey.known["id"],
            "downtime_s": round(journey.actual_s, 1),
            "steps_s": {words: round(value, 1) for words, value in journey.steps},
            "forecast_p50_s": round(usual, 1),
            "forecast_p90_s": round(slow, 1),
            "answers": list(journey.answers),
            "bytes_verified": journey.verdict["bytes_verified"],
            "mismatches": journey.verdict["mismatches"],
            "written_last": journey.marker[1],
            "proven": journey.proven,
            "seconds": round(seconds, 1),
        }
    )
