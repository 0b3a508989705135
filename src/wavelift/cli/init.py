"""``wavelift init``: the ledger's schema, and what this Airflow's settings lack. Speaks to no Airflow API."""

from __future__ import annotations

import configparser
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
    ("workers", "execution_api_timeout"): (30, "busy workers give up on the API after 5 s otherwise"),
    ("scheduler", "orphaned_tasks_check_interval"): (15, "a killed scheduler's tasks wait 5 minutes otherwise"),
    ("scheduler", "task_instance_heartbeat_timeout"): (60, "a dead task is noticed after 5 minutes otherwise"),
    ("database", "sql_alchemy_max_overflow"): (75, "15 requests at once stop the api-server otherwise"),
}
"""Settings that DESIGN ships (facts/airflow-shapes.md 8, 10)."""


CALLS_PRELOAD = re.compile(rb"^[^#\n]*wavelift\.airflow\.preload", re.MULTILINE)
"""In a settings file, of whatever encoding."""


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def run(out: Console) -> None:
    """Create or upgrade the ledger, then tell what is worth setting."""
    try:
        # Airflow's own reading of airflow.cfg and the environment, the same as in every task: a ledger that was
        # prepared by another reading is one that no task uses. The only command that needs Airflow, so imported here.
        from wavelift.airflow import config

        with Ledger.open(config.ledger_url(), upgrade=True) as ledger:
            out.print(f"ledger ready at {ledger.url}", markup=False, soft_wrap=True)
    except (WaveliftError, OSError, configparser.Error) as error:
        fail(str(error))
    for words in advice():
        out.print(words, markup=False, soft_wrap=True)


def advice() -> Iterator[str]:
    """What this Airflow lacks of what DESIGN ships, a line each."""
    from wavelift.airflow import config

    for (section, option), (value, why) in ADVICE.items():
        if config.number(section, option) != value:
            yield f"set AIRFLOW__{section.upper()}__{option.upper()}={value}: {why}"
    settings = _airflow_home() / "config" / LOCAL_SETTINGS.name
    if not settings.is_file():
        yield f"copy {LOCAL_SETTINGS} to {settings}: tasks start twice as slow otherwise"
    elif not CALLS_PRELOAD.search(settings.read_bytes()):
        yield f"call wavelift.airflow.preload.preload() in {settings}: tasks start twice as slow otherwise"
