"""A server that pre-flight or ``reserve`` refused, in runs of this process: what is listed and told, how it goes on."""

from __future__ import annotations

from typing import Final

import pytest
from tests.airflow.inprocess import Done, Lab, before

from wavelift.base.run import SystemClock
from wavelift.ledger import connectors, servers
from wavelift.operators.control.slots import ReserveOperator

pytestmark = pytest.mark.airflow

WHY: Final = "the VM is poweredOn and the wave has 'source_power: require_off'"
CLOCK: Final = SystemClock()


def test_a_wave_with_a_refused_server_and_the_run_that_the_report_asks_for(lab: Lab) -> None:
    run = lab.run("gated.migrate").ends("failed")
    old = run.migration("gated-c")
    assert {one["server"]: (one["state"], one["migration"]) for one in run.report()["outcomes"]} == {
        name: (state, run.migration(name).id)
        for name, state in (("gated-a", "completed"), ("gated-b", "completed"), ("gated-c", "refused"))
    }
    assert (old.state, old.error.startswith(WHY), old.server_id) == ("refused", True, None)
    said = run.words("report")
    assert said.splitlines()[0] == "1 of 3 servers did not get through"
    assert f"gated-c refused by the pre-flight: {WHY}" in said
    assert 'trigger gated.migrate again with servers: gated-c (as conf: {"servers": ["gated-c"]})' in said
    assert "server.reserve" not in said, "it has no such task"
    assert {row["rendered_map_index"] for row in run.rows() if row["map_index"] >= 0} == {"gated-a", "gated-b"}

    lab.vcenter.set_vm("gated-c", power="poweredOff")
    again = lab.run("gated.migrate", {"servers": ["gated-c"]}).ends("success")

    assert [(one["server"], one["state"]) for one in again.report()["outcomes"]] == [("gated-c", "completed")]
    assert again.migration("gated-c").state == "completed"
    assert run.migration("gated-c") == old, "what that run did is history"
    assert [len(lab.snapshots_taken(name)) for name in ("gated-a", "gated-b", "gated-c")] == [1, 1, 1]


@pytest.mark.proof
def test_amp_05_a_cleared_pre_flight_goes_on_under_the_same_id_once_the_maintenance_is_over(lab: Lab) -> None:
    """Refused by pre-flight; accepted, but the connector is in maintenance: it waits; then it goes through."""
    run = lab.run("shut.migrate").ends("failed")
    id = run.migration("shut-a").id
    assert "The pre-flight refused every server of this run" in run.words("report")
    assert run.migration("shut-a").state == "refused"

    lab.vcenter.set_vm("shut-a", power="poweredOff")
    _maintenance(lab, on=True)
    waits = "1st in line for connector shut, which is in maintenance: patching"

    waited = []

    def switch() -> None:
        waited.append(run.migration("shut-a").phase)
        assert not lab.snapshots_taken("shut-a")
        _maintenance(lab, on=False)

    with before(ReserveOperator, switch, method="wait_for_slot"):
        run = lab.clear(run, "preflight").ends("success")
    assert waited == [waits]
    assert _map_index(run) == 0
    known = run.migration("shut-a")
    assert (known.id, known.state, known.error) == (id, "completed", "")
    lab.assert_proven("shut-a", known.image_id)
    with lab.ledger.write(
        connectors.lock_name("shut"), servers.LOCK
    ) as tx:  # else the vCenter's catalogue stays its own
        connectors.disassociate(tx, "shut", used_by=lambda *_: (), by="ana", clock=CLOCK)


def _map_index(run: Done) -> int:
    return int(run.row("reserve", run.index("shut-a"))["map_index"])


def _maintenance(lab: Lab, *, on: bool) -> None:
    with lab.ledger.write(connectors.lock_name("shut")) as tx:
        said = connectors.Registration(connection="vsphere_demo", aws_conn_id="aws_demo", region="eu-central-1")
        connectors.register(tx, "shut", said, by="ana", clock=CLOCK)
        connectors.set_maintenance(tx, "shut", on=on, reason="patching", by="ana", clock=CLOCK)
