"""Dockerfile and compose file: written for any engine and for docker-compose 1.29 as for Compose v2."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from tests.compose import ROOT, SECRETS, compose_command, configured, environment, read_services

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.settings import AIRFLOW, airflow_environment

pytestmark = pytest.mark.unit
PINNED: Final = re.compile(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return read_services()


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
    processes = sum("AIRFLOW__CORE__EXECUTOR" in environment(service) for service in services.values())
    assert processes * (5 + overflow) <= allowed


def test_nothing_starts_without_its_secrets(services: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert f"${{{name}:?set {name}}}" in text
    if compose_command():
        refused = configured("config", secrets=False)
        assert refused.returncode != 0
        assert re.search("set WAVELIFT_[A-Z]+_", refused.stderr)


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
    assert {image for image, _ in stages} - named == {"${PYTHON_IMAGE}"}
    [default] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text.split("FROM", 1)[0], re.MULTILINE)
    assert PINNED.fullmatch(default)
    assert all(source in named for source in re.findall(r"COPY --from=(\S+)", text))
    assert "--mount" not in text  # BuildKit only


def stages() -> dict[str, str]:
    """The text of each stage of the Dockerfile, by name."""
    text = (ROOT / "Dockerfile").read_text()
    return {
        match["name"]: match["body"]
        for match in re.finditer(r"^FROM \S+ AS (?P<name>\S+)\n(?P<body>(?:(?!FROM ).*\n)*)", text, re.MULTILINE)
    }


def test_dockerfile_installs_locks_with_hashes_and_nothing_else() -> None:
    """Everything that comes from an index has a hash; a wheel of ours brings no dependencies with it."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    installs = re.findall(r"pip install [^&\n]*", text)
    assert len(installs) == 5
    for command in installs:
        ours = "--no-deps" in command and re.search(r" dist/\S+\.whl\s*$", command)
        assert ours or "--require-hashes -r " in command, command


def test_the_image_of_production_has_production_s_lock_only() -> None:
    found = stages()
    assert list(found) == ["build", "build-demo", "wavelift", "demo"]
    assert "-r requirements.lock" in found["build"]
    assert "--compile-bytecode" in found["build"]
    for name in ("build", "wavelift"):
        assert "requirements-dev.lock" not in found[name]
        assert "packaging" not in found[name], "the simulators"
    assert "COPY --from=build /opt/wavelift /opt/wavelift" in found["wavelift"]
    assert "pip" not in found["wavelift"], "nothing that installs is left in it"
    assert "requirements-dev.lock" in found["build-demo"]
    assert (ROOT / "Dockerfile").read_text().endswith("\nFROM wavelift\n"), "a build without --target"


def test_the_image_runs_as_nobody_special_and_may_be_read_only() -> None:
    text = stages()["wavelift"]
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1].startswith("${AIRFLOW_UID}")
    assert "touch /opt/airflow/airflow.cfg" in text, "else Airflow writes one, with keys, into the image's layer"


def test_the_image_preloads_what_tasks_import() -> None:
    copied = f"COPY {LOCAL_SETTINGS.relative_to(ROOT)} /opt/airflow/config/"
    assert copied in (ROOT / "Dockerfile").read_text(), "$AIRFLOW_HOME/config is on Airflow's path"


def test_what_the_dockerfile_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [
        source
        for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("/")  # of an earlier stage
    ]
    assert "src" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source not in ignored
