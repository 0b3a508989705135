"""The revisions of the schema. A check costs one query. Alembic is imported only for an upgrade."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import sqlalchemy as sa

from wavelift.base.errors import UnreachableError
from wavelift.base.private import private_file

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011")
"""All revisions that this program can upgrade from, oldest first. A test compares them with the scripts."""
HEAD: Final = REVISIONS[-1]
VERSION_TABLE: Final = "wavelift_revision"
"""Not Alembic's default name, which Airflow uses: both may share a database."""
SCRIPTS: Final = Path(__file__).parent / "alembic"
LOCK_TIMEOUT_S: Final = 60.0
LOCK_POLL_S: Final = 0.05
_ADVISORY_LOCK: Final = 0x7761_7665_6C69_6674
"""``wavelift`` in ASCII."""


def current(engine: sa.Engine) -> str | None:
    """The revision of the database; None if it has none."""
    with engine.connect() as connection:
        return _current(connection)


def _current(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(
        sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    ).scalar()
    return found


def is_older(revision: str | None) -> bool:
    """Whether :func:`upgrade` can start from this revision. The newest one counts too."""
    return revision is None or revision in REVISIONS


def upgrade(engine: sa.Engine) -> None:
    """Upgrade the schema to :data:`HEAD` in one transaction. Other processes that call this wait until it is done."""
    if engine.dialect.name == "sqlite":
        database = Path(str(engine.url.database))
        with _file_lock(database.with_name(database.name + ".lock")):
            with engine.connect() as connection:
                # The file keeps this mode. It cannot be set in a transaction, nor while another process uses the file.
                _set_wal(connection)
            _upgrade(engine)
    else:
        _upgrade(engine)


def _set_wal(connection: sa.Connection) -> None:
    raw = connection.connection.driver_connection
    assert raw is not None
    raw.execute("PRAGMA journal_mode = WAL")


def _upgrade(engine: sa.Engine) -> None:
    from alembic import command
    from alembic.config import Config

    with engine.begin() as connection:  # DDL is transactional on both databases, so a kill leaves the old schema
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        if _current(connection) == HEAD:
            return
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _file_lock(path: Path) -> Iterator[IO[str]]:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    private_file(path)
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UnreachableError(
                        "Another process has been upgrading the ledger for a long time",
                        next_step="See which process holds the file, and end it if it hangs.",
                        file=str(path),
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield handle
