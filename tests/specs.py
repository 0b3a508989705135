"""Specs from their texts, read as files are."""

from __future__ import annotations

import tempfile
from pathlib import Path

from wavelift.specs import LoadedWave, load_folder

HCX_ENVIRONMENT = """\
environment: vmc
kind: hcx
may: {migrate: ['user:ana'], cut_over: ['user:ben'], administer: []}
hcx: {connection: hcx_dc1, queue: dc1-hcx}
source: {connection: vc1, queue: dc1, nsx: nsx_dc1}
destination:
  connection: vc_vmc
  queue: near-vmc
  nsx: {connection: nsx_vmc, tier: /infra/tier-1s/cgw}
pools: [Compute, Gold]
folders: [Workloads]
datastores: [vsan]
networks: [L2E_VLAN-100, L2E_VLAN-200]
"""

HCX_WAVE = """\
wave: live1
method: hcx
environment: vmc
target:
  pool: Compute
  networks: {VLAN-100: L2E_VLAN-100}
servers:
  - app01
  - path: /DC1/vm/shop/app02
    target: {pool: Gold, networks: {VLAN-200: L2E_VLAN-200}}
window: {start: '2030-01-05T22:00:00+01:00', end: '2030-01-06T04:00:00+01:00'}
approve_switchover: true
"""

NETWORK = """\
network: web
environment: vmc
source:
  network: VLAN-100
  segment: /infra/segments/VLAN-100
  disconnect: {by: nsx}
destination:
  network: L2E_VLAN-100
  segment: /infra/tier-1s/cgw/segments/L2E_VLAN-100
  gateway: 10.1.2.1/24
probes:
  queue: office
  checks:
    - {kind: tcp, to: 10.1.2.1, port: 22, accept_refused: true}
    - {kind: http, to: app01.corp.example, path: /health}
    - {kind: dns, to: 10.1.2.53, name: app01.corp.example, answer: 10.1.2.20}
exceptions: [router01]
rename_to: VLAN-100
"""


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
