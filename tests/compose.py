"""The compose file as compose understands it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "docker-compose.yml"
SECRETS: Final = (
    "WAVELIFT_DB_PASSWORD",
    "WAVELIFT_LEDGER_PASSWORD",
    "WAVELIFT_REDIS_PASSWORD",
    "WAVELIFT_FERNET_KEY",
    "WAVELIFT_JWT_SECRET",
    "WAVELIFT_API_SECRET",
)
VALUES: Final = {name: "value_of_" + name for name in SECRETS}
"""A value of its own for each secret, so that a test sees where it goes."""


def compose_command() -> list[str]:
    """``docker compose`` or ``docker-compose``, whichever is here; only their ``config`` is called, which needs no
    engine."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    old = shutil.which("docker-compose")
    return [old] if old else []


def configured(*arguments: str, secrets: bool = True) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WAVELIFT_")}
    return subprocess.run(
        [*compose_command(), "--file", str(FILE), *arguments],
        env={**inherited, **(VALUES if secrets else {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@cache
def read_services() -> dict[str, Any]:
    """The services as compose understands them. Without compose: as YAML does, with the variables filled in."""
    if not compose_command():
        warnings.warn("neither 'docker compose' nor docker-compose is here: checked as YAML only", stacklevel=1)
        return dict(yaml.safe_load(filled_in(FILE.read_text()))["services"])
    done = configured("--profile", "demo", "config")
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout)["services"])


def filled_in(text: str) -> str:
    """``${NAME}``, ``${NAME:?…}`` and ``${NAME:-default}`` as compose replaces them. ``$$`` stays."""

    def value(match: re.Match[str]) -> str:
        return VALUES.get(match["name"]) or match["default"] or ""

    return re.sub(r"\$\{(?P<name>\w+)(?::\?[^}]*|:-(?P<default>[^}]*))?\}", value, text)


def command(service: dict[str, Any]) -> list[str]:
    """The words of the command, as the container gets them."""
    return [str(word).replace("$$", "$") for word in service.get("command", [])]


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in (service.get("environment") or {}).items()}
