"""The documents against the code: what a newcomer copies from the README must work."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from typer.main import get_command

from wavelift import __version__
from wavelift.airflow.provider_info import CONFIG, VSPHERE_CHOICES
from wavelift.base.settings import AIRFLOW, OPTIONS
from wavelift.cli.main import app
from wavelift.cli.settings_page import renewed
from wavelift.rules.preflight_target import MULTIDISK
from wavelift.specs import check_file, format_errors

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]
DOCS: Final = ROOT / "docs"
README: Final = (ROOT / "README.md").read_text()
REQUIREMENTS: Final = (DOCS / "requirements.md").read_text()
PAGES: Final = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.glob("*.md"))
ROWS: Final = {
    *("AIR-03", "AIR-04", "AMP-05", *(f"SMS-{number:02}" for number in range(1, 11)), "SMS-14"),
    *("AIR-01", "AIR-02", "AIR-05", "AMP-06", "AMP-07", "AMP-08", "AMP-11", "AMP-12", "SMS-11", "SMS-12", "SMS-16"),
    *("AMP-01", "AMP-02", "AMP-03", "AMP-04", "AMP-09", "SMS-13", "SMS-15"),
    *(f"HCX-{number:02}" for number in range(1, 9)),
    "AMP-10",
    *(f"VIE-{number:02}" for number in range(1, 7)),
}
PACKAGE: Final = ROOT / "src" / "wavelift"
SUFFIXES: Final = {".py", ".md", ".go", ".json", ".toml", ".sql", ".lock", ".yml"}
ELSEWHERE: Final = {"wavelift/_dags", "wavelift/connector", "config/airflow_local_settings.py"}
"""Paths in the wheel and in ``AIRFLOW_HOME``."""
ROUTE: Final = re.compile(r"(GET|POST|PUT|PATCH|DELETE) /\S+")
OTHERS_ROUTES: Final = ("/api/v2", "/policy", "/infra", "/hybridity", "/_sim")
"""Of Airflow, NSX, HCX and the simulators."""
README_LINES: Final = 200
"""A newcomer reads no more at once; the rest is in docs."""


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def inline(text: str) -> list[str]:
    """What stands in backticks, code blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def table(text: str, after: str) -> Iterator[list[str]]:
    """Rows of the first table after a heading."""
    part = text.split(after, 1)[1].split("\n## ", 1)[0]
    for line in part.splitlines():
        if line.startswith("| ") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= README_LINES


def test_the_spec_examples_are_valid(tmp_path: Path) -> None:
    for text in [block for page in PAGES for block in blocks("yaml", page.read_text())]:
        spec = yaml.safe_load(text)
        network = spec["network"] if isinstance(spec.get("network"), str) else ""
        folder = "networks" if network else "waves" if "wave" in spec else "environments"
        (tmp_path / folder).mkdir(exist_ok=True)
        stem = "principals" if "groups" in spec else network or spec.get("wave") or spec["environment"]
        (tmp_path / folder / f"{stem}.yaml").write_text(text)
    waves = sorted((tmp_path / "waves").iterdir())
    assert {"erp.yaml", "shop.yaml"} <= {wave.name for wave in waves}
    networks = sorted((tmp_path / "networks").iterdir())
    assert networks
    for file in [*waves, *networks, tmp_path / "environments" / "principals.yaml"]:
        assert format_errors(check_file(file, tmp_path / "environments", tmp_path / "networks")) == ""


def test_every_command_of_the_documents_exists() -> None:
    lines = [line for page in PAGES for text in blocks("sh", page.read_text()) for line in text.splitlines()]
    named = [words for page in PAGES for words in inline(page.read_text())]  # a sentence may name a group of commands
    called = sorted({line.split("#")[0].strip() for line in [*lines, *named] if line.startswith("wavelift ")})
    assert len(called) > 12
    program = get_command(app)  # once: it takes a tenth of a second
    for line in called:
        words, command = line.split()[1:], program
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        group = getattr(command, "commands", None)
        assert not group or (not words and line in named), f"{line}: {words} is no command"
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_installation_is_one_command_that_a_shell_reads() -> None:
    """It was run by hand from an empty folder; tests/e2e/test_wheel.py runs its last command."""
    [block] = [text for text in blocks("sh", README) if "requirements.lock" in text]
    lines = block.splitlines()
    assert all(line.endswith("&&") for line in lines[:-1]), "one command: it stops at the first failure"
    assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0
    steps = (
        *("AIRFLOW_HOME=", "python3 -m venv", "bin/activate", "-r scripts/build.lock", "uv build"),
        # uv, not pip: many times faster, and pip before version 24 refuses the lock, since it names no extras.
        "uv pip install --no-deps --require-hashes --compile-bytecode -r requirements.lock",
        *(f"dist/wavelift-{__version__}-py3-none-any.whl", "wavelift init --dags"),
    )
    places = [block.index(step) for step in steps]
    assert places == sorted(places)


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for text in blocks("sh", page.read_text()):
            assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_paths_exist(page: Path) -> None:
    """A path begins at the root, in the package, in the folder that the page is about, or beside the page."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^):\s]+)\)", text):
        file, _, heading = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not heading or heading in headings(linked.read_text()), target
    for path in inline(text):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path) and names_a_file(path):
            assert any((base / path).exists() for base in (ROOT, PACKAGE, PACKAGE / page.stem, page.parent)), path


def test_every_test_that_a_page_names_exists() -> None:
    named = {words for page in PAGES for words in re.findall(r"`([\w./-]+\.py::\w+)`", page.read_text())}
    assert len(named) > 40, "docs/security.md names the test of each promise"
    for words in sorted(named):
        file, _, name = words.partition("::")
        assert (ROOT / file).is_file(), words
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), words


def test_every_route_of_the_documents_exists() -> None:
    """A page may give a part of a path in braces a shorter name."""
    paths = json.loads((DOCS / "openapi.json").read_text())["paths"]
    known = {nameless(f"{method.upper()} {path}") for path, methods in paths.items() for method in methods}
    named = {words for page in PAGES for words in inline(page.read_text()) if ROUTE.fullmatch(words)}
    ours = {words.replace(" /wavelift/", " /") for words in named if not words.split()[1].startswith(OTHERS_ROUTES)}
    assert len(ours) > 20
    assert {words for words in ours if nameless(words) not in known} == set()


def nameless(route: str) -> str:
    return re.sub(r"\{\w+\}", "{}", route)


def names_a_file(path: str) -> bool:
    """Whether it looks like a path of this repository: a folder that is here, or a file's suffix after a folder."""
    first, slash, _ = path.partition("/")
    here = any((base / first).is_dir() for base in (ROOT, PACKAGE))
    return bool(slash) and path not in ELSEWHERE and (here or Path(path).suffix in SUFFIXES)


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for words in found}


def test_every_row_of_the_issue_is_in_the_table_with_tests() -> None:
    rows = {cells[0]: cells[2] for cells in table(REQUIREMENTS, "## What is done") if cells[0] != "row"}
    assert set(rows) == ROWS
    for row, places in rows.items():
        sources = [
            file.read_text()
            for place in re.findall(r"`(tests/[\w./-]+)`", places)
            for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("test_*.py"))
        ]
        named = rf"def test_(\w*_)?{row.replace('-', '_').lower()}_"
        assert any(re.search(named, source) for source in sources), f"no test named after {row} in {places}"


def test_the_settings_page_is_the_table_of_settings() -> None:
    page = (DOCS / "settings.md").read_text()
    assert renewed(page) == page, "run: python -m wavelift.cli.settings_page docs/settings.md"
    for one in AIRFLOW:
        value = f"{one.value} per core" if one.per_core else one.value
        assert f"| `[{one.section}] {one.option}` | {value} | {one.unit} |" in page
    assert set(CONFIG["wavelift"]["options"]) == set(OPTIONS)
    for name, option in CONFIG["wavelift"]["options"].items():
        assert re.search(rf"^\| `{name}` \| {re.escape(option['default'])}", page, re.MULTILINE), name


def test_the_hcx_page_has_every_word_that_the_client_depends_on() -> None:
    page = (DOCS / "hcx.md").read_text()
    assert renewed(page) == page, "run: python -m wavelift.cli.settings_page docs/hcx.md"
    assert page.count("| guess |") > 3


def test_the_page_of_exports_has_every_finding() -> None:
    page, rules = (DOCS / "instance-export.md").read_text(), PACKAGE / "rules"
    sources = "".join(file.read_text() for file in rules.glob("export_*.py"))
    codes = set(re.findall(r'"((?:bucket|export|account)\.[a-z_]+)"', sources))
    assert len(codes) > 25
    assert codes == set(re.findall(r"^\| `((?:bucket|export|account)\.[a-z_]+)` \|", page, re.MULTILINE))


def test_operations_names_the_modes_of_a_connection() -> None:
    text = (DOCS / "operations.md").read_text()
    for values in VSPHERE_CHOICES.values():
        assert all(f"`{value}`" in text for value in values)


def test_amp_11_troubleshooting_has_the_literal_texts() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    assert f"`{MULTIDISK}`" in page
    assert "`Connector is unable to reach ESX host [hostname] to migrate virtual machine [name]`" in page
    source = (ROOT / "src" / "wavelift" / "rules" / "preflight_source.py").read_text()
    for words in ("Connector is unable to reach ESX host ", "Connector can't validate the certificates of the host "):
        assert words in source
        assert words in page


def test_no_figure_is_still_to_come() -> None:
    for page in PAGES:
        assert not re.search(r"@[A-Z]+@|\bTBD\b", page.read_text()), page


def test_nothing_of_this_machine_is_in_the_documents() -> None:
    for page in PAGES:
        assert not re.search(r"/(work|root|home)/|index-url|127\.0\.0\.1:\d{4,}", page.read_text()), page.name
