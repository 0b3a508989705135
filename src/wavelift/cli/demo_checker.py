"""The demo's question to the checker, a process that imports nothing of wavelift."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import wavelift
from wavelift.cli.simulators import Stage


def connection(running: Stage) -> dict[str, Any]:
    """Where the simulators are, and what they kept as evidence."""
    return {
        "endpoint": running.aws.endpoint_url,
        "ca_file": str(running.aws.ca_file) if running.aws.ca_file else "",
        "region": running.aws.region,
        "access_key": running.aws.access_key,
        "secret_key": running.aws.secret_key,
        "vcenter": running.vcenter.evidence(),
        "aws": running.aws.evidence(),
    }


def checked(request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """The checker's answer. :raises RuntimeError: it gave none."""
    checker = Path(wavelift.__file__).parent / "simulators" / "checker.py"
    answer = subprocess.run(
        [sys.executable, "-I", str(checker)],
        input=json.dumps(request, default=str),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if not answer.stdout:
        raise RuntimeError(f"the checker failed:\n{answer.stderr[-2000:]}")
    return dict(json.loads(answer.stdout))
