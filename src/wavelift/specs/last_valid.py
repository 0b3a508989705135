"""Keep the shape of the last valid version of each wave and network, so that a typing error stops no current run.

If a file no longer yields a DAG, Airflow marks the DAG as stale and does not finish its runs. So wavelift keeps what
the DAG of each valid file was built from, in a separate folder. It serves nothing else: a new run needs valid files,
and an admitted run has its frozen spec in the ledger.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import TypeAdapter

from wavelift.base.errors import SpecError
from wavelift.base.printable import printable_lines
from wavelift.base.private import private_folder
from wavelift.rules.connectors import NO_WAVES
from wavelift.rules.export_shape import ExportShape
from wavelift.rules.fields import NAME_MAX, NAME_PATTERN
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.network_plans import NetworkShape, ResolvedNetwork
from wavelift.rules.plans import ResolvedWave, WaveShape
from wavelift.rules.problem import quoted
from wavelift.specs.document import read_file
from wavelift.specs.files import SUFFIX
from wavelift.specs.issues import Issue, fault, lines, shown
from wavelift.specs.load import by_hcx, in_ec2, load_folder, load_networks
from wavelift.specs.waves import AnyLoaded

FORMAT: Final = 2
NETWORKS: Final = "networks"
"""Folder of the networks' shapes, in that of the waves'."""
_NAME: Final = re.compile(NAME_PATTERN)
S = TypeVar("S", WaveShape, NetworkShape, ExportShape)
_WORDS: Final[dict[type, str]] = {WaveShape: "wave", NetworkShape: "network"}


class LastValid(Generic[S]):
    """The kept shapes: one small JSON file for each wave, network, or environment with exports.

    :param kind: class of the shapes.
    """

    def __init__(self, folder: Path, kind: type[S]) -> None:
        self.folder = folder
        self.kind: type[S] = kind

    def keep(self, shape: S) -> bool:
        """Store a shape atomically. Nothing is written if the same content is already stored.

        :returns: whether a file was written.
        :raises OSError: if the folder can't be written.
        """
        values = {each.name: getattr(shape, each.name) for each in fields(shape)}  # asdict would copy all names
        content = json.dumps({"format": FORMAT, "shape": values}).encode()
        name = name_of(shape)
        path = self._path(name)
        try:
            if read_file(path) == content:
                return False
        except FileNotFoundError:
            private_folder(self.folder)
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

    def load(self, name: str) -> S | None:
        """The kept shape; None if there is none that this version of wavelift understands."""
        try:
            kept = json.loads(read_file(self._path(name)))
            shape: S | None = self._adapter.validate_python(kept["shape"]) if kept["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # damaged, or written by another version of wavelift
        return shape if shape is not None and name_of(shape) == name else None

    def forget(self, name: str) -> None:
        """Its file is valid, and yields no DAG any more. :raises OSError: if the folder can't be written."""
        self._path(name).unlink(missing_ok=True)

    @cached_property
    def _adapter(self) -> TypeAdapter[S]:
        return TypeAdapter(self.kind)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def name_of(shape: WaveShape | NetworkShape | ExportShape) -> str:
    """The name of the file that the shape is of."""
    if isinstance(shape, ExportShape):
        return shape.environment
    return shape.wave if isinstance(shape, WaveShape) else shape.network


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


@dataclass(frozen=True, slots=True)
class UsableNetwork:
    """A network that has a DAG, as :class:`UsableWave`."""

    shape: NetworkShape
    stale: bool = False


@dataclass(frozen=True, slots=True)
class UsableNetworks:
    """The usable networks by name, and every problem as one line of text."""

    networks: Mapping[str, UsableNetwork] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, NetworkShape]:
        return {name: network.shape for name, network in self.networks.items()}


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
    valid = {name: loaded.shape for name, loaded in specs.waves.items()}
    unkept: list[Issue] = []
    kept = LastValid(last_valid_folder, WaveShape)
    old = _kept(kept, valid, waves_folder, unkept, only=only)
    if only is not None and only not in valid and only not in old:
        old[only] = WaveShape.fallback(only)
    waves = {name: UsableWave(shape) for name, shape in valid.items()}
    waves |= {name: UsableWave(shape, stale=True) for name, shape in old.items()}
    return UsableWaves(waves, lines([*specs.issues, *unkept]))


def usable_networks(
    networks_folder: Path, environments_folder: Path, last_valid_folder: Path, *, only: str | None = None
) -> UsableNetworks:
    """The networks to build DAGs from, as :func:`usable_waves`. Never raises. Errors of environments are not told.

    :param last_valid_folder: that of the waves; networks have a folder in it.
    """
    if only is not None and not _is_name(only):
        return UsableNetworks()
    specs = load_networks(networks_folder, environments_folder, only=only)
    valid = {name: loaded.shape for name, loaded in specs.networks.items()}
    unkept: list[Issue] = []
    kept = LastValid(last_valid_folder / NETWORKS, NetworkShape)
    old = _kept(kept, valid, networks_folder, unkept, only=only)
    if only is not None and only not in valid and only not in old:
        old[only] = NetworkShape.fallback(only)
    networks = {name: UsableNetwork(shape) for name, shape in valid.items()}
    networks |= {name: UsableNetwork(shape, stale=True) for name, shape in old.items()}
    return UsableNetworks(networks, lines([*specs.issues, *unkept]))


def _kept(
    kept: LastValid[S], valid: Mapping[str, S], folder: Path, unkept: list[Issue], *, only: str | None
) -> dict[str, S]:
    """Keep the valid shapes; the kept ones of the files that are not valid now."""
    for name, shape in valid.items():
        try:
            kept.keep(shape)
        except OSError as error:
            message = f"can't keep the last valid version of {_WORDS[kept.kind]} '{name}': {error.strerror or error}"
            unkept.append(Issue(str(kept.folder), 0, (), message))
        except Exception as error:  # no case is known; see load_folder
            unkept.append(fault(folder / f"{name}{SUFFIX}", error))
    others = (name for name in _names(folder, only) if name not in valid)
    found = {name: kept.load(name) for name in others}
    return {name: shape for name, shape in found.items() if shape is not None}


def resolved_wave(name: str, waves_folder: Path, environments_folder: Path) -> ResolvedWave:
    """The wave that ``admit`` freezes, as its file and its environment's file are now.

    The last valid version does not count here: a right that was taken away must not serve a new run, also if the file
    was broken on purpose.

    :raises SpecError: with the errors of the present files, or because HCX migrates the wave.
    """
    return in_ec2(_present(name, waves_folder, environments_folder)).resolve()


def resolved_live(name: str, waves_folder: Path, environments_folder: Path) -> ResolvedLive:
    """The same of a wave of ``method: hcx``. Whether its window is over, ``admit`` asks :func:`hcx_wave.over`.

    :raises SpecError: with the errors of the present files, or because the wave lands in EC2.
    """
    return by_hcx(_present(name, waves_folder, environments_folder)).resolve()


def resolved_network(name: str, networks_folder: Path, environments_folder: Path) -> ResolvedNetwork:
    """The same of a network. No other file may name its extension.

    :raises SpecError: with the errors of the present files.
    """
    _require_name(name, "network")
    specs = load_networks(networks_folder, environments_folder)
    loaded = specs.networks.get(name)
    if loaded is None:
        path = networks_folder / f"{name}{SUFFIX}"
        issues = [issue for issue in specs.issues if issue.file == shown(path)]
        raise _not_allowed("network", name, issues or [Issue(shown(path), 0, (), "there is no such file")])
    return loaded.resolve()


def problem_of(name: str, waves_folder: Path, environments_folder: Path) -> str:
    """Why the present files of a wave, of whatever method, allow no new run; empty: they do."""
    try:
        _present(name, waves_folder, environments_folder)
    except SpecError as error:
        return str(error)
    return ""


def _present(name: str, waves_folder: Path, environments_folder: Path) -> AnyLoaded:
    _require_name(name, "wave")
    specs = load_folder(waves_folder, environments_folder, only=name)
    loaded = specs.waves.get(name)
    if loaded is None:
        raise _not_allowed("wave", name, specs.issues)
    return loaded


def _require_name(name: str, what: str) -> None:
    if not _is_name(name):
        raise SpecError(f"{quoted(name)} can't be the name of a {what}", next_step="Use a-z, 0-9, '_' and '-'")


def _not_allowed(what: str, name: str, issues: Iterable[Issue]) -> SpecError:
    return SpecError(
        printable_lines([f"The files of {what} '{name}' do not allow a new run:", *lines(issues)]),
        next_step="Correct the files, check them with `wavelift wave validate`, and try again. Runs that were "
        "admitted before go on",
    )


def _is_name(name: str) -> bool:
    return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None and name not in NO_WAVES


def _names(folder: Path, only: str | None) -> list[str]:
    """The waves or networks that exist as files, valid or not."""
    if only is not None:
        return [only]
    try:
        return sorted(path.stem for path in folder.glob(f"*{SUFFIX}") if _is_name(path.stem))
    except OSError:
        return []
