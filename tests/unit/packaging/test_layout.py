"""The repository as a package: the folders that AIR-01 names, the links, the metadata, the lock."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import Final

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


def test_the_lock_has_hashes_and_no_addresses() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pinned = re.findall(r"^[a-z0-9][\w.\-\[\],]*==\S+", lock, re.MULTILINE | re.IGNORECASE)
    assert len(pinned) > 150
    assert lock.count("--hash=sha256:") >= len(pinned)


def test_every_direct_dependency_is_in_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text().lower()
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *pyproject["project"]["dependencies"],
        *(line for group in pyproject["project"]["optional-dependencies"].values() for line in group),
        *pyproject["dependency-groups"]["dev"],
    ]
    for line in wanted:
        name = re.split(r"[<>=;\[ ]", line, maxsplit=1)[0].lower().replace("_", "-")
        assert re.search(rf"^{re.escape(name)}(\[\S+\])?==", lock, re.MULTILINE), name
