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


OPEN_WORDS = ("…", "...", "X", "ID")
"""Where a text leaves the command open. `wavelift events ID` is `wavelift events show ID`."""


def _said(tree: ast.Module) -> Iterator[str]:
    """Every text of a program, with X for what is filled in."""
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            yield node.value


def _misfit(line: str, command: Any) -> str:
    """Why a command that a text names can't be typed so; empty: it can.

    :param command: of the whole program."""
    words = line.split()[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if getattr(command, "commands", None):
        return f"{words[0]} is no command" if words and words[0] not in OPEN_WORDS else ""
    known = [one for one in command.params if one.param_type_name == "option"]
    options = {name: one for one in known for name in (*one.opts, *one.secondary_opts)}
    places = sum(9 if one.nargs < 0 else 1 for one in command.params if one.param_type_name == "argument")
    while words:
        word = words.pop(0)
        if word in options:
            if not options[word].is_flag and words:
                words.pop(0)
        elif word.startswith("--") and word != "--help":
            return f"no option {word}"
        elif word not in ("…", "...", "--help"):
            places -= 1
    return "more words than it takes" if places < 0 else ""


def test_every_command_that_a_text_names_can_be_typed() -> None:
    """A next step that names a command in backticks is pasted by whoever reads it."""
    named = {
        (str(path.relative_to(ROOT)), line)
        for path in _files()
        for text in _said(ast.parse(path.read_text("utf-8")))
        for line in re.findall(r"`(wavelift [a-z][^`]*)`", text)
    }
    assert len(named) > 40
    program = typer.main.get_command(app)
    assert {where: why for where in sorted(named) if (why := _misfit(where[1], program))} == {}
    assert {_misfit(f"wavelift export {wrong}", program) for wrong in ("sturt", "setup prod", "list --some")} == {
        *("sturt is no command", "more words than it takes", "no option --some")
    }
