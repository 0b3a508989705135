"""An invalid spec keeps its last valid shape, and a task process always gets one. A new run needs valid files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.errors import SpecError
from wavelift.rules.plans import ResolvedWave, WaveShape
from wavelift.specs import LastValid, resolved_wave, usable_waves

pytestmark = pytest.mark.unit


def usable(folders: Any, only: str | None = None) -> Any:
    return usable_waves(folders.waves, folders.environments, folders.kept, only=only)


def resolved(folders: Any, name: str = "erp") -> ResolvedWave:
    return resolved_wave(name, folders.waves, folders.environments)


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


@pytest.mark.parametrize("only", [None, "erp"])
def test_a_broken_environment_keeps_its_waves(folders: Any, only: str | None) -> None:
    before = usable(folders).shapes
    folders.environment("environment: [")
    after = usable(folders, only)
    assert after.shapes == before
    assert any("environments/prod.yaml" in line for line in after.errors)
    assert after.shapes["erp"].environment_queue == "near-aws"


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


@pytest.mark.parametrize("name", ["../erp", "", "ERP", "a/b", "erp\n"])
def test_a_name_that_is_none_opens_no_file(folders: Any, name: str) -> None:
    assert usable(folders, name).shapes == {}
    with pytest.raises(SpecError):
        resolved(folders, name)


def test_admit_resolves_by_name(folders: Any) -> None:
    wave = resolved(folders)
    assert (wave.wave, [plan.server for plan in wave.servers]) == ("erp", ["web01", "db01"])


WAVE, ENVIRONMENT = "waves/erp.yaml", "environments/prod.yaml"
NEWS: dict[str, tuple[str, tuple[str, str] | None, str]] = {
    "wave broken": (WAVE, ("wave: erp", "wave: ["), "waves/erp.yaml:1: the '[' is not closed"),
    "wave of another name": (WAVE, ("wave: erp", "wave: crm"), "waves/erp.yaml:1: wave: 'crm' must equal the file's"),
    "wave deleted": (WAVE, None, "waves/erp.yaml: can't be read: No such file"),
    "environment broken": (ENVIRONMENT, ("region: ", "regio: "), "environments/prod.yaml:1: region: is missing"),
    "environment deleted": (ENVIRONMENT, None, "waves/erp.yaml:4: environment: there is no environments/prod.yaml"),
    "subnet taken away": (
        ENVIRONMENT,
        (", subnet-aaaa0002", ""),
        "waves/erp.yaml:11: servers[1].subnet: environment 'prod' does not allow 'subnet-aaaa0002'",
    ),
    "connection taken away": (
        ENVIRONMENT,
        ("connection: vc1", "connection: vc2"),
        "waves/erp.yaml:3: source.connection: environment 'prod' takes no servers of connection 'vc1'",
    ),
    "connector taken away": (
        ENVIRONMENT,
        ("[dc-west]", "[dc-east]"),
        "waves/erp.yaml:3: source.connector: environment 'prod' takes no servers of 'vc1' through connector 'dc-west'",
    ),
}
"""What happened → the file, what became of it (None: deleted), and what is said."""


@pytest.mark.parametrize("news", NEWS)
def test_a_new_run_needs_what_the_present_files_allow(folders: Any, news: str) -> None:
    """The last valid version serves the DAG's shape alone."""
    before = usable(folders).shapes
    resolved(folders)
    name, change, said = NEWS[news]
    file = folders.waves.parent / name
    if change is None:
        file.unlink()
    else:
        assert change[0] in file.read_text()
        file.write_text(file.read_text().replace(*change))
    with pytest.raises(SpecError, match="The files of wave 'erp' do not allow a new run") as caught:
        resolved(folders)
    assert said in str(caught.value)
    assert "wavelift wave validate" in str(caught.value)
    assert usable(folders, "erp").shapes == before, "a run that was admitted before finds its DAG"


def test_nothing_is_written_when_nothing_changed(folders: Any) -> None:
    usable(folders)
    (file,) = folders.kept.iterdir()
    before = file.stat()
    usable(folders)
    usable(folders, "erp")
    after = file.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    kept, shape = LastValid(folders.kept, WaveShape), WaveShape(wave="erp", description="other")
    assert kept.keep(shape)
    assert not kept.keep(shape)
    assert kept.load("erp") == shape
    assert [entry.name for entry in folders.kept.iterdir()] == ["erp.json"], "no temporary file is left"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 99}',
        '{"format": 2}',
        '{"format": 2, "shape": 3}',
        '{"format": 2, "shape": {"wave": "crm"}}',
        '{"format": 2, "shape": {"wave": "erp", "retries": "x"}}',
        '{"format": 1, "wave": "wave: erp", "environment": ""}',
        "[" * 100_000,
    ],
)
def test_a_damaged_copy_counts_as_none(folders: Any, content: str) -> None:
    folders.kept.mkdir(parents=True)
    (folders.kept / "erp.json").write_text(content)
    assert LastValid(folders.kept, WaveShape).load("erp") is None


def test_a_copy_of_another_wave_is_not_taken(folders: Any) -> None:
    usable(folders)
    (folders.kept / "erp.json").rename(folders.kept / "crm.json")
    folders.wave("[", "crm")
    assert usable(folders, "crm").shapes == {"crm": WaveShape.fallback("crm")}


def test_a_folder_that_cannot_be_written_is_an_error_but_stops_nothing(folders: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    found = usable(folders)
    assert list(found.shapes) == ["erp"]
    (line,) = found.errors
    assert "can't keep the last valid version of wave 'erp'" in line


def test_the_copy_holds_the_shape_and_no_plan(folders: Any) -> None:
    """Nothing of it can start a run."""
    shape = usable(folders).shapes["erp"]
    kept = json.loads((folders.kept / "erp.json").read_text())
    assert (kept["format"], set(kept["shape"])) == (2, set(WaveShape.__dataclass_fields__))
    assert LastValid(folders.kept, WaveShape).load("erp") == shape
    assert "subnet-aaaa0002" not in json.dumps(kept)


def test_a_copy_that_is_no_file_does_not_block(folders: Any) -> None:
    folders.kept.mkdir(parents=True)
    os.mkfifo(folders.kept / "erp.json")
    assert LastValid(folders.kept, WaveShape).load("erp") is None
