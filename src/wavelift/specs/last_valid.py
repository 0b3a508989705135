"""Keep the shape of the last valid version of each wave, so that a typing error does not stop a running wave.

If a file no longer yields a DAG, Airflow marks the DAG as stale and does not finish its runs. So wavelift keeps what
the DAG of each valid wave was built from, in a separate folder. It serves nothing else: a new run needs valid files,
and an admitted run has its frozen spec in the ledger.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from wavelift.base.errors import SpecError
from wavelift.base.printable import printable_lines
from wavelift.base.private import private_folder
from wavelift.rules.connectors import CONNECTOR_DAGS
from wavelift.rules.fields import NAME_MAX, NAME_PATTERN
from wavelift.rules.plans import ResolvedWave, WaveShape
from wavelift.rules.problem import quoted
from wavelift.specs.document import read_file
from wavelift.specs.issues import Issue, fault, lines
from wavelift.specs.load import SUFFIX, load_folder

FORMAT: Final = 2
_NAME: Final = re.compile(NAME_PATTERN)


class LastValid:
    """The kept shapes: one small JSON file for each wave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, shape: WaveShape) -> bool:
        """Store a shape atomically. Nothing is written if the same content is already stored.

        :returns: whether a file was written.
        :raises OSError: if the folder can't be written.
        """
        values = {each.name: getattr(shape, each.name) for each in fields(shape)}  # asdict would copy all names
        content = json.dumps({"format": FORMAT, "shape": values}).encode()
        path = self._path(shape.wave)
        try:
            if read_file(path) == content:
                return False
        except FileNotFoundError:
            private_folder(self.folder)
        # Task processes and the DAG processor may write at the same time. Each writes its own temporary file and then
        # renames it atomically.
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{shape.wave}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return True

    def load(self, name: str) -> WaveShape | None:
        """The kept shape; None if there is none that this version of wavelift understands."""
        try:
            kept = json.loads(read_file(self._path(name)))
            shape = _shapes().validate_python(kept["shape"]) if kept["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # damaged, or written by another version of wavelift
        return shape if shape is not None and shape.wave == name else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


@cache
def _shapes() -> TypeAdapter[WaveShape]:
    return TypeAdapter(WaveShape)


@dataclass(frozen=True, slots=True)
class UsableWave:
    """A wave that has a DAG: from its file, from its last valid version, or only from its name."""

    shape: WaveShape
    stale: bool = False
    """True: the file is invalid now, and this is the shape of its last valid version (or only the name)."""


@dataclass(frozen=True, slots=True)
class UsableWaves:
    """The usable waves by name, and every problem as one line of text."""

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
    if only is not None and not _is_name(only):
        return UsableWaves()
    specs = load_folder(waves_folder, environments_folder, only=only)
    kept = LastValid(last_valid_folder)
    waves: dict[str, UsableWave] = {}
    unkept: list[Issue] = []
    for name, loaded in specs.waves.items():
        waves[name] = UsableWave(loaded.shape)
        try:
            kept.keep(loaded.shape)
        except OSError as error:
            message = f"can't keep the last valid version of wave '{name}': {error.strerror or error}"
            unkept.append(Issue(str(last_valid_folder), 0, (), message))
        except Exception as error:  # no case is known; see load_folder
            unkept.append(fault(waves_folder / f"{name}{SUFFIX}", error))
    for name in _names(waves_folder, only):
        if name not in waves and (shape := kept.load(name) or (WaveShape.fallback(name) if only else None)):
            waves[name] = UsableWave(shape, stale=True)
    return UsableWaves(waves, lines([*specs.issues, *unkept]))


def resolved_wave(name: str, waves_folder: Path, environments_folder: Path) -> ResolvedWave:
    """The wave that ``admit`` freezes, as its file and its environment's file are now.

    The last valid version does not count here: a right that was taken away must not serve a new run, also if the file
    was broken on purpose.

    :raises SpecError: with the errors of the present files.
    """
    if not _is_name(name):
        raise SpecError(f"{quoted(name)} can't be the name of a wave", next_step="Use a-z, 0-9, '_' and '-'")
    specs = load_folder(waves_folder, environments_folder, only=name)
    loaded = specs.waves.get(name)
    if loaded is None:
        raise SpecError(
            printable_lines([f"The files of wave '{name}' do not allow a new run:", *lines(specs.issues)]),
            next_step="Correct the files, check them with `wavelift wave validate`, and try again. Runs that were "
            "admitted before go on",
        )
    return loaded.resolve()


def _is_name(name: str) -> bool:
    return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None and name not in CONNECTOR_DAGS


def _names(waves_folder: Path, only: str | None) -> list[str]:
    """The waves that exist as files, valid or not."""
    if only is not None:
        return [only]
    try:
        return sorted(path.stem for path in waves_folder.glob(f"*{SUFFIX}") if _is_name(path.stem))
    except OSError:
        return []
