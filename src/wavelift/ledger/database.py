"""Opening the ledger, and its transactions.

The caller of the ledger (a service, a route, a report) opens the transaction, with :meth:`Ledger.read` or
:meth:`Ledger.write`. Every function of the ledger takes that transaction (:data:`Tx`) as its first argument and never
opens one itself. A function that needs a named lock says so, and checks it with :func:`require_lock`.

SQLite runs with a write-ahead log. A writing transaction holds the only write lock from ``BEGIN`` on, so what it read
cannot change before it writes. On PostgreSQL a writing transaction locks one row per named lock until it ends, so the
same holds among transactions with the same lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from wavelift.base.errors import PermanentError, UnreachableError, WaveliftError
from wavelift.base.private import private_file, private_folder
from wavelift.ledger import revisions
from wavelift.ledger.tables import mutex

BUSY_TIMEOUT_S: Final = 30.0
"""How long a transaction waits for a lock. Our transactions take milliseconds, but a laptop may go to sleep in one."""
CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 60
POOL_SIZE: Final = 5
"""Connections per process to PostgreSQL. Only the API server needs more than one."""
POSTGRESQL_DRIVER: Final = "postgresql+psycopg2"
"""The driver that Airflow's PostgreSQL provider installs. It is not the default of SQLAlchemy 2.1."""
_WRITES: Final = "wavelift_writes"
_LOCKS: Final = "wavelift_locks"

Tx: TypeAlias = sa.Connection
"""An open transaction. Other packages only pass it on to functions of the ledger."""


class Ledger:
    """An open ledger. It is safe in threads and after a fork. On SQLite it keeps no connection open."""

    def __init__(self, engine: sa.Engine) -> None:
        """Use :meth:`open`, which also checks the schema."""
        self._engine = engine
        self._pid = os.getpid()

    @classmethod
    def open(cls, url: str, *, upgrade: bool | None = None) -> Self:
        """Open the ledger at ``url`` (``sqlite:////path/wavelift.db`` or ``postgresql://…``).

        :param upgrade: create or upgrade a schema that is missing or old. The default is True for SQLite, which one
            machine uses, and False for PostgreSQL, where an administrator runs ``wavelift init``.
        :raises PermanentError: another kind of URL, a missing schema, or the schema of a newer wavelift.
        :raises UnreachableError: the database does not answer.
        """
        engine = _make_engine(url)
        ledger = cls(engine)
        if upgrade is None:
            upgrade = engine.dialect.name == "sqlite"
        with _own_errors(engine.url):
            found = revisions.current(engine)
            if found != revisions.HEAD and upgrade and revisions.is_older(found):
                revisions.upgrade(engine)
                found = revisions.current(engine)
        if found != revisions.HEAD:
            ledger.close()
            raise _wrong_schema(engine.url, found)
        return ledger

    @property
    def url(self) -> str:
        """The URL of the ledger, without the password."""
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """A transaction that only reads."""
        with _own_errors(self._engine.url), self._connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *locks: str) -> Iterator[Tx]:
        """A transaction that may write. No other transaction holds any of the named ``locks`` at the same time.

        It is committed when the block ends, and rolled back when the block raises.
        """
        with _own_errors(self._engine.url), self._connect() as connection:
            writer = connection.execution_options(**{_WRITES: True, _LOCKS: frozenset(locks)})
            with writer.begin():
                if self._engine.dialect.name == "postgresql":
                    _lock_rows(writer, locks)
                yield writer

    def close(self) -> None:
        """Close pooled connections. The ledger can still be used."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _connect(self) -> sa.Connection:
        if self._pid != os.getpid():
            # After a fork, a child must neither use nor close the connections of its parent.
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        return self._engine.connect()


def require_lock(tx: Tx, *names: str) -> None:
    """Check that ``tx`` is a writing transaction that holds each of the named locks.

    SQLite does not need the locks. It checks them too, so that tests on SQLite find a caller that forgot one.

    :raises RuntimeError: it is not. This is a fault of the program.
    """
    options = tx.get_execution_options()
    if not options.get(_WRITES, False):
        raise RuntimeError("the ledger was asked to change something in a transaction that only reads")
    missing = set(names) - options[_LOCKS]
    if missing:
        raise RuntimeError(f"the ledger was asked to change something without its lock: {', '.join(sorted(missing))}")


def _make_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except SQLAlchemyError as exc:
        # The URL may contain a password, so the message does not show it.
        raise PermanentError("The ledger's address is not a database URL", next_step=_URL_HELP) from exc
    if backend == "sqlite":
        return _sqlite_engine(parsed)
    if backend in ("postgresql", "postgres"):
        return _postgresql_engine(parsed)
    raise PermanentError("The ledger cannot use this kind of database", next_step=_URL_HELP, kind=backend)


_URL_HELP: Final = "Set `[wavelift] ledger_url` to `sqlite:////absolute/path/wavelift.db` or `postgresql://user:password@host/database`."


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise PermanentError("The ledger needs a SQLite file: other processes read it too", next_step=_URL_HELP)
    _keep_private(Path(url.database))
    # No pool: an SQLite connection must not be used after a fork, and opening one takes less than 1 ms.
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver would send BEGIN only before the first write
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # the record of a snapshot must survive a power failure

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _keep_private(path: Path) -> None:
    """Only the user of Airflow may read the ledger. SQLite gives the mode of the file to those that it makes beside it.

    A database that cannot be opened is not reported here: SQLite says so as for every other reason.
    """
    private_folder(path.parent)
    try:
        private_file(path)
        for beside in ("-wal", "-shm", "-journal"):
            if (other := path.with_name(path.name + beside)).exists():
                private_file(other)
    except OSError:
        pass


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername=POSTGRESQL_DRIVER)
    options = f"-c lock_timeout={BUSY_TIMEOUT_S * 1000:.0f} -c statement_timeout={STATEMENT_TIMEOUT_S * 1000}"
    try:
        return sa.create_engine(
            url,
            pool_size=POOL_SIZE,
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": options},
        )
    except ImportError as exc:
        raise PermanentError(
            "The driver for the ledger's PostgreSQL is not installed",
            next_step="Install `wavelift[postgres]`.",
            driver=url.drivername,
        ) from exc


def _lock_rows(connection: sa.Connection, locks: tuple[str, ...]) -> None:
    for name in sorted(set(locks)):  # always in the same order, to avoid deadlocks
        connection.execute(postgresql_insert(mutex).values(name=name).on_conflict_do_nothing())
        connection.execute(sa.select(mutex.c.name).where(mutex.c.name == name).with_for_update())


def _wrong_schema(url: sa.URL, found: str | None) -> PermanentError:
    place = url.render_as_string(hide_password=True)
    if not revisions.is_older(found):
        return PermanentError(
            "The ledger was made by a newer wavelift",
            next_step="Use the same wavelift on every machine of this Airflow.",
            ledger=place,
            revision=found,
        )
    what = "The ledger has no tables yet" if found is None else "The ledger's tables are of an older wavelift"
    return PermanentError(what, next_step="Run `wavelift init`.", ledger=place, revision=found)


@contextmanager
def _own_errors(url: sa.URL) -> Iterator[None]:
    """Turn database exceptions into our own errors, with a next step."""
    try:
        yield
    except SQLAlchemyError as exc:
        place = url.render_as_string(hide_password=True)
        reason = str(exc.orig).strip() if isinstance(exc, StatementError) else type(exc).__name__
        if isinstance(exc, OperationalError | InterfaceError | PoolTimeoutError):
            raise UnreachableError(
                f"The ledger's database did not serve us: {reason}",
                next_step="See that it runs, has disk space and is not locked by a long transaction.",
                ledger=place,
            ) from exc
        raise WaveliftError(
            f"The ledger's database refused: {reason}",
            next_step="Report this with the log: it should not happen.",
            ledger=place,
        ) from exc
