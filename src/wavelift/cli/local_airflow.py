"""A whole Airflow on loopback, for the demo and the tests: SQLite, LocalExecutor, free ports, one folder.

It has the settings of :data:`wavelift.base.settings.AIRFLOW`, as production should. So the tests prove them, too.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.airflow.rest import ApiClient, ApiError, dag_path
from wavelift.base.private import private_folder
from wavelift.base.settings import OPTIONS, airflow_environment
from wavelift.services.common import grant_keys
from wavelift.services.common.grant_keys import KeyFiles

COMPONENTS: Final = ("api-server", "scheduler", "dag-processor", "triggerer")
START_SECONDS: Final = 180
"""The four components needed 140 s on a busy machine with two cores."""
STOP_SECONDS: Final = 8


class LocalAirflowError(RuntimeError):
    """Airflow did not start, or it did not answer. The message ends with the last lines of the log."""


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def airflow_home(folder: Path) -> None:
    """Make a folder that can become ``AIRFLOW_HOME``, with the file that lets tasks start sooner.

    A settings file that is there stays: it may hold the policies of its owner. So do the keys that sign grants.
    """
    private_folder(folder)
    grant_keys.keygen(KeyFiles(*(folder / OPTIONS[name].path for name in ("grant_key_file", "grant_keys_folder"))))
    config = folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    if not (config / LOCAL_SETTINGS.name).exists():
        shutil.copy(LOCAL_SETTINGS, config)


def loopback_settings(home: Path, dags: Path, port: int) -> dict[str, str]:
    """Environment variables of an Airflow on loopback with what wavelift needs: SQLite, LocalExecutor.

    :param home: becomes ``AIRFLOW_HOME``.
    :param port: of the API server.
    """
    url = f"http://127.0.0.1:{port}"
    return {
        **airflow_environment(cores=os.cpu_count() or 2),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }


@dataclass
class LocalAirflow:
    """Starts, watches and stops the four components. Use it as a context manager.

    :param home: becomes ``AIRFLOW_HOME``. Airflow writes only below it.
    :param dags: the DAGs folder.
    :param env: more environment variables (connections, ``AIRFLOW__WAVELIFT__…``).
    """

    home: Path
    dags: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    _api: ApiClient | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        airflow_home(self.home)
        self.port = self.port or free_port()
        self._jwt_secret = secrets.token_hex(32)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        return {
            **inherited,
            **loopback_settings(self.home, self.dags, self.port),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.home / "plugins"),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": self._jwt_secret,
            "AIRFLOW__API__SECRET_KEY": self._jwt_secret,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,op:op,viewer:viewer",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")]),
            **self.env,
        }

    def airflow(self, *arguments: str, timeout: float = 180) -> str:
        """Run ``airflow ARGUMENTS`` to its end and return its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise LocalAirflowError(
                f"airflow {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
            )
        return done.stdout

    def migrate(self) -> None:
        """Create or upgrade Airflow's own database."""
        self.airflow("db", "migrate")

    def start(self, *, wait: bool = True) -> LocalAirflow:
        """Start all four components; with ``wait``, return when all report healthy."""
        for name in COMPONENTS:
            self.start_component(name)
        if wait:
            self.wait_healthy()
        return self

    def start_component(self, name: str, *, label: str = "") -> subprocess.Popen[bytes]:
        """Start one component in its own process group, so that it can be stopped together with its workers.

        :param label: its name for :meth:`stop_component`, if there are two of one kind.
        """
        label = label or name
        log = (self.home / f"{label}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", name],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self._processes[label] = process
        return process

    def wait_healthy(self, *, timeout: float = START_SECONDS) -> None:
        """Return when api-server, database, scheduler, dag-processor and triggerer are healthy."""

        def healthy() -> bool:
            self.raise_if_dead()
            try:
                status, body = self.api.raw("GET", "/api/v2/monitor/health")
            except ApiError:
                return False
            return status == 200 and all(
                (body.get(part) or {}).get("status") == "healthy"
                for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")
            )

        wait_for(healthy, timeout=timeout, what="Airflow to become healthy", log=self.log_tail)

    def raise_if_dead(self) -> None:
        """:raises LocalAirflowError: a component has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise LocalAirflowError(f"airflow {name} ended with {process.returncode}:\n{self.log_tail(name)}")

    def log_tail(self, name: str = "", lines: int = 40) -> str:
        """The last lines of one component's log, or of all."""
        parts = []
        for component in [name] if name else COMPONENTS:
            path = self.home / f"{component}.log"
            if path.exists():
                text = path.read_text(errors="replace").splitlines()[-lines:]
                parts.append(f"--- {component}\n" + "\n".join(text))
        return "\n".join(parts)

    @property
    def password(self) -> str:
        """The generated password of the user ``admin``."""
        return self.password_of("admin")

    def password_of(self, user: str) -> str:
        path = self.home / "simple_auth_manager_passwords.json.generated"
        return str(json.loads(path.read_text())[user])

    def client(self, user: str = "admin") -> ApiClient:
        """A REST client that logs in as ``user``."""

        def login() -> str:
            body = {"username": user, "password": self.password_of(user)}
            status, answer = client.raw("POST", "/auth/token", body)
            if status not in (200, 201):
                raise LocalAirflowError(f"login as {user} gave {status}: {answer}")
            return str(answer["access_token"])

        client = ApiClient(self.url, login)
        return client

    @property
    def api(self) -> ApiClient:
        """The client of ``admin``."""
        self._api = self._api or self.client()
        return self._api

    def wait_for_dag(self, dag_id: str, *, timeout: float = 240) -> None:
        """Return when the dag-processor has loaded ``dag_id``."""

        def there() -> bool:
            self.raise_if_dead()
            return self.api.request("GET", dag_path(dag_id))[0] == 200

        wait_for(there, timeout=timeout, what=f"DAG {dag_id}", log=lambda: self.log_tail("dag-processor"))

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, run_id: str = "") -> str:
        """Wait for ``dag_id``, un-pause it, trigger it and return the DAG run's id."""
        self.wait_for_dag(dag_id)
        self.api.unpause(dag_id)
        return self.api.trigger(dag_id, conf, run_id=run_id)

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout: float = 300) -> str:
        """The final state of a run."""
        return self.api.wait_for_run(dag_id, run_id, timeout=timeout, every=self.raise_if_dead, interval=0.5)

    def describe(self, dag_id: str, run_id: str) -> str:
        """The states of a run's tasks, for error messages."""
        rows = self.api.task_instances(dag_id, run_id)
        return "\n".join(f"{row['task_id']}[{row['map_index']}] {row['state']} try {row['try_number']}" for row in rows)

    def task_log(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> str:
        """The newest log of a task instance, from disk."""
        folder = self.home / "logs"
        name = f"dag_id={dag_id}/run_id={run_id}/task_id={task_id}"
        base = folder / name if map_index < 0 else folder / name / f"map_index={map_index}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(base.glob("attempt=*.log")))

    def pid(self, label: str) -> int:
        """The process id of a component that was started."""
        return self._processes[label].pid

    def stop_component(self, name: str, *, kill: bool = False) -> None:
        """Stop one component and its process group. With ``kill``, send SIGKILL at once."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        if not kill:
            _signal_group(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    def processes(self) -> list[int]:
        """Every process of this Airflow, including orphans: all processes whose working directory is its home folder.

        Only the working directory identifies them reliably. A task has its own session, a worker of a killed scheduler
        has no parent, and a process title overwrites the environment.
        """
        return processes_in(self.home)

    def stop(self) -> None:
        """Stop everything. Afterwards no process of this Airflow runs."""
        for process in self._processes.values():
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
        end_processes_in(self.home)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        if self._api:
            self._api.close()

    def __enter__(self) -> LocalAirflow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def wait_for(
    ready: Callable[[], bool],
    *,
    timeout: float,
    what: str,
    log: Callable[[], str] = lambda: "",
    interval: float = 0.5,
) -> None:
    """Poll ``ready`` until it is true.

    :raises LocalAirflowError: after ``timeout`` seconds, with ``log()`` in the message.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise LocalAirflowError(f"waited {timeout:.0f} s for {what}\n{log()}")
        time.sleep(interval)


def processes_in(folder: Path) -> list[int]:
    """Every living process whose working directory is ``folder`` or lies below it."""
    root = folder.resolve()
    return [pid for pid in _pids() if (cwd := _cwd(pid)) is not None and cwd.is_relative_to(root)]


def end_processes_in(folder: Path) -> None:
    """Kill every process that runs in ``folder``, until none is left."""
    while remaining := processes_in(folder):
        for pid in remaining:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.05)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _cwd(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:  # ended meanwhile, a zombie, or another user's
        return None
