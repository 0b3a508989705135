"""Dockerfile and compose file: written for any engine and for docker-compose 1.29 as for Compose v2."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.settings import AIRFLOW, airflow_environment

pytestmark = pytest.mark.unit
ROOT: Final = Path(__file__).parents[3]
SECRETS: Final = ("WAVELIFT_DB_PASSWORD", "WAVELIFT_JWT_SECRET", "WAVELIFT_FERNET_KEY")
BASE_IMAGES: Final = {"python:3.11-slim-bookworm"}


def compose_command() -> list[str]:
    """``docker compose`` or ``docker-compose``, whichever is here; only their ``config`` is called, which needs no
    engine."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    old = shutil.which("docker-compose")
    return [old] if old else []


def configured(*arguments: str, secrets: bool = True) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WAVELIFT_")}
    values = {name: f"value-of-{name}" for name in SECRETS} if secrets else {}
    return subprocess.run(
        [*compose_command(), "--file", str(ROOT / "docker-compose.yml"), *arguments],
        env={**inherited, **values},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services as compose understands them; where there is no compose, as YAML does."""
    if not compose_command():
        warnings.warn("neither 'docker compose' nor docker-compose is here: checked as YAML only", stacklevel=1)
        return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
    done = configured("--profile", "demo", "config")
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout)["services"])


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in service["environment"].items()}


def test_air_01_compose_accepts_the_file_and_has_every_component(services: dict[str, Any]) -> None:
    components = {"postgres", "redis", "migrate", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert set(services) == components | {"worker", "connector", "demo"}
    assert environment(services["scheduler"])["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert services["demo"]["profiles"] == ["demo"]
    assert not services["demo"].get("depends_on")


def test_a_worker_stands_on_the_connector_s_queue(services: dict[str, Any]) -> None:
    queues = {
        name: services[name]["command"][services[name]["command"].index("--queues") + 1]
        for name in services
        if "--queues" in services[name].get("command", [])
    }
    assert queues["worker"] == "default"
    assert queues["connector"].endswith("datacenter1") or "datacenter1" in queues["connector"]


def test_the_shipped_settings_are_those_of_the_demo(services: dict[str, Any]) -> None:
    """What is proven under LocalAirflow holds under compose only with the same values: base.settings has both."""
    shipped = airflow_environment(cores=2)
    assert len(shipped) == len(AIRFLOW) == 5
    for name in ("api-server", "scheduler", "triggerer", "worker", "connector"):
        assert shipped.items() <= environment(services[name]).items()


def test_the_database_takes_the_connections_that_every_component_may_open(services: dict[str, Any]) -> None:
    """``pool_size`` (Airflow's default: 5) and the overflow, of each process that works on the database itself."""
    (allowed,) = (int(word.partition("=")[2]) for word in services["postgres"]["command"] if "max_connections" in word)
    overflow = int(environment(services["scheduler"])["AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW"])
    processes = sum("AIRFLOW__CORE__EXECUTOR" in environment(service) for name, service in services.items()
                    if name not in ("postgres", "redis", "demo"))  # fmt: skip
    assert processes * (5 + overflow) <= allowed


def test_nothing_starts_without_its_secrets(services: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert f"${{{name}:?" in text
    if compose_command():
        refused = configured("config", secrets=False)
        assert refused.returncode != 0
        assert "set WAVELIFT_DB_PASSWORD" in refused.stderr


def test_only_the_api_server_publishes_a_port_and_on_loopback(services: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert [name for name, service in services.items() if service.get("ports")] == ["api-server"]
    assert '"${WAVELIFT_BIND:-127.0.0.1}:${WAVELIFT_PORT:-8080}:8080"' in text  # a host's port may be taken


def test_tasks_of_the_control_plane_see_the_last_valid_specs(services: dict[str, Any]) -> None:
    """The dag-processor keeps them, ``admit`` reads them: they need one volume."""
    for name in ("dag-processor", "scheduler", "worker"):
        assert "/opt/airflow/wavelift" in json.dumps(services[name]["volumes"])


def test_compose_file_avoids_what_one_of_the_two_generations_refuses() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.search(r"^(name|include):", text, re.MULTILINE) is None
    assert "pull_policy" not in re.sub(r"#.*", "", text)
    assert "ulimits" not in text


def test_dockerfile_builds_without_a_registry_of_front_ends_or_stages() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not text.startswith("# syntax")
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    named = {name for _, name in stages if name}
    assert {image for image, _ in stages} - named == BASE_IMAGES
    assert all(source in named for source in re.findall(r"COPY --from=(\S+)", text))
    assert "--mount" not in text  # BuildKit only


def test_dockerfile_installs_the_lock_with_hashes_and_runs_as_nobody_special() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.lock" in text
    assert "--compile-bytecode" in text
    last_user = re.findall(r"^USER (\S+)$", text.split("FROM wavelift AS demo", 1)[0], re.MULTILINE)[-1]
    assert last_user.startswith("${AIRFLOW_UID}")


def test_the_image_preloads_what_tasks_import() -> None:
    copied = f"COPY {LOCAL_SETTINGS.relative_to(ROOT)} /opt/airflow/config/"
    assert copied in (ROOT / "Dockerfile").read_text(), "$AIRFLOW_HOME/config is on Airflow's path"


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [
        source
        for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert "src" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source not in ignored
