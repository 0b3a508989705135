"""Keep the last valid version of each spec, so that a typing error does not stop a running wave.

If a file no longer yields a DAG, Airflow marks the DAG as stale and does not finish its runs.
So wavelift keeps a copy of each valid wave, together with its environment, in a separate folder.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wavelift.base.errors import SpecError
from wavelift.base.printable import printable_lines
from wavelift.rules.fields import NAME_PATTERN
from wavelift.rules.plans import ResolvedWave, WaveShape
from wavelift.specs.issues import Issue, lines
from wavelift.specs.load import LoadedWave, load_folder, load_texts

FORMAT: Final = 1
_NAME: Final = re.compile(NAME_PATTERN)


class LastValid:
    """The kept specs: one small JSON file for each wave, with the text of the wave and of its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, name: str, wave_text: str, environment_text: str) -> bool:
        """Store a valid pair atomically. Nothing is written if the same content is already stored.

        :returns: whether a file was written.
        :raises OSError: if the folder can't be written.
        """
        content = json.dumps({"format": FORMAT, "wave": wave_text, "environment": environment_text}).encode()
        path = self._path(name)
        try:
            if path.read_bytes() == content:
                return False
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
        # Task processes and the DAG processor may write at the same time. Each writes its own temporary file and then
        # renames it atomically.
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return True

    def load(self, name: str) -> LoadedWave | None:
        """The kept version; None if there is none that the current rules accept."""
        try:
            kept = json.loads(self._path(name).read_bytes())
            return load_texts(kept["wave"], kept["environment"]) if kept["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # damaged, or written by another version of wavelift

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


@dataclass(frozen=True, slots=True)
class UsableWave:
    """A wave that has a DAG: from its file, from its last valid version, or only from its name."""

    shape: WaveShape
    loaded: LoadedWave | None
    stale: bool = False
    """True: the file is invalid now, and this is its last valid version (or only the name)."""
    errors: tuple[str, ...] = ()
    """The errors of the file if ``stale``."""

    def resolve(self) -> ResolvedWave:
        """The resolved wave, which ``admit`` freezes.

        :raises SpecError: with the file's errors if there is no valid version.
        """
        if self.loaded is None:
            raise SpecError(
                printable_lines(self.errors) or f"There is no spec of wave '{self.shape.wave}'",
                wave=self.shape.wave,
                next_step="Correct the file and trigger the wave again",
            )
        return self.loaded.resolve()


@dataclass(frozen=True, slots=True)
class UsableWaves:
    """Every wave that gets a DAG, and one line for each problem in the files."""

    waves: Mapping[str, UsableWave] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, WaveShape]:
        return {name: wave.shape for name, wave in self.waves.items()}


def usable_waves(
    waves_folder: Path, environments_folder: Path, last_valid_folder: Path, *, only: str | None = None
) -> UsableWaves:
    """The waves to build DAGs from: valid waves, and the last valid version of invalid ones. Never raises.

    :param only: the one wave that a task process needs. It always gets a shape, if necessary one with defaults, so that
        a run continues and cleans up even if the file is invalid or deleted.
    """
    if only is not None and not _NAME.fullmatch(only):
        return UsableWaves()
    specs = load_folder(waves_folder, environments_folder, only=only)
    kept = LastValid(last_valid_folder)
    waves: dict[str, UsableWave] = {}
    unkept: list[Issue] = []
    for name, loaded in specs.waves.items():
        waves[name] = UsableWave(loaded.shape, loaded)
        try:
            kept.keep(name, loaded.wave_text, loaded.environment_text)
        except OSError as error:
            message = f"can't keep the last valid version of wave '{name}': {error.strerror or error}"
            unkept.append(Issue(str(last_valid_folder), 0, (), message))
    for name in _names(waves_folder, only):
        if name not in waves and (stale := _stale(kept.load(name), name, only, specs.issues)):
            waves[name] = stale
    return UsableWaves(waves, lines([*specs.issues, *unkept]))


def resolved_wave(name: str, waves_folder: Path, environments_folder: Path, last_valid_folder: Path) -> ResolvedWave:
    """The wave that ``admit`` freezes: from its file, or the last valid version if the file is invalid.

    :raises SpecError: if there is neither.
    """
    usable = usable_waves(waves_folder, environments_folder, last_valid_folder, only=name).waves.get(name)
    if usable is None:
        raise SpecError(f"'{name}' can't be the name of a wave", next_step="Use a-z, 0-9, '_' and '-'")
    return usable.resolve()


def _stale(loaded: LoadedWave | None, name: str, only: str | None, issues: tuple[Issue, ...]) -> UsableWave | None:
    errors = lines(issues)
    if loaded is not None and loaded.wave.wave == name:
        return UsableWave(loaded.shape, loaded, stale=True, errors=errors)
    if only is not None:
        return UsableWave(WaveShape.fallback(name), None, stale=True, errors=errors)
    return None


def _names(waves_folder: Path, only: str | None) -> list[str]:
    """The waves that exist as files, valid or not."""
    if only is not None:
        return [only]
    try:
        return sorted(path.stem for path in waves_folder.glob("*.yaml") if _NAME.fullmatch(path.stem))
    except OSError:
        return []
