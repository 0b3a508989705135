"""Specs from their texts, read as files are."""

from __future__ import annotations

import tempfile
from pathlib import Path

from wavelift.specs import LoadedWave, load_folder


def load_texts(wave: str, environment: str, *, name: str = "erp", where: str) -> LoadedWave | None:
    """The wave ``name`` that lands in ``where``; None if a file has an error."""
    with tempfile.TemporaryDirectory() as folder:
        waves, environments = Path(folder, "waves"), Path(folder, "environments")
        for one in (waves, environments):
            one.mkdir()
        (waves / f"{name}.yaml").write_text(wave)
        (environments / f"{where}.yaml").write_text(environment)
        found = load_folder(waves, environments).waves.get(name)
        return found if isinstance(found, LoadedWave) else None
