"""Builds the DAGs from specs.

``dags/waves.py`` calls :func:`register_waves`, and ``dags/wave_errors.py`` calls :func:`raise_spec_errors`. If a DAG
file raises an error, Airflow marks *all* DAGs of that file as stale and does not finish their runs. So the first file
never raises, and the second file has no DAG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow.sdk import DAG, get_parsing_context

from wavelift.airflow import config, notifiers
from wavelift.base.errors import SpecError
from wavelift.base.printable import printable_lines
from wavelift.dag_factory.cutover import cutover_dag
from wavelift.dag_factory.live import live_dag
from wavelift.dag_factory.migrate import migrate_dag
from wavelift.dag_factory.replicate import replicate_dag
from wavelift.dag_factory.trial import test_dag
from wavelift.rules.flows import FLOWS
from wavelift.rules.plans import WaveShape
from wavelift.specs import UsableWaves, usable_exports, usable_networks, usable_waves

log = logging.getLogger(__name__)


def register_waves(namespace: dict[str, Any]) -> None:
    """Add the DAGs of every usable wave to ``namespace`` (a DAG file's ``globals()``). Never raises.

    A task process parses the file again, but needs only one DAG. In this case, only that DAG is built.
    """
    wanted = get_parsing_context().dag_id
    wave = next((wave for flow in FLOWS if (wave := flow.wave_of(wanted))), None) if wanted else None
    if wanted and wave is None:
        return
    try:
        shapes = _usable(only=wave).shapes
    except Exception:  # the folders are not configured; wave_errors.py raises the same error, where it does no harm
        log.exception("the waves could not be read")
        return
    for shape in shapes.values():
        for make in _makers(shape):
            try:
                dag = make(shape)
            except Exception:  # Airflow refuses a valid spec. No such case is known, but other waves must not fail too.
                log.exception("a DAG of wave %s could not be built", shape.wave)
                continue
            if wanted in (None, dag.dag_id):
                namespace[dag.dag_id] = dag


def _makers(shape: WaveShape) -> list[Callable[[WaveShape], DAG]]:
    """The functions that make the DAGs of a wave: those of its method, and only those whose sections the spec has."""
    if shape.method == "hcx":
        return [live_dag]
    replicates = [replicate_dag] if shape.replicates else []
    cuts_over = [cutover_dag, test_dag] if shape.cuts_over else []
    unknown = [live_dag] if shape.method == "any" else []
    return [migrate_dag, *replicates, *cuts_over, *unknown]


def raise_spec_errors() -> None:
    """Raise one error with the problems of all invalid specs and notifiers. Airflow shows it as an import error.

    :raises SpecError: if a spec is invalid, or a notifier cannot be made.
    """
    if get_parsing_context().dag_id:
        return
    networks = usable_networks(config.networks_folder(), config.environments_folder(), config.last_valid_folder())
    exports = usable_exports(config.environments_folder(), config.last_valid_folder())
    errors = list(dict.fromkeys((*_usable(only=None).errors, *networks.errors, *exports.errors)))
    try:
        notifiers.check()
    except SpecError as error:
        errors.append(str(error))
    if errors:
        raise SpecError(printable_lines(("", *errors)))


def _usable(*, only: str | None) -> UsableWaves:
    return usable_waves(config.waves_folder(), config.environments_folder(), config.last_valid_folder(), only=only)
