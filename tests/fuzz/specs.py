"""Coverage-guided fuzzing of the spec loader. Not part of ``make test``: it needs atheris (Linux, CPython).

Install the fuzzer beside wavelift, in an environment that you throw away, and give it ten minutes::

    uv pip install atheris
    python -m tests.fuzz.specs CORPUS_FOLDER -max_total_time=600 -max_len=16384 -timeout=10

The folder gets the interesting inputs. The first byte of an input says which file the rest is: a wave or an
environment, an HCX wave (l) or environment (h), or a network (n). A crash is a file of this format in the current
folder; give its name to reproduce it. Add each finding to ``tests/unit/specs/test_limits.py``.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["wavelift.specs", "wavelift.rules"]):
    from wavelift.rules.plans import WaveShape  # noqa: F401 - instrumented
    from wavelift.specs import load_folder
    from wavelift.specs.issues import MAX_LINE

from tests.specs import HCX_ENVIRONMENT, HCX_WAVE, NETWORK

CPU_SECONDS: Final = 2.0
ENVIRONMENT: Final = """\
environment: prod
aws_conn_id: aws_prod
account: '123456789012'
may: {migrate: ['user:admin'], cut_over: ['user:admin'], administer: ['user:admin']}
region: eu-central-1
staging: {bucket: staging-bucket, prefix: waves}
kms_key: alias/disks
encrypt: true
vpc: vpc-0000000000000001
subnets: [subnet-aaaa0001, subnet-aaaa0002]
security_groups: [sg-aaaa0001]
instance_types: [m6i.large, t3.small]
limits: {imports_per_region: 9}
sources: [{connection: vc1, connectors: [dc-west]}]
tags: {owner: ops}
"""
WAVE: Final = """\
x-db: &db {quiesce: require, tags: &t {tier: "d\\x62"}}
wave: erp
description: |
  The ERP servers
source: {connection: vc1, connector: dc-west}
environment: prod
defaults: {instance_type: m6i.large, verify: 'sample:2.5', launch: running, source_power: require_off}
replication: {seed_time: '2026-12-01T10:00:00+01:00', frequency_hours: 12, keep_amis: 3}
servers:
  - web01
  - {<<: [*db, {subnet: subnet-aaaa0002}], name: db01, private_ip: 10.0.0.4}
  - folder: /DC1/vm/shop
  - tag: wave:shop
max_mbit_s: 1.5e2
retries: 3
"""
SEEDS: Final = [
    b"w" + WAVE.encode(),
    b"e" + ENVIRONMENT.encode(),
    b"l" + HCX_WAVE.encode(),
    b"h" + HCX_ENVIRONMENT.encode(),
    b"n" + NETWORK.encode(),
    b"w" + b"a0: &a0 {x: 1}\n" + b"".join(b"a%d: &a%d {<<: *a%d}\n" % (n, n, n - 1) for n in range(1, 20)),
    b"wretries: " + b"9" * 5000,
    b"wa: &a [*a]",
]
FILES: Final = {
    b"w": ("waves/erp.yaml", WAVE),
    b"e": ("environments/prod.yaml", ENVIRONMENT),
    b"l": ("waves/live1.yaml", HCX_WAVE),
    b"h": ("environments/vmc.yaml", HCX_ENVIRONMENT),
    b"n": ("networks/web.yaml", NETWORK),
}
FOLDER: Final = Path(tempfile.mkdtemp(prefix="wavelift-fuzz-"))


def one_input(data: bytes) -> None:
    kind, content = data[:1], data[1:]
    files = {key: (path, text.encode()) for key, (path, text) in FILES.items()}
    path, _ = files.get(kind, files[b"w"])
    for each, text in files.values():
        (FOLDER / each).write_bytes(content if each == path else text)
    began = time.process_time()
    found = load_folder(FOLDER / "waves", FOLDER / "environments", FOLDER / "networks")
    for loaded in found.waves.values():
        loaded.resolve().dump()
    for network in found.networks.values():
        network.resolve().dump()
    errors = found.errors
    spent = time.process_time() - began
    assert spent < CPU_SECONDS, f"{spent:.1f} s of CPU"
    for line in errors:
        assert "fault in wavelift" not in line, line
        assert line.isprintable(), repr(line)
        assert len(line) < 2 * MAX_LINE, len(line)
    assert errors or found.waves, "no wave and no reason"


def main() -> None:
    for name in ("waves", "environments", "networks"):
        (FOLDER / name).mkdir()
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if corpus is not None and corpus.is_dir() and not any(corpus.iterdir()):
        for number, seed in enumerate(SEEDS):
            (corpus / f"seed-{number}").write_bytes(seed)
    logging.disable()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
