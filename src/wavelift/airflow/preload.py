"""Imports the modules that wavelift's tasks need, once, in the process from which Airflow forks its task processes.

``airflow_local_settings.py`` calls :func:`preload` in every Airflow command, while Airflow itself is being imported. So
:func:`preload` only registers a hook. The imports happen right before the first fork of a command that forks
(:data:`COMMANDS`), and do not slow down other commands. They open no thread, socket or file, and do not log in
anywhere.
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
"""The file to copy to ``$AIRFLOW_HOME/config``."""
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
"""Airflow commands whose forks run wavelift's code (LocalExecutor's workers are forks of the scheduler) → the packages
that this code needs, with all their modules. The worker of a connector imports the ledger's modules too, but it never
opens a ledger."""
MODULES: Final = (
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_mapping",
    "airflow.sdk.execution_time.task_runner",
    "jinja2.ext",
)
"""Modules that Airflow imports only in the process that needs them. Every process of a wavelift task needs them."""
SERVICES: Final = ("ec2", "s3", "ebs")
"""AWS services for which most tasks create clients."""

_called = False


def preload() -> None:
    """Register the imports for the first fork if the command is one of :data:`COMMANDS`; otherwise do nothing.

    Never raises: without the preload, tasks only start more slowly.
    """
    global _called
    packages = packages_for(sys.argv)
    if _called or not packages:
        return
    _called = True
    os.register_at_fork(before=_Once(packages))


def packages_for(argv: Sequence[str]) -> Sequence[str]:
    """The packages to load for a command line of ``airflow``; empty if it is not one of :data:`COMMANDS`."""
    words = tuple(argv[1:])
    return next((packages for command, packages in COMMANDS.items() if words[: len(command)] == command), ())


class _Once:
    """Loads only before the first fork. The children inherit the state that it is done."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def __call__(self) -> None:
        packages, self._packages = self._packages, ()
        if packages:
            load(packages)


def load(packages: Sequence[str] = TASKS) -> None:
    """Import the packages now, read botocore's models if boto3 is imported, and freeze the heap.

    The garbage collectors of the children skip frozen objects. Otherwise they would cause a copy of the memory pages.
    (Airflow does the same for LocalExecutor and Celery; for the triggerer and Edge, this function does it.)
    """
    for name in (*MODULES, *_found(packages)):
        try:
            importlib.import_module(name)
        except Exception:
            log.warning("%s could not be preloaded: tasks start more slowly", name, exc_info=True)
    if "boto3" in sys.modules:
        _read_models()
    gc.collect()
    gc.freeze()


def _read_models() -> None:
    try:
        from wavelift.adapters.aws.models import read_models

        read_models(SERVICES)
    except Exception:
        log.warning("AWS's service models could not be preloaded: tasks start more slowly", exc_info=True)


def _found(packages: Sequence[str]) -> list[str]:
    """These packages and every module below them."""
    names = []
    for package in packages:
        names.append(package)
        try:
            path = importlib.import_module(package).__path__
        except Exception:  # logged when it is imported by name
            continue
        names += [found.name for found in pkgutil.walk_packages(path, f"{package}.", onerror=lambda name: None)]
    return names
