"""The server catalogue (SMS-02): generations, pages in any order, what is new, changed and gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from tests.ledgers import within

from wavelift.base.catalog import PAGE_ROWS, CatalogIndex, CatalogManager, CatalogRow
from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.base.run import DagRun
from wavelift.ledger import Catalog, CatalogServer, CatalogState, Ledger, ServerJob, Tx, catalog
from wavelift.ledger.catalog import EXPIRES_AFTER, ServerFilter
from wavelift.ledger.catalog_records import ImportCounts
from wavelift.ledger.events import list_events

pytestmark = pytest.mark.unit

MANAGER = CatalogManager(id="uuid-vc", name="vc.example.com", type="VirtualCenter", product="vCenter 8.0.3")


def vm(name: str, /, **changes: Any) -> CatalogRow:
    values: dict[str, Any] = {
        "vm_id": f"vm-{name}",
        "instance_uuid": f"uuid-{name}",
        "name": name,
        "path": f"/dc1/vm/{name}",
        "power": "poweredOn",
        "connection_state": "connected",
        "template": False,
        "guest_id": "debian12_64Guest",
        "guest_full_name": "Debian GNU/Linux 12",
        "cpus": 2,
        "memory_mib": 2048,
        "disk_bytes": 5 << 40,
    }
    return CatalogRow(**values | changes)


def begin(ledger: Ledger, clock: Any, run: str = "manual__1", connection: str = "vc") -> Catalog:
    run_of = DagRun("server_catalog", run)
    return within(
        ledger.write(catalog.lock_name(connection)),
        catalog.begin_import,
        connection,
        connector="default",
        run=run_of,
        by="ana",
        clock=clock,
    )


def imported(ledger: Ledger, clock: Any, *pages: Sequence[CatalogRow], run: str = "manual__1") -> ImportCounts:
    started = begin(ledger, clock, run)
    for number, rows in enumerate(pages):
        assert within(
            ledger.write(catalog.lock_name("vc")),
            catalog.merge_page,
            "vc",
            started.generation,
            number=number,
            rows=rows,
            clock=clock,
        )
    found = finish(ledger, clock, started, len(pages))
    assert found is not None
    return found


def finish(ledger: Ledger, clock: Any, started: Catalog, pages: int) -> ImportCounts | None:
    return within(
        ledger.write(catalog.lock_name("vc")),
        catalog.finish_import,
        "vc",
        started.generation,
        index=CatalogIndex(manager=MANAGER, pages=pages, rows=0),
        clock=clock,
    )


def names(ledger: Ledger, **which: Any) -> list[str]:
    return [entry.server.name for entry in within(ledger.read(), catalog.list_servers, ServerFilter(**which)).items]


def actions(ledger: Ledger) -> list[str]:
    return [event.action for event in within(ledger.read(), list_events, object_kind="catalog")]


def test_sms_02_the_states_of_a_catalogue(ledger: Ledger, clock: Any) -> None:
    def state() -> CatalogState:
        return within(ledger.read(), catalog.get_catalog, "vc", clock=clock).state

    assert state() is CatalogState.NOT_IMPORTED
    started = begin(ledger, clock)
    assert state() is CatalogState.IMPORTING
    within(
        ledger.write(catalog.lock_name("vc")),
        catalog.merge_page,
        "vc",
        started.generation,
        number=0,
        rows=[vm("a")],
        clock=clock,
    )
    finish(ledger, clock, started, 1)
    assert state() is CatalogState.AVAILABLE
    clock.time += EXPIRES_AFTER + timedelta(seconds=1)
    assert state() is CatalogState.EXPIRED
    assert within(ledger.write(catalog.lock_name("vc")), catalog.clear, "vc", by="ana", clock=clock) == 1
    assert state() is CatalogState.DELETED
    assert names(ledger, gone=None) == []
    assert actions(ledger) == [
        *("catalog.import_started", "catalog.page_merged", "catalog.imported", "catalog.cleared"),
    ]


def test_sms_02_a_row_carries_what_sms_showed(ledger: Ledger, clock: Any) -> None:
    imported(ledger, clock, [vm("web01", tags=("env:prod",))])
    (entry,) = within(ledger.read(), catalog.list_servers).items
    server = entry.server
    assert (server.type, server.name, server.path) == ("VIRTUAL_MACHINE", "web01", "/dc1/vm/web01")
    assert (server.manager_name, server.manager_type, server.manager_id) == (MANAGER.name, MANAGER.type, MANAGER.id)
    assert (server.vm_id, server.instance_uuid) == ("vm-web01", "uuid-web01")
    assert (server.disk_bytes, server.tags) == (5 << 40, ("env:prod",))
    assert server.id == catalog.server_id("vc", "uuid-web01")
    assert entry.job is None


def test_sms_02_a_row_shows_its_job_by_one_question_a_page(ledger: Ledger, clock: Any) -> None:
    imported(ledger, clock, [vm("a"), vm("b")])
    asked: list[int] = []

    def job_of(tx: Tx, servers: Sequence[CatalogServer]) -> dict[str, ServerJob]:
        asked.append(len(servers))
        return {servers[1].id: ServerJob(id="job-1", state="DELETED", terminated=True)}

    first, second = within(ledger.read(), catalog.list_servers, job_of=job_of).items
    assert asked == [2]
    assert first.job is None
    assert second.job is not None
    assert second.job.terminated


def test_a_second_import_tells_new_changed_and_gone(ledger: Ledger, clock: Any) -> None:
    assert imported(ledger, clock, [vm("a"), vm("b")], [vm("c")]) == ImportCounts(servers=3, new=3, changed=0, gone=0)
    renamed = vm("b", name="b2", path="/dc1/vm/b2")
    found = imported(ledger, clock, [vm("a", power="poweredOff"), renamed, vm("d")], run="manual__2")
    assert found == ImportCounts(servers=3, new=1, changed=1, gone=1)
    assert names(ledger) == ["a", "b2", "d"]
    assert names(ledger, gone=True) == ["c"]
    kept = {entry.server.name: entry.server for entry in within(ledger.read(), catalog.list_servers).items}
    assert kept["a"].power == "poweredOff", "kept, but no reason to call the server changed"
    assert kept["b2"].id == catalog.server_id("vc", "uuid-b"), "the same server under another name"
    back = imported(ledger, clock, [vm("a"), renamed, vm("d"), vm("c")], run="manual__3")
    assert back == ImportCounts(servers=4, new=0, changed=1, gone=0), "back from the dead"


def test_repeating_any_step_changes_nothing(ledger: Ledger, clock: Any) -> None:
    imported(ledger, clock, [vm("a"), vm("b")])
    started = begin(ledger, clock, "manual__2")
    assert begin(ledger, clock, "manual__2") == started
    for _ in range(2):
        assert within(
            ledger.write(catalog.lock_name("vc")),
            catalog.merge_page,
            "vc",
            started.generation,
            number=1,
            rows=[vm("c")],
            clock=clock,
        )
        assert within(
            ledger.write(catalog.lock_name("vc")),
            catalog.merge_page,
            "vc",
            started.generation,
            number=0,
            rows=[vm("a", cpus=4)],
            clock=clock,
        )
    first = finish(ledger, clock, started, 2)
    told = actions(ledger)
    assert first == finish(ledger, clock, started, 2) == ImportCounts(servers=2, new=1, changed=1, gone=1)
    assert actions(ledger) == told


def test_nothing_is_gone_before_the_last_page(ledger: Ledger, clock: Any) -> None:
    imported(ledger, clock, [vm("a"), vm("b")])
    started = begin(ledger, clock, "manual__2")
    within(
        ledger.write(catalog.lock_name("vc")),
        catalog.merge_page,
        "vc",
        started.generation,
        number=1,
        rows=[vm("a")],
        clock=clock,
    )
    assert names(ledger) == ["a", "b"]
    with pytest.raises(BusyError, match="1 of 2 pages"):
        finish(ledger, clock, started, 2)
    assert names(ledger) == ["a", "b"]


def test_an_overtaken_import_writes_no_more(ledger: Ledger, clock: Any) -> None:
    old = begin(ledger, clock, "manual__1")
    new = begin(ledger, clock, "manual__2")
    assert new.generation == old.generation + 1
    assert not within(
        ledger.write(catalog.lock_name("vc")),
        catalog.merge_page,
        "vc",
        old.generation,
        number=0,
        rows=[vm("late")],
        clock=clock,
    )
    assert finish(ledger, clock, old, 0) is None
    assert not within(
        ledger.write(catalog.lock_name("vc")), catalog.abort_import, "vc", old.generation, "dead", clock=clock
    )
    assert within(
        ledger.write(catalog.lock_name("vc")),
        catalog.merge_page,
        "vc",
        new.generation,
        number=0,
        rows=[vm("a")],
        clock=clock,
    )
    assert finish(ledger, clock, new, 1) == ImportCounts(servers=1, new=1, changed=0, gone=0)
    assert names(ledger, gone=None) == ["a"]


def test_a_clear_overtakes_an_import_that_runs(ledger: Ledger, clock: Any) -> None:
    started = begin(ledger, clock)
    within(
        ledger.write(catalog.lock_name("vc")),
        catalog.merge_page,
        "vc",
        started.generation,
        number=0,
        rows=[vm("a")],
        clock=clock,
    )
    within(ledger.write(catalog.lock_name("vc")), catalog.clear, "vc", by="ana", clock=clock)
    assert not within(
        ledger.write(catalog.lock_name("vc")),
        catalog.merge_page,
        "vc",
        started.generation,
        number=1,
        rows=[vm("b")],
        clock=clock,
    )
    assert finish(ledger, clock, started, 2) is None
    assert within(ledger.read(), catalog.get_catalog, "vc", clock=clock).state is CatalogState.DELETED


def test_an_import_that_fails_leaves_the_state_of_before(ledger: Ledger, clock: Any) -> None:
    started = begin(ledger, clock)
    assert within(
        ledger.write(catalog.lock_name("vc")), catalog.abort_import, "vc", started.generation, "no route", clock=clock
    )
    known = within(ledger.read(), catalog.get_catalog, "vc", clock=clock)
    assert (known.state, known.error) == (CatalogState.NOT_IMPORTED, "no route")
    imported(ledger, clock, [vm("a")], run="manual__2")
    started = begin(ledger, clock, "manual__3")
    begin(ledger, clock, "manual__4")  # overtakes an import: what was before *that* counts
    within(
        ledger.write(catalog.lock_name("vc")),
        catalog.abort_import,
        "vc",
        started.generation + 1,
        "no route",
        clock=clock,
    )
    assert within(ledger.read(), catalog.get_catalog, "vc", clock=clock).state is CatalogState.AVAILABLE
    assert names(ledger) == ["a"]


def test_an_empty_vcenter_makes_everything_gone(ledger: Ledger, clock: Any) -> None:
    imported(ledger, clock, [vm("a")])
    assert imported(ledger, clock, run="manual__2") == ImportCounts(servers=0, new=0, changed=0, gone=1)


def test_search_tag_and_paging(ledger: Ledger, clock: Any) -> None:
    rows = [vm(f"web{at:02}", tags=("tier:web", 'odd:"ä%')) for at in range(30)]
    imported(ledger, clock, [*rows, vm("DB_1"), vm("dbx1")])
    page = within(ledger.read(), catalog.list_servers, limit=10, offset=5)
    assert (page.total, len(page.items)) == (32, 10)
    assert names(ledger, search="db_") == ["DB_1"], "no wildcards, any case"
    assert len(names(ledger, tag="tier:web")) == 30
    assert len(names(ledger, tag='odd:"ä%')) == 30
    assert names(ledger, tag="tier:we") == []
    assert names(ledger, connections=["other"]) == []


def test_a_vm_without_an_instance_uuid_is_known_by_its_moref(ledger: Ledger, clock: Any) -> None:
    imported(ledger, clock, [vm("a", instance_uuid="")])
    found = imported(ledger, clock, [vm("a", instance_uuid="", name="z")], run="manual__2")
    assert found == ImportCounts(servers=1, new=0, changed=1, gone=0)


def test_a_page_has_an_end_and_a_clear_needs_a_catalogue(ledger: Ledger, clock: Any) -> None:
    started = begin(ledger, clock)
    with pytest.raises(PermanentError, match="501 rows"):
        rows = [vm(str(at)) for at in range(PAGE_ROWS + 1)]
        within(
            ledger.write(catalog.lock_name("vc")),
            catalog.merge_page,
            "vc",
            started.generation,
            number=0,
            rows=rows,
            clock=clock,
        )
    with pytest.raises(NotFoundError, match="ever imported"):
        within(ledger.write(catalog.lock_name("nowhere")), catalog.clear, "nowhere", by="ana", clock=clock)
