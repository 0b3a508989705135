"""``kill -9`` of a real process in each phase, and two tries at once: nothing is lost, doubled or destroyed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.domain import ExportResult, ImportResult
from wavelift.base.names import run_key
from wavelift.base.units import MIB
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot

from .journey import Journey, Stage

pytestmark = pytest.mark.wire

WORKER = Path(__file__).with_name("phase_worker.py")
VICTIM = "victim@vsphere.local"
PATIENCE_S = 60.0
PARTS = 8
"""Of big01: 56 MiB of noise in parts of 8 MiB, and the rest with the tables."""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


@dataclass
class Tries:
    """Starts tries of one server's tasks as processes; those that still run at the end are killed."""

    stage: Stage
    journey: Journey
    task: ServerTask
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, phase: str, **more: Any) -> subprocess.Popen[str]:
        config = self.stage.config(username=VICTIM, password="victim-pw-77")
        names = ("host", "port", "username", "password", "ca_bundle", "timeout")
        aws = self.stage.aws
        done = self.journey.outcome
        order = {
            "phase": phase,
            "task": self.task.dump(),
            "run_key": run_key(self.journey.run_ref.dag_id, self.journey.run_ref.dag_run_id, self.task.name),
            "store": str(self.stage.folder / f"{phase}.json"),
            "ledger": self.journey.ledger.url,
            "vsphere": {name: getattr(config, name) for name in names},
            "keys": {
                "aws_access_key_id": aws.access_key,
                "aws_secret_access_key": aws.secret_key,
                "region_name": aws.region,
            },
            "aws": {"endpoint_url": aws.endpoint_url, "verify": aws.verify},
            **{
                name: value.dump()
                for name in ("snapshot", "export", "verified", "image")
                if (value := getattr(done, name)) is not None
            },
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.running.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The answer of a try that ends by itself."""
        output, _ = process.communicate(timeout=PATIENCE_S)
        answer: dict[str, Any] = json.loads(output)
        return answer

    def kill(self, process: subprocess.Popen[str]) -> None:
        assert process.poll() is None, "it had ended before it was killed"
        process.kill()
        process.communicate(timeout=PATIENCE_S)

    def result(self, phase: str, **more: Any) -> Any:
        answer = self.finish(self.start(phase, **more))
        assert "error" not in answer, answer
        return answer["result"]

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE_S)
        # vCenter ends the session of a dead client after half an hour without a call.
        self.stage.vc.expire_sessions(VICTIM)


@pytest.fixture
def tries(stage: Stage) -> Iterator[Callable[..., Tries]]:
    """``tries("big01")``: pre-flight and reserve are done; the test goes on from there and the end is tidied up."""
    made: list[Tries] = []

    def make(server: str) -> Tries:
        journey = stage.journey(server)
        journey.looked_before = True
        (task,) = journey.preflight()
        journey.reserve(task)
        made.append(Tries(stage, journey, task))
        stage.vc.reset_counters()
        stage.aws.control("DELETE", "counters")
        return made[-1]

    yield make
    stage.clear_rules()
    for one in made:
        one.close()
        one.journey.outcome.tries.pop("remove", None)
        one.journey.remove(one.task)
        one.journey.report({one.task.name: one.journey.outcome})


def objects(stage: Stage) -> list[str]:
    found: list[str] = stage.aws.state()["buckets"][stage.account.bucket]["objects"]
    return found


def snapshots_of(stage: Stage, server: str) -> list[str]:
    (vm,) = [one for one in stage.vc.state()["vms"] if one["name"] == server]
    return [one["moref"] for one in vm["snapshots"]]


def parts_stored(stage: Stage) -> int:
    return sum(upload["parts"] for upload in stage.uploads())


def killed_export(stage: Stage, one: Tries) -> int:
    """An export killed at about 70 per cent; how many parts S3 has by then."""
    stage.vc.rule(kind="nfc", action="slow", rate=24 * MIB)
    process = one.start("export")
    wait_for(lambda: parts_stored(stage) >= 5, "five parts of eight")
    one.kill(process)
    stage.clear_rules()
    stored = parts_stored(stage)
    assert 5 <= stored < PARTS
    return stored


def test_inv_6_export_killed_at_70_per_cent_sends_no_part_again(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("big01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    stored = killed_export(stage, one)
    stage.aws.control("DELETE", "counters")
    done.export = ExportResult.load(one.result("export"))
    (disk,) = done.export.disks
    assert (disk.parts, disk.parts_kept) == (PARTS, stored)
    counters = stage.aws.counters()
    assert counters["s3.parts"].get("repeated", 0) == 0
    assert counters["s3.parts"]["stored"] == PARTS - stored
    assert stage.uploads() == []
    assert done.export.snapshot == done.snapshot.ref.moref
    stage.assert_objects_equal_source(done.export)


def test_inv_6_a_fresh_snapshot_takes_over_no_part(stage: Stage, tries: Callable[..., Tries]) -> None:
    """Two instants must never mix: whoever removed the snapshot in between, the old upload is aborted."""
    one = tries("big01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    killed_export(stage, one)
    (old,) = stage.uploads()
    stage.vc.expire_sessions(VICTIM)
    with stage.connect() as session:
        from wavelift.adapters.vsphere.snapshots import remove_snapshot
        from wavelift.base.run import CancelFlag

        ref = done.snapshot.ref
        assert remove_snapshot(session, ref.vm, ref.name, cancel=CancelFlag()) == 1
    stage.vc.guest_write("big01", 0, 30 * MIB, b"another instant" * 100)
    done.snapshot = one.journey.take_snapshot(one.task)
    stage.vc.rule(kind="nfc", action="slow", rate=24 * MIB)
    process = one.start("export")
    wait_for(lambda: old["id"] not in [upload["id"] for upload in stage.uploads()], "the old upload's end")
    answer = one.finish(process)
    done.export = ExportResult.load(answer["result"])
    assert done.export.disks[0].parts_kept == 0
    assert stage.uploads() == []
    stage.assert_objects_equal_source(done.export)
    stage.vc.guest_write("big01", 0, 30 * MIB, bytes(1500))


def test_inv_6_export_killed_while_s3_completes_is_found_done(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    rule = stage.aws.rule(service="s3", operation="CompleteMultipartUpload", latency=1.0)
    process = one.start("export")
    wait_for(lambda: [each for each in stage.aws.rules() if each["id"] == rule and each["applied"]], "the completion")
    one.kill(process)
    wait_for(lambda: [key for key in objects(stage) if key.endswith(".vmdk")], "the object")
    stage.clear_rules()
    stage.vc.reset_counters()
    stage.aws.control("DELETE", "counters")
    done.export = ExportResult.load(one.result("export"))
    assert "s3.UploadPart" not in stage.aws.counters()
    assert "ExportSnapshot" not in stage.vc.counters()["methods"], "the source was read again"
    stage.assert_objects_equal_source(done.export)


def test_inv_4_snapshot_killed_in_the_making_is_found(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    stage.vc.rule(kind="task", method="CreateSnapshot_Task", delay=1.5)
    process = one.start("snapshot")
    wait_for(lambda: stage.vc.counters()["methods"].get("CreateSnapshot_Task"), "the call")
    one.kill(process)
    assert snapshots_of(stage, "web01") == []
    taken = TakenSnapshot.load(one.result("snapshot"))
    assert snapshots_of(stage, "web01") == [taken.ref.moref]
    assert stage.vc.counters()["methods"]["CreateSnapshot_Task"] == 1


def test_inv_4_removal_killed_in_the_middle_leaves_nothing(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    stage.vc.rule(kind="task", method="RemoveSnapshot_Task", delay=1.5)
    process = one.start("remove")
    wait_for(lambda: stage.vc.counters()["methods"].get("RemoveSnapshot_Task"), "the call")
    one.kill(process)
    one.result("remove")
    assert snapshots_of(stage, "web01") == []
    assert stage.vc.counters()["methods"]["RemoveSnapshot_Task"] == 1


def test_verify_killed_in_the_middle_reads_again(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    done.export = one.journey.step("export", lambda: one.journey.export(one.task))
    rule = stage.aws.rule(service="s3", operation="GetObject", key="*.vmdk", latency=2.0, count=1)
    process = one.start("verify")
    wait_for(lambda: [each for each in stage.aws.rules() if each["id"] == rule and each["applied"]], "the read")
    one.kill(process)
    assert one.result("verify")["mismatches"] == 0


def imported(stage: Stage, one: Tries) -> ImportResult:
    """The end of the only import that there is."""
    wait_for(lambda: stage.aws.state()["images"] and not stage.aws.state()["import_tasks"], "the import's end")
    answer = one.result("import") or one.result("import")  # the first may have to find the task by its token
    found = ImportResult.load(answer)
    assert stage.aws.state()["images"] == [found.image_id]
    return found


@pytest.mark.parametrize("phase", ["import", "launch"])
def test_inv_5_what_was_asked_of_ec2_is_never_made_twice(stage: Stage, tries: Callable[..., Tries], phase: str) -> None:
    """Killed after EC2 took the request and before its answer came."""
    one = tries("web01")
    journey, done = one.journey, one.journey.outcome
    done.snapshot = journey.step("snapshot", lambda: journey.take_snapshot(one.task))
    done.export = journey.step("export", lambda: journey.export(one.task))
    journey.remove(one.task)
    done.verified = journey.step("verify", lambda: journey.verify(one.task))
    if phase == "launch":
        done.image = journey.step("import", lambda: journey.import_image(one.task))
    operation = {"import": "ImportImage", "launch": "RunInstances"}[phase]
    rule = stage.aws.rule(service="ec2", operation=operation, latency=1.0, count=1)
    process = one.start(phase)
    wait_for(lambda: [each for each in stage.aws.rules() if each["id"] == rule and each["applied"]], operation)
    one.kill(process)
    if phase == "import":
        done.image = imported(stage, one)
    else:
        first = one.result("launch")["instance_id"]
        assert stage.aws.state()["instances"] == [first]


def test_two_tries_at_once_of_an_export(stage: Stage, tries: Callable[..., Tries]) -> None:
    """A cleared task whose old try still runs: the old one is fenced, stops at once and cleans up nothing."""
    one = tries("big01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    stage.vc.rule(kind="nfc", action="slow", rate=5 * MIB)
    old = one.start("export")
    wait_for(lambda: parts_stored(stage) >= 2, "two parts of the old try")
    new = one.start("export")
    answer = one.finish(old)
    assert answer["error"] == "FencedError", answer
    assert snapshots_of(stage, "big01") == [done.snapshot.ref.moref]
    done.export = ExportResult.load(one.finish(new)["result"])
    (disk,) = done.export.disks
    assert disk.parts_kept >= 2
    counters = stage.aws.counters()
    assert counters["s3.CreateMultipartUpload"]["calls"] == 1
    assert counters["s3.CompleteMultipartUpload"]["calls"] == 1
    assert "s3.AbortMultipartUpload" not in counters, "the old try took something away"
    stage.assert_objects_equal_source(done.export)


def test_two_tries_at_once_take_one_snapshot(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    stage.vc.rule(kind="task", method="CreateSnapshot_Task", delay=1.5)
    old = one.start("snapshot")
    wait_for(lambda: stage.vc.counters()["methods"].get("CreateSnapshot_Task"), "the call")
    new = one.start("snapshot")
    answers = [one.finish(old), one.finish(new)]
    made = {answer["result"]["ref"]["moref"] for answer in answers if "result" in answer}
    assert len(made) == 1, answers
    assert snapshots_of(stage, "web01") == list(made)
    assert stage.vc.counters()["methods"]["CreateSnapshot_Task"] == 1


def test_two_tries_at_once_make_one_import(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    journey, done = one.journey, one.journey.outcome
    done.snapshot = journey.step("snapshot", lambda: journey.take_snapshot(one.task))
    done.export = journey.step("export", lambda: journey.export(one.task))
    journey.remove(one.task)
    done.verified = journey.step("verify", lambda: journey.verify(one.task))
    rule = stage.aws.rule(service="ec2", operation="ImportImage", latency=1.5, count=1)
    old = one.start("import")
    wait_for(lambda: [each for each in stage.aws.rules() if each["id"] == rule and each["applied"]], "ImportImage")
    new = one.start("import")
    one.finish(new)
    one.finish(old)
    done.image = imported(stage, one)
