"""The documents against the code: what a stranger copies from the README must work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from typer.main import get_command

from wavelift.airflow.provider_info import CONFIG, VSPHERE_CHOICES
from wavelift.cli.local_airflow import shipped_settings
from wavelift.cli.main import app
from wavelift.rules.preflight_target import MULTIDISK
from wavelift.specs import check_file, format_errors

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]
README: Final = (ROOT / "README.md").read_text()
PAGES: Final = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
ROWS: Final = {
    *("AIR-04", "AMP-05", *(f"SMS-{number:02}" for number in range(1, 11)), "SMS-14"),
    *("AIR-01", "AIR-02", "AIR-05", "AMP-06", "AMP-07", "AMP-08", "AMP-11", "AMP-12", "SMS-11", "SMS-12", "SMS-16"),
}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def table(after: str) -> Iterator[list[str]]:
    """Rows of the first table after a heading."""
    part = README.split(after, 1)[1].split("\n## ", 1)[0]
    for line in part.splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_spec_examples_are_valid(tmp_path: Path) -> None:
    for text in blocks("yaml"):
        spec = yaml.safe_load(text)
        folder = "waves" if "wave" in spec else "environments"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{spec.get('wave') or spec['environment']}.yaml").write_text(text)
    assert format_errors(check_file(tmp_path / "waves" / "shop.yaml", tmp_path / "environments")) == ""


def test_every_command_of_the_documents_exists() -> None:
    lines = [
        line.split("#")[0] for page in PAGES for text in blocks("sh", page.read_text()) for line in text.splitlines()
    ]
    called = sorted({line.strip() for line in lines if line.startswith("wavelift ")})
    assert len(called) > 12
    for line in called:
        words, command = line.split()[1:], get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert not getattr(command, "commands", None), f"{line}: {words} is no command"
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for text in blocks("sh", page.read_text()):
            assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_paths_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:tests|docs|src|operators|scripts|benchmarks|plugins)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_row_of_the_issue_is_in_the_table_with_tests() -> None:
    rows = {cells[0]: cells[2] for cells in table("## What is done") if cells[0] != "row"}
    assert set(rows) == ROWS
    for row, places in rows.items():
        sources = [
            file.read_text()
            for place in re.findall(r"`(tests/[\w./-]+)`", places)
            for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("test_*.py"))
        ]
        named = rf"def test_(\w*_)?{row.replace('-', '_').lower()}_"
        assert any(re.search(named, source) for source in sources), f"no test named after {row} in {places}"


def test_the_settings_table_is_the_configuration() -> None:
    rows = {cells[0].strip("`"): cells[1] for cells in table("## Settings") if cells[0].startswith("`")}
    options = CONFIG["wavelift"]["options"]
    assert set(rows) == set(options)
    for name, option in options.items():
        if option["default"]:
            assert rows[name] == option["default"], name


def test_operations_names_the_shipped_settings_and_the_modes() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for variable, value in shipped_settings(cores=2).items():
        section, option = variable.removeprefix("AIRFLOW__").lower().split("__")
        if section in ("workers", "scheduler"):
            assert f"| `[{section}] {option}` | {value} |" in text
    for values in VSPHERE_CHOICES.values():
        assert all(f"`{value}`" in text for value in values)


def test_amp_11_troubleshooting_has_the_literal_texts() -> None:
    assert f"`{MULTIDISK}`" in README
    assert "`Connector is unable to reach ESX host [hostname] to migrate virtual machine [name]`" in README
    source = (ROOT / "src" / "wavelift" / "rules" / "preflight_source.py").read_text()
    for words in ("Connector is unable to reach ESX host ", "Connector can't validate the certificates of the host "):
        assert words in source
        assert words in README


def test_no_figure_is_still_to_come() -> None:
    for page in PAGES:
        assert not re.search(r"@[A-Z]+@|\bTBD\b", page.read_text()), page


def test_nothing_of_this_machine_is_in_the_documents() -> None:
    for page in PAGES:
        assert not re.search(r"/(work|root|home)/|index-url|127\.0\.0\.1:\d{4,}", page.read_text()), page.name
