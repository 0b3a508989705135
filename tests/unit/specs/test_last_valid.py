"""An invalid spec keeps its last valid version, and a task process always gets a shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.errors import SpecError
from wavelift.rules.plans import WaveShape
from wavelift.specs import LastValid, resolved_wave, usable_waves

pytestmark = pytest.mark.unit


def usable(folders: Any, only: str | None = None) -> Any:
    return usable_waves(folders.waves, folders.environments, folders.kept, only=only)


def test_the_shape_says_what_a_dag_needs(folders: Any) -> None:
    found = usable(folders)
    assert found.errors == ()
    assert found.shapes == {
        "erp": WaveShape(
            wave="erp",
            connector="dc-west",
            environment="prod",
            environment_queue="near-aws",
            description="The ERP servers",
            server_names=("web01", "db01"),
        )
    }


@pytest.mark.parametrize("only", [None, "erp"])
@pytest.mark.parametrize("broken", ["", "wave: [", "wave: erp\nservers: []\n"])
def test_a_broken_wave_keeps_its_last_valid_version(folders: Any, only: str | None, broken: str) -> None:
    before = usable(folders).shapes["erp"]
    folders.wave(broken)
    after = usable(folders, only)
    assert after.shapes == {"erp": before}
    assert after.waves["erp"].stale
    assert after.errors
    assert after.waves["erp"].errors == after.errors
    assert [plan.server for plan in after.waves["erp"].resolve().servers] == ["web01", "db01"]


@pytest.mark.parametrize("only", [None, "erp"])
def test_a_broken_environment_keeps_its_waves(folders: Any, only: str | None) -> None:
    before = usable(folders).shapes
    folders.environment("environment: [")
    after = usable(folders, only)
    assert after.shapes == before
    assert any("environments/prod.yaml" in line for line in after.errors)
    assert after.waves["erp"].resolve().environment.queue == "near-aws"


def test_other_waves_are_not_touched(folders: Any, wave_text: str) -> None:
    folders.wave(wave_text.replace("wave: erp", "wave: crm"), "crm")
    folders.wave("wave: [")
    found = usable(folders)
    assert list(found.shapes) == ["crm"], "never valid before: no DAG, only errors"
    assert len(found.errors) == 1


def test_a_repaired_wave_is_itself_again(folders: Any, wave_text: str) -> None:
    usable(folders)
    folders.wave("wave: [")
    usable(folders)
    folders.wave(wave_text.replace("  - web01\n", "  - web09\n"))
    found = usable(folders)
    assert (found.shapes["erp"].server_names, found.waves["erp"].stale, found.errors) == (("web09", "db01"), False, ())


def test_a_removed_wave_has_no_dag_but_its_running_tasks_do(folders: Any) -> None:
    shape = usable(folders).shapes["erp"]
    (folders.waves / "erp.yaml").unlink()
    assert usable(folders).shapes == {}
    assert usable(folders, "erp").shapes == {"erp": shape}


def test_a_task_without_any_version_gets_the_fallback(folders: Any) -> None:
    folders.wave("a: b: c")
    found = usable(folders, "erp")
    assert found.shapes == {"erp": WaveShape.fallback("erp")}
    with pytest.raises(SpecError, match=r"waves/erp.yaml:1: not YAML") as caught:
        found.waves["erp"].resolve()
    assert caught.value.next_step


@pytest.mark.parametrize("name", ["../erp", "", "ERP", "a/b", "erp\n"])
def test_a_name_that_is_none_opens_no_file(folders: Any, name: str) -> None:
    assert usable(folders, name).shapes == {}
    with pytest.raises(SpecError):
        resolved_wave(name, folders.waves, folders.environments, folders.kept)


def test_admit_resolves_by_name(folders: Any) -> None:
    wave = resolved_wave("erp", folders.waves, folders.environments, folders.kept)
    assert wave.wave == "erp"
    folders.wave("[")
    assert resolved_wave("erp", folders.waves, folders.environments, folders.kept) == wave


def test_nothing_is_written_when_nothing_changed(folders: Any) -> None:
    usable(folders)
    (file,) = folders.kept.iterdir()
    before = file.stat()
    usable(folders)
    usable(folders, "erp")
    after = file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    kept = LastValid(folders.kept)
    assert kept.keep("erp", "a", "b")
    assert not kept.keep("erp", "a", "b")
    assert [entry.name for entry in folders.kept.iterdir()] == ["erp.json"], "no temporary file is left"


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "wave": 3, "environment": 4}']
)
def test_a_damaged_copy_counts_as_none(folders: Any, content: str) -> None:
    folders.kept.mkdir(parents=True)
    (folders.kept / "erp.json").write_text(content)
    assert LastValid(folders.kept).load("erp") is None


def test_a_copy_of_another_wave_is_not_taken(folders: Any, wave_text: str, environment_text: str) -> None:
    LastValid(folders.kept).keep("crm", wave_text, environment_text)
    folders.wave("[", "crm")
    assert usable(folders, "crm").shapes == {"crm": WaveShape.fallback("crm")}


def test_a_folder_that_cannot_be_written_is_an_error_but_stops_nothing(folders: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    found = usable(folders)
    assert list(found.shapes) == ["erp"]
    (line,) = found.errors
    assert "can't keep the last valid version of wave 'erp'" in line


def test_the_copy_holds_both_texts(folders: Any, wave_text: str, environment_text: str) -> None:
    usable(folders)
    kept = json.loads((folders.kept / "erp.json").read_text())
    assert kept == {"format": 1, "wave": wave_text, "environment": environment_text}
