"""Exports of instances in a running Airflow: the round trip of a migrated server, the line for a slot, and what is
killed, cancelled or cleared (AMP-10, VIE-04 to VIE-06). Proofs: what has to be right each time is in ``test_export.py``
and ``test_export_commands.py``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.airflow.exporting import (
    DAG,
    GIB,
    NEAR,
    OUT,
    WROTE,
    Machine,
    Ova,
    assert_nothing_left,
    assert_only_result,
    bucket_of,
    drop_bucket,
    environments,
    known,
    let_role_write,
    machine,
)
from tests.airflow.fleet import OUTBOUND
from tests.airflow.waves import BLOCK, wave_text
from tests.airflow.world import Run, World

from wavelift.airflow.rest import ApiError
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.instance_export import ExportState

pytestmark = [pytest.mark.airflow, pytest.mark.proof]

WAVE: Final = "outbound"
LIMIT: Final = 5
PATIENCE: Final = 300.0
COMMAND_SECONDS: Final = 900
SLOW_SECONDS: Final = 200.0
"""A call that a rule holds back goes on when the rule is dropped."""
CONFLICT: Final = 409
WAITING: Final = ("deferred", "scheduled", "queued")
"""States in which a task holds no worker's place: a trigger may just have fired."""


@pytest.fixture(scope="module")
def out(world: World) -> Iterator[World]:
    """Two environments that share a bucket, and the wave of the proof."""
    wave = world.dags / "waves" / f"{WAVE}.yaml"
    with environments(world, OUT, NEAR, connectors=[WAVE]):
        wave.write_text(wave_text(WAVE, OUTBOUND[WAVE]))
        for name in (OUT, NEAR):
            world.airflow.wait_for_dag(f"instance_export.{name}")
            world.api.unpause(f"instance_export.{name}")
        assert bucket_of(world) in cli(world, "export", "setup", "--environment", OUT)
        let_role_write(world)
        yield world
        drop_bucket(world)
        wave.unlink()


def cli(world: World, *arguments: str, user: str = "op") -> str:
    """What ``wavelift ARGUMENTS`` of this user prints."""
    airflow = world.airflow
    login = {"WAVELIFT_USER": user, "WAVELIFT_PASSWORD": airflow.password_of(user), "WAVELIFT_URL": airflow.url}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "wavelift"), *arguments],
        env={**airflow.environment, **login, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Export:
    """One export that was asked for by REST."""

    def __init__(self, world: World, server: Machine | str, environment: str = OUT, **wishes: Any) -> None:
        self.world, self.op = world, world.airflow.client("op")
        subject = server if isinstance(server, str) else server.id
        body = {"environment": environment, "instance": subject, **wishes}
        started = self.op.call("POST", "/wavelift/exports", body)
        self.id = str(started["export"]["id"])
        self.run: Run = world.known_run(started["dag_id"], started["dag_run_id"])

    @property
    def row(self) -> InstanceExport:
        found = known(self.world, self.run.run_id, self.run.dag_id)
        assert found is not None
        return found

    def told(self) -> dict[str, Any]:
        return dict(self.op.call("GET", f"/wavelift/exports/{self.id}"))

    def cancel(self) -> dict[str, Any]:
        return dict(self.op.call("POST", f"/wavelift/exports/{self.id}/cancel"))

    def until(self, what: str, ready: Callable[[], Any]) -> None:
        self.run.until(f"{self.id}: {what}", ready, timeout=PATIENCE)

    def until_converting(self) -> None:
        """Its task of AWS is followed, deferred."""
        self.until("AWS to convert", lambda: self.row.task_id and self.run.row("begin")["state"] == "deferred")

    def until_reading(self, parts: int) -> None:
        self.until(f"{parts} parts to be stored", lambda: self.parts() >= parts)

    def parts(self) -> int:
        uploads = self.world.aws.state()["buckets"][bucket_of(self.world)]["uploads"]
        return sum(one["parts"] for one in uploads if self.id in one["key"])

    def completes(self) -> InstanceExport:
        self.run.ends("success")
        found = self.row
        assert found.state == ExportState.COMPLETED
        assert_only_result(self.world, found)
        return found

    def ends_without(self, state: ExportState) -> InstanceExport:
        self.run.ends("failed")
        found = self.row
        assert found.state == state, (found.state, found.error)
        assert_nothing_left(self.world, self.id)
        return found


@contextmanager
def rule(world: World, **fields: Any) -> Iterator[Callable[[], None]]:
    """A fault rule; the value drops it."""
    made: int = world.aws.rule(**fields)
    dropped: list[bool] = []

    def drop() -> None:
        if not dropped:
            dropped.append(True)
            world.aws.clear_rules(made)

    try:
        yield drop
    finally:
        drop()


def held(world: World, server: Machine, outcome: str = "held") -> Any:
    return rule(world, kind="export", key=server.id, outcome=outcome)


def test_amp_10_a_migrated_server_of_two_disks_goes_out_as_its_guest_left_it(out: World, tmp_path: Path) -> None:
    """Two disks → wave → instance → the guest writes → ``direct``: the volumes, bit for bit."""
    moved = out.trigger(WAVE).ends("success").outcome("outbound-a")
    volumes = _volumes(out, moved["instance_id"])
    for volume in volumes:
        for place in (200, 3 * BLOCK - 7, 800 * BLOCK, GIB - len(WROTE)):
            out.aws.write_at(volume, place, WROTE)

    told = cli(
        out, "export", "start", moved["migration"], "--environment", OUT, "--method", "direct", "--verify", "full"
    )
    (found,) = [
        one
        for one in out.airflow.client("op").call("GET", "/wavelift/exports?all=true")["exports"]
        if one["subject"] == moved["migration"]
    ]
    assert found["location"] in told
    assert (found["instance_id"], found["state"], found["method"]) == (moved["instance_id"], "completed", "direct")
    row = known(out, found["dag_run_id"])
    assert row is not None
    assert_only_result(out, row)

    ova = Ova.fetch(out, row.object_key, tmp_path / "ova")
    ova.assert_accepted(out.vcenter)
    ova.assert_holds([_raw(out, volume, tmp_path / f"volume-{number}.raw") for number, volume in enumerate(volumes)])


def _volumes(world: World, instance: str) -> list[str]:
    """In the order of their devices."""
    (found,) = world.aws.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    mapped = sorted(found["BlockDeviceMappings"], key=lambda one: str(one["DeviceName"]))
    return [one["Ebs"]["VolumeId"] for one in mapped]


def _raw(world: World, volume: str, file: Path) -> Path:
    """What a volume holds, read from a snapshot of our own by boto3."""
    ec2, ebs = world.aws.client("ec2"), world.aws.client("ebs")
    made = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[made], WaiterConfig={"Delay": 1})
    with file.open("wb") as target:
        target.truncate(GIB)
        pages: dict[str, Any] = {}
        while True:
            page = ebs.list_snapshot_blocks(SnapshotId=made, **pages)
            for block in page.get("Blocks", []):
                wanted = {"BlockIndex": block["BlockIndex"], "BlockToken": block["BlockToken"]}
                target.seek(block["BlockIndex"] * BLOCK)
                target.write(ebs.get_snapshot_block(SnapshotId=made, **wanted)["BlockData"].read())
            if not page.get("NextToken"):
                break
            pages = {"NextToken": page["NextToken"]}
    ec2.delete_snapshot(SnapshotId=made)
    return file


def test_vie_04_the_sixth_waits_deferred_and_two_environments_share_slots_and_bucket(out: World) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(machine(out, f"line-{number}")) for number in range(LIMIT + 1)]
        drops = [stack.enter_context(held(out, server)) for server in servers]
        wishes: dict[str, Any] = {"method": "instance", "may_reboot": True}
        first = [
            Export(out, server, NEAR if number == 0 else OUT, **wishes) for number, server in enumerate(servers[:LIMIT])
        ]
        for each in first:
            each.until_converting()
        sixth = Export(out, servers[LIMIT], **wishes)
        sixth.until("its wait", lambda: sixth.run.row("reserve")["state"] == "deferred")
        assert f"{LIMIT} of {LIMIT} in use" in sixth.told()["phase"], sixth.told()
        assert len(out.aws.state()["export_tasks"]) == LIMIT
        for each in first:  # while AWS works nobody holds a worker's place either
            assert each.run.row("begin")["state"] in WAITING
        answer = sixth.cancel()
        assert answer["stopped_tasks"] == ["reserve"]
        assert sixth.ends_without(ExportState.CANCELLED).made in (None, {}, {"attempt": 1})

        seventh = Export(out, servers[LIMIT], **wishes)
        seventh.until("its wait", lambda: seventh.run.row("reserve")["state"] == "deferred")
        for drop in drops:
            drop()
        done = [each.completes() for each in (*first, seventh)]
        assert {one.bucket for one in done} == {bucket_of(out)}
        assert [one.object_key.split("/")[0] for one in done] == [NEAR, *[OUT] * LIMIT]


def test_vie_06_cancelled_killed_asked_for_twice_and_marked_failed(out: World, tmp_path: Path) -> None:
    """Four exports at once, and something happens to each."""
    with ExitStack() as stack:
        killed, left, stopped, failed = (
            stack.enter_context(machine(out, name, disks=disks))
            for name, disks in (("killed", 2), ("left", 2), ("stopped", 1), ("failed", 1))
        )
        stack.enter_context(held(out, stopped, "stuck"))
        drop_failed = stack.enter_context(held(out, failed, "stuck"))
        to_kill, to_leave = (Export(out, server, method="direct", verify="full") for server in (killed, left))
        slow = {"service": "s3", "operation": "UploadPart", "skip": 1, "latency": SLOW_SECONDS}
        drop_killed = stack.enter_context(rule(out, key=f"*{to_kill.id}*", **slow))
        stack.enter_context(rule(out, key=f"*{to_leave.id}*", **slow))
        to_stop, to_fail = (Export(out, server, method="instance", may_reboot=True) for server in (stopped, failed))

        # Asked for a second time while the first is on its way.
        with pytest.raises(ApiError) as refused:
            Export(out, killed)
        assert (refused.value.status, to_kill.id in str(refused.value)) == (CONFLICT, True)

        # kill -9 while it reads.
        to_kill.until_reading(1)
        stored = to_kill.parts()
        out.kill([to_kill.run.row("read")["pid"]])
        drop_killed()

        # Cancelled while it reads.
        to_leave.until_reading(1)
        assert to_leave.cancel()["stopped_tasks"] == ["read"]

        # Cancelled while AWS converts.
        to_stop.until_converting()
        assert to_stop.cancel()["stopped_tasks"] == ["begin"]

        # Marked failed by a person in the web UI; then cleared.
        to_fail.until_converting()
        task = to_fail.row.task_id
        to_fail.run.stop()

        to_leave.ends_without(ExportState.CANCELLED)
        to_stop.ends_without(ExportState.CANCELLED)
        ended = to_fail.ends_without(ExportState.FAILED)
        assert task in str(ended.made)
        drop_failed()
        to_fail.run.clear("admit")
        again = to_fail.completes()
        assert again.task_id != task

        done = to_kill.completes()
        assert to_kill.run.tries(-1)["read"] == 2
        written = out.api.xcom(to_kill.run.dag_id, to_kill.run.run_id, "read")
        assert written["parts_kept"] >= stored >= 1
        assert written["parts"] > written["parts_kept"]
        ova = Ova.fetch(out, done.object_key, tmp_path / "ova")
        ova.assert_holds([killed.raw(disk, tmp_path) for disk in range(2)])


def test_vie_05_kill_9_of_the_triggerer_while_aws_converts(out: World) -> None:
    with machine(out, "awaited") as server, held(out, server) as drop:
        export = Export(out, server, method="instance", may_reboot=True)
        export.until_converting()
        task = export.row.task_id
        out.airflow.stop_component("triggerer", kill=True)
        drop()
        out.airflow.start_component("triggerer")
        assert export.completes().task_id == task


def test_vie_06_what_a_run_without_its_last_tasks_left_is_ended_by_the_upkeep(out: World) -> None:
    """A person marks all its tasks failed, also those that remove what it made."""
    with machine(out, "abandoned") as server, held(out, server, "stuck"):
        export = Export(out, server, method="instance", may_reboot=True)
        export.until_converting()
        out.airflow.stop_component("scheduler", kill=True)  # else one of them begins between two answers
        for task in ("begin", "remove", "release", "report"):
            out.api.fail_task(DAG, export.run.run_id, task, -1)
        out.airflow.start_component("scheduler")
        export.run.wait()
        assert export.told()["state"] == "active", export.run.describe()
        assert out.aws.state()["export_tasks"] == [export.row.task_id]
        upkeep = out.known_run("cutover_upkeep", out.airflow.trigger("cutover_upkeep"))
        upkeep.ends("success")
        assert export.row.state == ExportState.FAILED
        assert_nothing_left(out, export.id)
