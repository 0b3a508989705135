"""The DAG files that come with wavelift, and a DAGs folder made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import wavelift

FILES: Final = ("waves.py", "wave_errors.py", "networks.py", "exports.py", "catalog.py")
"""What a DAGs folder needs."""
FOLDERS: Final = ("waves", "environments", "networks")
"""What belongs beside them: the folders of the specs."""


def dags_source() -> Path:
    """The DAG files: beside the source tree, or in the installed wheel."""
    beside = Path(wavelift.__file__).resolve().parents[2] / "dags"
    return beside if (beside / "waves.py").exists() else Path(wavelift.__file__).parent / "_dags"


def lay_out(folder: Path) -> Iterator[str]:
    """Copy the DAG files that are missing in ``folder``, and make the folders of the specs; one line for each file.

    A file that is there stays as it is.

    :raises OSError: a file or folder cannot be made.
    """
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        source, target = dags_source() / name, folder / name
        if not target.exists():
            shutil.copyfile(source, target)
            yield f"copied {target}"
        elif target.read_bytes() == source.read_bytes():
            yield f"{target} is up to date"
        else:
            yield f"kept {target}: it differs from this version's {source}"
