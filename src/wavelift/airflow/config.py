"""Reads the section ``[wavelift]``. Its options and defaults are in :mod:`wavelift.base.settings`.

Each call reads the value again. Nothing is cached, so tests and tasks see the same values.
"""

from __future__ import annotations

import os
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowConfigException

from wavelift.base.errors import SpecError
from wavelift.base.settings import OPTIONS, SECTION, Place

if TYPE_CHECKING:
    from wavelift.rules.preflight_time import LineFacts
    from wavelift.transfer.line import SharedLine

LEAST_MBIT_S = 0.1
"""The smallest limit, also for a wave. With a lower limit, a transfer would never finish."""


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def _text(option: str) -> str:
    return str(conf.get(SECTION, option, fallback="")).strip()


def _default_path(name: str) -> Path:
    """The path that an empty option means."""
    option = OPTIONS[name]
    folder = Path(conf.get("core", "dags_folder")) if option.place is Place.DAGS else _airflow_home()
    return folder / option.path


def _folder(name: str) -> Path:
    value = _text(name)
    return Path(value).expanduser() if value else _default_path(name)


def waves_folder() -> Path:
    return _folder("waves_folder")


def environments_folder() -> Path:
    return _folder("environments_folder")


def networks_folder() -> Path:
    return _folder("networks_folder")


def state_folder() -> Path:
    return _folder("state_folder")


def last_valid_folder() -> Path:
    """Folder with the last valid copy of every spec."""
    return state_folder() / "last_valid"


def connector_state_folder() -> Path:
    """Folder for the journals of a connector's transfers. It must be on a disk that outlives the task (invariant 6)."""
    return _folder("connector_state_folder")


def grant_key_file() -> Path:
    """The private key with which the control plane signs grants."""
    return _folder("grant_key_file")


def grant_keys_folder() -> Path:
    """The public keys with which a connector reads grants."""
    return _folder("grant_keys_folder")


def connector_names() -> frozenset[str]:
    """The queues that this worker serves by its own configuration; empty: it does not say."""
    return frozenset(name.strip() for name in _text("connector").split(",") if name.strip())


def ledger_url() -> str:
    """SQLAlchemy URL of the ledger. Default: SQLite in a folder of wavelift's own in ``AIRFLOW_HOME``.

    :raises SpecError: ``ledger_url_cmd`` failed. The error omits its output, which may hold the password.
    """
    try:
        url = _text("ledger_url")  # the output of a command ends with a line break, which is stripped
    except AirflowConfigException:
        raise SpecError(
            "The command of [wavelift] ledger_url_cmd failed",
            next_step="Run the command manually as the user that runs Airflow",
        ) from None
    return url or f"sqlite:///{_default_ledger()}"


def _default_ledger() -> Path:
    """Airflow makes its home with the umask of the moment, so the ledger has a folder of its own in it.

    A ledger that an older wavelift left in the home itself stays in use.
    """
    path = _default_path("ledger_url")
    older = _airflow_home() / path.name
    return older if older.exists() and not path.exists() else path


def notifiers() -> str:
    """The setting ``notifiers``, a JSON text; empty: nobody is told of anything.

    :raises SpecError: ``notifiers_cmd`` failed. The error omits its output.
    """
    try:
        return _text("notifiers")
    except AirflowConfigException:
        raise SpecError(
            "The command of [wavelift] notifiers_cmd failed",
            next_step="Run the command manually as the user that runs Airflow",
        ) from None


def nbdkit_plugin() -> str:
    """The plugin that reads ranges of disks on this worker: ``vddk``, ``nfc``, or empty."""
    return _text("nbdkit_plugin")


def nbdkit_folder() -> str:
    return _text("nbdkit_folder")


def nbdkit_program() -> str:
    return _text("nbdkit") or OPTIONS["nbdkit"].path


def vddk_config() -> str:
    return _text("vddk_config")


def integer(option: str) -> int:
    return int(conf.getint(SECTION, option))


def limit(option: str) -> int:
    """An option that sets a limit of :mod:`wavelift.rules.limits`.

    :raises SpecError: it is outside of what the service allows.
    """
    from wavelift.rules.limits import LIMITS

    value, known = integer(option), LIMITS[option]
    if refusal := known.refusal(value):
        step = f"Set 1 to {known.most}" if known.most else "Set 1 or more"
        raise SpecError(f"[{SECTION}] {option} is {value}: {refusal}", next_step=step)
    return value


def text(section: str, option: str) -> str:
    """One of Airflow's own settings; empty if nobody set it."""
    return str(conf.get(section, option, fallback="") or "").strip()


def number(section: str, option: str) -> float | None:
    """One of Airflow's own settings; None if it is empty or not a number."""
    try:
        return float(text(section, option))
    except ValueError:
        return None


def max_mbit_s() -> float | None:
    """The rate limit of this machine in megabits per second; None if there is no limit.

    Each call reads the environment or airflow.cfg again. Airflow itself reads its configuration only once per process,
    but a transfer may take days and must notice a new limit.

    :raises SpecError: the value is not a number of 0.1 or more.
    """
    text = os.environ.get(OPTIONS["max_mbit_s"].variable)
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
            next_step=f"Set megabits per second, {LEAST_MBIT_S} or more, or leave it empty for no limit",
        )
    return limit


def line() -> SharedLine:
    """The rate limiter of this machine, which all its transfers share."""
    from wavelift.transfer.line import SharedLine

    return SharedLine(connector_state_folder(), max_mbit_s)


def line_facts() -> LineFacts:
    """The measured rate of this machine, if there is one, and its limit."""
    from wavelift.base.rates import measured_rate
    from wavelift.base.units import MBIT
    from wavelift.rules.preflight_time import LineFacts

    limit = max_mbit_s()
    return LineFacts(measured_rate(connector_state_folder()), None if limit is None else limit * MBIT)


def patience_s() -> float:
    """Seconds that one call waits for the end of a network interruption, an outage or throttling."""
    return float(conf.getfloat(SECTION, "patience_minutes")) * 60


def poll_seconds() -> float:
    return float(conf.getfloat(SECTION, "poll_seconds"))


def api_url() -> str:
    """The address of the REST API of this Airflow."""
    return str(conf.get("api", "base_url", fallback="") or f"http://localhost:{conf.get('api', 'port')}")
