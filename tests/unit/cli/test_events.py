"""``wavelift events …`` against the routes over a real ledger: listing, exporting, killing, tampering, verifying."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.console.test_audit_routes import LONG_AGO, write
from tests.unit.console.test_replication_routes import Desk, desk
from tests.unit.ledger.test_seals import forge
from typer.testing import CliRunner, Result

from wavelift.airflow.rest import ApiError
from wavelift.base.private import is_open_to_others
from wavelift.cli import events
from wavelift.cli.main import app
from wavelift.rules.seals import EVENTS_A_SEAL

__all__ = ["desk"]

pytestmark = pytest.mark.unit


class Api:
    """The client, without a network; ``fails_after`` so many calls it is cut."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.asked: list[str] = []
        self.fails_after = 1000

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append(f"{method} {path}")
        if len(self.asked) > self.fails_after:
            raise KeyboardInterrupt
        answer = self.desk.client.request(method, path.removeprefix("/wavelift"), json=body)
        if answer.status_code != 200:
            raise ApiError(str(answer.json()["detail"]), status=answer.status_code)
        return answer.json()


@pytest.fixture
def api(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    desk.rights.audit = True
    made = Api(desk)
    monkeypatch.setattr(events, "client", lambda: made)
    yield made
    monkeypatch.undo()
    time.tzset()


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["events", *map(str, words)])


def works(*words: str | Path) -> str:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: str | Path) -> str:
    done = call(*words)
    assert done.exit_code == 1, done.output
    return done.stderr


@pytest.mark.parametrize(
    "words", [["mig-1"], ["show", "mig-1"], ["--limit", "200", "mig-1"], ["mig-1", "--limit", "200"]]
)
def test_the_old_words_are_still_understood(api: Api, words: list[str]) -> None:
    call(*words)
    assert api.asked == ["GET /wavelift/events/mig-1?limit=200&after=0"]


def test_the_trail_of_an_export_needs_no_word_more(api: Api) -> None:
    call("exp-0123456789ab")
    assert api.asked == ["GET /wavelift/events/exp-0123456789ab?limit=200&after=0"]


def test_what_is_no_command_and_no_id_is_refused(api: Api) -> None:
    done = call("lst")
    assert (done.exit_code, "No such command 'lst'" in done.output, api.asked) == (2, True, [])


def test_times_of_a_list_are_of_the_user_s_zone_and_go_out_with_an_offset(api: Api) -> None:
    write(api.desk, at=LONG_AGO)
    write(api.desk, at=LONG_AGO + timedelta(hours=2))
    told = works("list", "--since", "2026-01-01 13:30")
    assert api.asked == ["GET /wavelift/events?limit=50&since=2026-01-01T13%3A30%3A00%2B01%3A00"]
    assert told == "2 2026-01-01 15:00 ana: migration.queued migration mig-1\nTimes in CET\n"
    assert works("list", "--until", "2026-01-01T12:30:00Z").startswith("1 2026-01-01 13:00 ana")
    assert "comes twice" in refused("list", "--since", "2026-10-25 02:30")
    assert len(api.asked) == 2


def test_an_export_seals_writes_and_goes_on_where_it_ended(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "trail.jsonl"
    assert "no event is older than 10 minutes" in call("export", file).stderr
    write(api.desk, EVENTS_A_SEAL + 1)
    write(api.desk, at=datetime.now(UTC))
    done = call("export", file)
    assert f"{EVENTS_A_SEAL + 1} events under 2 seals. The last one ends with event {EVENTS_A_SEAL + 1}" in done.stderr
    first = file.read_bytes()
    assert not is_open_to_others(file)
    assert works("export", file) == "", "again: nothing new"
    assert file.read_bytes() == first
    assert call("export").stdout_bytes == first, "standard output has the same"
    write(api.desk, action="later")
    assert works("verify", file).startswith(f"{file}: {EVENTS_A_SEAL + 1} events under 2 seals are as they were")
    assert f"{EVENTS_A_SEAL + 1} events under 2 seals are as they were sealed" in works("verify")
    assert "2 later events without a seal yet" in works("verify")
    told = json.loads(works("verify", "--json"))
    assert (told["events"], told["unsealed"], told["difference"]) == (EVENTS_A_SEAL + 1, 2, None)


def test_the_file_can_be_checked_with_nothing_but_sha_256(api: Api, tmp_path: Path) -> None:
    """As the documentation says it."""
    write(api.desk, 3, details={"name": "Zürich \u2028"})
    works("export", tmp_path / "trail.jsonl")
    seal, *lines = (tmp_path / "trail.jsonl").read_text().splitlines()
    told = json.loads(seal)["seal"]
    digest = told.pop("digest")
    own = json.dumps({"seal": told}, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256("".join(f"{line}\n" for line in lines).encode() + own.encode()).hexdigest() == digest


@pytest.mark.parametrize("cut", [1, 40, 700, -1, -300])
def test_a_killed_export_is_continued(api: Api, tmp_path: Path, cut: int) -> None:
    file = tmp_path / "trail.jsonl"
    write(api.desk, 3)
    works("export", file)
    write(api.desk, 3)
    works("export", file)
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    assert "Line " in refused("verify", file)
    works("export", file)
    assert file.read_bytes() == whole
    works("verify", file, "--with-ledger")


def test_an_export_that_dies_between_pages_leaves_a_file_that_is_continued(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavelift.console.audit.GROUPS_A_PAGE", 1)
    write(api.desk, 2 * EVENTS_A_SEAL)
    api.fails_after = 2
    assert call("export", tmp_path / "trail.jsonl").exit_code != 0
    api.fails_after = 1000
    assert f"{EVENTS_A_SEAL} events under 1 seal" in works("verify", tmp_path / "trail.jsonl")
    works("export", tmp_path / "trail.jsonl")
    assert "1,000 events under 2 seals" in works("verify", tmp_path / "trail.jsonl", "--with-ledger")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"actor":"ana"', b'"actor":"bob"', "Line 2 differs. Seal of the events 1 to 3: event 1 is not what it was"),
        (b'"id":2,', b'"id":9,', "Line 3 differs. Seal of the events 1 to 3: event 2 was sealed and is gone"),
        (b'"sealed_by":"ana"', b'"sealed_by":"bob"', "its digest is not theirs"),
        (b'{"seal"', b'{"Seal"', "Line 1 has an event that stands under no seal"),
        (b'"rows":[[1,', b'"rows":[[0,', "event 0 was sealed and is gone"),
        (b'"first_event_id":1', b'"first_event_id":"x"', "Line 1 is no seal"),
        (b'{"action"', b'["action"', "Line 2 is no line of an exported audit trail"),
    ],
)
def test_a_file_that_was_changed_is_told_by_itself(
    api: Api, tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    file = tmp_path / "trail.jsonl"
    write(api.desk, 3)
    works("export", file)
    whole = file.read_bytes()
    assert old in whole
    file.write_bytes(whole.replace(old, new, 1))
    asked = len(api.asked)
    assert words in refused("verify", file)
    assert len(api.asked) == asked, "without the ledger"
    assert words in refused("export", file), "nor is it continued"


def test_lines_that_were_taken_out_or_moved_are_told(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "trail.jsonl"
    for _ in range(3):
        write(api.desk, 2)
        works("export", file)
    lines = file.read_bytes().splitlines(keepends=True)
    for kept, words in (
        (lines[:1] + lines[2:], "event 1 was sealed and is gone"),
        (lines[:2] + lines[3:], "event 2 was sealed and is gone"),
        (lines[:3] + lines[6:], "it follows another seal than the one before it"),
        (lines[:3] + lines[6:] + lines[3:6], "it follows another seal"),
        ([*lines[:3], lines[2], *lines[3:]], "stands under no seal"),
        (lines[:-1], "event 6 was sealed and is gone"),
    ):
        file.write_bytes(b"".join(kept))
        assert words in refused("verify", file)
    file.write_bytes(b"".join(lines[3:]))
    works("verify", file, "--with-ledger")


def test_a_ledger_that_was_tampered_with_is_neither_verified_nor_exported(api: Api, tmp_path: Path) -> None:
    write(api.desk, 3)
    works("export", tmp_path / "before.jsonl")
    forge(api.desk.ledger, "UPDATE event SET actor = 'bob' WHERE id = 2")
    assert "event 2 is not what it was when it was sealed" in refused("verify")
    done = call("verify", "--json")
    assert (done.exit_code, json.loads(done.stdout)["difference"]["event_id"]) == (1, 2)
    assert "event 2 is not what it was" in refused("export", tmp_path / "after.jsonl")
    assert (tmp_path / "after.jsonl").read_bytes() == b""
    works("verify", tmp_path / "before.jsonl")
    assert "event 2 is not what it was" in refused("verify", tmp_path / "before.jsonl", "--with-ledger")


@pytest.mark.parametrize("more", [True, False])
def test_a_ledger_that_was_sealed_anew_differs_from_the_file(api: Api, tmp_path: Path, more: bool) -> None:
    """Whoever may do anything in the database can seal it anew; the file that lies elsewhere tells."""
    file = tmp_path / "trail.jsonl"
    write(api.desk, 3)
    works("export", file)
    forge(api.desk.ledger, "UPDATE event SET actor = 'bob' WHERE id = 2", "DELETE FROM event_seal")
    if more:
        write(api.desk)
    works("export", tmp_path / "forged.jsonl")
    works("verify")
    assert "in the ledger" in refused("verify", file, "--with-ledger")


def test_what_can_not_be_read_or_written_is_said(api: Api, tmp_path: Path) -> None:
    assert "can't be read: No such file" in refused("verify", tmp_path / "none")
    assert "can't be written: Is a directory" in refused("export", tmp_path)
    assert "--after is for standard output only" in refused("export", tmp_path / "x", "--after", "3")
    assert "name it" in refused("verify", "--with-ledger")
    (tmp_path / "notes.txt").write_text("buy milk\n")
    assert "Line 1 is no line of an exported audit trail" in refused("export", tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "buy milk\n"
    api.desk.rights.audit = False
    assert "may not see or seal the whole audit trail" in refused("export", tmp_path / "y")


def test_two_exports_to_one_file_do_not_mix(api: Api, tmp_path: Path) -> None:
    import fcntl

    write(api.desk, 2)
    with (tmp_path / "trail.jsonl").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "Another export writes to" in refused("export", tmp_path / "trail.jsonl")
