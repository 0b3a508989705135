"""Which service of the compose file gets which secret, and what each may do on its machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from tests.compose import FILE, ROOT, SECRETS, VALUES, command, environment, filled_in, read_services
from tests.redis import needs_redis, running

pytestmark = pytest.mark.unit
DB, LEDGER, REDIS, FERNET, JWT, API = SECRETS
HELD: Final = {
    "postgres": {DB, LEDGER},
    "redis": {REDIS},
    "migrate": {DB, LEDGER},
    "api-server": {DB, LEDGER, FERNET, JWT, API},
    "scheduler": {DB, LEDGER, REDIS, FERNET, JWT},
    "dag-processor": {DB, LEDGER},
    "triggerer": {DB, LEDGER, FERNET},
    "worker": {LEDGER, REDIS},
    "connector": {REDIS},
    "demo": set(),
}
"""The whole list: a secret that a service does not need is not in its environment."""
KEYS: Final = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": DB,
    "AIRFLOW__WAVELIFT__LEDGER_URL": LEDGER,
    "AIRFLOW__CELERY__BROKER_URL": REDIS,
    "AIRFLOW__CELERY__RESULT_BACKEND": REDIS,
    "AIRFLOW__CORE__FERNET_KEY": FERNET,
    "AIRFLOW__API_AUTH__JWT_SECRET": JWT,
    "AIRFLOW__API__SECRET_KEY": API,
}
WRITABLE: Final = {
    "postgres": {"/tmp", "/var/run/postgresql", "/var/lib/postgresql/data"},
    "redis": {"/tmp"},  # and the image's own volume /data
    "demo": {"/tmp", "/run"},
}

EXTRA: Final = {
    "api-server": {"/opt/airflow/auth"},
    "migrate": {"/opt/airflow/grants", "/opt/airflow/grant-keys"},
}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return read_services()


def test_each_service_has_only_the_secrets_that_it_needs(services: dict[str, Any]) -> None:
    """Wherever they stand: environment, command, health check."""
    found = {
        name: {secret for secret in SECRETS if VALUES[secret] in json.dumps(service)}
        for name, service in services.items()
    }
    assert found == HELD


def test_no_secret_stands_in_a_command(services: dict[str, Any]) -> None:
    """A command line is read by everybody on the machine."""
    for name, service in services.items():
        words = json.dumps([service.get(key) for key in ("command", "entrypoint", "healthcheck")])
        assert not [secret for secret in SECRETS if VALUES[secret] in words], name


def test_each_key_has_a_secret_of_its_own(services: dict[str, Any]) -> None:
    """No value is two keys: the key of the web sessions is not that of the tokens, the ledger's user not Airflow's."""
    for service in services.values():
        for key, value in environment(service).items():
            wanted = {KEYS[key]} if key in KEYS else None
            used = {secret for secret in SECRETS if VALUES[secret] in value}
            assert wanted is None or used == wanted, key


def test_the_connector_cannot_reach_a_database(services: dict[str, Any]) -> None:
    given = environment(services["connector"])
    assert not [key for key, value in given.items() if "postgres" in value or "sqlite" in value]
    assert not set(KEYS) - {"AIRFLOW__CELERY__BROKER_URL", "AIRFLOW__CELERY__RESULT_BACKEND"} & set(given)
    assert given["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("redis://:")


def test_no_worker_serves_logs(services: dict[str, Any]) -> None:
    """The server of logs would need the api-server's key."""
    for name in ("scheduler", "triggerer", "worker", "connector"):
        assert "--skip-serve-logs" in command(services[name]), name


def test_the_connector_shares_only_logs_and_dags(services: dict[str, Any]) -> None:
    """It could change the last valid specs else, and read the passwords of the web UI."""
    volumes = {name: {str(volume).split(":")[0] for volume in mounts(service)} for name, service in services.items()}
    others = set().union(*(found for name, found in volumes.items() if name != "connector"))
    shared = {volume.rsplit("/", 1)[-1] for volume in volumes["connector"] & others}
    assert shared == {"logs", "dags", "grant-keys"}, "the last are public keys, which it only reads"
    assert any(volume.endswith("grant-keys:ro") for volume in mounts(services["connector"]))
    assert [name for name, found in volumes.items() if "auth" in found] == ["api-server"]


def mounts(service: dict[str, Any]) -> list[str]:
    """``source:target``, with ``:ro`` if it is so, whichever form compose prints."""
    return [
        volume
        if isinstance(volume, str)
        else f"{volume.get('source', '')}:{volume['target']}{':ro' if volume.get('read_only') else ''}"
        for volume in service.get("volumes", [])
    ]


def test_every_service_is_hardened(services: dict[str, Any]) -> None:
    assert set(services) == set(HELD)
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert 0 < int(service["pids_limit"]) <= 1000, name
        assert "network_mode" not in service, name
        assert "pid" not in service, name


def test_only_these_places_can_be_written(services: dict[str, Any]) -> None:
    airflow = {"/tmp", "/opt/airflow/logs", "/opt/airflow/wavelift"}
    for name, service in services.items():
        volumes = [(*mount.split(":"), "")[:3] if ":" in mount else ("", mount, "") for mount in mounts(service)]
        places = {target or source for source, target, mode in volumes if mode != "ro"} | set(service["tmpfs"])
        extra = EXTRA.get(name, set())
        assert places == WRITABLE.get(name, airflow | extra), name


def test_the_key_that_signs_grants_is_where_control_tasks_run_and_a_connector_only_reads_public_ones(
    services: dict[str, Any],
) -> None:
    private, public = "/opt/airflow/grants", "/opt/airflow/grant-keys"
    found = {
        name: {place for mount in mounts(service) for place in (private, public) if place in mount.split(":")}
        for name, service in services.items()
    }
    assert {name: places for name, places in found.items() if places} == {
        "migrate": {private, public},
        "worker": {private, public},
        "connector": {public},
    }
    given = environment(services["connector"])
    assert given["AIRFLOW__WAVELIFT__GRANT_KEYS_FOLDER"] == public
    assert "AIRFLOW__WAVELIFT__GRANT_KEY_FILE" not in given
    assert given["AIRFLOW__WAVELIFT__CONNECTOR"] == "datacenter1"
    for name in ("migrate", "worker"):
        assert environment(services[name])["AIRFLOW__WAVELIFT__GRANT_KEY_FILE"] == f"{private}/private.pem"


def test_no_service_runs_as_root(services: dict[str, Any]) -> None:
    """Our own image says ``USER`` itself; the official ones begin as root and would need capabilities."""
    for name in ("postgres", "redis"):
        assert services[name]["user"] == "999:999"
    assert "\nUSER ${AIRFLOW_UID}:0\n" in (ROOT / "Dockerfile").read_text()


def test_images_are_pinned_and_can_be_replaced() -> None:
    text = FILE.read_text()
    for name in ("POSTGRES", "REDIS"):
        assert f"image: ${{WAVELIFT_{name}_IMAGE:-{name.lower()}:" in text
    for image in (line.split("image: ")[1] for line in filled_in(text).splitlines() if "image: " in line):
        digest = image.partition("@sha256:")[2]
        assert image.startswith("wavelift") or (len(digest) == 64 and set(digest) <= set("0123456789abcdef")), image


@needs_redis
def test_redis_asks_for_the_password_and_hides_it(services: dict[str, Any], tmp_path: Path) -> None:
    """The command of the compose file, run as it stands."""
    with running(services["redis"], tmp_path) as redis:
        assert "NOAUTH" in redis.ask("ping")
        assert "PONG" not in redis.ask("ping", REDISCLI_AUTH="wrong")
        process = Path(f"/proc/{redis.pid}/cmdline").read_bytes()
        assert b"redis-server" in process, "it replaced the shell: it gets the signals"
        assert VALUES[REDIS].encode() not in process
