"""The one table of settings: those of Airflow that wavelift needs, and wavelift's own section of ``airflow.cfg``.

Every place that sets, checks, reads or describes such a value takes it from here: ``wavelift init``, the local Airflow
of the demo, the provider's metadata, ``wavelift.airflow.config`` and ``docs/settings.md``. A test compares
``docker-compose.yml`` with it. Airflow loads this module in every process, so it imports nothing but ``dataclasses``
and ``enum``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

SECTION: Final = "wavelift"
"""wavelift's section of ``airflow.cfg``."""


def variable(section: str, option: str) -> str:
    """The environment variable that sets an option of ``airflow.cfg``."""
    return f"AIRFLOW__{section.upper()}__{option.upper()}"


@dataclass(frozen=True, slots=True)
class AirflowSetting:
    """One setting of Airflow that wavelift needs.

    :param value: what wavelift needs.
    :param default: Airflow's own value.
    :param otherwise: what happens with Airflow's own value.
    :param per_core: ``value`` is the most for each core of the machine that runs the tasks; less is no mistake.
    """

    section: str
    option: str
    value: int
    default: int
    unit: str
    otherwise: str
    per_core: bool = False

    @property
    def variable(self) -> str:
        return variable(self.section, self.option)

    def needed(self, *, cores: int) -> int:
        """The value on a machine with so many cores."""
        return self.value * cores if self.per_core else self.value

    def is_met_by(self, found: float | None, *, cores: int) -> bool:
        """Whether ``found`` (None: no number) needs no change."""
        needed = self.needed(cores=cores)
        return found is not None and (0 < found <= needed if self.per_core else found == needed)


AIRFLOW: Final = (
    AirflowSetting(
        "core",
        "parallelism",
        4,
        32,
        "tasks at a time",
        "busy workers give up on the API server",
        per_core=True,
    ),
    AirflowSetting(
        "workers", "execution_api_timeout", 30, 5, "seconds", "busy workers give up on the API server after 5 s"
    ),
    AirflowSetting(
        "scheduler",
        "orphaned_tasks_check_interval",
        15,
        300,
        "seconds",
        "the tasks of a killed scheduler wait 5 minutes",
    ),
    AirflowSetting(
        "scheduler", "task_instance_heartbeat_timeout", 60, 300, "seconds", "a dead task is noticed after 5 minutes"
    ),
    # Airflow 3.3 logs each request in the event loop of the API server and waits there for a database connection. Only
    # that loop could give a connection back.
    AirflowSetting(
        "database",
        "sql_alchemy_max_overflow",
        75,
        10,
        "connections",
        "15 requests at a time stop the API server for 30 seconds or more",
    ),
)
"""All values were measured: Airflow's own values fail for a wave of many servers on a busy machine."""


def airflow_environment(*, cores: int) -> dict[str, str]:
    """:data:`AIRFLOW` as environment variables.

    :param cores: of the machine that runs the scheduler and its tasks.
    """
    return {one.variable: str(one.needed(cores=cores)) for one in AIRFLOW}


WORKERS: Final = {
    "CeleryExecutor": ("celery", "worker_concurrency", "airflow celery worker"),
    "EdgeExecutor": ("edge", "worker_concurrency", "airflow edge worker"),
}
"""Executors whose tasks run on the machines of their workers: the option that limits a worker, and its command."""


class Place(Enum):
    """Where the default file or folder of an empty option is."""

    DAGS = "in the DAGs folder"
    HOME = "in `AIRFLOW_HOME`"
    PATH = "from the `PATH`"


class Reader(Enum):
    """Which processes read an option."""

    ALL = "all components"
    CONTROL = "control plane"
    CONNECTOR = "connector"
    DATA = "connector, worker near AWS"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the section ``[wavelift]``.

    :param default: the value if nobody sets it; empty if ``when_empty`` or ``path`` says what happens.
    :param kind: Airflow's word for the type: ``string``, ``integer`` or ``float``.
    :param path: file, folder or program that is used if the value is empty. It is in ``place``.
    :param sensitive: Airflow masks it and takes it also from ``…_cmd`` and ``…_secret``.
    """

    name: str
    meaning: str
    reader: Reader
    default: str = ""
    kind: str = "string"
    unit: str = ""
    path: str = ""
    place: Place | None = None
    when_empty: str = ""
    sensitive: bool = False

    @property
    def variable(self) -> str:
        return variable(SECTION, self.name)

    @property
    def unset(self) -> str:
        """Text that describes what applies if the option is not set."""
        if self.place is not None:
            return f"{self.when_empty} `{self.path}` {self.place.value}".strip()
        return self.default or self.when_empty


_OPTIONS: Final = (
    Option("waves_folder", "Folder of the wave specs.", Reader.ALL, path="waves", place=Place.DAGS),
    Option("environments_folder", "Folder of the environments.", Reader.ALL, path="environments", place=Place.DAGS),
    Option("networks_folder", "Folder of the networks.", Reader.ALL, path="networks", place=Place.DAGS),
    Option(
        "state_folder",
        "Last valid copy of every spec. All components of the control plane must share this folder.",
        Reader.CONTROL,
        path="wavelift",
        place=Place.HOME,
    ),
    Option(
        "ledger_url",
        "SQLAlchemy URL of the ledger. Several machines need PostgreSQL.",
        Reader.CONTROL,
        path="wavelift/wavelift.db",
        place=Place.HOME,
        when_empty="SQLite:",
        sensitive=True,
    ),
    Option(
        "grant_key_file",
        "Private key that signs the grants of connectors (mode 0600). `wavelift init` makes it. All workers that run "
        "tasks of the control plane must share it; no connector may have it.",
        Reader.CONTROL,
        path="wavelift/grants/private.pem",
        place=Place.HOME,
    ),
    Option(
        "grant_keys_folder",
        "Public keys, one file for each, with which a connector checks grants. `wavelift grants list` shows which "
        "files a connector needs.",
        Reader.ALL,
        path="wavelift/grants/public",
        place=Place.HOME,
    ),
    Option(
        "connector",
        "The queues that this worker serves, with commas between them. It then refuses tasks and grants for others.",
        Reader.CONNECTOR,
        when_empty="the queue by which Airflow sent the task",
    ),
    Option(
        "transfers_per_connector",
        "Transfers that run at a time on one connector. More wait, deferred.",
        Reader.CONTROL,
        default="4",
        kind="integer",
        unit="transfers",
    ),
    Option(
        "imports_per_region",
        "Import tasks that run at a time in one region. More wait, deferred.",
        Reader.CONTROL,
        default="5",
        kind="integer",
        unit="import tasks",
    ),
    Option(
        "exports_per_region",
        "Instances that are exported at a time in one region of an account, of any method. More wait, deferred. AWS "
        "allows 20 on request.",
        Reader.CONTROL,
        default="5",
        kind="integer",
        unit="export tasks",
    ),
    Option(
        "group_memory_hours",
        "How long a role is believed that a user was seen with, for `group:role/NAME` in an environment. Older: the "
        "user runs `wavelift whoami`.",
        Reader.CONTROL,
        default="24",
        kind="integer",
        unit="hours",
    ),
    Option(
        "migrations_per_account",
        "Servers that are on their way into one AWS account at a time, conversion included. More wait, deferred.",
        Reader.CONTROL,
        default="50",
        kind="integer",
        unit="servers",
    ),
    Option(
        "snapshots_per_datastore",
        "Servers with a snapshot of wavelift on one datastore at a time. More wait, deferred.",
        Reader.CONTROL,
        default="15",
        kind="integer",
        unit="servers",
    ),
    Option(
        "reads_per_host",
        "Servers that are read from one ESXi host at a time. More wait, deferred. VDDK has limits of its own.",
        Reader.CONTROL,
        default="8",
        kind="integer",
        unit="servers",
    ),
    Option(
        "hcx_per_manager",
        "VMs that one HCX manager replicates at a time (bulk, RAV). A run that needs more waits, deferred.",
        Reader.CONTROL,
        default="300",
        kind="integer",
        unit="VMs",
    ),
    Option(
        "hcx_per_mesh",
        "VMs that are replicated over one HCX service mesh at a time. A run that needs more waits, deferred.",
        Reader.CONTROL,
        default="200",
        kind="integer",
        unit="VMs",
    ),
    Option(
        "poll_seconds",
        "Time between two queries to AWS or to the ledger while a task waits.",
        Reader.CONTROL,
        default="15",
        kind="float",
        unit="seconds",
    ),
    Option(
        "notifiers",
        "Notifiers of Airflow that tell of failures, successes and missed deadlines: a JSON list of "
        '`{"class": "…", "arguments": {…}, "kinds": […]}` (notifications.md).',
        Reader.CONTROL,
        when_empty="nobody is told",
        sensitive=True,
    ),
    Option(
        "connector_state_folder",
        "Journals of running transfers, measured rates, and the lock of the shared rate limit. The folder must survive "
        "tasks and restarts of the worker.",
        Reader.CONNECTOR,
        path="wavelift/connector",
        place=Place.HOME,
    ),
    Option(
        "max_mbit_s",
        "Rate to AWS of all transfers of a connector's machine together, shared fairly. A running transfer reads it "
        "again every 10 s from airflow.cfg.",
        Reader.CONNECTOR,
        unit="megabits per second",
        when_empty="no limit",
    ),
    Option(
        "patience_minutes",
        "How long one call waits for the end of a network interruption, an outage of AWS or vCenter, or throttling.",
        Reader.ALL,
        default="30",
        kind="float",
        unit="minutes",
    ),
    Option(
        "nbdkit_plugin",
        "Plugin of nbdkit that reads ranges of running disks: `vddk` or `nfc`.",
        Reader.CONNECTOR,
        when_empty="nbdkit is not used",
    ),
    Option(
        "nbdkit_folder",
        "For `vddk`: folder of VDDK or of a drop-in of its library. For `nfc`: folder of nbdkit-nfc-plugin.so.",
        Reader.CONNECTOR,
        when_empty="for `nfc`: nbdkit's own plugin folder",
    ),
    Option("nbdkit", "The program nbdkit.", Reader.CONNECTOR, path="nbdkit", place=Place.PATH),
    Option(
        "vddk_config",
        "For `vddk`: file with VDDK's own settings, such as `vixDiskLib.nfcAio.Session.BufCount`.",
        Reader.CONNECTOR,
        when_empty="VDDK's defaults",
    ),
    Option(
        "transfer_workers",
        "Threads that decode and encode one disk.",
        Reader.DATA,
        default="2",
        kind="integer",
        unit="threads",
    ),
    Option(
        "parallel_disks",
        "Disks of one server that are transferred at a time.",
        Reader.CONNECTOR,
        default="2",
        kind="integer",
        unit="disks",
    ),
)
OPTIONS: Final[Mapping[str, Option]] = {one.name: one for one in _OPTIONS}
"""wavelift's own options by name."""
