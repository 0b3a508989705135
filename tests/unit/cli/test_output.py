"""Names and messages from outside are shown as they are: no markup, no escape sequence, no line that they add."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import typer
from rich.console import Console
from tests.hostile import CLEVER

from wavelift import cli
from wavelift.cli.connect import fail
from wavelift.cli.findings import print_findings
from wavelift.cli.output import add_row, say, table
from wavelift.cli.watch import Row, shown
from wavelift.cli.watch import table as live_table

pytestmark = pytest.mark.unit

ODD = (*CLEVER, "[bold]", ":smile: web01", "[/]", "\\[x]")
RAW = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def is_visible(text: str) -> bool:
    return not any(unicodedata.category(char) in RAW for char in text if char != "\n")


@pytest.mark.parametrize("name", ODD)
def test_a_table_shows_a_name_as_it_is(name: str) -> None:
    short = name[:200]
    shown_table = table("server", "state", title=short)
    add_row(shown_table, short, "ok")
    out = io.StringIO()
    Console(file=out, width=600).print(shown_table)
    assert is_visible(out.getvalue())
    if short.isprintable():
        assert out.getvalue().count(short.strip()) >= 2
    assert "😄" not in out.getvalue()


@pytest.mark.parametrize("name", ODD)
def test_a_line_stays_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{name}: is cancelled")
    said = capsys.readouterr().out
    assert is_visible(said)
    assert said.count("\n") == 1
    assert not name.isprintable() or name[:100] in said


@pytest.mark.parametrize("name", ODD)
def test_an_error_of_the_api_steers_no_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail(f"first\nserver {name} failed")
    assert is_visible(capsys.readouterr().err)


class Fixed:
    """A run whose only server has an odd name."""

    dag_id = "demo.migrate"

    def __init__(self, name: str) -> None:
        self.name = name

    def clock(self) -> float:
        return 0.0

    def rows(self) -> list[Row]:
        return [Row(self.name, "export", self.name)]


@pytest.mark.parametrize("name", ODD)
def test_the_live_table_and_its_lines_show_a_name_as_it_is(name: str) -> None:
    short = name[:100]
    out = io.StringIO()
    with shown(Fixed(short), Console(file=out, width=400)) as show:
        show()
    assert is_visible(out.getvalue())
    assert len(out.getvalue().splitlines()) == 1
    assert not short.isprintable() or short.strip() in out.getvalue()
    out = io.StringIO()
    Console(file=out, width=400).print(live_table(Fixed(short).rows(), short))
    assert is_visible(out.getvalue())
    assert not short.isprintable() or short.strip() in out.getvalue()


@pytest.mark.parametrize("name", ODD)
def test_findings_show_a_name_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = name[:60]
    one = {"severity": "error", "subject": short, "code": "x", "what": short, "why": short, "next_action": short}
    print_findings({"wave": short, "findings": [one]})
    said = capsys.readouterr().out
    assert is_visible(said)
    assert not short.isprintable() or short.strip() in said


def test_commands_that_show_what_the_api_says_print_nothing_raw() -> None:
    folder = Path(cli.__file__).parent
    raw = [
        f"{file}:{call.lineno}"
        for file in ("catalog", "connectors", "jobs", "migrations", "replicate", "wave", "watch")
        for call in ast.walk(ast.parse((folder / f"{file}.py").read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "print"
        and any(isinstance(given, ast.JoinedStr) for given in call.args)
    ]
    assert raw == [], "say() shows control characters as escapes"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_encoding_of_the_output_stops_a_command(encoding: str, tmp_path: Path) -> None:
    """Of ``→`` and the line of a table, in the locales of old servers and in some schedulers' pipes."""
    code = r"""
from wavelift.cli.main import app
from wavelift.cli.output import say, show, table
@app.command()
def told() -> None:
    sheet = table("a", "b")
    sheet.add("x", "old → new")
    show(sheet)
    say("サ… \ud800")
app(["told"])
"""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode(encoding).splitlines()
    assert lines[2:] == (
        ["x  old → new", "サ… \\ud800"] if encoding == "utf-8" else ["x  old -> new", "\\u30b5... \\ud800"]
    )
