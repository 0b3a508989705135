"""``wavelift events export`` named a file that is something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.test_events import Api, api, refused, works
from tests.unit.console.test_audit_routes import LONG_AGO, write
from tests.unit.console.test_replication_routes import desk

from wavelift.rules.seals import LONGEST_LINE

__all__ = ["api", "desk"]

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "text",
    [
        b'{"one": "line of JSON without a newline at its end"}',
        b"\x7fELF" + b"\0" * 1000,
        b"x" * (LONGEST_LINE + 10),
        b"a note",
        b'{"seal": "of somebody else"}',
    ],
)
def test_a_file_that_no_export_wrote_is_not_cut(api: Api, tmp_path: Path, text: bytes) -> None:
    write(api.desk, at=LONG_AGO)
    file = tmp_path / "other.json"
    file.write_bytes(text)
    file.chmod(0o644)
    assert "stays as it is" in refused("export", file)
    assert file.read_bytes() == text
    assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("left", [b"", b"{", b'{"seal":{"dig'])
def test_what_a_kill_leaves_of_the_first_line_is_continued(api: Api, tmp_path: Path, left: bytes) -> None:
    write(api.desk, at=LONG_AGO)
    file = tmp_path / "trail.jsonl"
    file.write_bytes(left)
    works("export", file)
    assert "1 event under 1 seal" in works("verify", file)


@pytest.mark.parametrize("how", ["twice", "without its middle", "two trails"])
def test_a_file_that_was_put_together_is_told(api: Api, tmp_path: Path, how: str) -> None:
    parts: list[bytes] = []
    for number in range(3):
        write(api.desk, at=LONG_AGO)
        file = tmp_path / f"trail{number}.jsonl"
        if parts:
            file.write_bytes(b"".join(parts))
        works("export", file)
        parts.append(file.read_bytes().removeprefix(b"".join(parts)))
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_bytes(
        {"twice": parts[0] * 2, "without its middle": parts[0] + parts[2], "two trails": parts[1] + parts[0]}[how]
    )
    assert "follows another seal" in refused("verify", mixed)
    before = mixed.read_bytes()
    refused("export", mixed)
    assert mixed.read_bytes() == before
