"""The repository as a package: the folders that AIR-01 names, the links, the metadata, the lock."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import Any, Final

import pytest

import wavelift

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]


def test_air_01_the_root_has_what_a_dag_package_has() -> None:
    for name in ("dags", "plugins", "operators", "sensors", "tests"):
        assert (ROOT / name).is_dir(), name
    for name in ("pyproject.toml", "docker-compose.yml", "LICENSE", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        assert (ROOT / name).is_file(), name
    needed = {re.split(r"[<>=;\[ ]", line, maxsplit=1)[0] for line in requires("wavelift") or ()}
    assert {"apache-airflow", "apache-airflow-providers-amazon", "pyvmomi", "boto3", "pendulum"} <= needed


@pytest.mark.parametrize("name", ["operators", "sensors"])
def test_air_01_root_folders_are_the_package_s_by_link(name: str) -> None:
    link = ROOT / "src" / "wavelift" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..", "..", name)
    assert not (ROOT / name).is_symlink()


def test_plugins_has_no_folder_that_shadows_the_package() -> None:
    """Airflow puts the plugins folder on ``sys.path``."""
    assert not [entry for entry in (ROOT / "plugins").iterdir() if entry.is_dir() and entry.name != "__pycache__"]


def test_entry_points_are_found() -> None:
    found = {
        (group, point.name): point
        for group in ("airflow.plugins", "apache_airflow_provider", "console_scripts")
        for point in entry_points(group=group)
        if point.value.startswith("wavelift.")
    }
    assert found["console_scripts", "wavelift"].value == "wavelift.cli.main:app"
    assert found["apache_airflow_provider", "provider_info"].load()()["package-name"] == "wavelift"
    assert found["airflow.plugins", "wavelift"].value == "wavelift.plugin:WaveliftPlugin"


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == wavelift.__version__
    assert f"## {wavelift.__version__} " in (ROOT / "CHANGELOG.md").read_text()


TOOLS: Final = ("build", "go", "audit")
"""Groups of dependencies with a lock of their own in scripts/."""
LOCKS: Final = ("requirements.lock", "requirements-dev.lock", *(f"scripts/{group}.lock" for group in TOOLS))


def pins(lock: str) -> dict[str, set[str]]:
    """Package → pinned versions. One lock serves several Pythons, so there may be two."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if match := re.match(r"([a-z0-9][\w.-]*)(?:\[\S+\])?==(\S+)", line, re.IGNORECASE):
            found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}


@pytest.fixture
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def simulators() -> dict[str, Any]:
    return tomllib.loads((ROOT / "packaging" / "simulators" / "pyproject.toml").read_text())


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_hash_for_every_pin_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "/opt/" not in text
    requirements = re.split(r"\n(?=[a-zA-Z0-9])", text)
    assert requirements
    for one in requirements:
        assert "--hash=sha256:" in one, one.splitlines()[0]


def test_the_lock_of_production_has_what_production_needs_and_no_more(
    pyproject: dict[str, Any], simulators: dict[str, Any]
) -> None:
    production = pins("requirements.lock")
    project = pyproject["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    assert len(production) > 150
    assert names(project["dependencies"] + extras) <= set(production)
    others = names(pyproject["dependency-groups"]["dev"] + simulators["project"]["dependencies"])
    assert others & set(production) - names(project["dependencies"] + extras) == set()


def test_the_lock_of_development_is_that_of_production_and_more(
    pyproject: dict[str, Any], simulators: dict[str, Any]
) -> None:
    """What the tests prove is what production installs."""
    production, development = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name: versions for name, versions in development.items() if name in production} == production
    assert names(pyproject["dependency-groups"]["dev"] + simulators["project"]["dependencies"]) <= set(development)


@pytest.mark.parametrize("group", TOOLS)
def test_what_runs_before_a_check_is_exact(group: str, pyproject: dict[str, Any]) -> None:
    for line in pyproject["dependency-groups"][group]:
        name, _, version = line.partition("==")
        assert pins(f"scripts/{group}.lock")[name] == {version}
    makefile = (ROOT / "Makefile").read_text()
    assert f"--require-hashes -r scripts/{group}.lock" in makefile
    for command in re.findall(r"pip (?:install|sync) .*", makefile):
        assert "--require-hashes" in command or "--no-deps -e ." in command, command


def test_the_simulators_are_of_the_same_version(pyproject: dict[str, Any], simulators: dict[str, Any]) -> None:
    assert simulators["project"]["name"] == "wavelift-simulators"
    assert simulators["project"]["version"] == pyproject["project"]["version"]
    assert simulators["project"]["requires-python"] == pyproject["project"]["requires-python"]


def test_an_audit_that_could_look_up_nothing_fails() -> None:
    """Without ``--strict``, pip-audit ends with success where the index offers no data."""
    assert re.search(r"pip-audit --strict ", (ROOT / "Makefile").read_text())


def test_the_readme_installs_the_lock_of_production() -> None:
    text = (ROOT / "README.md").read_text()
    assert "uv pip install --no-deps --require-hashes --compile-bytecode -r requirements.lock" in text
    lines = re.findall(r"^ *(?:uv )?pip install .*", text, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert "--require-hashes" in line or "--no-deps --compile-bytecode dist/" in line, line
