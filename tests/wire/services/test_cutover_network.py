"""A cutover with every kind of network step at once, over both simulators: killed, and answers lost, at every call that
writes, there and back and there again; and the volumes hold what the guest wrote last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ReadTimeoutError
from tests.contexts import Alive, run_context
from tests.ledgers import within
from tests.wire.aws.test_step_records import APP

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere import switch as power
from wavelift.base.errors import WaveliftError
from wavelift.base.names import run_key
from wavelift.base.run import DagRun, MemoryCheckpoints, SystemClock
from wavelift.base.units import BLOCK
from wavelift.ledger import cutovers, jobs
from wavelift.rules.cutover import CutoverState, StepState
from wavelift.rules.wave_cutover import NetworkStep, Shutdown
from wavelift.services.common.grant_keys import KeyFiles, keygen
from wavelift.services.cutover import back
from wavelift.services.cutover.back import Undone
from wavelift.services.cutover.prepare import prepare_server
from wavelift.services.cutover.steps import Waits, confirm, go_back, prepared_subject
from wavelift.services.cutover.switch import Switched, switch
from wavelift.services.dataplane import source_switch
from wavelift.services.dataplane.source_return import start_source
from wavelift.services.dataplane.steps.addresses import STEP_TAG
from wavelift.services.dataplane.steps.poll import poll

from .journey import Stage
from .replica import Killed
from .servers import noise
from .test_cutover_move import SERVER, Cut, passed
from .test_cutover_rights import CIDR, Landscape

pytestmark = [pytest.mark.wire, pytest.mark.proof]

WWW, PART = "www.corp.example.", "part.corp.example."
OLD = ("192.168.7.15", "192.168.7.16")
CREATED = "172.17.0.0/16"


class World(Landscape):
    """Records, targets, an address and routes as they are before a cutover."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.zone.put(WWW, "old.corp.example", Type="CNAME")
        for name in ("blue", "green"):
            self.zone.put(PART, f"192.0.2.{len(name)}", SetIdentifier=name, Weight=10)
        targets = [{"Id": old, "Port": 443, "AvailabilityZone": "all"} for old in OLD]
        self.elb.register_targets(TargetGroupArn=self.group, Targets=targets)
        self.elb.modify_target_group_attributes(
            TargetGroupArn=self.group, Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "1"}]
        )
        self.route = {"RouteTableId": self.table, "DestinationCidrBlock": CIDR}
        self.ec2.create_route(**self.route, TransitGatewayId=self.gateway)
        self.gateway_route = {"TransitGatewayRouteTableId": self.gateway_table, "DestinationCidrBlock": CIDR}
        self.ec2.create_transit_gateway_route(**self.gateway_route, Blackhole=True)
        self.serving = self.ec2.create_security_group(
            GroupName=f"serving-{self.table}", Description="serving", VpcId=self.stage.account.vpc_id
        )["GroupId"]
        subnets = self.ec2.describe_subnets(SubnetIds=[self.stage.account.subnet_ids[0]])["Subnets"]
        self.address = subnets[0]["CidrBlock"].rpartition(".")[0] + ".77"

    def steps(self) -> tuple[NetworkStep, ...]:
        dns = {"zone": self.zone.id}
        return tuple(
            NetworkStep.model_validate(one)
            for one in (
                {"person": {"ask": "Move the prefix", "undo": "Move it back"}},
                {"dns": {**dns, "name": APP.rstrip("."), "ttl": 60}},
                {"dns": {**dns, "name": WWW.rstrip("."), "type": "CNAME", "to": "new.corp.example", "ttl": 60}},
                {"dns": {**dns, "name": PART.rstrip("."), "set_identifier": "blue", "ttl": 60}},
                {"target_group": {"arn": self.group, "replaces": OLD}},
                {"elastic_ip": {"allocation": self.allocation}},
                {"security_groups": {"groups": [self.serving]}},
                {"route": {"table": self.table, "destination": CIDR, "target": "instance"}},
                {"route": {"table": self.table, "destination": CREATED, "target": "instance"}},
                {
                    "transit_gateway_route": {
                        "table": self.gateway_table,
                        "destination": CIDR,
                        "attachment": self.attachment,
                    }
                },
            )
        )

    def seen(self) -> dict[str, Any]:
        """What clients are led to."""
        health = self.elb.describe_target_health(TargetGroupArn=self.group)["TargetHealthDescriptions"]
        registered = {
            one["Target"]["Id"]: one["Target"].get("AvailabilityZone")
            for one in health
            if one["TargetHealth"]["State"] != "draining"
        }
        routes = self.ec2.describe_route_tables(RouteTableIds=[self.table])["RouteTables"][0]["Routes"]
        gateway = self.ec2.search_transit_gateway_routes(
            TransitGatewayRouteTableId=self.gateway_table, Filters=[{"Name": "type", "Values": ["static"]}]
        )["Routes"]
        found = {
            "records": self.zone.records(),
            "targets": registered,
            "address": self.ec2.describe_addresses(AllocationIds=[self.allocation])["Addresses"][0].get(
                "NetworkInterfaceId"
            ),
            "routes": sorted(
                (one["DestinationCidrBlock"], one.get("TransitGatewayId"), one.get("NetworkInterfaceId"))
                for one in routes
                if one["DestinationCidrBlock"] in (CIDR, CREATED)
            ),
            "gateway": [
                [each["TransitGatewayAttachmentId"] for each in one.get("TransitGatewayAttachments", ())]
                for one in gateway
                if one["State"] not in ("deleted", "deleting")
            ],
        }
        plain: dict[str, Any] = json.loads(json.dumps(found, sort_keys=True, default=str))
        return plain

    def remove(self) -> None:
        self.ec2.delete_route(**self.route)
        self.ec2.delete_transit_gateway_route(**self.gateway_route)
        self.ec2.delete_security_group(GroupId=self.serving)
        changes = [{"Action": "DELETE", "ResourceRecordSet": each} for each in self.zone.records().values()]
        self.zone.client.change_resource_record_sets(HostedZoneId=self.zone.id, ChangeBatch={"Changes": changes})
        self.zone.put(APP, "192.0.2.7")
        left = [{"Name": "tag-key", "Values": [STEP_TAG]}]
        for each in self.ec2.describe_network_interfaces(Filters=left)["NetworkInterfaces"]:
            self.ec2.delete_network_interface(NetworkInterfaceId=each["NetworkInterfaceId"])
        super().remove()


@pytest.fixture
def world(stage: Stage) -> Iterator[World]:
    made = World(stage)
    yield made
    made.remove()


@pytest.fixture
def cut(stage: Stage, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cut]:
    monkeypatch.setattr(source_switch, "OFF_SECONDS", 0.1)
    monkeypatch.setattr(source_switch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(power, "POLL_S", 0.05)
    keygen(KeyFiles(tmp_path / "private" / "key", tmp_path / "public"))
    made = Cut(stage, tmp_path, steps=world.steps())
    made.task = made.task.model_copy(update={"plan": made.task.plan.model_copy(update={"private_ip": world.address})})
    yield made
    made.put_back()


class Reaper:
    """Kills before and after each AWS call that writes, each once; and loses the answer of each once."""

    READS = ("Describe", "List", "Get", "Search")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.met: set[str] = set()
        self.on, self.calls = False, 0
        real = BaseClient._make_api_call

        def call(client: Any, operation: str, params: dict[str, Any]) -> Any:
            if not self.on or operation.startswith(self.READS):
                return real(client, operation, params)
            about = f"{operation} {json.dumps(params, sort_keys=True, default=str)}"
            self._die(f"before {about}", Killed(about))
            answer = real(client, operation, params)
            self.calls += 1
            lost: BaseException = ReadTimeoutError(endpoint_url="https://simulated")
            self._die(f"after {about}", lost if self.calls % 2 else Killed(about))
            return answer

        monkeypatch.setattr(BaseClient, "_make_api_call", call)

    def _die(self, moment: str, error: BaseException) -> None:
        if moment not in self.met:
            self.met.add(moment)
            raise error

    def until(self, call: Callable[[], Any]) -> Any:
        """Call again until it returns, as Airflow's retries and clears do."""
        for _ in range(300):
            self.on = True
            try:
                return call()
            except Killed:
                continue
            except WaveliftError as error:
                if not error.retryable:
                    raise
            finally:
                self.on = False
        raise AssertionError(f"it never ends: {sorted(self.met)[-5:]}")


def waited(cut: Cut, waits: tuple[str, ...]) -> None:
    aws = tuple(each for each in waits if each.split("|")[0] not in ("person", "time"))
    ends = time.monotonic() + 30
    while aws and not any(poll(cut.stage.access(), aws).values()):
        assert time.monotonic() < ends, waits
        time.sleep(0.05)


def prepared(cut: Cut, reaper: Reaper, address: str) -> None:
    while True:
        found = reaper.until(lambda: prepare_server(cut.ledger, cut.stage.access(), cut.task.plan, address, cut.ctx()))
        if found is None:
            return
        waited(cut, found.waits)


def forward(cut: Cut, reaper: Reaper, result: Any) -> None:
    launched = cut.launch(result)
    for _ in range(100):
        found = reaper.until(lambda: switch(cut.ledger, cut.stage.access(), cut.task, passed(launched), cut.ctx()))
        if isinstance(found, Switched):
            return
        answered(cut, found.waits)
        waited(cut, found.waits)
    raise AssertionError("it does not settle")


def answered(cut: Cut, waits: tuple[str, ...]) -> None:
    for each in waits:
        if each.startswith("person|"):
            confirm(cut.ledger, cut.known.id, each.split("|")[3], "ann", clock=SystemClock())


def go_home(cut: Cut, reaper: Reaper, folder: Path, name: str) -> None:
    run, kept = DagRun("lab.cutover", name), MemoryCheckpoints()
    ctx = run_context(run, SERVER, checkpoints=kept, liveness=Alive(run=lambda one: one == run))
    access: Any = lambda place: cut.stage.access()  # noqa: E731
    key = folder / "private" / "key"
    while True:
        found = reaper.until(lambda: back.undo(cut.ledger, access, [cut.known.id], ctx, key_file=key))
        if isinstance(found, Undone):
            break
        for waits in found.waits.values():
            answered(cut, waits)
            waited(cut, waits)
    assert not found.failed, found.failed
    with cut.stage.connect() as session:
        started = [start_source(session, source, ctx.cancel) for source in found.sources]
    back.raise_when_failed(back.reverted(cut.ledger, access, [cut.known.id], found, started, ctx))


def volume(stage: Stage, instance: str) -> bytes:
    """The first volume of an instance, whole."""
    ec2, ebs = stage.aws.client("ec2"), stage.aws.client("ebs")
    found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    made = ec2.create_snapshot(VolumeId=found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"])["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig={"Delay": 1})
    content = bytearray(64 << 20)
    selection: dict[str, Any] = {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=made, **selection)
        for each in page["Blocks"]:
            got = ebs.get_snapshot_block(SnapshotId=made, BlockIndex=each["BlockIndex"], BlockToken=each["BlockToken"])
            at = each["BlockIndex"] * BLOCK
            content[at : at + BLOCK] = got["BlockData"].read()
        if not page.get("NextToken"):
            break
        selection = {"NextToken": page["NextToken"]}
    ec2.delete_snapshot(SnapshotId=made)
    return bytes(content)


def moved(cut: Cut, *, seed: int) -> Any:
    """To the image. The guest writes until it is off: before its slot, and while it shuts down."""
    vc, size = cut.stage.vc, 16 << 20
    vc.guest_write(SERVER, 0, 5 * BLOCK + 100, noise(seed, 5000))
    reserved = cut.reserve()
    vc.guest_write(SERVER, 0, 9 * BLOCK + 100, noise(seed + 1, BLOCK))
    vc.guest_write(SERVER, 0, 2 * BLOCK, bytes(BLOCK))  # deleted: zeros
    stopped = cut.stop(reserved)
    result = cut.send(reserved)
    cut.recorded(stopped, result)
    made = cut.image(result)
    assert len(vc.guest_read(SERVER, 0, 0, size)) == size
    return made


def test_everything_at_once_there_and_back_and_there_again(
    cut: Cut, world: World, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaper = Reaper(monkeypatch)
    first = world.seen()
    prepared(cut, reaper, world.address)
    prepared(cut, reaper, world.address)
    lowered = world.seen()
    assert {one["TTL"] for name, one in lowered["records"].items() if "green" not in name} == {60}
    assert lowered["records"][f"{PART}green"] == first["records"][f"{PART}green"]

    forward(cut, reaper, moved(cut, seed=40))
    known = cut.known
    assert known.private_ip == world.address
    assert volume(stage, known.instance_id)[: 16 << 20] == stage.vc.guest_read(SERVER, 0, 0, 16 << 20)
    switched = world.seen()
    assert set(switched["targets"]) == {world.address}
    assert switched["records"][APP]["ResourceRecords"] == [{"Value": world.address}]
    assert switched["records"][f"{PART}blue"]["Weight"] == 10
    assert switched["address"]
    go_home(cut, reaper, tmp_path, "revert__1")
    assert cut.known.state is CutoverState.REVERTED
    assert world.seen() == lowered
    rows = within(cut.ledger.read(), cutovers.steps_of, cutovers.CUTOVER_KIND, known.id)
    assert {row.state for row in rows} == {StepState.UNDONE}
    assert len({moment.split()[1] for moment in reaper.met}) >= 12, sorted(reaper.met)

    # The stopped instance keeps the address, which pre-flight says before anything is stopped again.
    Ec2(stage.access()).terminate([known.instance_id])
    again(cut)
    deaf(cut, monkeypatch)
    forward(cut, reaper, moved(cut, seed=60))
    known = cut.known
    assert known.private_ip == world.address
    assert volume(stage, known.instance_id)[: 16 << 20] == stage.vc.guest_read(SERVER, 0, 0, 16 << 20)
    subject = prepared_subject(cut.task.plan.wave, SERVER)
    while isinstance(
        found := reaper.until(lambda: go_back(cut.ledger, stage.access(), subject, cut.ctx(), kinds=("ttl",))),
        Waits,
    ):
        waited(cut, found.waits)
    assert stage.vc.guest_read(SERVER, 0, 20 * BLOCK + 7, 3 * BLOCK) == noise(99, 3 * BLOCK), "it was powered off"
    stage.vc.set_vm(SERVER, shutdown={"how": "off"})
    records = world.seen()["records"]
    assert {name: one["TTL"] for name, one in records.items()} == {
        name: one["TTL"] for name, one in first["records"].items()
    }
    assert records[APP]["ResourceRecords"] == [{"Value": world.address}]


def deaf(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that does not shut down, and writes on until it is powered off the hard way."""
    change = {"shutdown": Shutdown(timeout_minutes=0.01)}
    assert cut.task.plan.cutover is not None
    plan = cut.task.plan.model_copy(update={"cutover": cut.task.plan.cutover.model_copy(update=change)})
    cut.task = cut.task.model_copy(update={"plan": plan})
    cut.stage.vc.set_vm(SERVER, shutdown={"how": "ignore"})
    real = power.power_off

    def off(*args: Any, **kwargs: Any) -> Any:
        cut.stage.vc.guest_write(SERVER, 0, 20 * BLOCK + 7, noise(99, 3 * BLOCK))
        return real(*args, **kwargs)

    monkeypatch.setattr(power, "power_off", off)


def again(cut: Cut) -> None:
    """Another cutover of the server, that went."""
    cut.run = DagRun("lab.cutover", f"{cut.run.dag_run_id}-again")
    cut.key, cut.checkpoints = run_key(cut.run.dag_id, cut.run.dag_run_id, SERVER), MemoryCheckpoints()
    columns = {"wave": "lab", "server": SERVER, "environment": "lab", "requested_by": "test", "tier": "all"}
    job = within(cut.ledger.read(), jobs.find_standing, "lab", SERVER)
    assert job is not None
    now = SystemClock().now()
    with cut.ledger.write(jobs.lock_name("lab")) as tx:
        made = cutovers.insert(
            tx,
            at=now,
            by="test",
            run=cut.run,
            run_key=cut.key,
            state=CutoverState.WAITING,
            tier_index=0,
            job_id=job.id,
            **columns,
        )
        cutovers.apply(tx, made, "going", at=now, by="test", state=CutoverState.GOING)
