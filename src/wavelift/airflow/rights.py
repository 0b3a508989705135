"""The rights as the configuration of this Airflow says: the environments' folder, and how long roles are believed."""

from __future__ import annotations

from datetime import timedelta

from wavelift.airflow import config
from wavelift.services.common.authority import Rights
from wavelift.specs import Granting, load_granting


def present_rights() -> Rights:
    """Reads the files anew for each question."""
    return Rights(present_granting, timedelta(hours=config.integer("group_memory_hours")))


def present_granting(environment: str) -> Granting:
    """:raises SpecError: the files have errors."""
    return load_granting(environment, config.environments_folder())
