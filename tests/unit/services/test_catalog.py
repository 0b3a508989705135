"""Catalogue and connectors on the control plane: conf, merging, maintenance, what uses a connector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import fresh_ledger, within

from wavelift.base.catalog import CatalogIndex, CatalogManager, CatalogRow
from wavelift.base.errors import PermanentError, SpecError
from wavelift.base.run import DagRun, SystemClock
from wavelift.ledger import (
    CatalogState,
    Ledger,
    Migration,
    SourceServer,
    catalog,
    connectors,
    migrations,
    servers,
    waves,
)
from wavelift.services.housekeeping import catalog as service
from wavelift.services.housekeeping.catalog import ImportTicket
from wavelift.services.migration.begin import NewMigration, begin_migration

pytestmark = pytest.mark.unit

CLOCK = SystemClock()
RUN = DagRun("server_catalog", "manual__1")
MANAGER = CatalogManager(id="uuid-vc", name="vc", type="VirtualCenter")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "wavelift.db")


def row(at: int) -> CatalogRow:
    words: dict[str, Any] = dict.fromkeys(
        ("instance_uuid", "path", "power", "connection_state", "guest_id", "guest_full_name"), ""
    )
    return CatalogRow(vm_id=f"vm-{at}", name=f"s{at}", template=False, cpus=1, memory_mib=1, disk_bytes=1, **words)


def register(ledger: Ledger, name: str = "hall-a") -> None:
    within(
        ledger.write(connectors.lock_name(name)),
        connectors.register,
        name,
        connectors.Registration(connection="vc", aws_conn_id="aws", region="eu-central-1"),
        by="ana",
        clock=CLOCK,
    )


def begin(ledger: Ledger, conf: dict[str, Any], run: DagRun = RUN) -> ImportTicket:
    return service.begin_import(ledger, conf, run_context(run, requester="ana", clock=CLOCK), connector="hall-a")


def test_the_form_s_connection_or_the_registered_one(ledger: Ledger) -> None:
    with pytest.raises(SpecError, match="not registered"):
        begin(ledger, {"connection": None})
    register(ledger)
    assert begin(ledger, {"connection": None, "note": "x"}).connection == "vc"
    assert begin(ledger, {"connection": "other"}).connection == "other"
    with pytest.raises(SpecError, match="unknown key 'conection'"):
        begin(ledger, {"conection": "other"})


def test_sms_02_pages_are_asked_for_one_at_a_time(ledger: Ledger) -> None:
    ticket = begin(ledger, {"connection": "vc"})
    asked: list[int] = []

    def page(number: int) -> Sequence[CatalogRow]:
        known = within(ledger.read(), catalog.list_servers, limit=1).total
        assert known == 2 * number, "the page before is in the ledger before the next is read"
        asked.append(number)
        return [row(2 * number), row(2 * number + 1)]

    index = CatalogIndex(manager=MANAGER, pages=3, rows=6, tags_unknown="no right")
    summary = service.merge_import(ledger, ticket, index, page, clock=CLOCK)
    assert asked == [0, 1, 2]
    assert (summary.servers, summary.new, summary.gone, summary.tags_unknown) == (6, 6, 0, "no right")
    assert not service.abort_import(ledger, ticket, "too late", clock=CLOCK)


def test_a_merge_that_is_repeated_tells_the_same(ledger: Ledger) -> None:
    ticket = begin(ledger, {"connection": "vc"})
    index = CatalogIndex(manager=MANAGER, pages=1, rows=1)
    first = service.merge_import(ledger, ticket, index, lambda number: [row(1)], clock=CLOCK)
    again = service.merge_import(ledger, ticket, index, lambda number: [row(1)], clock=CLOCK)
    assert first == again


def test_an_overtaken_merge_says_so_and_an_aborted_one_leaves_its_words(ledger: Ledger) -> None:
    old = begin(ledger, {"connection": "vc"})
    new = begin(ledger, {"connection": "vc"}, DagRun("server_catalog", "manual__2"))
    index = CatalogIndex(manager=MANAGER, pages=1, rows=1)
    assert service.merge_import(ledger, old, index, lambda number: [row(1)], clock=CLOCK).overtaken
    assert service.abort_import(ledger, new, "no route to vCenter", clock=CLOCK)
    known = within(ledger.read(), catalog.get_catalog, "vc", clock=CLOCK)
    assert (known.state, known.error) == (CatalogState.NOT_IMPORTED, "no route to vCenter")


def test_health_is_asked_with_what_is_registered(ledger: Ledger) -> None:
    assert service.health_request(ledger, {}, connector="hall-a", scheduled=True) is None
    with pytest.raises(SpecError, match="registered"):
        service.health_request(ledger, {}, connector="hall-a")
    register(ledger)
    assert service.health_request(ledger, {}, connector="hall-a", scheduled=True) is not None
    wanted = service.health_request(ledger, {"region": "eu-west-1"}, connector="hall-a")
    assert wanted is not None
    assert (wanted.connection, wanted.aws_conn_id, wanted.region) == ("vc", "aws", "eu-west-1")


@pytest.mark.parametrize("key", ["connection", "aws_conn_id", "region"])
@pytest.mark.parametrize("value", [1.1, 0, False, ["vc"]])
def test_a_name_in_a_conf_that_is_no_text_is_refused(ledger: Ledger, key: str, value: object) -> None:
    """``1.10`` without quotes is 1.1 by now; 0 and false are not *nothing*."""
    register(ledger)
    with pytest.raises(SpecError, match=f"{key}: must be text, not") as refused:
        service.health_request(ledger, {key: value}, connector="hall-a")
    assert ("quotes" in str(refused.value)) == (not isinstance(value, list))


def migrate(ledger: Ledger, name: str, run: DagRun) -> Migration:
    asked = waves.NewWaveRun(run=run, wave="erp", mode="migrate", requested_by="ana", source="ui", spec={})
    within(ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)
    server = SourceServer(source="vc", name=name, moref=f"vm-{name}")
    wanted = NewMigration("erp", server, "hall-a", "eu-central-1")
    return begin_migration(ledger, wanted, run_context(run, name, clock=CLOCK))


def test_amp_05_nothing_new_in_maintenance_and_what_runs_goes_on(ledger: Ledger) -> None:
    register(ledger)
    run = DagRun("erp.migrate", "manual__1")
    running = migrate(ledger, "web01", run)
    within(
        ledger.write(connectors.lock_name("hall-a")),
        connectors.set_maintenance,
        "hall-a",
        on=True,
        reason="upgrade",
        by="ben",
        clock=CLOCK,
    )
    with pytest.raises(PermanentError, match="in maintenance: upgrade"):
        migrate(ledger, "web02", run)
    assert migrate(ledger, "web01", run).id == running.id, "a retry of what has begun"
    within(
        ledger.write(connectors.lock_name("hall-a")),
        connectors.set_maintenance,
        "hall-a",
        on=False,
        by="ben",
        clock=CLOCK,
    )
    assert migrate(ledger, "web02", run).server == "web02"


def test_sms_01_a_connector_with_work_stays(ledger: Ledger) -> None:
    register(ledger)
    running = migrate(ledger, "web01", DagRun("erp.migrate", "manual__1"))

    def disassociate() -> None:
        within(
            ledger.write(connectors.lock_name("hall-a"), servers.LOCK),
            connectors.disassociate,
            "hall-a",
            used_by=service.connector_usage,
            by="ana",
            clock=CLOCK,
        )

    with pytest.raises(PermanentError, match="in use: 1 migration under way"):
        disassociate()
    within(ledger.write(), migrations.fail, running.id, "given up", clock=CLOCK)
    disassociate()
    assert within(ledger.read(), connectors.list_connectors) == ()
