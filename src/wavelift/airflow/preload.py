"""What a task of ours imports, imported once in the process from which Airflow forks its task processes.

``airflow_local_settings.py`` calls :func:`preload` in every Airflow command, while Airflow itself is still being
imported. So nothing happens there but a note: the imports come right before the first fork of a command that forks
(:data:`COMMANDS`), and no other command pays for them. They open nothing: no thread, no socket, no file, no login.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LOCAL_SETTINGS: Final = Path(__file__).parent / "local_settings" / "airflow_local_settings.py"
"""The file for ``$AIRFLOW_HOME/config``."""
COMMANDS: Final = (("scheduler",), ("triggerer",), ("dag-processor",), ("celery", "worker"), ("edge", "worker"))
"""Airflow's commands that fork what runs our code: LocalExecutor's workers are forks of the scheduler."""
PACKAGES: Final = (
    "wavelift.airflow.hooks",
    "wavelift.airflow.triggers",
    "wavelift.dag_factory",
    "wavelift.operators",
    "wavelift.sensors",
    "wavelift.services",
)
"""With all that lies in them."""
MODULES: Final = (
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_mapping",
    "airflow.sdk.execution_time.task_runner",
    "boto3.s3.inject",
    "jinja2.ext",
)
"""What Airflow and boto3 import only in the process that needs it, though each of ours does."""
SERVICES: Final = ("ec2", "s3", "ebs")
"""AWS services whose clients most tasks make."""

_called = False


def preload() -> None:
    """Before the first fork of one of :data:`COMMANDS`, import what tasks need; in any other command, do nothing.

    Raises nothing: without it tasks work as well, only slower.
    """
    global _called
    if _called or not forks_tasks(sys.argv):
        return
    _called = True
    os.register_at_fork(before=_Once())


def forks_tasks(argv: Sequence[str]) -> bool:
    """Whether a command line of ``airflow`` is one of :data:`COMMANDS`."""
    words = tuple(argv[1:])
    return any(words[: len(command)] == command for command in COMMANDS)


class _Once:
    """Loads before the first fork only. The children inherit that it is done."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self) -> None:
        if not self._done:
            self._done = True
            load()


def load() -> None:
    """Import it all now, read botocore's models, and freeze the heap, so that no child's collector copies it."""
    for name in (*MODULES, *_found(PACKAGES)):
        try:
            importlib.import_module(name)
        except Exception:
            log.warning("%s is not preloaded: tasks start without it, only slower", name, exc_info=True)
    try:
        from wavelift.adapters.aws.models import read_models

        read_models(SERVICES)
    except Exception:
        log.warning("AWS's service models are not preloaded: tasks start without them, only slower", exc_info=True)
    gc.collect()
    gc.freeze()


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
