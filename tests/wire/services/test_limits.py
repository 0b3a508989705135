"""The limits of a transfer: memory and rate; and no secret in its output."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import context_of

from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.vsphere.session import connect
from wavelift.base.run import CancelFlag, MemoryCheckpoints
from wavelift.base.units import GIB, MBIT, MIB
from wavelift.services.dataplane.messages import Admitted
from wavelift.services.dataplane.preflight import Sides, run_preflight
from wavelift.services.dataplane.snapshot import take_snapshot
from wavelift.services.dataplane.snapshot_removal import remove_snapshot
from wavelift.simulators import vcenter
from wavelift.simulators.vcenter import SimDisk, SimHost, SimVm
from wavelift.transfer.throttle import Throttle

from .journey import Journey, Outcome, Stage

pytestmark = pytest.mark.wire

ROOT = Path(__file__).parents[3]
WORKER = (sys.executable, "-m", "tests.wire.services.phase_worker")
MEMORY_LIMIT = 160 * MIB
"""Issue 2: what an export may add to an idle task process."""


# --- memory ---------------------------------------------------------------------------------------------------------


def test_an_export_of_8_gib_adds_less_than_160_mib(stage: Stage, tmp_path: Path) -> None:
    raw = tmp_path / "wide01.raw"
    with raw.open("wb") as out:
        out.truncate(8 * GIB)
        for offset in (0, 3 * GIB, 8 * GIB - 24 * MIB):
            out.seek(offset)
            out.write(hashlib.shake_128(str(offset).encode()).digest(24 * MIB))
    key = "lab.migrate/memory/wide01"
    with vcenter.start(tmp_path / "state", [SimVm("wide01", [SimDisk(raw)], guest_id="debian12_64Guest")]) as sim:
        config = stage.config(host=sim.host, port=sim.port, ca_bundle=str(sim.ca_file), password=sim.password)
        wave = stage.wave("wide01", defaults={"launch": "none"})
        admitted = Admitted(wave=wave, mode="migrate", dag_id="d", run_id="r", requested_by="tester")
        sides = Sides(lambda: connect(config), stage.access)
        (task,) = run_preflight(sides, admitted, context_of("d/r/*")).believed().passed
        with connect(config) as session:
            taken = take_snapshot(session, task, context_of(key))
            order = {
                "phase": "export",
                "task": task.dump(),
                "run_key": key,
                "store": str(tmp_path / "export.json"),
                "snapshot": taken.dump(),
                "vsphere": {
                    name: getattr(config, name) for name in ("host", "port", "username", "password", "ca_bundle")
                },
                "keys": {"aws_access_key_id": stage.aws.access_key, "aws_secret_access_key": stage.aws.secret_key},
                "aws": {"region": stage.aws.region, "endpoint_url": stage.aws.endpoint_url, "verify": stage.aws.verify},
            }
            done = subprocess.run(
                WORKER, cwd=ROOT, input=json.dumps(order), capture_output=True, text=True, timeout=200
            )
            answer = json.loads(done.stdout)
            remove_snapshot(session, stage.access, task, context_of(key))
    assert "result" in answer, answer
    (disk,) = answer["result"]["disks"]
    client = stage.aws.client("s3")
    for name in ("object_key", "manifest_key"):
        client.delete_object(Bucket=disk["bucket"], Key=disk[name])
    assert disk["data_bytes"] == 72 * MIB
    added = answer["most"] - answer["idle"]
    print(f"added {added / MIB:.0f} MiB")
    assert added < MEMORY_LIMIT, f"{added / MIB:.0f} MiB"


# --- the line -------------------------------------------------------------------------------------------------------


def test_max_mbit_s_is_kept(stage: Stage) -> None:
    rate = 16
    journey = stage.journey("web01", max_mbit_s=rate)
    journey.until = "verify"
    done = journey.run()
    assert done.error is None
    assert done.export is not None
    (disk,) = done.export.disks
    due = disk.object_bytes / (rate * MBIT)
    assert due > 2
    assert due - 0.5 < disk.seconds < due + 60, "neither faster, nor held up for ever"


class Counting(Throttle):
    """Counts what passes and holds nothing up."""

    def __init__(self) -> None:
        super().__init__(None)
        self.passed = 0

    def take(self, count: int, cancel: CancelFlag) -> None:
        self.passed += count


def test_the_line_is_paced_by_what_goes_over_it(stage: Stage) -> None:
    """A part that S3 has costs nothing, one that is sent again costs twice."""
    parts = [hashlib.shake_128(bytes([number])).digest(5 * MIB) for number in range(2)]
    staging = S3Staging(stage.access(), stage.account.bucket)

    def upload(previous: str | None, contents: list[bytes]) -> tuple[Any, int]:
        line = Counting()
        sink = staging.multipart("paced", metadata={}, previous_upload_id=previous, throttle=line)
        for number, content in enumerate(contents, start=1):
            sink.put_part(number, content, hashlib.sha256(content).digest())
        return sink, line.passed

    first, passed = upload(None, parts)
    assert passed == 10 * MIB
    stage.aws.rule(service="s3", operation="UploadPart", status=500, count=1)
    second, passed = upload(first.upload_id, [parts[0], parts[0]])
    assert second.parts_kept == 1
    assert passed == 10 * MIB
    second.abort()
    staging.close()


# --- secrets --------------------------------------------------------------------------------------------------------


class Listening(MemoryCheckpoints):
    """Keeps every value that was ever stored."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def set(self, key: str, value: Any) -> None:
        self.heard.append(json.loads(json.dumps(value)))
        super().set(key, value)


class Listeners(dict[tuple[str, str], Any]):
    """A journey's stores, each of which listens."""

    def setdefault(self, key: tuple[str, str], default: Any = None) -> Any:
        return super().setdefault(key, Listening())


def _said(done: Outcome) -> Iterator[str]:
    for error in done.errors:
        seen: BaseException | None = error
        while seen is not None:
            yield str(seen)
            yield repr(seen)
            seen = seen.__cause__ or seen.__context__
    for message in (done.preflight, done.snapshot, done.export, done.verified, done.image, done.launched, done.report):
        yield json.dumps(message.dump()) if message is not None else ""
    yield repr(done.migration)


TROUBLE: dict[str, Any] = {
    "none": lambda journey: None,
    "password": lambda journey: journey.stage.session_options.update(password="wrong-pw-99"),
    "cut": lambda journey: journey.stage.vc.rule(kind="nfc", action="cut", bytes=MIB, times=0),
    "part": lambda journey: journey.stage.aws.rule(service="s3", operation="UploadPart", status=500),
    "import": lambda journey: journey.stage.aws.rule(service="ec2", operation="ImportImage", code="X", status=400),
}
SAMPLE = ("none", "part")
"""The others are for ``make proof``."""


@pytest.mark.parametrize(
    "trouble", [each if each in SAMPLE else pytest.param(each, marks=pytest.mark.proof) for each in TROUBLE]
)
def test_inv_10_no_secret_leaves_in_logs_errors_or_checkpoints(
    stage: Stage, trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="wavelift")
    journey = stage.journey("web01")
    journey.stores = Listeners()
    TROUBLE[trouble](journey)
    done = _without_children(journey, monkeypatch)
    assert (done.error is None) == (trouble == "none")
    heard = [json.dumps(value) for store in journey.stores.values() for value in store.heard]
    assert heard or trouble == "password"
    text = "\n".join([caplog.text, *_said(done), *heard])
    secrets = [stage.vc.password, "wrong-pw-99", stage.aws.secret_key, *stage.cookies]
    assert len(secrets) > 4 or trouble == "password"
    assert [secret for secret in secrets if secret in text] == []
    assert not re.search(r"vmware_soap_session|X-Amz-Signature|Signature=|AWS4-HMAC", text)


def _without_children(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Services start no process, so none of theirs can carry a secret in its arguments."""

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError(f"a process is started: {args}")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        return journey.run()


# --- hosts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "mode", "words"),
    [
        (SimHost(certificate="expired"), "ca", "expired"),
        (SimHost(certificate="wrong_name"), "ca", "host name"),
        (SimHost(certificate="self_signed"), "ca", "not trusted"),
        (SimHost(thumbprint="AB:" * 19 + "AB"), "vcenter", "pinned"),
        (SimHost(connection="notResponding"), "vcenter", "notResponding"),
    ],
    ids=["expired", "wrong-name", "self-signed", "other-thumbprint", "not-responding"],
)
def test_sms_16_a_host_that_cannot_be_trusted_is_found_before_anything_is_made(
    stage: Stage, tmp_path: Path, host: SimHost, mode: str, words: str
) -> None:
    with vcenter.start(tmp_path / "vc", [SimVm("web01", [SimDisk(capacity=MIB)])], hosts=[host]) as sim:
        stage.session_options.update(
            host=sim.host, port=sim.port, ca_bundle=str(sim.ca_file), password=sim.password, esxi_mode=mode
        )
        journey = stage.journey("web01")
        done = journey.run()
        assert done.phase == "preflight"
        assert "CreateSnapshot_Task" not in sim.counters()["methods"]
        stage.session_options.clear()
    (finding,) = [one for one in done.findings if one.code.startswith("host.")]
    assert finding.subject.split("/")[0] == "web01"
    assert words in finding.what
    assert finding.next_action
