"""The test disk of every benchmark: half text, a quarter ELF binaries, a quarter random data; sparse.

Text and binaries are files of this machine, so that compression ratios are those of real disks. The seed determines the
layout.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, BinaryIO, Final

from wavelift.base.units import GIB, MIB

EXTENT: Final = 1 * MIB
POOL: Final = 192 * MIB
"""Of each kind at most; more data repeats it, far outside of deflate's 32 KiB window."""
_TEXT_SUFFIXES: Final = frozenset({".py", ".h", ".c", ".txt", ".rst", ".md", ".html", ".css", ".js", ".json", ".xml"})
_ELF: Final = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Parameters of a test disk, and where it lies once made."""

    size: int = 4 * GIB
    """Virtual size, bytes."""
    data_pct: int = 40
    seed: int = 1

    @property
    def params(self) -> dict[str, Any]:
        return asdict(self)

    def make(self, path: Path) -> int:
        """Write the raw sparse image, in a process of its own: a child's peak memory starts at its parent's.

        :return: the number of its bytes that are data.
        """
        command = [sys.executable, "-m", "benchmarks.corpus", str(path), *map(str, asdict(self).values())]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def write(self, path: Path) -> int:
        chance = random.Random(self.seed)
        slots = self.size // EXTENT
        places = sorted(chance.sample(range(slots), slots * self.data_pct // 100))
        kinds = [("text", "elf", "text", "random")[number % 4] for number in range(len(places))]
        chance.shuffle(kinds)
        sources: dict[str, Callable[[], bytes]] = {
            "text": _chunks(_text_files()),
            "elf": _chunks(_elf_files()),
            "random": lambda: chance.randbytes(EXTENT),
        }
        with path.open("wb") as file:
            file.truncate(self.size)
            for place, kind in zip(places, kinds, strict=True):
                file.seek(place * EXTENT)
                file.write(sources[kind]())
        return len(places) * EXTENT


def _roots() -> tuple[Path, ...]:
    return (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib")), Path("/usr"))


def _files(*roots: Path) -> Iterator[Path]:
    """Regular files, in one order on one machine, found as they are asked for."""
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            paths = (Path(folder, name) for name in sorted(names))
            yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _text_files() -> Iterator[Path]:
    return (path for path in _files(*_roots()) if path.suffix in _TEXT_SUFFIXES)


def _elf_files() -> Iterator[Path]:
    return (path for path in _files(Path("/usr/bin"), Path("/usr/lib"), *_roots()[:2]) if _magic(path) == _ELF)


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""


def _chunks(files: Iterator[Path]) -> Callable[[], bytes]:
    """Endless extents of the files' bytes, one after the other."""
    pool = bytearray()
    for path in files:
        with path.open("rb") as file:
            pool += _whole(file)
        if len(pool) >= POOL:
            break
    del pool[len(pool) // EXTENT * EXTENT :]
    if not pool:
        raise RuntimeError("this machine has too few files to make a corpus of")
    starts = cycle(range(0, len(pool), EXTENT))
    return lambda: bytes(pool[(start := next(starts)) : start + EXTENT])


def _whole(file: BinaryIO) -> bytes:
    return file.read(8 * MIB)


if __name__ == "__main__":
    print(Corpus(*map(int, sys.argv[2:])).write(Path(sys.argv[1])))
