"""``kill -9`` of a real process in each phase, and two tries at once: nothing is lost, doubled or destroyed."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
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

ROOT = Path(__file__).parents[3]
WORKER = (sys.executable, "-m", "tests.wire.services.phase_worker")
VICTIM = "victim@vsphere.local"
PATIENCE_S = 60.0
PARTS = 5
"""Of big01: 37 MiB of noise in parts of 8 MiB, and the rest with the tables."""
STORED = 3
"""Of which S3 has these when the export is killed."""
TASK_S = 4.0
"""vCenter's tasks that are cut off from their caller meanwhile."""
HELD_S = 240.0
"""A call that a rule holds back goes on when the rule is dropped."""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


class Process:
    """A fork of the nursery, by a handle that no other process can get."""

    def __init__(self, pid: int, answer: Path) -> None:
        self._answer = answer
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = None  # it has ended already

    def ended(self, within: float = 0.0) -> bool:
        if self._handle is not None and select.select([self._handle], [], [], within)[0]:
            os.close(self._handle)
            self._handle = None
        return self._handle is None

    def kill(self) -> None:
        if self._handle is not None:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        assert self.ended(PATIENCE_S)

    def answer(self) -> dict[str, Any]:
        assert self.ended(PATIENCE_S), "it does not end"
        found: dict[str, Any] = json.loads(self._answer.read_text())
        return found


class Nursery:
    """See ``phase_worker``."""

    def __init__(self) -> None:
        command = [*WORKER, "--nursery"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._count = 0

    def start(self, order: dict[str, Any], folder: Path) -> Process:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        answer = folder / f"answer-{self._count}.json"
        self._process.stdin.write(json.dumps({**order, "answer": str(answer)}) + "\n")
        self._process.stdin.flush()
        return Process(int(self._process.stdout.readline()), answer)

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@dataclass
class Tries:
    """Starts tries of one server's tasks as processes; those that still run at the end are killed."""

    stage: Stage
    journey: Journey
    task: ServerTask
    nursery: Nursery
    running: list[Process] = field(default_factory=list)

    def start(self, phase: str, **more: Any) -> Process:
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
        self.running.append(self.nursery.start(order, self.stage.folder))
        return self.running[-1]

    def finish(self, process: Process) -> dict[str, Any]:
        """The answer of a try that ends by itself."""
        return process.answer()

    def kill(self, process: Process) -> None:
        assert not process.ended(), "it had ended before it was killed"
        process.kill()

    def result(self, phase: str, **more: Any) -> Any:
        answer = self.finish(self.start(phase, **more))
        assert "error" not in answer, answer
        return answer["result"]

    def owner(self, phase: str) -> int:
        """The number of the try that owns the checkpoints."""
        with (self.stage.folder / f"{phase}.json").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return int(json.load(file)["owner"])

    def close(self) -> None:
        for process in self.running:
            process.kill()
        # vCenter ends the session of a dead client after half an hour without a call.
        self.stage.vc.expire_sessions(VICTIM)


@pytest.fixture
def tries(stage: Stage, nursery: Nursery) -> Iterator[Callable[..., Tries]]:
    """``tries("big01")``: pre-flight and reserve are done; the test goes on from there and the end is tidied up."""
    made: list[Tries] = []

    def make(server: str) -> Tries:
        journey = stage.journey(server)
        journey.looked_before = True
        (task,) = journey.preflight()
        journey.reserve(task)
        made.append(Tries(stage, journey, task, nursery))
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


def applied(stage: Stage, rule: int) -> int:
    """How many calls a rule of the AWS simulator holds back."""
    return sum(each["applied"] for each in stage.aws.rules() if each["id"] == rule)


def killed_export(stage: Stage, one: Tries) -> None:
    """An export killed at about 70 per cent, with more parts on their way, which S3 never gets."""
    begun = stage.aws.counters().get("s3.UploadPart", {}).get("calls", 0)
    rule = stage.aws.rule(service="s3", operation="UploadPart", skip=STORED, latency=HELD_S, cut_request_after=0)
    process = one.start("export")
    wait_for(lambda: parts_stored(stage) == STORED and applied(stage, rule), "the parts before the kill")
    one.kill(process)
    begun += STORED + applied(stage, rule)
    stage.clear_rules()
    wait_for(lambda: stage.aws.counters()["s3.UploadPart"]["calls"] == begun, "the end of what was on its way")
    assert parts_stored(stage) == STORED


def test_inv_6_export_killed_at_70_per_cent_sends_no_part_again(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("big01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    killed_export(stage, one)
    stage.aws.control("DELETE", "counters")
    done.export = ExportResult.load(one.result("export"))
    (disk,) = done.export.disks
    assert (disk.parts, disk.parts_kept) == (PARTS, STORED)
    counters = stage.aws.counters()
    assert counters["s3.parts"].get("repeated", 0) == 0
    assert counters["s3.parts"]["stored"] == PARTS - STORED
    assert stage.uploads() == []
    assert done.export.snapshot == done.snapshot.ref.moref
    stage.assert_objects_equal_source(done.export)


@pytest.mark.proof
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
    rule = stage.aws.rule(service="s3", operation="CompleteMultipartUpload", latency=HELD_S)
    process = one.start("export")
    wait_for(lambda: applied(stage, rule), "the completion")
    one.kill(process)
    stage.clear_rules()
    wait_for(lambda: [key for key in objects(stage) if key.endswith(".vmdk")], "the object")
    stage.vc.reset_counters()
    stage.aws.control("DELETE", "counters")
    done.export = ExportResult.load(one.result("export"))
    assert "s3.UploadPart" not in stage.aws.counters()
    assert "ExportSnapshot" not in stage.vc.counters()["methods"], "the source was read again"
    stage.assert_objects_equal_source(done.export)


def test_inv_4_snapshot_killed_in_the_making_is_found(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    stage.vc.rule(kind="task", method="CreateSnapshot_Task", delay=TASK_S)
    process = one.start("snapshot")
    wait_for(lambda: stage.vc.counters()["methods"].get("CreateSnapshot_Task"), "the call")
    one.kill(process)
    assert snapshots_of(stage, "web01") == []
    stage.clear_rules()
    taken = TakenSnapshot.load(one.result("snapshot"))
    assert snapshots_of(stage, "web01") == [taken.ref.moref]
    assert stage.vc.counters()["methods"]["CreateSnapshot_Task"] == 1


def test_inv_4_removal_killed_in_the_middle_leaves_nothing(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    stage.vc.rule(kind="task", method="RemoveSnapshot_Task", delay=TASK_S)
    process = one.start("remove")
    wait_for(lambda: stage.vc.counters()["methods"].get("RemoveSnapshot_Task"), "the call")
    one.kill(process)
    stage.clear_rules()
    one.result("remove")
    assert snapshots_of(stage, "web01") == []
    assert stage.vc.counters()["methods"]["RemoveSnapshot_Task"] == 1


def test_verify_killed_in_the_middle_reads_again(stage: Stage, tries: Callable[..., Tries]) -> None:
    one = tries("web01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    done.export = one.journey.step("export", lambda: one.journey.export(one.task))
    rule = stage.aws.rule(service="s3", operation="GetObject", key="*.vmdk", latency=HELD_S, count=1)
    process = one.start("verify")
    wait_for(lambda: applied(stage, rule), "the read")
    one.kill(process)
    stage.clear_rules()
    assert one.result("verify")["mismatches"] == 0


def imported(stage: Stage, one: Tries) -> ImportResult:
    """The end of the only import that there is."""
    wait_for(lambda: stage.aws.state()["images"] and not stage.aws.state()["import_tasks"], "the import's end")
    answer = one.result("import") or one.result("import")  # the first may have to find the task by its token
    found = ImportResult.load(answer)
    assert stage.aws.state()["images"] == [found.image_id]
    return found


@pytest.mark.parametrize("phase", ["import", pytest.param("launch", marks=pytest.mark.proof)])
def test_inv_5_what_was_asked_of_ec2_is_never_made_twice(stage: Stage, tries: Callable[..., Tries], phase: str) -> None:
    """Killed after EC2 took the request and before its answer came."""
    one = tries("web01")
    journey, done = one.journey, one.journey.outcome
    done.snapshot = journey.step("snapshot", lambda: journey.take_snapshot(one.task))
    done.export = journey.step("export", lambda: journey.export(one.task))
    journey.remove(one.task)
    done.verified = journey.step("verify", lambda: journey.verify(one.task))
    if phase == "launch":
        done.image = journey.step("import", lambda: journey.compare(one.task, journey.import_image(one.task)))
    operation = {"import": "ImportImage", "launch": "RunInstances"}[phase]
    rule = stage.aws.rule(service="ec2", operation=operation, latency=HELD_S, count=1)
    process = one.start(phase)
    wait_for(lambda: applied(stage, rule), operation)
    one.kill(process)
    stage.clear_rules()
    if phase == "import":
        done.image = imported(stage, one)
    else:
        first = one.result("launch")["instance_id"]
        assert stage.aws.state()["instances"] == [first]


@pytest.mark.proof
def test_two_tries_at_once_of_an_export(stage: Stage, tries: Callable[..., Tries]) -> None:
    """A cleared task whose old try still runs: the old one is fenced, stops at once and cleans up nothing."""
    one = tries("big01")
    done = one.journey.outcome
    done.snapshot = one.journey.step("snapshot", lambda: one.journey.take_snapshot(one.task))
    stage.aws.rule(service="s3", operation="UploadPart", skip=2, latency=HELD_S)
    old = one.start("export")
    wait_for(lambda: parts_stored(stage) == 2, "two parts of the old try")
    new = one.start("export")
    wait_for(lambda: one.owner("export") == 2, "the new try's claim")
    stage.clear_rules()
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
    rule = stage.aws.rule(service="ec2", operation="ImportImage", latency=HELD_S, count=1)
    old = one.start("import")
    wait_for(lambda: applied(stage, rule), "ImportImage")
    new = one.start("import")
    one.finish(new)
    stage.clear_rules()
    one.finish(old)
    done.image = imported(stage, one)
