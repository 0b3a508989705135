"""Exports of instances by the DAG ``instance_export.<environment>``, run in this process: each method, each mode, and
what goes wrong (AMP-10, VIE-01 to VIE-06). What needs a scheduler is in ``test_export_world.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from tests.airflow.exporting import (
    DAG,
    FILE,
    OUT,
    Machine,
    Ova,
    assert_nothing_left,
    assert_only_result,
    bucket_of,
    forget,
    keys,
    known,
    lay_out_exports,
    left_of,
    let_role_write,
    machine,
    rows,
)
from tests.airflow.inprocess import Done, Lab, before

from wavelift.ledger.export_records import InstanceExport
from wavelift.operators.connector.export_instance import ReadInstanceOperator
from wavelift.operators.control.export import BeginExportOperator
from wavelift.rules.export_shape import ExportShape
from wavelift.rules.instance_export import ExportState

pytestmark = pytest.mark.airflow

CLOSED: Final = "closed"
"""An environment that another person administers."""


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """A retry of these DAGs waits a second, and not half a minute."""
    real = ExportShape.of
    with patch.object(ExportShape, "of", lambda environment: replace(real(environment), retry_delay_s=1)):
        yield


@pytest.fixture(scope="module")
def out(lab: Lab) -> Iterator[Lab]:
    """The bucket is made by the mode that is for that."""
    assert bucket_of(lab) not in lab.aws.state()["buckets"]
    done = lab.run(DAG, {"mode": "setup"}, file=FILE).ends("success")
    assert any(bucket_of(lab) in line for line in done.report()["changed"]), done.report()
    let_role_write(lab)
    yield lab
    forget(lab, *(one.id for one in rows(lab)))
    assert keys(lab) == [], "an object that no export of the ledger names"


@pytest.fixture
def server(request: pytest.FixtureRequest, out: Lab) -> Iterator[Machine]:
    with machine(out, request.node.name) as made:
        yield made


def export(lab: Lab, subject: Machine | str, **conf: Any) -> Done:
    return lab.run(DAG, {"instance": subject if isinstance(subject, str) else subject.id, **conf}, file=FILE)


def of(done: Done) -> InstanceExport:
    found = known(done.lab, done.run_id, done.dag_id)
    assert found is not None
    return found


def completed(done: Done) -> InstanceExport:
    """The run succeeded, its object stands, and nothing beside it."""
    done.ends("success")
    found, report = of(done), done.report()
    assert found.state == ExportState.COMPLETED
    assert (report["state"], report["key"], report["bucket"]) == ("completed", found.object_key, bucket_of(done.lab))
    assert report["object_bytes"] == found.object_bytes
    assert_only_result(done.lab, found)
    return found


def test_vie_02_setup_again_changes_nothing(out: Lab) -> None:
    held = out.aws.state()["buckets"][bucket_of(out)]
    done = out.run(DAG, {"mode": "setup"}, file=FILE).ends("success")
    assert done.report()["changed"] == []
    assert out.aws.state()["buckets"][bucket_of(out)] == held
    assert held["access"]["ownership"] == "BucketOwnerPreferred"
    assert all(held["access"]["public_access_block"].values())


def test_vie_01_aws_exports_an_instance_under_a_key_of_its_own_making(
    out: Lab, server: Machine, tmp_path: Path
) -> None:
    done = export(out, server, method="instance", may_reboot=True, prefix="by-aws/")
    found = completed(done)
    assert found.object_key == f"{OUT}/by-aws/{found.task_id}.ova"
    assert found.task_id.startswith("export-i-")
    assert done.report()["method"] == "instance"
    assert {row["task_id"]: row["state"] for row in done.rows()}["read"] == "skipped"
    (kept,) = [one for one in out.aws.evidence()["exports"] if one["task"] == found.task_id]
    assert Path(kept["raw"]).read_bytes() == server.raw(0, tmp_path).read_bytes()


def test_amp_10_an_image_is_exported_and_removed(out: Lab, server: Machine) -> None:
    done = export(out, server, method="image")
    found = completed(done)
    assert found.object_key == f"{OUT}/{found.task_id}.vmdk"
    assert found.task_id.startswith("export-ami-")
    removed = " ".join(done.report()["removed"])
    assert "image ami-" in removed
    assert "snapshot snap-" in removed
    assert server.state()["reboots"] == 0, "nobody said that it may be restarted"


def test_amp_10_auto_takes_the_method_that_nothing_forbids_and_says_why(out: Lab, tmp_path: Path) -> None:
    with machine(out, "auto", disks=2) as server:
        done = export(out, server)
        found = completed(done)
        assert done.report()["method"] == "direct"
        assert "2 disks" in done.report()["why"]
        assert found.object_key == f"{OUT}/{found.id}.ova"
        ova = Ova.fetch(out, found.object_key, tmp_path)
        ova.assert_holds([server.raw(disk, tmp_path) for disk in range(2)])


def test_vie_03_a_check_tells_what_forbids_the_export_and_makes_nothing(out: Lab, server: Machine) -> None:
    before = out.aws.state()
    done = export(out, server, mode="check", method="instance").ends("failed")
    found = {one["code"]: one for one in done.report()["findings"]}
    assert found["export.reboot"]["severity"] == "error"
    assert found["export.reboot"]["next_action"]
    assert known(out, done.run_id) is None, "a check opens no export"
    done = export(out, server, mode="check").ends("success")
    assert done.report()["method"] == "image", "the first that no error forbids"
    assert out.aws.state() == before


def test_amp_10_without_exports_in_its_file_an_environment_has_no_such_dag(lab: Lab) -> None:
    from airflow.dag_processing.dagbag import DagBag

    with lab.environment():
        found = DagBag(dag_folder=lab.dags / FILE)
    assert (list(found.dags), found.import_errors) == ([DAG], {})


def test_amp_10_who_is_not_listed_is_refused_before_anything_is_made(out: Lab, server: Machine) -> None:
    others = {"migrate": ["user:dag_test"], "cut_over": ["user:dag_test"], "administer": ["user:boss"]}
    lay_out_exports(out.dags, out.stage, CLOSED, may=others)
    before = out.aws.state()
    try:
        for conf in ({"instance": server.id}, {"instance": server.id, "mode": "check"}, {"mode": "setup"}):
            done = out.run(f"instance_export.{CLOSED}", conf, file=FILE).ends("failed")
            assert "may not administer" in done.words("admit"), done.words("admit")
            assert known(out, done.run_id, done.dag_id) is None
    finally:
        (out.dags / "environments" / f"{CLOSED}.yaml").unlink()
    assert out.aws.state() == before


def test_vie_05_a_task_that_somebody_cancelled_in_the_console_is_a_failure_in_aws_s_words(
    out: Lab, server: Machine
) -> None:
    rule = out.aws.rule(kind="export", key=server.id, outcome="stuck", count=1)
    ec2, cancelled = out.aws.client("ec2"), []

    def cancel() -> None:
        cancelled.append(_tasks(out, server)[0]["ExportTaskId"])
        ec2.cancel_export_task(ExportTaskId=cancelled[0])

    with before(BeginExportOperator, cancel, method="wait_for_aws"):
        done = export(out, server, method="instance", may_reboot=True).ends("failed")
    out.aws.clear_rules(rule)
    assert of(done).state == ExportState.FAILED
    (told,) = [one["StatusMessage"] for one in _tasks(out, server, cancelled[0])]
    assert told in of(done).error
    assert_nothing_left(out, of(done).id)


def test_vie_04_an_answer_that_is_lost_makes_no_second_task(out: Lab, server: Machine) -> None:
    rule = out.aws.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0, count=1)
    before_ids = {one["ExportTaskId"] for one in _tasks(out)}
    done = export(out, server, method="instance", may_reboot=True)
    out.aws.clear_rules(rule)
    found = completed(done)
    assert {one["ExportTaskId"] for one in _tasks(out)} - before_ids == {found.task_id}


def test_vie_06_a_run_that_failed_leaves_nothing_and_completes_when_it_is_cleared(out: Lab, server: Machine) -> None:
    words = "ClientError: No valid partitions"
    rule = out.aws.rule(kind="export", key=server.id, message=words, count=1)
    done = export(out, server, method="instance", may_reboot=True).ends("failed")
    out.aws.clear_rules(rule)
    first = of(done)
    assert (first.state, words in first.error) == (ExportState.FAILED, True), first.error
    assert_nothing_left(out, first.id)
    again = completed(out.clear(done, "admit"))
    assert (again.id, again.made["attempt"]) == (first.id, 2)  # type: ignore[index]
    assert again.task_id != first.task_id
    calls = out.aws.counters()["ec2.CreateInstanceExportTask"]["calls"]
    third = completed(out.clear(done, "admit"))
    assert third == again, "nothing is done again"
    assert out.aws.counters()["ec2.CreateInstanceExportTask"]["calls"] == calls


def test_vie_06_a_read_that_finds_its_snapshot_gone_leaves_nothing(out: Lab, server: Machine) -> None:
    ec2 = out.aws.client("ec2")

    def delete() -> None:
        for one in ec2.describe_snapshots(Filters=[{"Name": "volume-id", "Values": [*server.volumes]}])["Snapshots"]:
            ec2.delete_snapshot(SnapshotId=one["SnapshotId"])

    with before(ReadInstanceOperator, delete):
        done = export(out, server, method="direct").ends("failed")
    assert "gone" in of(done).error
    assert left_of(out, [of(done).id]) == []
    again = completed(out.clear(done, "admit"))
    assert again.made["attempt"] == 2  # type: ignore[index]


def test_amp_10_two_runs_for_one_instance_the_second_is_refused(out: Lab, server: Machine) -> None:
    second: list[Done] = []

    def ask() -> None:
        if not second:
            second.append(export(out, server, method="image").ends("failed"))

    with before(BeginExportOperator, ask):
        first = export(out, server, method="direct")
    found = completed(first)
    assert found.id in second[0].words("admit")
    assert known(out, second[0].run_id) is None


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"instance": "i-0123456789abcdef0"}, "i-0123456789abcdef0"),
        ({"instance": "mig-0123456789ab"}, "mig-0123456789ab"),
        ({"instance": "", "mode": "export"}, "instance"),
        ({"instance": "i-0123456789abcdef0", "prefix": "../x/"}, "prefix"),
        ({"instance": "i-0123456789abcdef0", "target": "citrix", "format": "ova"}, "format"),
    ],
)
def test_vie_03_bad_input_is_refused_in_one_line(out: Lab, conf: dict[str, Any], words: str) -> None:
    before = out.aws.state()
    done = out.run(DAG, conf, file=FILE).ends("failed")
    told = done.words("admit") or done.words("check")
    assert words in told
    assert "\n" not in told.strip()
    assert out.aws.state() == before


def _tasks(lab: Lab, server: Machine | None = None, id: str = "") -> list[dict[str, Any]]:
    """Export tasks of instances; AWS forgets of a cancelled one which instance it was."""
    found = lab.aws.client("ec2").describe_export_tasks()["ExportTasks"]
    if id:
        return [one for one in found if one["ExportTaskId"] == id]
    return [one for one in found if server is None or one["InstanceExportDetails"].get("InstanceId") == server.id]
