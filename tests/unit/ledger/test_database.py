"""Opening the ledger, its transactions and its errors."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from wavelift.base.errors import PermanentError, UnreachableError, WaveliftError
from wavelift.ledger import Ledger, database, revisions
from wavelift.ledger.tables import mutex

pytestmark = pytest.mark.unit


def test_opening_makes_folder_schema_and_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "wavelift.db"

    Ledger.open(f"sqlite:///{path}")

    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert raw.execute(f"SELECT version_num FROM {revisions.VERSION_TABLE}").fetchall() == [(revisions.HEAD,)]


def test_every_connection_checks_foreign_keys_and_syncs_fully(ledger: Ledger) -> None:
    with ledger.read() as tx:
        assert tx.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert tx.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert tx.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_importing_and_reopening_import_no_alembic(database: Path) -> None:
    code = (
        "import sys; from wavelift.ledger import Ledger; import wavelift.services.common.slots\n"
        f"Ledger.open('sqlite:///{database}')\n"
        "print([m for m in ('alembic', 'airflow', 'boto3', 'pyVmomi', 'wavelift.adapters') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_an_old_schema_is_refused_when_asked_not_to_upgrade(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"

    with pytest.raises(PermanentError, match=r"no tables yet.*Run `wavelift init`"):
        Ledger.open(url, upgrade=False)
    Ledger.open(url, upgrade=True)
    Ledger.open(url, upgrade=False)


def test_a_newer_schema_is_refused_and_left_alone(database: Path) -> None:
    with sqlite3.connect(database) as raw:
        raw.execute(f"UPDATE {revisions.VERSION_TABLE} SET version_num = '9999'")

    with pytest.raises(PermanentError, match="newer wavelift") as caught:
        Ledger.open(f"sqlite:///{database}")

    assert caught.value.where["revision"] == "9999"
    with sqlite3.connect(database) as raw:
        assert raw.execute(f"SELECT version_num FROM {revisions.VERSION_TABLE}").fetchone() == ("9999",)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "needs a SQLite file"),
        ("sqlite:///:memory:", "needs a SQLite file"),
        ("mysql://root:hunter2@db/x", "cannot use this kind"),
        ("no url with hunter2", "not a database URL"),
    ],
)
def test_inv_10_unusable_addresses_are_refused_without_repeating_the_password(url: str, words: str) -> None:
    with pytest.raises(PermanentError, match=words) as caught:
        Ledger.open(url)
    assert "hunter2" not in str(caught.value)
    assert "ledger_url" in caught.value.next_step


def test_postgresql_gets_the_driver_of_the_extra_whatever_sqlalchemy_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[sa.URL, dict[str, object]]] = []
    monkeypatch.setattr(sa, "create_engine", lambda url, **options: seen.append((url, options)))

    database._make_engine("postgresql://wl:secret@db/wavelift")

    url, options = seen[0]
    assert url.drivername == "postgresql+psycopg2"
    assert options["pool_pre_ping"] is True
    assert options["connect_args"] == {
        "connect_timeout": 10,
        "options": "-c lock_timeout=30000 -c statement_timeout=60000",
    }


def test_a_writer_that_raises_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match="boom"), ledger.write() as tx:
        tx.execute(mutex.insert().values(name="half"))
        raise RuntimeError("boom")

    with ledger.read() as tx:
        assert tx.execute(sa.select(mutex)).all() == []


def test_a_writer_owns_the_database_before_it_reads(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two transactions could both read the same count and both grant the last slot."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    impatient = Ledger.open(ledger.url)

    with ledger.write() as tx:
        tx.execute(sa.select(mutex)).all()
        with pytest.raises(UnreachableError, match="locked"), impatient.write():
            pytest.fail("two writers at once")


def test_a_change_without_its_lock_is_refused_on_every_database(ledger: Ledger) -> None:
    """SQLite would let it pass: there one writer has the whole file. On PostgreSQL two would overwrite each other."""
    with ledger.read() as tx, pytest.raises(RuntimeError, match="only reads"):
        database.require_lock(tx)
    with ledger.write("one", "two") as tx:
        database.require_lock(tx, "two", "one")
        with pytest.raises(RuntimeError, match="without its lock: three"):
            database.require_lock(tx, "one", "three")


def test_readers_do_not_wait_for_a_writer_and_see_one_instant(ledger: Ledger) -> None:
    with ledger.read() as reader:
        assert reader.execute(sa.select(sa.func.count()).select_from(mutex)).scalar() == 0
        with ledger.write() as tx:
            tx.execute(mutex.insert().values(name="later"))
        assert reader.execute(sa.select(sa.func.count()).select_from(mutex)).scalar() == 0
    with ledger.read() as reader:
        assert reader.execute(sa.select(sa.func.count()).select_from(mutex)).scalar() == 1


def test_inv_13_no_bare_database_exception_leaves_the_ledger(ledger: Ledger) -> None:
    with (
        pytest.raises(WaveliftError, match=r"refused: UNIQUE constraint failed: mutex\.name") as caught,
        ledger.write() as tx,
    ):
        tx.execute(mutex.insert().values(name="twice"))
        tx.execute(mutex.insert().values(name="twice"))
    assert caught.value.where == {"ledger": ledger.url}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wavelift.db"
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 100)

    with pytest.raises(WaveliftError, match="file is not a database") as caught:
        Ledger.open(f"sqlite:///{path}")
    assert str(path) in str(caught.value)


def test_one_ledger_serves_threads(ledger: Ledger) -> None:
    def write(number: int) -> None:
        with ledger.write() as tx:
            tx.execute(mutex.insert().values(name=f"t{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.read() as tx:
        assert len(tx.execute(sa.select(mutex)).all()) == 8


def test_one_ledger_serves_after_a_fork(ledger: Ledger) -> None:
    """Airflow forks: task processes inherit what their parent opened."""

    def child() -> None:
        with ledger.write() as tx:
            tx.execute(mutex.insert().values(name=str(os.getpid())))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)

    assert process.exitcode == 0
    with ledger.read() as tx:
        assert tx.execute(sa.select(mutex.c.name)).scalars().all() == [str(process.pid)]
