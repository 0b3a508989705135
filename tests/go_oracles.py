"""Go programs that judge what wavelift writes, built once.

``python -m tests.go_oracles`` builds them before the tests (``make programs``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from wavelift.simulators.vcenter import SimulatorError, VCenterSimulator
from wavelift.simulators.vcenter.build import ensure_program

__test__ = False

IMPORTER: Final = Path(__file__).parent / "oracles" / "ovf_importer"
"""A module of its own: govmomi's importer needs one more module than the vCenter simulator does."""


class OracleError(AssertionError):
    """The program says no; its words."""


def ovf_importer(what: str, ova: Path, vc: VCenterSimulator | None = None) -> dict[str, Any]:
    """What ``tests/oracles/ovf_importer`` says: ``list``, ``check``, or, with a vCenter, ``import``.

    :raises OracleError: something is wrong with the file.
    """
    words: list[str | Path] = [ensure_program("OVF importer", IMPORTER), what, ova]
    environment = dict(os.environ)
    if vc is not None:
        words.append(vc.ca_file)
        login = f"{quote(vc.username, safe='')}:{quote(vc.password, safe='')}"
        environment["OVF_IMPORTER_URL"] = f"https://{login}@{vc.host}:{vc.port}/sdk"
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240, env=environment)
    if done.returncode:
        raise OracleError(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    try:
        ensure_program("OVF importer", IMPORTER)
    except SimulatorError as error:
        sys.exit(str(error))
