"""What a cancel, a clear and the upkeep mean to a run that exports an instance, in this process (VIE-06)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.airflow.exporting import (
    DAG,
    FILE,
    OUT,
    Machine,
    assert_nothing_left,
    assert_only_result,
    bucket_of,
    environments,
    forget,
    known,
    machine,
)
from tests.airflow.inprocess import Done, Lab, before
from tests.contexts import HandClock, run_context
from tests.ledgers import within

from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.operators.control.export import RecordExportOperator
from wavelift.rules.conf import ExportConf
from wavelift.rules.instance_export import ExportState
from wavelift.services.instance_export import requests
from wavelift.services.instance_export.opening import TOO_LATE
from wavelift.specs import exporting_environment

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def out(lab: Lab) -> Iterator[Lab]:
    """The bucket may be there: the mode that makes it is tested elsewhere."""
    own = bucket_of(lab) not in lab.aws.state()["buckets"]
    if own:
        lab.aws.export_bucket(bucket_of(lab))
    with environments(lab, OUT):
        yield lab
    if own:
        lab.aws.client("s3").delete_bucket(Bucket=bucket_of(lab))


@pytest.fixture
def server(request: pytest.FixtureRequest, out: Lab) -> Iterator[Machine]:
    with machine(out, request.node.name, disks=2) as made:
        yield made


def of(done: Done) -> InstanceExport:
    found = known(done.lab, done.run_id, done.dag_id)
    assert found is not None
    return found


def test_vie_06_cancelled_before_its_object_is_recorded_it_leaves_nothing_and_completes_when_it_is_cleared(
    out: Lab, server: Machine
) -> None:
    asked: list[InstanceExport] = []

    def cancel() -> None:
        [open] = within(out.ledger.read(), exports.everything_open)
        if not asked:
            asked.append(requests.cancel(out.ledger, open.id, by="ben", clock=SystemClock(), over=False))

    with before(RecordExportOperator, cancel):
        done = out.run(DAG, {"instance": server.id, "mode": "export"}, file=FILE).ends("failed")
    found = of(done)
    assert (found.state, done.report()["error"]) == (ExportState.CANCELLED, "cancelled on request")
    assert done.report()["removed"]
    assert_nothing_left(out, found.id)
    again = out.clear(done, "admit").ends("success")
    found = of(again)
    assert (found.state, (found.made or {})["attempt"]) == (ExportState.COMPLETED, 2)
    assert_only_result(out, found)
    once_more = out.clear(again, "admit").ends("success")
    assert (once_more.states()["begin"], of(once_more).made) == ("skipped", found.made), "nothing is left to do"
    forget(out, found.id)


def test_what_is_no_instance_and_what_nobody_knows_is_refused_in_words(out: Lab) -> None:
    done = out.run(DAG, {"instance": "web01"}, file=FILE).ends("failed")
    assert "web01" in done.words("admit")
    assert "web01" in done.report()["stopped"]
    done = out.run(DAG, {"instance": "i-0123456789abcdef0"}, file=FILE).ends("failed")
    assert "i-0123456789abcdef0" in done.words("check")
    assert of(done).state is ExportState.FAILED


def test_vie_06_the_upkeep_ends_an_export_whose_run_never_came(out: Lab) -> None:
    ctx = run_context(DagRun(DAG, "nobody_made_it"), requester="admin", clock=HandClock())  # long ago
    where = exporting_environment(OUT, out.dags / "environments")
    reserved = requests.reserve(out.ledger, where, ExportConf(instance="i-0123456789abcdef7"), ctx)
    assert reserved is not None
    done = out.run("cutover_upkeep", file="catalog.py").ends("success")
    [line] = done.xcom("exports")["ended"]
    assert reserved.id in line
    ended = within(out.ledger.read(), exports.get, reserved.id)
    assert (ended.state, ended.error) == (ExportState.FAILED, TOO_LATE)
