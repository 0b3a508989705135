"""What wavelift writes on a machine is readable by its own user only, whatever the umask."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wavelift.base.private import private_file, private_folder
from wavelift.base.rates import LEAST_BYTES, note_rate
from wavelift.base.run import CancelFlag
from wavelift.cli.local_airflow import LocalAirflow
from wavelift.ledger import Ledger
from wavelift.rules.plans import WaveShape
from wavelift.specs.last_valid import LastValid
from wavelift.transfer.journal import Journal, JournalIdentity
from wavelift.transfer.line import SharedLine

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    """What a careless service manager leaves: every bit is granted."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Every file and folder that others may do something with. A link has no mode of its own."""
    found = [folder, *folder.rglob("*")]
    return {str(one): oct(one.stat().st_mode & 0o777) for one in found if one.stat().st_mode & 0o077}


def open_ledger(folder: Path) -> None:
    with Ledger.open(f"sqlite:///{folder / 'wavelift.db'}") as ledger, ledger.write():
        assert (folder / "wavelift.db-wal").exists(), "written only while it is open"
        assert modes(folder) == {}


def write_journal(folder: Path) -> None:
    with Journal(folder, JournalIdentity("snap-0", "snapshot/disk", 1 << 20)):
        pass


MAKERS: dict[str, Callable[[Path], object]] = {
    "ledger": open_ledger,
    "journal": write_journal,
    "line": lambda folder: SharedLine(folder, lambda: 1000.0).take(1 << 20, CancelFlag()),
    "last valid specs": lambda folder: LastValid(folder, WaveShape).keep(WaveShape.fallback("shop")),
    "rates": lambda folder: note_rate(folder, LEAST_BYTES, 1.0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_folder_and_files_are_private(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "made"
    MAKERS[name](folder)
    assert list(folder.iterdir()), "it wrote something"
    assert modes(folder) == {}


def test_the_home_of_a_local_airflow_is_private(tmp_path: Path) -> None:
    LocalAirflow(tmp_path / "home", tmp_path)
    assert oct((tmp_path / "home").stat().st_mode & 0o777) == "0o700"


def test_an_open_ledger_of_an_older_wavelift_is_closed_to_others(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'wavelift.db'}"
    Ledger.open(url)
    (tmp_path / "wavelift.db").chmod(0o644)
    with sqlite3.connect(tmp_path / "wavelift.db") as other:  # keeps -wal and -shm, with the mode of the file
        other.execute("SELECT * FROM sqlite_master").fetchall()
        for path in tmp_path.glob("wavelift.db*"):
            path.chmod(0o644)
        (tmp_path / "wavelift.db.lock").unlink()  # empty
        assert len(modes(tmp_path)) == 3
        Ledger.open(url)
        assert modes(tmp_path) == {}


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    """It may be AIRFLOW_HOME; ``wavelift init`` tells."""
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert oct(tmp_path.stat().st_mode & 0o777) == "0o755"


def test_a_file_of_another_user_stays_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "not the owner")

    path = tmp_path / "file"
    path.touch(mode=0o644)
    monkeypatch.setattr(Path, "chmod", refuse)
    private_file(path)
    assert "can be read by other users" in caplog.text
