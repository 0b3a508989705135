"""The wheel as a stranger gets it: built through the sdist, installed into an environment of its own, used outside the
tree. A link that an archive lost, a data file that nobody listed, a path that only holds in the checkout show here.

The simulators are a second wheel. It adds files to the package and takes none over, so that each wheel can be installed
and removed alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.xdist_group("wheel")]
ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "src" / "wavelift"
SIMULATORS: Final = "wavelift/simulators/"
BASE_PYTHON: Final = Path(getattr(sys, "_base_executable", sys.executable))
"""The interpreter that our environment was made from: it has pip, ours needs none."""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel; everything else it borrows from the one that runs the tests."""

    folder: Path

    @property
    def site(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def run(self, program: str, *arguments: str, home: Path) -> str:
        """Run a program of the environment outside the tree; its output."""
        done = self.attempt(program, *arguments, home=home)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def attempt(self, program: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PYTHON", "WAVELIFT"))
        }
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=home,
            env={**inherited, "AIRFLOW_HOME": str(home / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def install(self, wheel: Path) -> None:
        self._pip("install", "--no-index", "--no-deps", str(wheel))

    def uninstall(self, name: str) -> None:
        self._pip("uninstall", "--yes", name)

    def _pip(self, *arguments: str) -> None:
        python = str(self.folder / "bin" / "python")
        build([str(BASE_PYTHON), "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet", *arguments])


def build(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def shipped(folder: Path) -> set[str]:
    """Every file below a folder, links followed, as relative paths."""
    found: set[str] = set()
    for path in folder.iterdir():
        if path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        found |= {f"{path.name}/{name}" for name in shipped(path)} if path.is_dir() else {path.name}
    return found


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """sdist and the wheel made from it (``build`` without arguments makes it from nothing else)."""
    folder = tmp_path_factory.mktemp("dist")
    build([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)])
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def simulators_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulators")
    source = str(ROOT / "packaging" / "simulators")
    build([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), source])
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel of production only."""
    made = Installed(tmp_path_factory.mktemp("env") / "venv")
    build([str(BASE_PYTHON), "-m", "venv", "--without-pip", str(made.folder)])
    made.install(archives[1])
    # A plain line in a .pth file comes after site-packages and has its own .pth files ignored: so our dependencies are
    # found there, and the editable wavelift is not.
    (made.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def contents(wheel: Path) -> set[str]:
    """The files of a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        assert not [info for info in archive.infolist() if (info.external_attr >> 16) & 0o170000 == 0o120000], "links"
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_two_wheels_hold_every_file_of_the_package_and_the_dags(
    archives: tuple[Path, Path], simulators_wheel: Path
) -> None:
    wanted = {f"wavelift/{name}" for name in shipped(PACKAGE)} | {
        f"wavelift/_dags/{name}" for name in shipped(ROOT / "dags")
    }
    simulators = {name for name in wanted if name.startswith(SIMULATORS)}
    assert "wavelift/operators/connector/export.py" in wanted
    assert "wavelift/simulators/vcenter/server/go.sum" in simulators
    assert contents(archives[1]) == wanted - simulators
    assert contents(simulators_wheel) == simulators


def test_the_sdist_holds_what_builds_and_tests_it(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert not [member.name for member in sdist.getmembers() if member.issym()]
    for folder in ("src", "dags", "plugins", "tests", "benchmarks", "docs", "docker", "scripts", "packaging"):
        assert {f"{folder}/{name}" for name in shipped(ROOT / folder)} - names == set()
    single = {"Makefile", "requirements.lock", "requirements-dev.lock", "pyproject.toml", "README.md", "LICENSE"}
    assert single | {"CHANGELOG.md", "Dockerfile"} <= names


def test_everything_imports_from_the_wheel_outside_the_tree(installed: Installed, tmp_path: Path) -> None:
    script = """
import pathlib, sys, wavelift, wavelift.operators, wavelift.sensors, wavelift.plugin, wavelift.dag_factory
import wavelift.airflow.hooks.vsphere, wavelift.airflow.hooks.vm_import, wavelift.airflow.triggers.imports
import wavelift.airflow.hooks.hcx, wavelift.airflow.triggers.hcx, wavelift.adapters.hcx.mobility
import wavelift.console.api, wavelift.ledger
from wavelift.cli.dag_files import dags_source
for package in (wavelift.operators, wavelift.sensors):
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("wavelift."), name
assert dags_source() == pathlib.Path(wavelift.__file__).parent / "_dags", dags_source()
foreign = [name for name, module in sys.modules.items() if name.partition(".")[0] == "wavelift"
           and not str(getattr(module, "__file__", None) or "").startswith(sys.prefix)]
print(foreign)
"""
    assert installed.run("python", "-c", script, home=tmp_path).splitlines()[-1] == "[]"


def test_air_01_its_dags_parse_and_its_plugin_is_found(installed: Installed, tmp_path: Path) -> None:
    script = """
from airflow.dag_processing.dagbag import DagBag
from airflow.providers_manager import ProvidersManager
from importlib.metadata import entry_points
from wavelift.cli.dag_files import dags_source
import shutil
shutil.copytree(dags_source(), "airflow/dags")  # as the README says
bag = DagBag(dag_folder="airflow/dags")
print(sorted(bag.dags), bag.import_errors, len(bag.dags["demo.migrate"].tasks))
print(ProvidersManager().providers["wavelift"].version)
print([point.load().name for point in entry_points(group="airflow.plugins") if point.name == "wavelift"])
"""
    (tmp_path / "airflow").mkdir()
    lines = installed.run("python", "-c", script, home=tmp_path).splitlines()[-3:]
    names = (
        "connector_health",
        "cutover_upkeep",
        "cutover_watch",
        "demo.migrate",
        "environment_check",
        "instance_backup",
    )
    assert lines[0].startswith(f"{[*names, 'server_catalog']} {{}} ")
    assert lines[1:] == ["0.1.0", "['wavelift']"]


def test_its_command_works(installed: Installed, tmp_path: Path) -> None:
    assert "preflight" in installed.run("wavelift", "--help", home=tmp_path)
    assert installed.run("wavelift", "version", home=tmp_path) == "0.1.0\n"
    wave = installed.site / "wavelift" / "_dags" / "waves" / "demo.yaml"
    assert installed.run("wavelift", "wave", "validate", str(wave), home=tmp_path) == "1 wave valid\n"
    dags = tmp_path / "airflow" / "dags"
    [last] = re.findall(r"^ *wavelift (init .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    arguments = last.replace('"$AIRFLOW_HOME/dags"', str(dags)).split()
    installed.run("wavelift", *arguments, home=tmp_path)
    assert {path.name for path in dags.iterdir()} == {
        "waves.py",
        "wave_errors.py",
        "networks.py",
        "exports.py",
        "catalog.py",
        "waves",
        "environments",
        "networks",
    }
    assert (tmp_path / "airflow" / "wavelift" / "wavelift.db").stat().st_size > 0


@pytest.mark.parametrize("command", [("demo", "--exit"), ("simulators", "up")])
def test_without_the_simulators_the_demo_says_how_to_get_them(
    installed: Installed, tmp_path: Path, command: tuple[str, ...]
) -> None:
    refused = installed.attempt("wavelift", *command, home=tmp_path)
    assert refused.returncode == 1
    assert "wavelift-simulators" in refused.stderr
    assert "python -m build --wheel packaging/simulators" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_simulators_are_added_and_removed_without_touching_the_product(
    installed: Installed, simulators_wheel: Path, tmp_path: Path
) -> None:
    script = """
import sys, wavelift, wavelift.simulators.aws, wavelift.simulators.vcenter
from wavelift.simulators.vcenter.build import ensure_binary
ensure_binary()
print([name for name, module in sys.modules.items() if name.partition(".")[0] == "wavelift"
       and not str(getattr(module, "__file__", None) or "").startswith(sys.prefix)])
"""
    before = shipped(installed.site / "wavelift")
    installed.install(simulators_wheel)
    try:
        assert installed.run("python", "-c", script, home=tmp_path).splitlines()[-1] == "[]"
    finally:
        installed.uninstall("wavelift-simulators")
    assert shipped(installed.site / "wavelift") == before
    assert "preflight" in installed.run("wavelift", "--help", home=tmp_path)
