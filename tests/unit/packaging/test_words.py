"""Ids of requirements and invariants are for those who change wavelift: what a user reads has none."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from wavelift.cli.main import app

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"\b(SMS|HCX|AMP|AIR|EXP|OVI|VIE)[-_]?\d\d\b|\binvariants? \d")
FOLDERS = ("src/wavelift", "operators", "sensors", "dags")
INSIDE = {"Limit", "_limit"}
"""Calls whose arguments name where a number comes from; no text quotes it."""


def _pages(command: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every help page of the command line."""
    context = click.Context(command, info_name=" ".join(names))
    yield " ".join(names), command.get_help(context)
    for name, each in getattr(command, "commands", {}).items():
        yield from _pages(each, (*names, name))


def test_no_help_page_names_a_requirement() -> None:
    pages = dict(_pages(typer.main.get_command(app), ("wavelift",)))
    assert {"wavelift preflight", "wavelift wave plan", "wavelift jobs extend"} <= pages.keys()
    assert {name: found for name, text in pages.items() if (found := CODE.findall(text))} == {}


def _texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """The texts that a program may show: no docstrings, nor the field of a finding that names its requirement."""
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(node.value)
        if isinstance(node, ast.Call):
            hidden.update(word.value for word in node.keywords if word.arg == "row")
            if isinstance(node.func, ast.Name) and node.func.id in INSIDE:
                hidden.update(node.args)
    yield from (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in hidden
    )


def _files() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if "simulators" not in path.parts)


def test_no_text_of_the_program_names_a_requirement() -> None:
    files = _files()
    assert {"preflight_guest.py", "errors.py", "preflight.py"} <= {path.name for path in files}
    assert [
        f"{path.relative_to(ROOT)}:{text.lineno}: {text.value!r}"
        for path in files
        for text in _texts(ast.parse(path.read_text("utf-8")))
        if CODE.search(str(text.value))
    ] == []


def test_the_tables_of_findings_name_none() -> None:
    tables = sorted((ROOT / "src/wavelift/rules/data").glob("*.json"))
    assert {"export_accounts.json", "guests.json", "prices.json"} <= {path.name for path in tables}
    for path in tables:
        assert not CODE.search(json.dumps(json.loads(path.read_text("utf-8")))), path.name
