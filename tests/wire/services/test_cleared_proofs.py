"""A proof that failed, or that is of an older export, serves nobody who clears tasks (invariant 1)."""

from __future__ import annotations

import pytest

from wavelift.base.domain import ExportResult
from wavelift.base.errors import ProofError, TamperedError
from wavelift.services.dataplane import suspects
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.migration.image import Staged, advance_import
from wavelift.transfer.manifest import Manifest

from .journey import Journey, Stage

pytestmark = pytest.mark.wire


def _export(journey: Journey, task: ServerTask) -> ExportResult:
    journey.stores.clear()  # as another instant would be
    journey.reserve(task)
    journey.outcome.snapshot = journey.take_snapshot(task)
    export = journey.outcome.export = journey.export(task)
    journey.remove(task)
    return export


def test_inv_1_a_proof_of_an_older_export_proves_no_other(stage: Stage) -> None:
    """``reserve``, ``snapshot`` and ``export`` were cleared without what follows, then ``import_image``."""
    stage.aws.control("DELETE", "counters")
    journey = stage.journey("web01", defaults={"launch": "none"})
    (task,) = journey.preflight()
    _export(journey, task)
    older = journey.verify(task)
    stage.aws.rule(kind="flip", key="*disk-0.vmdk", count=1)
    newer = _export(journey, task)
    with pytest.raises(ProofError):
        journey.verify(task)
    with pytest.raises(TamperedError, match=r"field=verified\.manifests"):
        advance_import(journey.ledger, journey.access, Staged(task, newer, older), journey.ctx(task, "import"), limit=5)
    assert "ec2.ImportImage" not in stage.aws.counters()
    journey.report({task.name: journey.outcome})


class Samples:
    """Every block of a disk when it is looked at for the first time, then only the first block."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, manifest: Manifest, percent: float) -> list[int]:
        known = manifest.to_bytes() in self.seen
        self.seen.append(manifest.to_bytes())
        # Of a boot disk more than half must differ, so all of it is looked at.
        return [0] if known and not manifest.header["boot"] else list(range(manifest.block_count))


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> Samples:
    made = Samples()
    monkeypatch.setattr(suspects, "sample_indices", made)
    return made


def test_inv_1_a_cleared_verify_reads_again_what_was_wrong(stage: Stage, samples: Samples) -> None:
    """A fresh sample might miss the one block that differs."""
    journey = stage.journey("db01", defaults={"launch": "none", "verify": "sample:5"})
    (task,) = journey.preflight()
    stage.aws.rule(kind="flip", key="*disk-1.vmdk", count=1)
    _export(journey, task)
    for _ in range(2):
        with pytest.raises(ProofError, match="disk 1"):
            journey.verify(task)
    _export(journey, task)
    assert journey.verify(task), "another export is read as a new one"
    journey.report({task.name: journey.outcome})


def test_inv_1_a_cleared_comparison_reads_again_what_was_wrong(stage: Stage, samples: Samples) -> None:
    journey = stage.journey("db01", defaults={"launch": "none", "verify": "off"})
    (task,) = journey.preflight()
    _export(journey, task)
    journey.outcome.verified = journey.verify(task)
    stage.aws.settings(change_data_disks=True)
    try:
        image = journey.import_image(task)
    finally:
        stage.aws.settings(change_data_disks=False)
    sampled = task.model_copy(update={"plan": task.plan.model_copy(update={"verify": "sample:5"})})
    for _ in range(2):
        with pytest.raises(ProofError, match="changed a data disk"):
            journey.compare(sampled, image)
    journey.report({task.name: journey.outcome})
    journey.discard_image(image.image_id)
