"""``wavelift wave validate``: checks files of waves, environments and networks, or folders of them, without Airflow."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from wavelift.cli.output import say, visible
from wavelift.specs import Checker, Issue, spec_files, with_source

WAVES: Final = "waves"
ENVIRONMENTS: Final = "environments"
NETWORKS: Final = "networks"


class Folders(NamedTuple):
    """The folders that a file is checked with: they say what it is, and hold what it names."""

    environments: Path
    networks: Path


def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", help="Files of waves, environments or networks, folders of them, or a DAGs folder with all."
        ),
    ],
    environments: Annotated[
        Path | None, typer.Option(help="Folder of the environments; by default beside the waves' folder.")
    ] = None,
    networks: Annotated[
        Path | None, typer.Option(help="Folder of the networks; by default beside the waves' folder.")
    ] = None,
) -> None:
    """Check waves, environments and networks; prints the text of Airflow's import error, and the wrong line of a syntax
    error.
    """
    issues: list[Issue] = []
    warnings: list[Issue] = []
    checked: Counter[str] = Counter()
    valid: Counter[str] = Counter()
    checker = cache(lambda folders: Checker(folders.environments, folders.networks))
    for file, folders in _once(paths, Given(environments, networks), issues):
        kind = checker(folders).kind(file)
        found = checker(folders).check(file)
        if not found:
            warnings += checker(folders).warnings(file, now=datetime.now(UTC))
        issues += found
        checked[kind] += 1
        valid[kind] += not found
    for warning in warnings:
        print(f"warning: {visible(str(warning))}", file=sys.stderr)
    if issues:
        print(visible(with_source(issues)))
        if checked.total() > 1:
            print(f"{_counted(checked, of=valid)} valid", file=sys.stderr)
        sys.exit(1)
    say(f"{_counted(checked)} valid")


class Given(NamedTuple):
    """The folders that the options name."""

    environments: Path | None
    networks: Path | None

    def beside(self, folder: Path) -> Folders:
        """:param folder: of the files. What no option names is beside it."""
        parent = folder.absolute().parent
        # The environments in a DAGs folder are environments, whatever the option says. The same holds for networks.
        own = {name: parent / name for name in (ENVIRONMENTS, NETWORKS)}
        environments = own[ENVIRONMENTS] if folder.name == ENVIRONMENTS else self.environments or own[ENVIRONMENTS]
        return Folders(environments, own[NETWORKS] if folder.name == NETWORKS else self.networks or own[NETWORKS])


def _once(paths: Iterable[Path], given: Given, issues: list[Issue]) -> Iterator[tuple[Path, Folders]]:
    """Each file with its folders, also if two arguments name the file."""
    seen: set[str] = set()
    for path in paths:
        for file, folders in _files(path, given, issues):
            if (full := os.path.realpath(file)) not in seen:  # of Path's, a loop of links is a RuntimeError
                seen.add(full)
                yield file, folders


def _files(path: Path, given: Given, issues: list[Issue]) -> Iterator[tuple[Path, Folders]]:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        issues.append(Issue(str(path), 0, (), "there is no such file or folder"))
        return
    except OSError as error:
        issues.append(Issue(str(path), 0, (), f"can't be read: {error.strerror or error}"))
        return
    if not is_folder:
        yield path, given.beside(path.absolute().parent)
        return
    parts = [part for name in (WAVES, ENVIRONMENTS, NETWORKS) if (part := path / name).is_dir()]
    before = len(issues)
    empty = True
    for folder in parts or [path]:
        for file in spec_files(folder, issues):
            empty = False
            yield file, given.beside(folder)
    if empty and len(issues) == before:
        names = " and ".join(part.name for part in parts)
        what = f"in its folders {names}" if parts else f"in it, and no folder {WAVES}"
        issues.append(Issue(str(path), 0, (), f"there is no spec here: no file *.yaml {what}"))


def _counted(checked: Counter[str], *, of: Counter[str] | None = None) -> str:
    """``2 waves and 1 environment``, or with ``of`` what of it: ``1 of 2 waves and 1 of 1 environments``."""
    words = []
    for kind, count in sorted(checked.items(), reverse=True):
        part = "" if of is None else f"{of[kind]} of "
        words.append(f"{part}{count} {kind}{'s' if count > 1 or part else ''}")
    return " and ".join(words)
