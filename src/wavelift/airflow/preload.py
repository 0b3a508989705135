"""What a task of ours imports, imported once in the process from which Airflow forks its task processes.

``airflow_local_settings.py`` calls :func:`preload` in every Airflow command, while Airflow itself is still being
imported. So nothing happens there but a note: the imports come right before the first fork of a command that forks
(:data:`COMMANDS`), and no other command pays for them. They leave nothing open, no thread, socket or file, and sign in
nowhere.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LOCAL_SETTINGS: Final = Path(__file__).parent / "local_settings" / "airflow_local_settings.py"
"""The file for ``$AIRFLOW_HOME/config``."""
TASKS: Final = (
    "wavelift.airflow.hooks",
    "wavelift.airflow.triggers",
    "wavelift.dag_factory",
    "wavelift.operators",
    "wavelift.sensors",
    "wavelift.services",
)
COMMANDS: Final[Mapping[tuple[str, ...], Sequence[str]]] = {
    ("scheduler",): TASKS,
    ("celery", "worker"): TASKS,
    ("edge", "worker"): TASKS,
    ("triggerer",): ("wavelift.airflow.hooks", "wavelift.airflow.triggers", "wavelift.adapters.aws", "wavelift.ledger"),
    ("dag-processor",): ("wavelift.dag_factory", "wavelift.operators", "wavelift.sensors"),
}
"""Airflow's commands that fork what runs our code (LocalExecutor's workers are forks of the scheduler) → the packages
that this code needs, with all that lies in them. A connector's worker loads the ledger's modules too: it never opens
one."""
MODULES: Final = (
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_mapping",
    "airflow.sdk.execution_time.task_runner",
    "jinja2.ext",
)
"""What Airflow imports only in the process that needs it, though each of ours does."""
SERVICES: Final = ("ec2", "s3", "ebs")
"""AWS services whose clients most tasks make."""

_called = False


def preload() -> None:
    """Before the first fork of one of :data:`COMMANDS`, import what tasks need; in any other command, do nothing.

    Raises nothing: without it tasks work as well, only slower.
    """
    global _called
    packages = packages_for(sys.argv)
    if _called or not packages:
        return
    _called = True
    os.register_at_fork(before=_Once(packages))


def packages_for(argv: Sequence[str]) -> Sequence[str]:
    """What to load for a command line of ``airflow``; nothing for one that is none of :data:`COMMANDS`."""
    words = tuple(argv[1:])
    return next((packages for command, packages in COMMANDS.items() if words[: len(command)] == command), ())


class _Once:
    """Loads before the first fork only. The children inherit that it is done."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def __call__(self) -> None:
        packages, self._packages = self._packages, ()
        if packages:
            load(packages)


def load(packages: Sequence[str] = TASKS) -> None:
    """Import them now, read botocore's models if it is among them, and freeze the heap.

    Frozen objects are not looked through by the collectors of the children, which would copy their pages. (Airflow
    does the same for LocalExecutor and Celery; the triggerer and Edge have it from here.)
    """
    for name in (*MODULES, *_found(packages)):
        try:
            importlib.import_module(name)
        except Exception:
            log.warning("%s is not preloaded: tasks start without it, only slower", name, exc_info=True)
    if "boto3" in sys.modules:
        _read_models()
    gc.collect()
    gc.freeze()


def _read_models() -> None:
    try:
        from wavelift.adapters.aws.models import read_models

        read_models(SERVICES)
    except Exception:
        log.warning("AWS's service models are not preloaded: tasks start without them, only slower", exc_info=True)


def _found(packages: Sequence[str]) -> list[str]:
    """These packages and every module below them."""
    names = []
    for package in packages:
        names.append(package)
        try:
            path = importlib.import_module(package).__path__
        except Exception:  # said when it is imported by name
            continue
        names += [found.name for found in pkgutil.walk_packages(path, f"{package}.", onerror=lambda name: None)]
    return names
