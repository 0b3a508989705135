"""``wavelift init``: creates or upgrades the ledger and lists the Airflow settings to change. Calls no Airflow API."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.errors import WaveliftError
from wavelift.base.private import is_open_to_others
from wavelift.base.settings import AIRFLOW
from wavelift.cli.connect import fail
from wavelift.ledger import Ledger

CALLS_PRELOAD = re.compile(rb"^[^#\n]*wavelift\.airflow\.preload", re.MULTILINE)
"""Matches the call in a settings file. Bytes, because the file may have any encoding."""


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def _sqlite_folder(url: str) -> Path | None:
    """The folder of the ledger's file; None if the ledger is on a server."""
    scheme, _, path = url.partition(":///")
    return Path(path).parent if scheme.startswith("sqlite") else None


def run(out: Console) -> None:
    """Create or upgrade the ledger, then print which settings to change."""
    try:
        # Tasks find the ledger through Airflow's configuration. This command must read it in the same way, or it could
        # prepare a ledger that no task uses. No other command needs Airflow, so the import is here.
        from wavelift.airflow import config

        with Ledger.open(config.ledger_url(), upgrade=True) as ledger:
            out.print(f"ledger ready at {ledger.url}", markup=False, soft_wrap=True)
    except (WaveliftError, OSError, configparser.Error) as error:
        fail(str(error))
    for words in advice():
        out.print(words, markup=False, soft_wrap=True)


def advice() -> Iterator[str]:
    """One line for each setting that differs from :data:`~wavelift.base.settings.AIRFLOW`."""
    from wavelift.airflow import config

    for one in AIRFLOW:
        if one.checked and config.number(one.section, one.option) != one.value:
            yield f"set {one.variable}={one.value}: otherwise {one.otherwise}"
    folder = _sqlite_folder(config.ledger_url())
    if folder is not None and is_open_to_others(folder):
        yield f"make {folder} private (chmod 700), or name a folder of its own in ledger_url: it has the ledger"
    settings = _airflow_home() / "config" / LOCAL_SETTINGS.name
    if not settings.is_file():
        yield f"copy {LOCAL_SETTINGS} to {settings}: otherwise tasks start twice as slowly"
    elif not CALLS_PRELOAD.search(settings.read_bytes()):
        yield f"call wavelift.airflow.preload.preload() in {settings}: otherwise tasks start twice as slowly"
