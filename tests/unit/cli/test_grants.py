"""``wavelift grants``: what a person reads who makes, rotates and lists keys."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wavelift.cli.main import app
from wavelift.services.common.grant_keys import KeyFiles

pytestmark = pytest.mark.unit


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    return KeyFiles(tmp_path / "grants" / "private.pem", tmp_path / "public")


def said(files: KeyFiles, *arguments: str, code: int = 0) -> str:
    variables = {
        "AIRFLOW__WAVELIFT__GRANT_KEY_FILE": str(files.private),
        "AIRFLOW__WAVELIFT__GRANT_KEYS_FOLDER": str(files.public),
    }
    done = CliRunner().invoke(app, ["grants", *arguments], env=variables)
    assert done.exit_code == code, done.output
    assert "PRIVATE" not in done.output
    return done.output.replace(str(files.private.parents[1]), "HOME")


def kids(text: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\b[0-9a-f]{16}\b", text)))


def test_keys_are_made_rotated_listed_and_pruned(files: KeyFiles) -> None:
    missing = said(files, "rotate", code=1)
    assert "There is no private key" in missing
    assert "wavelift grants keygen" in missing
    assert "missing: run wavelift grants keygen" in said(files, "list")

    made = said(files, "keygen")
    (first,) = kids(made)
    assert f"made the key {first}, which signs grants: HOME/grants/private.pem" in made
    assert f"HOME/public/{first}.pem in its [wavelift] grant_keys_folder" in made
    assert said(files, "keygen") == "the key that signs grants is there: HOME/grants/private.pem\n"

    prepared = said(files, "rotate", "--prepare")
    (coming,) = kids(prepared)
    assert f"copy HOME/public/{coming}.pem to each connector on another machine" in prepared
    assert f"{coming}  signs nothing yet" in said(files, "list")
    assert said(files, "rotate", "--prune") == "no old public key can go yet; see wavelift grants list\n"

    rotated = said(files, "rotate")
    assert rotated.startswith(f"{coming} signs grants from now on\nthe public key of {first} is needed until ")
    assert "copy it now" not in rotated, "it was prepared"
    listed = said(files, "list")
    assert f"{coming}  signs grants\n" in listed
    assert re.search(rf"{first}  needed until \d{{4}}-", listed)

    over = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    public = files.public_of(first)
    public.write_text(re.sub(r"after \S+", f"after {over}", public.read_text()))
    assert f"{first}  not needed any more: run wavelift grants rotate --prune" in said(files, "list")
    assert f"removed the old public key {first}" in said(files, "rotate", "--prune")
    assert not public.exists()

    again = said(files, "rotate")
    assert "connectors on other machines refuse new grants until they have HOME/public/" in again


def test_a_key_that_others_can_read_is_told(files: KeyFiles) -> None:
    said(files, "keygen")
    files.private.chmod(0o644)
    for command in ("keygen", "list", "rotate"):
        assert "Other users of this machine can use the private key" in said(files, command, code=1)
