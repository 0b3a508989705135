"""Catalogue and connectors on the control plane: conf, merging, maintenance, what uses a connector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from wavelift.services.common.reserve import refuse_in_maintenance
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


def begin(ledger: Ledger, conf: dict[str, Any], run: DagRun = RUN, connector: str = "hall-a") -> ImportTicket:
    return service.begin_import(ledger, conf, run_context(run, requester="ana", clock=CLOCK), connector=connector)


def import_whole(ledger: Ledger, connector: str = "hall-a", rows: int = 2) -> None:
    run = DagRun("server_catalog", f"manual__{connector}_{rows}")
    ticket = begin(ledger, {"connection": "vc"}, run, connector)
    index = CatalogIndex(manager=MANAGER, pages=1, rows=rows)
    service.merge_import(ledger, ticket, index, lambda number: [row(at) for at in range(rows)], run=run, clock=CLOCK)


def known_servers(ledger: Ledger) -> int:
    return within(ledger.read(), catalog.list_servers, limit=1).total


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
    summary = service.merge_import(ledger, ticket, index, page, run=RUN, clock=CLOCK)
    assert asked == [0, 1, 2]
    assert (summary.servers, summary.new, summary.gone, summary.tags_unknown) == (6, 6, 0, "no right")
    assert not service.abort_import(ledger, ticket, "too late", run=RUN, clock=CLOCK)


def test_a_merge_that_is_repeated_tells_the_same(ledger: Ledger) -> None:
    ticket = begin(ledger, {"connection": "vc"})
    index = CatalogIndex(manager=MANAGER, pages=1, rows=1)
    first = service.merge_import(ledger, ticket, index, lambda number: [row(1)], run=RUN, clock=CLOCK)
    again = service.merge_import(ledger, ticket, index, lambda number: [row(1)], run=RUN, clock=CLOCK)
    assert first == again


def test_an_overtaken_merge_says_so_and_an_aborted_one_leaves_its_words(ledger: Ledger) -> None:
    later = DagRun("server_catalog", "manual__2")
    old = begin(ledger, {"connection": "vc"})
    new = begin(ledger, {"connection": "vc"}, later)
    index = CatalogIndex(manager=MANAGER, pages=1, rows=1)
    assert service.merge_import(ledger, old, index, lambda number: [row(1)], run=RUN, clock=CLOCK).overtaken
    assert service.abort_import(ledger, new, "no route to vCenter", run=later, clock=CLOCK)
    known = within(ledger.read(), catalog.get_catalog, "vc", clock=CLOCK)
    assert (known.state, known.error) == (CatalogState.NOT_IMPORTED, "no route to vCenter")


def test_a_connection_that_another_connector_registered_is_not_imported(ledger: Ledger) -> None:
    """Also not with a conf typed by hand in Airflow's form, which no route of ours has seen."""
    register(ledger)
    with pytest.raises(PermanentError, match="belongs to connector hall-a") as refused:
        begin(ledger, {"connection": "vc"}, connector="hall-b")
    assert "right on both" in str(refused.value)
    assert within(ledger.read(), catalog.list_catalogs, clock=CLOCK) == ()
    import_whole(ledger)
    with pytest.raises(PermanentError, match="belongs to connector hall-a"):
        begin(ledger, {"connection": "vc"}, connector="hall-b")
    assert within(ledger.read(), catalog.get_catalog, "vc", clock=CLOCK).connector == "hall-a"
    assert known_servers(ledger) == 2


def test_without_a_registration_the_connector_that_imported_it_is_the_owner(ledger: Ledger) -> None:
    begin(ledger, {"connection": "vc"}, connector="hall-b")  # never ends: no claim
    import_whole(ledger)
    with pytest.raises(PermanentError, match="belongs to connector hall-a"):
        begin(ledger, {"connection": "vc"}, connector="hall-b")
    register(ledger)
    within(
        ledger.write(connectors.lock_name("hall-a"), servers.LOCK),
        connectors.disassociate,
        "hall-a",
        used_by=lambda tx, name: [],
        by="ana",
        clock=CLOCK,
    )
    with pytest.raises(PermanentError, match="belongs to connector hall-a"):
        begin(ledger, {"connection": "vc"}, connector="hall-b")
    within(ledger.write(catalog.lock_name("vc")), catalog.clear, "vc", by="ana", clock=CLOCK)
    import_whole(ledger, "hall-b", rows=1)
    assert known_servers(ledger) == 1


def register_hall_b(ledger: Ledger, may_change: Callable[[str], object]) -> None:
    said = connectors.Registration(connection="vc", aws_conn_id="", region="")
    service.register_connector(ledger, "hall-b", said, may_change=may_change, by="eve", clock=CLOCK)


def test_a_registration_takes_no_catalogue_over(ledger: Ledger) -> None:
    def refuse(connector: str) -> None:
        raise PermissionError(connector)

    import_whole(ledger)
    for _ in range(2):  # first the one that imported it, then the one that is registered with it
        with pytest.raises(PermissionError, match="hall-a"):
            register_hall_b(ledger, refuse)
        assert within(ledger.read(), connectors.find, "hall-b") is None
        register(ledger)
    asked: list[str] = []
    register_hall_b(ledger, asked.append)
    assert asked == ["hall-a"]
    import_whole(ledger, "hall-b", rows=3)
    import_whole(ledger, "hall-a", rows=4)
    assert known_servers(ledger) == 4, "two connectors near one vCenter, by somebody with the right on both"


def test_a_ticket_that_names_another_run_s_import_is_refused(ledger: Ledger) -> None:
    theirs = begin(ledger, {"connection": "vc"})
    eve = DagRun("server_catalog.hall-b", "manual__1")
    index = CatalogIndex(manager=MANAGER, pages=1, rows=1)
    with pytest.raises(PermanentError, match="was edited"):
        service.merge_import(ledger, theirs, index, lambda number: [row(1)], run=eve, clock=CLOCK)
    with pytest.raises(PermanentError, match="was edited"):
        service.abort_import(ledger, theirs, "away", run=eve, clock=CLOCK)
    assert known_servers(ledger) == 0
    assert within(ledger.read(), catalog.get_catalog, "vc", clock=CLOCK).state is CatalogState.IMPORTING


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
    with pytest.raises(PermanentError, match="in maintenance: upgrade"), ledger.read() as tx:
        refuse_in_maintenance(tx, "hall-a")
    assert migrate(ledger, "web01", run).id == running.id, "a retry of what has begun"
    assert migrate(ledger, "web02", run).state == "queued", "of a run that was admitted before: it waits"
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


@pytest.mark.parametrize("spec", [{"wave": "erp", "connector": "hall-a"}, {"wave": {"connector": "hall-a"}}, {}])
def test_a_wave_without_a_file_is_known_by_its_last_run(ledger: Ledger, spec: dict[str, Any]) -> None:
    """A replicate run freezes the wave, a migrate run the wave among other things."""
    asked = waves.NewWaveRun(
        run=DagRun("erp.migrate", "manual__1"), wave="erp", mode="migrate", requested_by="ana", source="ui", spec=spec
    )
    within(ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)
    assert within(ledger.read(), waves.last_connector, "erp") == ("hall-a" if spec else None)
