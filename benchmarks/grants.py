"""What a grant costs: one is signed per wave and per server, one verified per try of four steps.

::

    python -m benchmarks.grants

Tells microseconds of CPU of each, with the key read from its file each time, as the tasks do.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from wavelift.rules.grants import Grant, Intent, lifetime_of_move, sign
from wavelift.services.common.grant_keys import KeyFiles, keygen, private_key
from wavelift.services.dataplane.grants import verify

ROUNDS: Final = 2000
GRANT: Final = Grant(
    scope="move",
    user="ana",
    action="migrate",
    environment="prod",
    dag_id="erp-wave-1.migrate",
    run_id="manual__2026-11-30T12:00:00+00:00",
    server="web01",
    vm="5029f1a4-8f0e-0c1a-1b2c-3d4e5f607182",
    vcenter="vsphere_dc1",
    connector="datacenter1",
    plan="a" * 64,
    entry="b" * 64,
)


def cpu_us(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Microseconds of CPU of one call; the first is not counted."""
    call()
    begun = time.process_time()
    for _ in range(rounds):
        call()
    return (time.process_time() - begun) / rounds * 1e6


def main() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        files = KeyFiles(Path(folder) / "private" / "key.pem", Path(folder) / "public")
        keygen(files)
        now, lifetime = datetime.now(UTC), lifetime_of_move(24)
        intent = Intent(**{each.name: getattr(GRANT, each.name) for each in fields(Intent)})

        def signed() -> str:
            return sign(GRANT, private_key(files.private), now=now, lifetime=lifetime)

        token = signed()
        found = {
            "sign_us": cpu_us(signed),
            "verify_us": cpu_us(lambda: verify(token, intent, keys=files.public, serves=(), now=now)),
            "bytes": float(len(token)),
        }
    print(json.dumps({name: round(value, 1) for name, value in found.items()}))
    return found


if __name__ == "__main__":
    main()
