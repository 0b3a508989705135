"""Grants in a run (AMP-03): a connector's task does nothing that was not granted to it, whatever its XComs say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.ledgers import within

from wavelift.airflow.hooks.vsphere import VsphereHook
from wavelift.base.errors import UnreachableError
from wavelift.ledger import events
from wavelift.operators import hcx
from wavelift.operators.connector import (
    cutover,
    cutover_back,
    export,
    inventory,
    live,
    preflight,
    replication,
    snapshot,
)
from wavelift.operators.connector._plane import NEEDS, ConnectorOperator
from wavelift.services.common import grant_keys
from wavelift.services.common.grant_keys import KeyFiles
from wavelift.services.dataplane import transfer
from wavelift.services.dataplane.messages import ServerTask

pytestmark = pytest.mark.airflow

GRANTED: Final = ("granted-a", "granted-b", "granted-c")


@pytest.fixture(scope="module")
def first(lab: Lab) -> Done:
    """An earlier run of the wave, whose grants are of no use to another. While its export ran, the key was rotated."""
    keys = lab.home / "wavelift" / "grants"
    files, tries = KeyFiles(keys / "private.pem", keys / "public"), list[str]()
    real = transfer.export_server

    def cut_once(*given: Any) -> Any:
        tries.append("")
        if len(tries) == 1:
            grant_keys.rotate(files, now=datetime.now(UTC))
            raise UnreachableError("the line was cut")
        return real(*given)

    with patch.object(transfer, "export_server", cut_once):
        run = lab.run("granted.migrate", {"servers": ["granted-a"]})
    assert len(tries) == 2
    assert len(grant_keys.known_keys(files)) == 2
    return run


@pytest.mark.proof
def test_a_key_that_is_rotated_between_reserve_and_a_retry_stops_no_server(first: Done) -> None:
    first.ends("success")
    assert first.row("export", 0)["try_number"] == 2


@pytest.fixture(scope="module")
def done(lab: Lab, first: Done) -> Done:
    """A run of the wave that went well."""
    return lab.run("granted.migrate").ends("success")


@contextmanager
def counted_sessions() -> Iterator[list[str]]:
    """The connections whose vCenter is opened."""
    opened: list[str] = []
    real = VsphereHook.session

    def session(self: VsphereHook, *given: Any, **more: Any) -> Any:
        opened.append(self.vsphere_conn_id)
        return real(self, *given, **more)

    with patch.object(VsphereHook, "session", session):
        yield opened


def token_of(run: Done, index: int) -> str:
    return str(run.xcom("reserve", index=index)["token"])


def refused(lab: Lab, run: Done) -> list[dict[str, Any]]:
    """The refusals that the audit trail has of a run."""
    id = f"{run.dag_id}/{run.run_id}"
    told = within(lab.ledger.read(), events.list_events, object_kind="wave_run", object_id=id)
    return [dict(each.details) for each in told if each.action == "authority.refused"]


def test_a_grant_is_masked_wherever_a_person_reads_fields_and_is_not_in_the_ledger(lab: Lab, done: Done) -> None:
    look = done.xcom("admit")["token"]
    tokens = [look, *(token_of(done, index) for index in range(len(GRANTED)))]
    assert all(token.count(".") == 2 for token in tokens)
    assert len(set(tokens)) == len(tokens)
    shown = json.dumps(done.rendered("preflight"))
    assert "***" in shown
    assert not [token for token in tokens if token in shown or token[:40] in shown]
    kept = json.dumps([within(lab.ledger.read(), events.list_events, limit=1_000_000)], default=str)
    assert not [token for token in tokens if token in kept]
    database = lab.ledger_url.removeprefix("sqlite:///")
    held = Path(database).read_bytes()
    assert not [token for token in tokens if token.encode() in held]


@pytest.mark.proof
def test_what_was_granted_to_another_run_or_server_or_for_another_plan_is_refused(
    lab: Lab, first: Done, done: Done
) -> None:
    """XComs are edited between tasks, and each server's snapshot is cleared alone: none opens a vCenter."""
    a, b, c = (done.index(name) for name in GRANTED)
    before = {name: len(lab.snapshots_taken(name)) for name in GRANTED}
    kept = {index: done.xcom("reserve", index=index) for index in (a, b)}
    plans = {c: done.xcom("preflight", key=f"server_{c}")}
    done.edit("reserve", kept[a] | {"token": token_of(first, 0)}, index=a)
    done.edit("reserve", kept[b] | {"token": token_of(done, c)}, index=b)
    edited = json.loads(json.dumps(plans[c]))
    edited["plan"]["quiesce"] = "never"  # not the bucket: the removal of the snapshot asks there
    done.edit("preflight", edited, key=f"server_{c}")
    with counted_sessions() as opened:
        again = lab.clear(done, *(("server.snapshot", index) for index in (a, b, c))).ends("failed")
    for index, field in ((a, "run_id"), (b, "server"), (c, "plan")):
        assert again.row("snapshot", index)["state"] == "failed"
        words = again.words("snapshot", index)
        assert f"[link=grant_verified, field={field}" in words, words
        assert again.row("snapshot", index)["try_number"] == done.row("snapshot", index)["try_number"], "not retried"
    assert len(opened) == len(GRANTED), "only to look for snapshots that must go"
    assert {name: len(lab.snapshots_taken(name)) for name in GRANTED} == before
    told = {(one["server"], one["field"], one["link"], one["task"]) for one in refused(lab, again)}
    assert told == {
        ("granted-a", "run_id", "grant_verified", "server.snapshot"),
        ("granted-b", "server", "grant_verified", "server.snapshot"),
        ("granted-c", "plan", "grant_verified", "server.snapshot"),
    }
    count = len(refused(lab, again))
    lab.clear(again, "report")
    assert len(refused(lab, again)) == count, "a report that is written again tells nothing twice"
    for index, value in kept.items():
        done.edit("reserve", value, index=index)
    done.edit("preflight", plans[c], key=f"server_{c}")


@pytest.mark.proof
def test_another_vm_under_the_name_of_the_granted_one_is_met_in_vcenter_and_left_alone(lab: Lab, done: Done) -> None:
    """The object id is edited, not the identity: only the live VM can tell."""
    a, b = done.index("granted-a"), done.index("granted-b")
    kept = done.xcom("preflight", key=f"server_{a}")
    victim = done.xcom("preflight", key=f"server_{b}")["facts"]["moref"]
    edited = json.loads(json.dumps(kept))
    edited["facts"]["moref"] = victim
    done.edit("preflight", edited, key=f"server_{a}")
    before = len(lab.snapshots_taken("granted-b"))
    again = lab.clear(done, ("server.snapshot", a)).ends("failed")
    assert "field=vm" in again.words("snapshot", a)
    assert len(lab.snapshots_taken("granted-b")) == before
    done.edit("preflight", kept, key=f"server_{a}")


@pytest.mark.proof
def test_an_admission_that_was_edited_opens_no_vcenter(lab: Lab, done: Done) -> None:
    kept = done.xcom("admit")
    for change, field in (
        ({"token": ""}, "token"),
        ({"wave": kept["wave"] | {"connection": "vsphere_other"}}, "vcenter"),
        ({"wave": kept["wave"] | {"servers": kept["wave"]["servers"][:1]}}, "plan"),
    ):
        done.edit("admit", kept | change)
        with counted_sessions() as opened:
            again = lab.clear(done, "preflight").ends("failed")
        assert not opened
        assert f"field={field}" in again.words("preflight")
    done.edit("admit", kept)
    assert {"token", "vcenter", "plan"} <= {one["field"] for one in refused(lab, done)}


def test_who_may_not_export_a_vm_in_vcenter_gets_none_through_wavelift(lab: Lab) -> None:
    """``dag.test()`` triggers as ``dag_test``, whom the vCenter doesn't know under the name that the file says."""
    file = lab.dags / "environments" / "principals.yaml"
    kept = file.read_text()
    file.write_text("vcenter: {pattern: 'CORP\\{user}'}\n")
    try:
        run = lab.run("forbidden.migrate").ends("failed")
    finally:
        file.write_text(kept)
    (error,) = [one for one in run.xcom("preflight", key="report")["findings"] if one["severity"] == "error"]
    assert (error["code"], error["subject"]) == ("requester.unknown", "forbidden-a")
    assert "vCenter knows no user 'CORP\\dag_test'" in error["what"]
    (told,) = refused(lab, run)
    assert (told["link"], told["server"]) == ("requester_in_vcenter", "forbidden-a")


def test_an_operator_that_does_not_say_what_it_needs_is_no_operator() -> None:
    with pytest.raises(TypeError, match="needs_grant is one of look, move, stop, live, network, nothing"):

        class Forgot(ConnectorOperator):
            def work(self, context: Any) -> None: ...

    kinds = {
        kind
        for module in (cutover, cutover_back, export, hcx, inventory, live, preflight, replication, snapshot)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ConnectorOperator) and kind.__module__ == module.__name__
    } - {live.HcxConnectorOperator}
    assert all(kind.needs_grant in NEEDS for kind in kinds)
    assert {kind.__name__: kind.needs_grant for kind in kinds} == {
        "VmExportOperator": "move",
        "VmSnapshotOperator": "move",
        "ReplicationRunOperator": "move",
        "StopSourceOperator": "stop",
        "CutoverSnapshotOperator": "stop",
        "FinalRunOperator": "stop",
        "StartSourcesOperator": "stop",
        "FenceSourcesOperator": "stop",
        "GrantedSources": "stop",
        "LookAtSourcesOperator": "nothing",
        "PreflightOperator": "look",
        "ReplicationPreflightOperator": "look",
        "ServersPreflight": "look",
        "LiveOrderOperator": "live",
        "LivePreflightOperator": "look",
        "HcxValidateOperator": "live",
        "HcxMigrateOperator": "live",
        "LiveCancelOperator": "live",
        "LiveFollowNearOperator": "look",
        "VerifyingOperator": "look",
        "LiveVerifyDestinationOperator": "look",
        "LiveVerifySourceOperator": "look",
        "RemoveSnapshotOperator": "nothing",
        "CatalogInventoryOperator": "nothing",
        "ConnectorCheckOperator": "nothing",
    }


def test_a_vcenter_stays_shut_for_an_operator_that_verified_nothing() -> None:
    task = preflight.PreflightOperator(task_id="preflight", admitted={})
    with pytest.raises(Exception, match="No grant for this connection was verified"):
        task.vcenter("vsphere_demo")


def test_what_a_cutover_reads_of_a_source_needs_the_grant_to_stop_it() -> None:
    """And it counts only while the source is off, whatever came by XCom."""
    for kind in (cutover.StopSourceOperator, cutover.CutoverSnapshotOperator, cutover.FinalRunOperator):
        assert (kind.needs_grant, kind.grant_action) == ("stop", "cutover")
        given: dict[str, Any] = {name: {} for name in kind.template_fields}
        task = kind(task_id="task", **given)
        assert task.as_granted(ServerTask.model_construct(name="web01", final=False)).final
    assert cutover.CutoverSnapshotOperator(task_id="snapshot", server={}).replicates
