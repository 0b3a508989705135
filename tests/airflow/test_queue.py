"""Servers that wait for a slot, and what they keep of it, in runs of this process (AMP-03, AMP-04, SMS-10).

A right that is taken away meanwhile, and the slot of the account to the end of a migration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import pytest
import yaml
from tests.airflow.inprocess import Done, Lab
from tests.contexts import run_context
from tests.ledgers import within

from wavelift.base.names import run_key
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import Migration, connectors, events, migrations, servers, slots, waves
from wavelift.operators.connector.export import VmExportOperator
from wavelift.operators.connector.preflight import PreflightOperator
from wavelift.operators.control.image import ImportServerOperator
from wavelift.operators.control.launch import LaunchInstanceOperator
from wavelift.operators.control.slots import ReserveOperator
from wavelift.rules.flows import SlotKind
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.common.slots import SlotRequest, request_slots

pytestmark = pytest.mark.airflow

CLOCK: Final = SystemClock()
ONE: Final[dict[str, Any]] = {"AIRFLOW__WAVELIFT__MIGRATIONS_PER_ACCOUNT": "1"}
WAITS: Final = "1st in line for connector revoked, which is in maintenance: patching"


@contextmanager
def before(operator: Any, act: Callable[[], None], *, method: str = "work") -> Iterator[None]:
    """``act`` happens whenever a task of this operator begins, or comes to another of its methods."""
    real = getattr(operator, method)

    def acted(*given: Any, **more: Any) -> Any:
        act()
        return real(*given, **more)

    with patch.object(operator, method, acted):
        yield


# A right that is taken away while the server waits


@pytest.fixture
def grant(lab: Lab) -> Iterator[Callable[..., None]]:
    """Changes who may migrate into the environment of all waves; to nobody: back to those who might."""
    file = lab.dags / "environments" / "lab.yaml"
    kept = file.read_text()

    def change(*entries: str) -> None:
        may = {action: [*entries] for action in ("migrate", "administer")}  # who administers may migrate
        spec = yaml.safe_load(kept)
        file.write_text(yaml.safe_dump({**spec, "may": {**spec["may"], **may}}) if entries else kept)

    yield change
    change()


@pytest.fixture
def maintenance(lab: Lab) -> Iterator[Callable[[bool], None]]:
    """Switches the maintenance of the connector ``revoked``."""

    def switch(on: bool) -> None:
        with lab.ledger.write(connectors.lock_name("revoked")) as tx:
            said = connectors.Registration(connection="vsphere_demo", aws_conn_id="aws_demo", region="eu-central-1")
            connectors.register(tx, "revoked", said, by="ana", clock=CLOCK)
            connectors.set_maintenance(tx, "revoked", on=on, reason="patching", by="ana", clock=CLOCK)

    yield switch
    with lab.ledger.write(connectors.lock_name("revoked"), servers.LOCK) as tx:  # else its catalogue stays its own
        connectors.disassociate(tx, "revoked", used_by=lambda *_: (), by="ana", clock=CLOCK)


def migrations_of(lab: Lab, wave: str) -> tuple[Migration, ...]:
    which = migrations.MigrationFilter(wave=wave)
    return tuple(within(lab.ledger.read(), migrations.list_migrations, which).items)


def refusals(run: Done, server: str) -> list[dict[str, Any]]:
    id = run.migration(server).id
    told = within(run.lab.ledger.read(), events.list_events, object_kind="migration", object_id=id)
    return [dict(each.details) for each in told if each.action == "authority.refused"]


def test_amp_03_amp_05_a_right_that_is_revoked_while_the_server_waits_out_a_maintenance(
    lab: Lab, grant: Callable[..., None], maintenance: Callable[[bool], None]
) -> None:
    """Refused when it wakes, and again when it is cleared. Then the right is back, and it goes through."""

    phases: list[str] = []

    def revoke() -> None:
        phases.extend(row.phase for row in migrations_of(lab, "revoked"))
        grant("user:somebody-else")
        maintenance(False)

    # A run that is admitted before the maintenance begins meets it at its reservation.
    with (
        before(PreflightOperator, lambda: maintenance(True)),
        before(ReserveOperator, revoke, method="wait_for_slot"),
    ):
        run = lab.run("revoked.migrate").ends("failed")
    assert phases == [WAITS]
    index = run.index("revoked-a")
    assert run.row("reserve", index)["try_number"] == 1, "no retry can cure it"
    assert_refused(run, 1)
    again = lab.clear(run, ("server.reserve", index)).ends("failed")
    assert_refused(again, 2)
    grant()
    last = lab.clear(again, ("server.reserve", index)).ends("success")
    assert last.migration("revoked-a").state == "completed"
    assert within(lab.ledger.read(), waves.get, DagRun(run.dag_id, run.run_id)).state == "completed"
    assert len(lab.snapshots_taken("revoked-a")) == 1


def assert_refused(run: Done, times: int) -> None:
    """Told to the person and to the audit trail; nothing was touched, nothing is held, and the run is closed."""
    why = "'dag_test' may not migrate into environment 'lab'"
    assert why in run.words("reserve", run.index("revoked-a"))
    known = run.migration("revoked-a")
    assert (known.state, why in known.error) == ("failed", True), known
    assert why in run.words("report")
    told = refusals(run, "revoked-a")
    assert len(told) == times
    assert {(one["link"], one["server"], one["environment"]) for one in told} == {("environment", "revoked-a", "lab")}
    assert run.lab.snapshots_taken("revoked-a") == []
    assert within(run.lab.ledger.read(), slots.standing) == ()
    assert within(run.lab.ledger.read(), waves.get, DagRun(run.dag_id, run.run_id)).state == "failed"


# The slot of the account


def held(lab: Lab) -> set[SlotKind]:
    return {each.kind for each in within(lab.ledger.read(), slots.standing)}


def test_sms_10_the_account_s_slot_stays_until_the_migration_has_ended_whatever_its_end(lab: Lab) -> None:
    """One server at a time may be on its way into the account, and a DAG run that was deleted has left its slot."""
    account = lab.aws.client("sts").get_caller_identity()["Account"]
    deleted = DagRun("holding.migrate", "manual__deleted")
    left = SlotRequest(SlotKind.ACCOUNT, account, run_key(deleted.dag_id, deleted.dag_run_id, "holding-z"), 1)
    request_slots(lab.ledger, [left], run_context(deleted, clock=CLOCK))
    seen: list[set[SlotKind]] = []

    def look() -> None:
        seen.append(held(lab))

    with before(VmExportOperator, look), before(ImportServerOperator, look), before(LaunchInstanceOperator, look):
        run = lab.run("holding.migrate", None, **ONE).ends("success")
    assert {SlotKind.ACCOUNT, SlotKind.DATASTORE, SlotKind.TRANSFER} <= seen[0]
    assert all(SlotKind.ACCOUNT in kinds for kinds in seen)
    assert seen[-1] == {SlotKind.ACCOUNT}, "at the launch"
    assert held(lab) == set()
    lab.clear(run, "report").ends("success")
    assert held(lab) == set()

    def cancel() -> None:
        assert SlotKind.ACCOUNT in held(lab)
        (known,) = [row for row in migrations_of(lab, "holding") if not row.state.terminal]
        with lab.ledger.write() as tx:
            migrations.request_cancel(tx, known.id, by="bob", clock=CLOCK)

    with before(ImportServerOperator, cancel):
        run = lab.run("holding.migrate", None, **ONE).ends("failed")
    known = run.migration("holding-a")
    assert (known.state, known.error) == ("cancelled", CANCELLED)
    assert held(lab) == set()
