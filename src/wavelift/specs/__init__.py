"""Read YAML specs into models. Errors name file, line and allowed values."""

from __future__ import annotations

from wavelift.specs.issues import Issue, format_errors, with_source
from wavelift.specs.last_valid import LastValid, UsableWave, UsableWaves, resolved_wave, usable_waves
from wavelift.specs.load import (
    Granting,
    LoadedSpecs,
    LoadedWave,
    check_file,
    is_environment,
    load_environment,
    load_folder,
    load_granting,
    load_principals,
    load_resolved,
    load_wave,
    spec_files,
)

__all__ = [
    "Granting",
    "Issue",
    "LastValid",
    "LoadedSpecs",
    "LoadedWave",
    "UsableWave",
    "UsableWaves",
    "check_file",
    "format_errors",
    "is_environment",
    "load_environment",
    "load_folder",
    "load_granting",
    "load_principals",
    "load_resolved",
    "load_wave",
    "resolved_wave",
    "spec_files",
    "usable_waves",
    "with_source",
]
