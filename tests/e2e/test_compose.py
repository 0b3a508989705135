"""The compose file's services without containers: real Redis, PostgreSQL and all of Airflow's components, each with
exactly the command and the environment that the file gives it, and no other variable.

Each has an AIRFLOW_HOME in which only the volumes can be written, and no Linux capability.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import pytest
from cryptography.fernet import Fernet
from tests.compose import ROOT, VALUES, command, environment, read_services
from tests.e2e.conftest import until
from tests.postgres import Postgres, find_binaries
from tests.postgres import running as running_postgres
from tests.redis import Redis, free_port, needs_redis
from tests.redis import running as running_redis
from tests.scan import Scan

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.airflow.rest import ApiClient
from wavelift.cli.local_airflow import end_processes_in

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("compose"),
]
COMPONENTS: Final = ("api-server", "scheduler", "dag-processor", "triggerer", "worker", "connector")
HOME: Final = "/opt/airflow"
"""AIRFLOW_HOME of the image."""
FERNET: Final = Fernet.generate_key().decode()
PASSWORD: Final = "password-of-the-vault"
DAG: Final = """
from datetime import timedelta
from airflow.sdk import DAG, BaseHook, task
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor

with DAG("stack", schedule=None):

    @task(queue="datacenter1")
    def remote():
        import os
        print("hello from the connector")
        found = BaseHook.get_connection("vault")
        return {"length": len(found.password), "login": found.login,
                "database": os.environ.pop("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", ""),
                "variables": sorted(name for name in os.environ if name.startswith("AIRFLOW__"))}

    @task
    def control():
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        with Ledger.open(config.ledger_url()) as ledger, ledger.read():
            return ledger.url.partition(":")[0]

    remote() >> TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=1), deferrable=True) >> control()
"""


@dataclass
class Stack:
    """Processes in place of containers."""

    folder: Path
    services: dict[str, Any]
    postgres: Postgres
    redis: Redis
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def home(self, name: str) -> Path:
        return self.folder / name

    def lay_out(self, name: str) -> None:
        """The image's folder, read-only, with the volumes of this service."""
        home = self.home(name)
        (home / "config").mkdir(parents=True)
        shutil.copy(LOCAL_SETTINGS, home / "config")
        (home / "airflow.cfg").touch()
        (home / "dags").symlink_to(self.folder / "dags")
        for volume in self.services[name]["volumes"]:
            source, target = str(volume).split(":")[:2]
            if target.startswith(HOME) and not target.endswith("/dags"):
                place = self.folder / "volumes" / source.rsplit("/", 1)[-1]
                place.mkdir(parents=True, exist_ok=True)
                (home / Path(target).name).symlink_to(place)
        temporary = self.folder / f"tmp-{name}"
        temporary.mkdir()
        home.chmod(0o555)

    def environment(self, name: str) -> dict[str, str]:
        """What the file says, with the addresses of this machine."""
        here = {
            HOME: str(self.home(name)),
            "redis:6379": f"127.0.0.1:{self.redis.port}",
            "http://api-server:8080": self.url,
            "@postgres/airflow": f"@/airflow?host={self.postgres.folder}",
            "@postgres/wavelift": f"@/wavelift?host={self.postgres.folder}",
            VALUES["WAVELIFT_FERNET_KEY"]: FERNET,
        }
        given = environment(self.services[name])
        for word, instead in here.items():
            given = {key: value.replace(word, instead) for key, value in given.items()}
        if name == "api-server":
            given |= {"AIRFLOW__API__HOST": "127.0.0.1", "AIRFLOW__API__PORT": str(self.port)}
        of_the_image = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home(name)),
            "TMPDIR": str(self.folder / f"tmp-{name}"),
            "AIRFLOW_HOME": str(self.home(name)),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home(name) / "dags"),
        }
        return of_the_image | given

    def start(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*without_rights(), *words],
                cwd=self.home(name),
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_component(self, name: str) -> None:
        self.processes[name] = self.start(name, ["airflow", *command(self.services[name])])

    def stop(self) -> None:
        for process in self.processes.values():
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
        end_processes_in(self.folder)
        for process in self.processes.values():
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def assert_alive(self) -> None:
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)[-4000:]}"

    def api(self) -> ApiClient:
        passwords = self.folder / "volumes" / "auth" / "passwords.json"

        def login() -> str:
            import json

            body = {"username": "admin", "password": json.loads(passwords.read_text())["admin"]}
            return str(client.raw("POST", "/auth/token", body)[1]["access_token"])

        client = ApiClient(self.url, login)
        return client


def without_rights() -> list[str]:
    """As ``cap_drop: [ALL]`` and ``no-new-privileges``: root then minds the mode of a folder, too."""
    dropped = [] if os.getuid() else ["--bounding-set=-all", "--inh-caps=-all"]
    return ["setpriv", "--no-new-privs", *dropped]


@contextmanager
def databases() -> Iterator[Postgres]:
    """As the image of PostgreSQL makes them: its superuser and database ``airflow``, then our SQL file."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL here; make programs installs it")
    with running_postgres(binaries, superuser="airflow") as server:
        server.folder.chmod(0o711)
        psql = ["psql", "-h", str(server.folder), "-U", "airflow", "-v", "ON_ERROR_STOP=1", "--no-psqlrc", "-q"]
        given = {"PATH": f"{binaries}:/usr/bin:/bin", **VALUES}
        for more in (["-d", "postgres", "-c", "CREATE DATABASE airflow"],
                     ["-d", "airflow", "-f", str(ROOT / "docker" / "create-ledger.sql")]):  # fmt: skip
            done = subprocess.run([*psql, *more], env=given, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        yield server


@pytest.fixture
def stack() -> Iterator[Stack]:
    folder = Path(mkdtemp(prefix="wavelift-compose-"))
    folder.chmod(0o755)
    (folder / "dags").mkdir()
    (folder / "dags" / "stack.py").write_text(DAG)
    services = read_services()
    with ExitStack() as closing:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = closing.enter_context(databases())
        (folder / "redis").mkdir()
        redis = closing.enter_context(running_redis(services["redis"], folder / "redis"))
        made = Stack(folder, services, postgres, redis)
        closing.callback(made.stop)
        yield made


def test_the_celery_of_the_lock_is_one_that_airflow_s_provider_can_use(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import airflow.providers.celery.executors.celery_executor"],
        env={"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.proof
@needs_redis
def test_every_component_works_with_its_own_secrets_only(stack: Stack) -> None:
    for name in ("migrate", *COMPONENTS):
        stack.lay_out(name)
    migrate = stack.start("migrate", list(stack.services["migrate"]["entrypoint"]))
    assert migrate.wait(300) == 0, stack.log("migrate")
    for name in COMPONENTS:
        stack.start_component(name)
    api = stack.api()

    def dag_is_there() -> bool:
        stack.assert_alive()
        try:
            return api.request("GET", "/api/v2/dags/stack")[0] == 200
        except Exception:  # not up yet
            return False

    until(dag_is_there, "the DAG")
    vault = {"connection_id": "vault", "conn_type": "generic", "login": "me", "password": PASSWORD}
    assert api.request("POST", "/api/v2/connections", vault)[0] == 201
    api.unpause("stack")
    run_id = api.trigger("stack", {})
    state = api.wait_for_run("stack", run_id, timeout=300, every=stack.assert_alive, interval=0.5)
    assert state == "success", "\n".join(stack.log(name)[-3000:] for name in COMPONENTS)

    remote = api.xcom("stack", run_id, "remote")
    assert (remote["login"], remote["length"]) == ("me", len(PASSWORD)), "the api-server decrypted it"
    # Airflow itself puts this word into each task process.
    assert remote["database"].startswith("airflow-db-not-allowed:")
    of_the_image = {"AIRFLOW__CORE__LOAD_EXAMPLES", "AIRFLOW__CORE__DAGS_FOLDER", "AIRFLOW__CORE__SQL_ALCHEMY_CONN"}
    assert set(remote["variables"]) - of_the_image == set(environment(stack.services["connector"]))
    assert api.xcom("stack", run_id, "control") == "postgresql+psycopg2"
    log = str(api.request("GET", f"/api/v2/dags/stack/dagRuns/{run_id}/taskInstances/remote/logs/1")[1])
    assert "hello from the connector" in log, "the api-server reads the volume"
    for name in ("worker", "connector"):
        assert not (stack.home(name) / "airflow.db").exists()
        assert "Traceback" not in stack.log(name), stack.log(name)
    signing = (stack.home("worker") / "grants" / "private.pem").read_text().splitlines()[1]
    scan = Scan({**VALUES, "Fernet key": FERNET, "password of the connection": PASSWORD, "signing key": signing})
    volumes = stack.folder / "volumes"
    assert scan.of_files(*(folder for folder in volumes.iterdir() if folder.name != "grants")) == {}
    assert scan.of_files(volumes / "grants") == {str(volumes / "grants" / "private.pem"): {"signing key"}}
    assert {name: scan.of(stack.log(name).encode()) for name in COMPONENTS} == {name: set() for name in COMPONENTS}
    assert sorted(path.name for path in stack.home("connector").iterdir()) == [
        "airflow.cfg", "config", "dags", "grant-keys", "logs", "wavelift",
    ]  # fmt: skip
    assert [path.suffix for path in (stack.home("connector") / "grant-keys").iterdir()] == [".pem"], "it can check"


def test_the_ledger_s_user_cannot_open_airflow_s_database() -> None:
    with databases() as server:
        for user, database, opens in (("wavelift", "wavelift", True), ("wavelift", "airflow", False),
                                      ("wavelift", "postgres", False)):  # fmt: skip
            done = subprocess.run(
                ["psql", "-h", str(server.folder), "-U", user, "-d", database, "-c", "SELECT 1"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode == 0) is opens, done.stderr
