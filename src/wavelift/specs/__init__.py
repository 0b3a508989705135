"""Read YAML specs into models. Errors name file, line and allowed values."""

from __future__ import annotations

from wavelift.specs.exports import UsableExports, exporting_environment, usable_exports
from wavelift.specs.files import SUFFIX, spec_files
from wavelift.specs.issues import Issue, format_errors, with_source
from wavelift.specs.last_valid import (
    LastValid,
    UsableNetwork,
    UsableNetworks,
    UsableWave,
    UsableWaves,
    problem_of,
    resolved_live,
    resolved_network,
    resolved_wave,
    usable_networks,
    usable_waves,
)
from wavelift.specs.load import (
    Checker,
    Granting,
    LoadedSpecs,
    check_file,
    is_environment,
    load_environment,
    load_folder,
    load_granting,
    load_network,
    load_networks,
    load_principals,
    load_resolved,
    load_resolved_live,
    load_wave,
)
from wavelift.specs.networks import LoadedNetwork
from wavelift.specs.waves import LoadedLive, LoadedWave

__all__ = [
    "SUFFIX",
    "Checker",
    "Granting",
    "Issue",
    "LastValid",
    "LoadedLive",
    "LoadedNetwork",
    "LoadedSpecs",
    "LoadedWave",
    "UsableExports",
    "UsableNetwork",
    "UsableNetworks",
    "UsableWave",
    "UsableWaves",
    "check_file",
    "exporting_environment",
    "format_errors",
    "is_environment",
    "load_environment",
    "load_folder",
    "load_granting",
    "load_network",
    "load_networks",
    "load_principals",
    "load_resolved",
    "load_resolved_live",
    "load_wave",
    "problem_of",
    "resolved_live",
    "resolved_network",
    "resolved_wave",
    "spec_files",
    "usable_exports",
    "usable_networks",
    "usable_waves",
    "with_source",
]
