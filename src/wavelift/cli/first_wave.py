"""What ``wavelift simulators up --write`` writes: all files for a first wave against the running simulators.

``env`` holds secrets, so only its user may read it. No secret is printed.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import secrets
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from wavelift.base.private import private_folder
from wavelift.cli.dag_files import dags_source, lay_out
from wavelift.cli.local_airflow import airflow_home, free_port, loopback_settings
from wavelift.cli.simulators import Stage
from wavelift.rules.environment import PRINCIPALS

NAME: Final = "demo"
"""Name of the wave and of its environment."""
SITES: Final = "sites"
"""The same for HCX, and of the network."""
TO_AWS: Final = (f"wavelift wave plan {NAME}", f"wavelift migrate {NAME}", "wavelift migrations list")
BETWEEN_SITES: Final = (
    f"wavelift live plan {SITES}",
    f"wavelift live start {SITES} --no-wait",
    f"wavelift live approve {SITES} RUN   # RUN is printed by the command before",
    "wavelift live list",
    f"wavelift network plan {SITES}",
    f"wavelift network cutover {SITES}",
    f"wavelift network approve {SITES} RUN",
    "wavelift network list",
)
"""What to run next."""
PORT: Final = 8080
"""Airflow's own port. It is used if it is free."""
PASSWORDS: Final = "passwords.json"
MARK: Final = "# Written by `wavelift simulators up --write`, and again at each start as long as nobody changes it: "
REPLICATION: Final = """\
# Replication: remove the '#' of the next lines, then run `wavelift wave apply demo --unpause` (docs/replication.md).
# replication:
#   seed_time: now
#   frequency_hours: 12
#   keep_amis: 3
"""


def write(folder: Path, running: Stage) -> Iterator[str]:
    """Write the files of a first wave below ``folder``, and tell what to run next; one line each.

    :raises OSError: a file or folder cannot be made, or an Airflow of somebody else lives there.
    """
    home, dags, env = folder / "airflow", folder / "dags", folder / "env"
    if (home / "airflow.cfg").exists() and not (home / PASSWORDS).exists():
        # As with `--write ~`: its settings name a database, which `airflow standalone` would migrate and use.
        raise FileExistsError(f"{home} is the home of another Airflow: name another folder")
    private_folder(folder)
    airflow_home(home)
    yield from lay_out(dags)
    specs = _between_sites(dags, running) if running.sites.hcx is not None else _to_aws(dags, running)
    specs[dags / "environments" / f"{PRINCIPALS}.yaml"] = running.principals(users=[getpass.getuser()])
    for path, content in specs.items():
        yield f"wrote {path}" if put(path, content) else f"kept {path}: it was changed"
    port = PORT if _is_free(PORT) else free_port()
    if put(env, _env(running, home, dags, port)):
        yield f"wrote {env}: the connections and the password of Airflow's user admin; only you can read it"
    else:
        yield f"kept {env}: it was changed. Its addresses are of an older start; remove it to have it written again"
    commands = BETWEEN_SITES if running.sites.hcx is not None else TO_AWS
    yield from _next(dags, shlex.quote(str(env)), port, commands)


def _to_aws(dags: Path, running: Stage) -> dict[Path, str]:
    template = dags_source()
    environment = running.environment(
        template / "environments" / "demo.yaml",
        users=[getpass.getuser()],  # of `airflow dags trigger`: Airflow records who runs the shell
    )
    return {
        dags / "environments" / f"{NAME}.yaml": environment,
        dags / "waves" / f"{NAME}.yaml": _wave(template / "waves" / "demo.yaml"),
    }


def _between_sites(dags: Path, running: Stage) -> dict[Path, str]:
    users = dict.fromkeys(("admin", getpass.getuser()))
    files = running.sites.files(SITES, users=users)
    return {dags / path: yaml.safe_dump(content, sort_keys=False) for path, content in files.items()}


def _next(dags: Path, env: str, port: int, commands: Sequence[str]) -> Iterator[str]:
    yield "In a second terminal, start Airflow. It needs about a minute:"
    yield f"  . {env} && wavelift init && airflow standalone"
    yield "In a third terminal:"
    yield f"  . {env}"
    yield f"  wavelift wave validate {shlex.quote(str(dags))}"
    yield from (f"  {command}" for command in commands)
    yield f"The web UI is http://127.0.0.1:{port}: user admin, with the password WAVELIFT_PASSWORD of {env}"
    yield "The files stay when the simulators stop. The next start has new addresses: begin again in terminal two"


def put(path: Path, content: str) -> bool:
    """Write a file that only its user may read, with a first line by which it is known again.

    :returns: False if the file is there and somebody else wrote or changed it. Then it stays.
    """
    if (path.exists() or path.is_symlink()) and not _is_ours(path):
        return False
    _replace(path, f"{MARK}{_digest(content)}\n{content}")
    return True


def _replace(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # its mode is 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _is_ours(path: Path) -> bool:
    try:
        first, _, content = path.read_text().partition("\n")
    except (OSError, UnicodeError):
        return False
    return first == f"{MARK}{_digest(content)}"


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _wave(template: Path) -> str:
    """The demo's wave without its first line, which names the schema relative to the source tree."""
    return template.read_text().partition("\n")[2] + REPLICATION


def _env(running: Stage, home: Path, dags: Path, port: int) -> str:
    passwords = home / PASSWORDS
    variables: Mapping[str, str] = {
        **loopback_settings(home, dags, port),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__WAVELIFT__POLL_SECONDS": "1",
        **running.connections(),
        "WAVELIFT_URL": f"http://127.0.0.1:{port}",
        "WAVELIFT_USER": "admin",
        "WAVELIFT_PASSWORD": _password(passwords),
    }
    programs = shlex.quote(str(Path(sys.executable).parent))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*lines, f'export PATH={programs}:"$PATH"', ""])


def _password(file: Path) -> str:
    """The password of Airflow's user admin. Airflow makes one only if this file has none.

    :raises ValueError: the file is not ours.
    """
    if not file.exists():
        _replace(file, json.dumps({"admin": secrets.token_urlsafe(12)}) + "\n")
    try:
        return str(json.loads(file.read_text())["admin"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} has no password of the user admin; remove it, and it is made again") from error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
