"""``wavelift wave validate``: checks files of waves and environments, or whole folders of them, without Airflow."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from wavelift.cli.output import say, visible
from wavelift.rules.environment import PRINCIPALS
from wavelift.specs import Issue, check_file, is_environment, spec_files, with_source

WAVES: Final = "waves"
ENVIRONMENTS: Final = "environments"


def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", help="Files of waves or environments, folders of them, or a DAGs folder with both."
        ),
    ],
    environments: Annotated[
        Path | None, typer.Option(help="Folder of the environments; by default beside the waves' folder.")
    ] = None,
) -> None:
    """Check waves and environments; prints the text of Airflow's import error, and the wrong line of a syntax error."""
    issues: list[Issue] = []
    checked: Counter[str] = Counter()
    valid: Counter[str] = Counter()
    for file, landing in _once(paths, environments, issues):
        kind = _kind(file, landing)
        found = check_file(file, landing)
        issues += found
        checked[kind] += 1
        valid[kind] += not found
    if issues:
        print(visible(with_source(issues)))
        if checked.total() > 1:
            print(f"{_counted(checked, of=valid)} valid", file=sys.stderr)
        sys.exit(1)
    say(f"{_counted(checked)} valid")


def _kind(file: Path, landing: Path) -> str:
    if not is_environment(file, landing):
        return "wave"
    return "groups file" if file.stem == PRINCIPALS else "environment"


def _once(paths: Iterable[Path], environments: Path | None, issues: list[Issue]) -> Iterator[tuple[Path, Path]]:
    """Each file with the folder of its environments, also if two arguments name the file."""
    seen: set[str] = set()
    for path in paths:
        for file, landing in _files(path, environments, issues):
            if (full := os.path.realpath(file)) not in seen:  # of Path's, a loop of links is a RuntimeError
                seen.add(full)
                yield file, landing


def _files(path: Path, environments: Path | None, issues: list[Issue]) -> Iterator[tuple[Path, Path]]:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        issues.append(Issue(str(path), 0, (), "there is no such file or folder"))
        return
    except OSError as error:
        issues.append(Issue(str(path), 0, (), f"can't be read: {error.strerror or error}"))
        return
    if not is_folder:
        yield path, environments or path.absolute().parent.parent / ENVIRONMENTS
        return
    parts = [part for name in (WAVES, ENVIRONMENTS) if (part := path / name).is_dir()]
    before = len(issues)
    empty = True
    for folder in parts or [path]:
        beside = folder.absolute().parent / ENVIRONMENTS
        # The environments in a DAGs folder are environments, whatever the option says.
        landing = beside if folder.name == ENVIRONMENTS else environments or beside
        for file in spec_files(folder, issues):
            empty = False
            yield file, landing
    if empty and len(issues) == before:
        what = f"in its folders {WAVES} and {ENVIRONMENTS}" if parts else f"in it, and no folder {WAVES}"
        issues.append(Issue(str(path), 0, (), f"there is no spec here: no file *.yaml {what}"))


def _counted(checked: Counter[str], *, of: Counter[str] | None = None) -> str:
    """``2 waves and 1 environment``, or with ``of`` what of it: ``1 of 2 waves and 1 of 1 environments``."""
    words = []
    for kind, count in sorted(checked.items(), reverse=True):
        part = "" if of is None else f"{of[kind]} of "
        words.append(f"{part}{count} {kind}{'s' if count > 1 or part else ''}")
    return " and ".join(words)
