"""``wavelift init``: creates or upgrades the ledger, lays out the DAGs folder, and prints which settings to change.

What it advises goes to standard output as shell commands with comments, so that it can be pasted or kept in a file.
Everything else goes to standard error. It calls no Airflow API.
"""

from __future__ import annotations

import configparser
import logging
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from wavelift.airflow.preload import LOCAL_SETTINGS
from wavelift.base.errors import WaveliftError
from wavelift.base.printable import printable
from wavelift.base.private import is_open_to_others
from wavelift.base.settings import AIRFLOW, WORKERS, AirflowSetting, variable
from wavelift.cli.connect import fail
from wavelift.cli.dag_files import lay_out
from wavelift.cli.grants import key_files, make
from wavelift.ledger import Ledger

CALLS_PRELOAD = re.compile(rb"^[^#\n]*wavelift\.airflow\.preload", re.MULTILINE)
"""Matches the call in a settings file. Bytes, because the file may have any encoding."""

TEST_BUTTON = ("core", "test_connection")
"""Airflow's option of the button *Test* of a connection. Airflow has it off."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change.

    :param why: why, for a person.
    :param command: what to run, or to set, in a shell.
    """

    why: str
    command: str

    def __str__(self) -> str:
        return f"# {printable(self.why)}\n{self.command}"


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def _sqlite_folder(url: str) -> Path | None:
    """The folder of the ledger's file; None if the ledger is on a server."""
    scheme, _, path = url.partition(":///")
    return Path(path).parent if scheme.startswith("sqlite") else None


def run(out: Console, *, dags: Path | None = None) -> None:
    """Create or upgrade the ledger and lay out the DAGs folder, then print which settings to change."""
    try:
        # Tasks find the ledger through Airflow's configuration. This command must read it in the same way, or it could
        # prepare a ledger that no task uses. No other command needs Airflow, so the import is here.
        from wavelift.airflow import config

        logging.getLogger("alembic").setLevel(logging.WARNING)  # Airflow writes the log to standard output
        with Ledger.open(config.ledger_url(), upgrade=True) as ledger:
            _tell(out, f"ledger ready at {ledger.url}")
        for words in make(key_files()):
            _tell(out, words)
        for words in lay_out(dags) if dags else ():
            _tell(out, words)
    except (WaveliftError, OSError, configparser.Error) as error:
        fail(str(error))
    changes = list(advice(dags))
    if changes:
        print("# Set these where each component of Airflow starts, or in airflow.cfg as [section] option = value")
    for change in changes:
        print(change)
    for words in remarks():
        print(words)
    if not changes:
        _tell(out, "all settings are as wavelift needs them")
    else:
        _tell(out, f"{len(changes)} setting{'s' if len(changes) > 1 else ''} to change")


def _tell(out: Console, words: str) -> None:
    out.print(printable(words), markup=False, highlight=False, soft_wrap=True)


def advice(dags: Path | None = None) -> Iterator[Change]:
    """What to change: settings that differ from :data:`~wavelift.base.settings.AIRFLOW`, files, rights of a folder.

    :param dags: the DAGs folder that was laid out now.
    """
    yield from _settings(os.cpu_count() or 1)
    yield from _dags_folder(dags)
    yield from _ledger_folder()
    yield from _local_settings()


def _settings(cores: int) -> Iterator[Change]:
    from wavelift.airflow import config

    for one in AIRFLOW:
        found = config.number(one.section, one.option)
        # Only LocalExecutor runs the tasks here. See remarks() for the others.
        compared = not one.per_core or "LocalExecutor" in config.text("core", "executor")
        if compared and not one.is_met_by(found, cores=cores):
            needed = one.needed(cores=cores)
            yield Change(_why(one, found, cores), f"export {one.variable}={needed}")


def _why(one: AirflowSetting, found: float | None, cores: int) -> str:
    value = "no number" if found is None else f"{found:g}"
    name = f"[{one.section}] {one.option}"
    if not one.per_core:
        return f"{name} is {value}: {one.otherwise}"
    here = (
        f"LocalExecutor runs the tasks on the scheduler's machine; this one has {cores} core{'s' if cores > 1 else ''}"
    )
    return f"{name} is {value}: {one.otherwise}. {here}"


def _dags_folder(dags: Path | None) -> Iterator[Change]:
    from wavelift.airflow import config

    used = Path(config.text("core", "dags_folder")).expanduser()
    if dags is not None and dags.resolve() != used.resolve():
        folder = shlex.quote(str(dags.absolute()))
        yield Change(f"[core] dags_folder is {used}", f"export {variable('core', 'dags_folder')}={folder}")


def _ledger_folder() -> Iterator[Change]:
    from wavelift.airflow import config

    folder = _sqlite_folder(config.ledger_url())
    if folder is not None and is_open_to_others(folder):
        why = (
            "Other users can look into the ledger's folder. Make it private, or name a folder of its own in ledger_url"
        )
        yield Change(why, f"chmod 700 {shlex.quote(str(folder))}")


def _local_settings() -> Iterator[Change]:
    file = _airflow_home() / "config" / LOCAL_SETTINGS.name
    source, target, folder = (shlex.quote(str(path)) for path in (LOCAL_SETTINGS, file, file.parent))
    if not file.is_file():
        yield Change("Tasks start twice as slowly without this file", f"mkdir -p {folder} && cp {source} {target}")
    elif not CALLS_PRELOAD.search(file.read_bytes()):
        yield Change("Tasks start twice as slowly without a call in your own file", f"cat {source} >> {target}")


def remarks() -> Iterator[str]:
    """What this machine cannot judge, and what is a choice."""
    from wavelift.airflow import config

    executor = config.text("core", "executor")
    per_core = next(one.value for one in AIRFLOW if one.per_core)
    for name, (section, option, command) in WORKERS.items():
        if name in executor:
            found = config.text(section, option)
            yield (
                f"# {name} runs the tasks on its workers' machines: let each worker run at most {per_core} tasks per "
                f"core of its machine, with `{command} --concurrency` or [{section}] {option}"
                + (f" (here {printable(found)})" if found else "")
            )
    if config.text(*TEST_BUTTON).lower() != "enabled":
        yield (
            "# Not needed, but useful: the button Test of a connection, which Airflow has switched off\n"
            f"export {variable(*TEST_BUTTON)}=Enabled"
        )
