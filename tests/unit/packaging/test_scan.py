"""The scanner of the proof of secrets finds what is planted: in each form, and in each place."""

from __future__ import annotations

import base64
import html
import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from tests.eventually import eventually
from tests.scan import SIGNED, Processes, Scan

pytestmark = pytest.mark.unit
SECRET = 'p@ss:w/rd+<Mk>"7f3ac91e"&'
SCAN = Scan({"planted": SECRET, "other": "something-else-entirely"})
TOKEN = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in
                 (b'{"alg":"HS512","typ":"JWT"}', b'{"sub":"somebody-with-a-name"}', bytes(range(64))))  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}!",
        json.dumps({"password": SECRET}),
        html.escape(f"<b>{SECRET}</b>"),
        f"https://me:{quote(SECRET, safe='')}@host/",
        f"q={quote_plus(SECRET)}",
        f"https://me:{quote(SECRET, safe='').lower().replace('mk', 'Mk')}@host/",
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        *(base64.b64encode(b"x" * before + SECRET.encode() + b"yz").decode() for before in range(4)),
        *(base64.urlsafe_b64encode(b"user:" + b"x" * before + SECRET.encode()).decode() for before in range(4)),
    ],
)
def test_every_form_is_found(text: str) -> None:
    assert SCAN.of(text.encode()) == {"planted"}


def test_what_is_not_there_is_not_found() -> None:
    assert SCAN.of(b"password=*** " + base64.b64encode(b"p@ss:w/rd+<Mk>") + bytes(range(256))) == set()


def test_tokens_are_found_whoever_s_they_are() -> None:
    assert SCAN.of(f"Authorization: Bearer {TOKEN}".encode()) == {SIGNED}


def test_files_are_found_by_content_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "task.log").write_bytes(b"\xff\x00" + SECRET.encode())
    (tmp_path / quote(SECRET, safe="")).touch()
    (tmp_path / "clean").write_text("nothing")
    found = SCAN.of_files(tmp_path)
    assert {Path(path).name for path in found} == {"task.log", quote(SECRET, safe="")}


def test_command_lines_and_environments_are_found(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        Processes(SCAN, home) as seen,
        subprocess.Popen([*wait, SECRET], stdin=subprocess.PIPE) as talks,
        subprocess.Popen(wait, stdin=subprocess.PIPE, env={"PASSWORD": SECRET}, cwd=tmp_path) as foreign,
        subprocess.Popen(wait, stdin=subprocess.PIPE, env={"PASSWORD": SECRET}, cwd=home) as ours,
    ):
        assert eventually(lambda: seen.in_command_lines and seen.in_environments and seen.in_airflow)
        for process in (talks, foreign, ours):
            assert process.stdin is not None
            process.stdin.close()
    assert seen.in_command_lines == {sys.executable: {"planted"}}
    assert set().union(*seen.in_environments.values()) == {"planted"}
    assert seen.in_airflow == {"planted"}
