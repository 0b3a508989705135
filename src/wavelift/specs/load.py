"""Load spec files into models. All errors of a file are reported at once, with file, line, field and allowed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from wavelift.base.errors import SpecError
from wavelift.rules.environment import PRINCIPALS
from wavelift.rules.flows import LIVE, MIGRATE
from wavelift.rules.hcx_environment import AnyEnvironment
from wavelift.rules.hcx_wave import over
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.plans import ResolvedWave
from wavelift.rules.principals import Principals
from wavelift.specs.document import Document
from wavelift.specs.environments import Environments, read_environment, read_principals
from wavelift.specs.files import OTHER_SUFFIX, SUFFIX, broken, isolated, or_raise, spec_files, unread
from wavelift.specs.issues import Issue, format_errors, lines
from wavelift.specs.networks import LoadedNetwork, Networks
from wavelift.specs.waves import AnyLoaded, AnyWave, LoadedLive, LoadedWave, landed, read_wave


@dataclass(frozen=True, slots=True)
class LoadedSpecs:
    """The content of the folders: the valid specs, and the problems of the others."""

    waves: dict[str, AnyLoaded] = field(default_factory=dict)
    environments: dict[str, AnyEnvironment] = field(default_factory=dict)
    networks: dict[str, LoadedNetwork] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        """One line for each problem: ``waves/erp.yaml:12: servers[2].subnet: …``."""
        return lines(self.issues)


def load_wave(path: Path) -> AnyWave:
    """Load one wave file without its environment.

    :raises SpecError: with every problem of the file.
    """
    wave, _, issues = read_wave(Document(path))
    if wave is None or issues:
        raise broken(issues)
    return wave


def load_environment(path: Path) -> AnyEnvironment:
    """Load one environment file.

    :raises SpecError: with every problem of the file.
    """
    environment, issues = isolated(path, read_environment)
    if environment is None or issues:
        raise broken(issues)
    return environment


def load_network(path: Path, environments_folder: Path) -> LoadedNetwork:
    """Load one network with its environment. The other networks are those in the same folder.

    :raises SpecError: with every problem of the two files, also that another file names the same extension.
    """
    environments = Environments(environments_folder)
    network, issues = Networks(path.parent, environments).network(path)
    return or_raise(network, [*issues, *environments.issues])


@dataclass(frozen=True, slots=True)
class Granting:
    """What says who may do what: an environment with the groups, as the files are now."""

    environment: AnyEnvironment
    principals: Principals


def load_granting(name: str, folder: Path) -> Granting:
    """The present environment of this name with the present groups.

    :raises SpecError: with every problem of the two files.
    """
    environments = Environments(folder)
    environment, problem = environments.named(name)
    principals = environments.principals()
    if environment is None or principals is None:
        raise SpecError(format_errors(environments.issues) or problem)
    return Granting(environment, principals)


def load_principals(folder: Path) -> Principals:
    """The groups and vCenter principals of a folder of environments; without the file there are none.

    :raises SpecError: with every problem of the file.
    """
    environments = Environments(folder)
    return or_raise(environments.principals(), environments.issues)


class Checker:
    """Checks files one by one, as ``wavelift wave validate`` does. Each file is read once.

    Only its folder decides what a file is: an environment, the groups, a network, else a wave.

    :param networks_folder: None: no file is a network.
    """

    def __init__(self, environments_folder: Path, networks_folder: Path | None = None) -> None:
        self._folder = environments_folder
        self._networks_folder = networks_folder
        self._environments = Environments(environments_folder)
        self._networks = Networks(networks_folder or Path(), self._environments)

    def kind(self, path: Path) -> str:
        """``wave``, ``environment``, ``groups file`` or ``network``."""
        if is_environment(path, self._folder):
            return "groups file" if path.stem == PRINCIPALS else "environment"
        return "network" if self._is_network(path) else "wave"

    def check(self, path: Path) -> tuple[Issue, ...]:
        """The issues of a file; empty if it is valid. A wave and a network are checked with their environment."""
        if path.suffix == OTHER_SUFFIX:
            return (unread(path),)
        kind = self.kind(path)
        if kind == "groups file":
            return tuple(isolated(path, read_principals)[1])
        if kind == "environment":
            return tuple(isolated(path, self._environments.environment)[1])
        if kind == "network":
            return tuple(self._networks.network(path)[1])
        return tuple(isolated(path, self._landed)[1])

    def warnings(self, path: Path, *, now: datetime) -> tuple[Issue, ...]:
        """What a valid file is warned of: no new run begins, although the file is right."""
        if path.suffix == OTHER_SUFFIX or self.kind(path) != "wave":
            return ()
        document = Document(path)
        loaded, _ = self._landed(document)
        problem = over(loaded.wave.window, now) if isinstance(loaded, LoadedLive) else None
        return () if problem is None else (document.issue(problem),)

    def _landed(self, document: Document) -> tuple[AnyLoaded | None, list[Issue]]:
        return landed(document, self._environments)

    def _is_network(self, path: Path) -> bool:
        folder = self._networks_folder
        return folder is not None and path.absolute().parent == folder.absolute()


def check_file(path: Path, environments_folder: Path, networks_folder: Path | None = None) -> tuple[Issue, ...]:
    """As :meth:`Checker.check`, of one file."""
    return Checker(environments_folder, networks_folder).check(path)


def is_environment(path: Path, environments_folder: Path) -> bool:
    """Whether a file is an environment: only its folder decides."""
    return path.absolute().parent == environments_folder.absolute()


def load_resolved(path: Path, environments_folder: Path) -> ResolvedWave:
    """Load a wave that lands in EC2, and check it against its environment.

    :raises SpecError: with every problem of the two files, or because the wave is of another method.
    """
    return in_ec2(_loaded(path, environments_folder)).resolve()


def load_resolved_live(path: Path, environments_folder: Path) -> ResolvedLive:
    """Load a wave of ``method: hcx``, and check it against its environment.

    :raises SpecError: as :func:`load_resolved`.
    """
    return by_hcx(_loaded(path, environments_folder)).resolve()


def _loaded(path: Path, environments_folder: Path) -> AnyLoaded:
    environments = Environments(environments_folder)
    loaded, issues = isolated(path, lambda document: landed(document, environments))
    if loaded is None or issues or environments.issues:
        raise broken([*issues, *environments.issues])
    return loaded


def in_ec2(loaded: AnyLoaded) -> LoadedWave:
    """:raises SpecError: HCX migrates the wave."""
    if isinstance(loaded, LoadedLive):
        raise SpecError(
            "The wave is of 'method: hcx': its servers do not land in EC2",
            next_step=f"Start {LIVE.dag_id(loaded.wave.wave)}, or `wavelift live start {loaded.wave.wave}`",
            wave=loaded.wave.wave,
        )
    return loaded


def by_hcx(loaded: AnyLoaded) -> LoadedLive:
    """:raises SpecError: the wave lands in EC2."""
    if isinstance(loaded, LoadedWave):
        raise SpecError(
            "The wave is not of 'method: hcx': its servers land in EC2",
            next_step=f"Start {MIGRATE.dag_id(loaded.wave.wave)}, or write a wave with 'method: hcx'",
            wave=loaded.wave.wave,
        )
    return loaded


def load_folder(
    waves_folder: Path, environments_folder: Path, networks_folder: Path | None = None, *, only: str | None = None
) -> LoadedSpecs:
    """Load all waves, environments and networks, or only one wave with its environment. Never raises.

    :param networks_folder: None: no network is loaded.
    """
    environments = Environments(environments_folder)
    issues: list[Issue] = []
    waves: dict[str, AnyLoaded] = {}
    for path in [waves_folder / f"{only}{SUFFIX}"] if only else spec_files(waves_folder, issues):
        loaded, found = isolated(path, lambda document: landed(document, environments))
        issues += found
        if loaded:
            waves[loaded.wave.wave] = loaded
    networks: dict[str, LoadedNetwork] = {}
    if not only:
        if networks_folder is not None:
            networks = _networks(Networks(networks_folder, environments), issues)
        for path in spec_files(environments_folder, issues):
            if path.stem != PRINCIPALS:
                environments.get(path.stem)
        environments.principals()
    return LoadedSpecs(waves, environments.valid, networks, tuple(dict.fromkeys((*issues, *environments.issues))))


def load_networks(networks_folder: Path, environments_folder: Path, *, only: str | None = None) -> LoadedSpecs:
    """Load all networks with their environments, or only one. Never raises.

    :param only: without a look at the other files.
    """
    environments = Environments(environments_folder)
    networks, issues = Networks(networks_folder, environments), list[Issue]()
    found = _networks(networks, issues, only=only)
    return LoadedSpecs({}, environments.valid, found, tuple(dict.fromkeys((*issues, *environments.issues))))


def _networks(networks: Networks, issues: list[Issue], *, only: str | None = None) -> dict[str, LoadedNetwork]:
    valid = {}
    for path in [networks.folder / f"{only}{SUFFIX}"] if only else networks.paths(issues):
        loaded, found = networks.network(path, alone=only is not None)
        issues += found
        if loaded:
            valid[loaded.network.network] = loaded
    return valid
