"""``wavelift init``: the ledger's schema, and what this Airflow's settings lack. Speaks to no Airflow API."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.errors import WaveliftError
from wavelift.cli.connect import fail
from wavelift.ledger import Ledger

ADVICE = {
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": ("30", "busy workers give up on the API after 5 s otherwise"),
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": ("15", "a killed scheduler's tasks wait 5 minutes otherwise"),
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": ("60", "a dead task is noticed after 5 minutes otherwise"),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW": ("75", "15 requests at once stop the api-server otherwise"),
}
"""Settings that DESIGN ships (facts/airflow-shapes.md 8, 10)."""


CALLS_PRELOAD = re.compile(rb"^[^#\n]*wavelift\.airflow\.preload", re.MULTILINE)
"""In a settings file, of whatever encoding."""


def ledger_url() -> str:
    """As ``[wavelift] ledger_url`` says; the command line doesn't import Airflow, so from the environment."""
    url = os.environ.get("AIRFLOW__WAVELIFT__LEDGER_URL", "")
    return url or f"sqlite:///{_airflow_home() / 'wavelift.db'}"


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def run(out: Console) -> None:
    """Create or upgrade the ledger, then tell what is worth setting."""
    url = ledger_url()
    try:
        with Ledger.open(url, upgrade=True) as ledger:
            out.print(f"ledger ready at {ledger.url}", markup=False, soft_wrap=True)
    except (WaveliftError, OSError) as error:
        fail(str(error))
    for words in advice():
        out.print(words, markup=False, soft_wrap=True)


def advice() -> Iterator[str]:
    """What this Airflow lacks of what DESIGN ships, a line each."""
    for name, (value, why) in ADVICE.items():
        if os.environ.get(name) != value:
            yield f"set {name}={value}: {why}"
    settings = _airflow_home() / "config" / LOCAL_SETTINGS.name
    if not settings.is_file():
        yield f"copy {LOCAL_SETTINGS} to {settings}: tasks start twice as slow otherwise"
    elif not CALLS_PRELOAD.search(settings.read_bytes()):
        yield f"call wavelift.airflow.preload.preload() in {settings}: tasks start twice as slow otherwise"
