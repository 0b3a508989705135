from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.specs import HCX_ENVIRONMENT, HCX_WAVE, NETWORK

ENVIRONMENT = """\
environment: prod
aws_conn_id: aws_prod
account: '123456789012'
may: {migrate: ['user:admin'], cut_over: ['user:admin'], administer: ['user:admin']}
queue: near-aws
region: eu-central-1
staging: {bucket: staging-bucket, prefix: waves}
vpc: vpc-0000000000000001
subnets: [subnet-aaaa0001, subnet-aaaa0002]
security_groups: [sg-aaaa0001, sg-aaaa0002]
instance_types: [m6i.large, t3.small]
sources:
  - connection: vc1
    connectors: [dc-west]
tags: {owner: ops, stage: prod}
"""

WAVE = """\
wave: erp
description: The ERP servers
source: {connection: vc1, connector: dc-west}
environment: prod
defaults:
  instance_type: m6i.large
  tags: {app: erp, stage: test}
servers:
  - web01
  - name: db01
    subnet: subnet-aaaa0002
    tags: {tier: db}
"""


@dataclass(frozen=True)
class Folders:
    waves: Path
    environments: Path
    kept: Path
    networks: Path

    def wave(self, text: str, name: str = "erp") -> Path:
        path = self.waves / f"{name}.yaml"
        path.write_text(text)
        return path

    def environment(self, text: str, name: str = "prod") -> Path:
        path = self.environments / f"{name}.yaml"
        path.write_text(text)
        return path

    def network(self, text: str, name: str = "web") -> Path:
        path = self.networks / f"{name}.yaml"
        path.write_text(text)
        return path


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A valid environment ``prod`` and a valid wave ``erp``."""
    found = Folders(
        tmp_path / "waves", tmp_path / "environments", tmp_path / "state" / "last_valid", tmp_path / "networks"
    )
    found.waves.mkdir()
    found.environments.mkdir()
    found.environment(ENVIRONMENT)
    found.wave(WAVE)
    return found


@pytest.fixture
def hcx(folders: Folders) -> Folders:
    """Beside them a valid environment ``vmc``, a wave ``live1`` and a network ``web``."""
    folders.networks.mkdir()
    folders.environment(HCX_ENVIRONMENT, "vmc")
    folders.wave(HCX_WAVE, "live1")
    folders.network(NETWORK)
    return folders


@pytest.fixture
def wave_text() -> str:
    return WAVE


@pytest.fixture
def environment_text() -> str:
    return ENVIRONMENT
