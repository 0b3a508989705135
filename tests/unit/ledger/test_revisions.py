"""The schema's revisions compared with the tables, and upgrades that run concurrently or are killed."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from wavelift.base.errors import UnreachableError, WaveliftError
from wavelift.base.run import DagRun
from wavelift.ledger import (
    Catalog,
    CatalogServer,
    Connector,
    Event,
    Ledger,
    LineageRow,
    Migration,
    ReplicationJob,
    ReplicationRun,
    Server,
    Slot,
    WaveRun,
    WaveSchedule,
    migrations,
    replication_tables,
    revisions,
    servers,
    tables,
    tables_catalog,
    waves,
)
from wavelift.rules.environment import Environment
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import ResolvedWave, resolve
from wavelift.rules.wave import Wave
from wavelift.services.common.admit import frozen_wave

pytestmark = pytest.mark.unit


def _ours(_object: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    return not (kind == "table" and name == revisions.VERSION_TABLE)


def test_the_revisions_make_the_tables(ledger: Ledger) -> None:
    with ledger.read() as tx:
        context = MigrationContext.configure(tx, opts={"include_object": _ours, "compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_partial_index_is_partial_in_the_database(database: Path) -> None:
    with sqlite3.connect(database) as raw:
        (made,) = raw.execute("SELECT sql FROM sqlite_master WHERE name = 'uq_slot_standing'").fetchone()
    assert made.startswith("CREATE UNIQUE INDEX")
    assert made.endswith("WHERE released_at IS NULL")


def test_the_list_of_revisions_is_that_of_the_scripts() -> None:
    config = Config()
    config.set_main_option("script_location", str(revisions.SCRIPTS))
    scripts = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(scripts)) == revisions.REVISIONS


@pytest.mark.parametrize(
    ("record", "table"),
    [
        (Server, tables.server),
        (WaveRun, tables.wave_run),
        (Migration, tables.migration),
        (Slot, tables.slot),
        (Event, tables.event),
        (Connector, tables_catalog.connector),
        (Catalog, tables_catalog.catalog),
        (CatalogServer, tables_catalog.catalog_server),
        (ReplicationJob, replication_tables.replication_job),
        (ReplicationRun, replication_tables.replication_run),
        (LineageRow, replication_tables.disk_lineage),
        (WaveSchedule, replication_tables.wave_schedule),
    ],
)
def test_every_column_is_a_field_of_its_record(record: type[Any], table: sa.Table) -> None:
    assert {field.name for field in fields(record)} == set(table.columns.keys())


def test_the_tables_can_be_written_for_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    text = "".join(str(CreateTable(table).compile(dialect=dialect)) for table in tables.metadata.sorted_tables)
    (standing,) = (index for index in tables.slot.indexes if index.name == "uq_slot_standing")
    assert "id SERIAL NOT NULL" in text
    assert "WHERE released_at IS NULL" in str(CreateIndex(standing).compile(dialect=dialect))


def test_an_upgrade_that_dies_leaves_the_old_schema(tmp_path: Path) -> None:
    """``slot`` comes late in the first revision: what was made before it must go again."""
    path = tmp_path / "wavelift.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE slot (id)")

    with pytest.raises(WaveliftError, match="table slot already exists"):
        Ledger.open(f"sqlite:///{path}")

    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("slot",)]
        raw.execute("DROP TABLE slot")
    Ledger.open(f"sqlite:///{path}")


def test_openers_at_the_same_moment_make_one_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrades: list[str] = []
    real = command.upgrade

    def counted(config: Config, revision: str) -> None:
        upgrades.append(revision)
        real(config, revision)

    monkeypatch.setattr(command, "upgrade", counted)
    url = f"sqlite:///{tmp_path / 'wavelift.db'}"
    failures: list[BaseException] = []

    def opens() -> None:
        try:
            Ledger.open(url)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=opens) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert upgrades == ["head"]


def test_an_upgrade_that_hangs_elsewhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "LOCK_TIMEOUT_S", 0.1)
    path = tmp_path / "wavelift.db"

    with revisions._file_lock(path.with_name("wavelift.db.lock")):
        with pytest.raises(UnreachableError, match="upgrading the ledger for a long time") as caught:
            Ledger.open(f"sqlite:///{path}")

    assert caught.value.where["file"] == f"{path}.lock"
    Ledger.open(f"sqlite:///{path}")


def test_the_audit_trail_cannot_be_rewritten(database: Path) -> None:
    with sqlite3.connect(database) as raw:
        raw.execute(
            "INSERT INTO event (at, actor, action, object_kind, object_id, dag_id, dag_run_id, details)"
            " VALUES ('2026', 'ana', 'x', 'y', 'z', '', '', '{}')"
        )
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute("UPDATE event SET actor = 'bob'")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute("DELETE FROM event")
        assert raw.execute("SELECT actor FROM event").fetchall() == [("ana",)]


def test_a_ledger_of_the_first_revision_is_upgraded_with_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "wavelift.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(revisions.SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO mutex VALUES ('kept')"))
    engine.dispose()

    with Ledger.open(f"sqlite:///{path}").read() as tx:
        assert tx.execute(sa.select(tables.mutex.c.name)).scalars().all() == ["kept"]
        assert tx.execute(sa.select(replication_tables.replication_job)).all() == []


def test_the_migrations_of_an_older_ledger_are_kept_and_new_ones_need_no_server(tmp_path: Path) -> None:
    """SQLite copies the table for it: rows, keys and indexes stay."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'wavelift.db'}")
    old = {"id": "mig-1", "run_key": "erp.migrate/r1/web01", "wave": "erp", "server": "web01", "map_index": 3}
    now, place = datetime.now(UTC), {"dag_id": "erp.migrate", "dag_run_id": "r1"}
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(revisions.SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        run = {**place, "wave": "erp", "mode": "migrate", "spec": {}, "state": "completed", "created_at": now}
        connection.execute(tables.wave_run.insert().values(**run))
        connection.execute(tables.server.insert().values(id=7, first_seen=now, last_seen=now))
        row = {**old, **place, "state": "failed", "snapshot_ids": ("snap-1",), "created_at": now, "updated_at": now}
        connection.execute(tables.migration.insert().values(server_id=7, **row))
        assert not {each["name"]: each for each in sa.inspect(connection).get_columns("migration")}["server_id"][
            "nullable"
        ]
    engine.dispose()

    ledger = Ledger.open(f"sqlite:///{tmp_path / 'wavelift.db'}")
    with ledger.read() as tx:
        kept = migrations.get(tx, "mig-1")
        indexes = {each["name"] for each in sa.inspect(tx).get_indexes("migration")}
    assert (kept.server_id, kept.map_index, kept.snapshot_ids, kept.created_at) == (7, 3, ("snap-1",), now)
    assert indexes == {each.name for each in tables.migration.indexes}
    with ledger.write(servers.LOCK) as tx:
        made = migrations.insert_ended(
            tx, at=now, run=kept.run, run_key="x", state=MigrationState.REFUSED, error="no", server="win01"
        )
        assert made.server_id is None
    with pytest.raises(WaveliftError, match="UNIQUE"), ledger.write() as tx:
        tx.execute(tables.migration.insert().values(server_id=7, **{**row, "id": "mig-2"}))
    with pytest.raises(WaveliftError, match="FOREIGN KEY"), ledger.write() as tx:
        tx.execute(tables.migration.insert().values(server_id=8, **{**row, "id": "mig-2", "run_key": "y"}))


@pytest.mark.parametrize("mode", ["migrate", "replicate"])
def test_what_was_frozen_before_environments_named_their_sources_can_be_read(tmp_path: Path, mode: str) -> None:
    wave = _wave().dump()
    del wave["environment"]["sources"]
    spec = {"wave": wave, "mode": mode} if mode == "migrate" else wave
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'wavelift.db'}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(revisions.SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        words = {"dag_id": "erp.x", "dag_run_id": "r1", "wave": "erp", "mode": mode, "requested_by": "ana"}
        row = {**words, "source": "api", "note": "", "state": "completed", "created_at": datetime.now(UTC)}
        connection.execute(tables.wave_run.insert().values(spec=spec, **row))
    engine.dispose()

    with Ledger.open(f"sqlite:///{tmp_path / 'wavelift.db'}").read() as tx:
        run = waves.get(tx, DagRun("erp.x", "r1"))
    assert frozen_wave(run) == _wave()


def _wave() -> ResolvedWave:
    environment = Environment.model_validate(
        {
            "environment": "lab",
            "aws_conn_id": "aws_lab",
            "account": "123456789012",
            "may": {"migrate": ["user:admin"], "cut_over": ["user:admin"], "administer": ["user:admin"]},
            "region": "eu-central-1",
            "staging": {"bucket": "lab-staging"},
            "role": "vmimport",
            "vpc": "vpc-0a0a0a0a",
            "subnets": ["subnet-0a0a0a0a"],
            "security_groups": ["sg-0a0a0a0a"],
            "instance_types": ["t3.small"],
            "sources": [{"connection": "vsphere_lab", "connectors": ["hall-a"]}],
        }
    )
    source = {"connection": "vsphere_lab", "connector": "hall-a"}
    wave = {"wave": "erp", "source": source, "environment": "lab", "servers": ["web01"]}
    return resolve(Wave.model_validate(wave), environment)
