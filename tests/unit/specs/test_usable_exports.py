"""Which environments have an export DAG, also while a file is broken; and which allow a new run."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavelift.base.errors import SpecError
from wavelift.rules.export_shape import ExportShape
from wavelift.specs import exporting_environment, usable_exports

pytestmark = pytest.mark.unit

LAB = """\
environment: lab
aws_conn_id: aws_lab
account: '123456789012'
region: eu-central-1
may: {migrate: [], cut_over: [], administer: ['user:ana']}
staging: {bucket: staging-bucket}
queue: near
vpc: vpc-0123456789abcdef0
subnets: [subnet-0123456789abcdef0]
security_groups: [sg-0123456789abcdef0]
instance_types: [t3.small]
sources:
  - {connection: vc1, connectors: [dc1]}
"""
EXPORTS = "exports: {name: acme}\n"
HCX = """\
environment: vmc
kind: hcx
may: {migrate: [], cut_over: [], administer: []}
hcx: {connection: hcx_dc1, queue: dc1-hcx}
source: {connection: vc1, queue: dc1, nsx: nsx_dc1}
destination:
  connection: vc_vmc
  queue: near-vmc
  nsx: {connection: nsx_vmc, tier: /infra/tier-1s/cgw}
pools: [Compute]
folders: [Workloads]
datastores: [vsan]
networks: [L2E_VLAN-100]
"""


class Folders:
    def __init__(self, root: Path) -> None:
        self.environments, self.kept = root / "environments", root / "kept"
        self.environments.mkdir()

    def write(self, text: str, name: str = "lab") -> None:
        (self.environments / f"{name}.yaml").write_text(text)

    def shapes(self, only: str | None = None) -> dict[str, ExportShape]:
        found = usable_exports(self.environments, self.kept, only=only)
        assert found.errors == ()
        return dict(found.shapes)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_only_environments_with_exports_have_a_dag(folders: Folders) -> None:
    folders.write(LAB + EXPORTS)
    folders.write(LAB.replace("environment: lab", "environment: other"), "other")
    folders.write(HCX, "vmc")
    folders.write("groups: {}\n", "principals")
    assert folders.shapes() == {"lab": ExportShape("lab", queue="near")}


def test_a_broken_file_keeps_its_last_valid_version(folders: Folders) -> None:
    folders.write(LAB + EXPORTS)
    folders.shapes()
    folders.write(LAB + "exports: {nmae: acme}\n")
    assert folders.shapes() == {"lab": ExportShape("lab", queue="near")}


def test_a_broken_file_that_was_never_valid_has_no_dag(folders: Folders) -> None:
    folders.write(LAB + "exports: {nmae: acme}\n")
    assert folders.shapes() == {}


def test_exports_that_were_taken_away_do_not_come_back_with_the_next_typing_error(folders: Folders) -> None:
    folders.write(LAB + EXPORTS)
    folders.shapes()
    folders.write(LAB)
    assert folders.shapes() == {}
    folders.write(LAB + "exports: {nmae: acme}\n")
    assert folders.shapes() == {}


@pytest.mark.parametrize("text", [None, LAB, LAB + "exports: 7\n", HCX.replace("environment: vmc", "environment: lab")])
def test_a_task_process_gets_its_dag_whatever_became_of_the_file(folders: Folders, text: str | None) -> None:
    if text is not None:
        folders.write(text)
    assert set(folders.shapes(only="lab")) == {"lab"}


def test_a_name_that_no_environment_can_have_has_none(folders: Folders) -> None:
    assert folders.shapes(only="../lab") == {}
    assert folders.shapes(only="principals") == {}


def test_a_folder_that_can_t_be_written_is_told(folders: Folders) -> None:
    folders.write(LAB + EXPORTS)
    folders.kept.write_text("no folder")
    found = usable_exports(folders.environments, folders.kept)
    assert set(found.shapes) == {"lab"}
    assert len(found.errors) == 1


def test_a_new_run_needs_a_valid_file_of_the_right_kind(folders: Folders) -> None:
    folders.write(LAB + EXPORTS)
    assert exporting_environment("lab", folders.environments).exports_bucket == "export-to-s3-acme-eu-central-1"
    folders.write(LAB + "exports: {nmae: acme}\n")
    with pytest.raises(SpecError, match="nmae"):
        exporting_environment("lab", folders.environments)
    folders.write(HCX, "vmc")
    with pytest.raises(SpecError, match="kind: hcx"):
        exporting_environment("vmc", folders.environments)
