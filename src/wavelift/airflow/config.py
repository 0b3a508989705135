"""The ``[wavelift]`` section, read once per call; nothing is cached so that tests and tasks see the same."""

from __future__ import annotations

import os
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowConfigException

from wavelift.base.errors import SpecError

if TYPE_CHECKING:
    from wavelift.rules.preflight_time import LineFacts
    from wavelift.transfer.line import SharedLine

SECTION = "wavelift"
LEAST_MBIT_S = 0.1
"""As of a wave's own limit: at less no disk ever ends."""


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def _folder(option: str, default: Path) -> Path:
    value = conf.get(SECTION, option, fallback="")
    return Path(value).expanduser() if value else default


def _dags_folder() -> Path:
    return Path(conf.get("core", "dags_folder"))


def waves_folder() -> Path:
    return _folder("waves_folder", _dags_folder() / "waves")


def environments_folder() -> Path:
    return _folder("environments_folder", _dags_folder() / "environments")


def state_folder() -> Path:
    return _folder("state_folder", _airflow_home() / "wavelift")


def last_valid_folder() -> Path:
    """Copies of every spec as it last was valid."""
    return state_folder() / "last_valid"


def connector_state_folder() -> Path:
    """Where a connector keeps the journals of its transfers: on a disk that outlives the task (invariant 6)."""
    return _folder("connector_state_folder", _airflow_home() / "wavelift" / "connector")


def ledger_url() -> str:
    """SQLAlchemy URL; SQLite beside ``AIRFLOW_HOME`` by default.

    :raises SpecError: ``ledger_url_cmd`` fails. Without its words, which may hold the password.
    """
    try:
        url = conf.get(SECTION, "ledger_url", fallback="").strip()  # a command ends its answer with a line break
    except AirflowConfigException:
        raise SpecError(
            "The command of [wavelift] ledger_url_cmd failed", next_step="Run it by hand as the user that runs Airflow"
        ) from None
    return url or f"sqlite:///{_airflow_home() / 'wavelift.db'}"


def nbdkit_plugin() -> str:
    """What reads disks by ranges on this worker: ``vddk``, ``nfc``, or nothing."""
    return str(conf.get(SECTION, "nbdkit_plugin", fallback="")).strip()


def nbdkit_folder() -> str:
    return str(conf.get(SECTION, "nbdkit_folder", fallback="")).strip()


def nbdkit_program() -> str:
    return str(conf.get(SECTION, "nbdkit", fallback="")).strip() or "nbdkit"


def integer(option: str) -> int:
    return int(conf.getint(SECTION, option))


def number(section: str, option: str) -> float | None:
    """One of Airflow's own settings; None when it is empty or no number."""
    try:
        return float(conf.get(section, option, fallback=""))
    except ValueError:
        return None


def max_mbit_s() -> float | None:
    """The limit of this machine's line in megabits per second; None: there is none.

    As it stands in the environment or in airflow.cfg *now*: a transfer of days asks again and again, and Airflow's own
    configuration is read once per process.

    :raises SpecError: it is no number of 0.1 or more.
    """
    text = os.environ.get(f"AIRFLOW__{SECTION.upper()}__MAX_MBIT_S")
    if text is None:
        file = ConfigParser(interpolation=None, strict=False)
        file.read(os.environ.get("AIRFLOW_CONFIG") or _airflow_home() / "airflow.cfg", encoding="utf-8")
        text = file.get(SECTION, "max_mbit_s", fallback="")
    if not text.strip():
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not LEAST_MBIT_S <= limit < float("inf"):
        raise SpecError(
            f"[{SECTION}] max_mbit_s is {text.strip()!r}",
            next_step=f"Give megabits per second, {LEAST_MBIT_S} or more, or leave it empty for no limit",
        )
    return limit


def line() -> SharedLine:
    """The line of this machine, which all its transfers share."""
    from wavelift.transfer.line import SharedLine

    return SharedLine(connector_state_folder(), max_mbit_s)


def line_facts() -> LineFacts:
    """How fast this machine's line is, as far as it is known."""
    from wavelift.base.rates import measured_rate
    from wavelift.base.units import MBIT
    from wavelift.rules.preflight_time import LineFacts

    limit = max_mbit_s()
    return LineFacts(measured_rate(connector_state_folder()), None if limit is None else limit * MBIT)


def patience_s() -> float:
    """Seconds for which a cut line, an outage or throttling is borne."""
    return float(conf.getfloat(SECTION, "patience_minutes")) * 60


def poll_seconds() -> float:
    return float(conf.getfloat(SECTION, "poll_seconds"))


def api_url() -> str:
    """Where this Airflow's own REST API answers."""
    return str(conf.get("api", "base_url", fallback="") or f"http://localhost:{conf.get('api', 'port')}")
