"""The allowed conf of a run (AIR-05): keys by mode, strict types, and consistent error messages."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from wavelift.base.errors import SpecError
from wavelift.rules.conf import (
    BackupConf,
    ExportConf,
    ExportMode,
    HealthConf,
    ImportConf,
    LiveConf,
    LiveMode,
    MigrateConf,
    MigrateMode,
    NetworkConf,
    NetworkMode,
    ReplicateConf,
    ReplicateMode,
    RunConf,
)
from wavelift.rules.flows import EXPORT, LIVE, MIGRATE, NETWORK, REPLICATE, Flow

pytestmark = pytest.mark.unit
FORM: dict[str, Any] = {"servers": None, "launch": "spec", "mode": "migrate", "note": None}
"""What Airflow sends when somebody presses the button at once."""


@pytest.mark.parametrize(
    ("model", "conf", "words"),
    [
        (
            MigrateConf,
            {"bogus": 1},
            "unknown key 'bogus'; allowed: servers, launch, mode, priority, note, migrations, dry_run",
        ),
        (MigrateConf, {"bogus": None}, "unknown key 'bogus'"),
        (MigrateConf, {"server": ["a"]}, "unknown key 'server' (did you mean 'servers'?)"),
        (MigrateConf, {"a": 1, "b": 2}, "unknown keys 'a', 'b'"),
        (MigrateConf, {"mode": "teleport"}, "mode: 'teleport' is not a valid value; allowed: migrate, plan, pre"),
        (MigrateConf, {"mode": None}, "mode: nothing"),
        (MigrateConf, {"mode": ["plan"]}, "mode: a list is not a valid value"),
        (MigrateConf, {"launch": "maybe"}, "launch: 'maybe' is not a valid value; allowed: spec, none, running"),
        (MigrateConf, {"servers": "web01"}, "servers: must be a list, not 'web01'"),
        (MigrateConf, {"launch": None}, "launch: nothing"),
        (ReplicateConf, {"servers": []}, "servers: must not be empty"),
        (MigrateConf, {"servers": ["a", 2012]}, "servers[1]: must be text, not 2012; put it in quotes"),
        (MigrateConf, {"mode": "cleanup", "dry_run": "true"}, "dry_run: must be true or false, not 'true'"),
        (MigrateConf, {"mode": "cleanup", "dry_run": 0}, "dry_run: must be true or false, not 0"),
        (MigrateConf, {"mode": "cleanup", "servers": "a"}, "servers: must be a list, not 'a'"),
        (MigrateConf, {"mode": "launch"}, "mode launch needs migrations: a list of ids in quotes"),
        (MigrateConf, {"mode": "verify", "migrations": []}, "mode verify needs migrations"),
        (ReplicateConf, {"mode": "delete"}, "mode delete needs jobs"),
        (ReplicateConf, {"mode": "verify"}, "mode verify needs runs or jobs"),
        (ReplicateConf, {"mode": "delete", "jobs": ["j"], "runs": ["r"]}, "unknown key 'runs' in mode delete"),
        (ReplicateConf, {"mode": "delete", "jobs": ["j"], "servers": ["a"]}, "unknown key 'servers' in mode delete"),
        (ReplicateConf, {"server": ["a"]}, "unknown key 'server' (did you mean 'servers'?) in mode replicate"),
        (ImportConf, {"region": None}, "unknown key 'region'"),
        (ImportConf, {"region": "r"}, "unknown key 'region'; allowed: connection, note"),
        (LiveConf, {"accept_warnings": "yes"}, "accept_warnings: must be true or false, not 'yes'"),
        (LiveConf, {"server": ["a"]}, "unknown key 'server' (did you mean 'servers'?)"),
        (NetworkConf, {"mode": "unextend"}, "mode: 'unextend' is not a valid value; allowed: plan, cutover, revert"),
        (NetworkConf, {"force": True}, "unknown key 'force'"),
        (ExportConf, {}, "mode export needs instance: the id of an instance, or of the migration or cutover"),
        (ExportConf, {"mode": "check"}, "mode check needs instance"),
        (ExportConf, {"instance": "i-123"}, "instance: 'i-123' is not the id of an instance such as 'i-0123456789abcd"),
        (ExportConf, {"instance": "run-0123456789ab"}, "instance: 'run-0123456789ab' is not the id of an instance"),
        (ExportConf, {"instance": ["i-0123456789abcdef0"]}, "instance: must be text, not a list"),
        (ExportConf, {"method": "ovf"}, "method: 'ovf' is not a valid value; allowed: auto, instance, image, direct"),
        (ExportConf, {"target": "kvm"}, "target: 'kvm' is not a valid value; allowed: vmware, citrix, microsoft"),
        (ExportConf, {"format": "qcow2"}, "format: 'qcow2' is not a valid value; allowed: ova, vmdk, vhd, raw"),
        (
            ExportConf,
            {"instance": "i-0123abcd", "method": "instance", "target": "citrix", "format": "ova"},
            "format: method instance writes no ova for target citrix; allowed: vhd",
        ),
        (
            ExportConf,
            {"instance": "i-0123abcd", "method": "direct", "target": "microsoft"},
            "format: method direct writes nothing for target microsoft; allowed: instance, image",
        ),
        (ExportConf, {"prefix": "../x"}, "prefix: '../x' is not an S3 prefix: no '..'"),
        (ExportConf, {"prefix": "x" * 513}, "a prefix has at most 512 characters"),
        (ExportConf, {"verify": "off"}, "verify: an export is always verified; allowed: full, sample:<pct>"),
        (ExportConf, {"controller": "ide"}, "controller: 'ide' is not a valid value; allowed: lsilogic, pvscsi, sata"),
        (ExportConf, {"may_reboot": "true"}, "may_reboot: must be true or false, not 'true'"),
        (
            ExportConf,
            {"instance": "i-0123abcd", "grant": True},
            "grant has no effect in mode export; it belongs to mode",
        ),
        (ExportConf, {"instances": ["i-0123abcd"]}, "unknown key 'instances' (did you mean 'instance'?)"),
        (HealthConf, {"region": False}, "region: must be text, not false; put it in quotes"),
    ],
)
def test_what_is_wrong_is_told_with_key_value_and_what_is_allowed(
    model: type[RunConf], conf: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as refused:
        model.read(conf, wave="erp")
    assert words in str(refused.value)
    assert refused.value.where == {"wave": "erp"}
    assert refused.value.next_step


@pytest.mark.parametrize(
    ("flow", "modes"),
    [
        (MIGRATE, MigrateMode),
        (REPLICATE, ReplicateMode),
        (LIVE, LiveMode),
        (NETWORK, NetworkMode),
        (EXPORT, ExportMode),
    ],
)
def test_a_conf_has_the_modes_of_its_flow(flow: Flow, modes: Any) -> None:
    assert get_args(modes) == tuple(mode.name for mode in flow.modes)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SpecError, match=r"servers: must be a list.*; launch: 'x' is not a valid value"):
        MigrateConf.read({"servers": 1, "launch": "x"})


def test_the_form_sends_all_its_keys_in_every_mode() -> None:
    """None chosen is null, and null means all; a key at its default is no choice."""
    assert MigrateConf.read(FORM).servers is None
    assert MigrateConf.read({**FORM, "mode": "cleanup", "dry_run": False}).dry_run is False
    assert MigrateConf.read({**FORM, "mode": "launch", "migrations": ["mig-1"]}).migrations == ["mig-1"]
    assert ReplicateConf.read({"servers": None, "note": None, "mode": "delete", "jobs": ["job-1"]}).jobs == ["job-1"]


@pytest.mark.parametrize("mode", ["cleanup", "launch", "verify", "plan"])
def test_a_migrate_run_ignores_what_its_mode_does_not_use(mode: str) -> None:
    """The form shows servers and launch in every mode."""
    filled = {**FORM, "servers": ["a"], "launch": "running", "mode": mode, "migrations": ["mig-1"], "dry_run": False}
    assert MigrateConf.read(filled).mode == mode
    assert MigrateConf.read({"mode": "cleanup", "servers": [], "migrations": []}).mode == "cleanup"
    assert MigrateConf.read({"dry_run": False, "migrations": ["mig-1"]}).mode == "migrate"


def test_null_counts_as_left_out_in_a_replicate_run() -> None:
    """Under every key, also one that it does not know."""
    empty = {"mode": None, "servers": None, "jobs": None, "runs": None, "note": None, "bogus": None}
    assert ReplicateConf.read(empty) == ReplicateConf()
    assert ReplicateConf.read(empty).mode == "replicate"


@pytest.mark.parametrize("id", ["i-0123abcd", "i-0123456789abcdef0", "mig-0123456789ab", "cut-0123456789ab"])
def test_an_export_names_its_instance_or_what_made_it(id: str) -> None:
    conf = ExportConf.read({"instance": id})
    assert (conf.instance, conf.mode, conf.method, conf.target, conf.format) == (id, "export", "auto", "vmware", None)
    assert (conf.prefix, conf.may_reboot, conf.controller, conf.verify) == (None, False, "lsilogic", "sample:1")


def test_the_form_of_an_export_can_be_sent_in_every_mode() -> None:
    """With null for what was left empty. Nothing that it shows keeps mode setup from running."""
    filled = {name: field.default for name, field in ExportConf.model_fields.items() if field.title}
    assert ExportConf.read({**filled, "mode": "setup"}).mode == "setup"
    assert ExportConf.read({"mode": "setup", "grant": True}).grant
    assert ExportConf.read({**filled, "instance": "i-0123abcd", "format": "vmdk"}).format == "vmdk"


@pytest.mark.parametrize("model", [MigrateConf, ReplicateConf, ImportConf, HealthConf])
@pytest.mark.parametrize("note", [7, 0, 1.5, True, ["a"]])
def test_a_note_may_be_any_value(model: type[RunConf], note: Any) -> None:
    assert model.read({"note": note}).model_dump()["note"] == str(note)


def test_a_conf_that_we_send_says_only_what_was_set() -> None:
    sent = MigrateConf(mode="cleanup", dry_run=True).given()
    assert sent == {"mode": "cleanup", "dry_run": True}
    assert MigrateConf.read(sent) == MigrateConf(mode="cleanup")


@pytest.mark.parametrize("model", [each for each in RunConf.__subclasses__() if each is not BackupConf])
def test_a_form_can_be_sent_as_it_opens(model: type[RunConf]) -> None:
    """Airflow's page requires a value of every key that may not be null: an empty text locks its button. A backup
    alone has nothing that it could be of by default."""
    for name, field in model.model_fields.items():
        if field.title:
            assert field.default != "", f"{name}: empty, and not null"
