"""Errors of a spec: all of a file at once, with file, line, field, allowed values and a suggestion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.errors import SpecError
from wavelift.specs import (
    check_file,
    format_errors,
    load_environment,
    load_folder,
    load_resolved,
    load_wave,
    usable_waves,
)

pytestmark = pytest.mark.unit


def errors(folders: Any, text: str) -> list[str]:
    path = folders.wave(text)
    return format_errors(check_file(path, folders.environments)).splitlines()


def test_a_valid_wave_resolves(folders: Any) -> None:
    wave = load_resolved(folders.waves / "erp.yaml", folders.environments)
    assert check_file(folders.waves / "erp.yaml", folders.environments) == ()
    assert [plan.server for plan in wave.servers] == ["web01", "db01"]
    db01 = wave.servers[1]
    assert (db01.instance_type, db01.subnet, db01.launch, db01.verify) == (
        "m6i.large",
        "subnet-aaaa0002",
        "none",
        "sample:1",
    )
    assert db01.tags == {"owner": "ops", "stage": "test", "app": "erp", "tier": "db"}
    assert (db01.target.aws_conn_id, db01.target.queue, db01.connector) == ("aws_prod", "near-aws", "dc-west")
    assert type(wave).load(wave.dump()) == wave


def test_amp_01_only_what_the_environment_allows(folders: Any, wave_text: str) -> None:
    text = wave_text.replace("subnet-aaaa0002", "subnet-bbbb0003").replace("m6i.large", "m6i.larg")
    assert errors(folders, text) == [
        "waves/erp.yaml:6: defaults.instance_type: environment 'prod' does not allow 'm6i.larg' "
        "(did you mean 'm6i.large'?); allowed: m6i.large, t3.small",
        "waves/erp.yaml:11: servers[1].subnet: environment 'prod' does not allow 'subnet-bbbb0003'; "
        "allowed: subnet-aaaa0001, subnet-aaaa0002",
    ]


def test_security_groups_are_checked_one_by_one(folders: Any, wave_text: str) -> None:
    text = wave_text + "    security_groups: [sg-aaaa0001,\n      sg-bbbb0001]\n"
    assert errors(folders, text) == [
        "waves/erp.yaml:14: servers[1].security_groups[1]: environment 'prod' does not allow 'sg-bbbb0001'; "
        "allowed: sg-aaaa0001, sg-aaaa0002"
    ]


def test_all_errors_of_a_file_come_together(folders: Any) -> None:
    found = errors(
        folders,
        """\
wave: sales
source: {connection: vc1, conector: dc}
environment: prod
retries: 1
verify: off
defaults: {verify: of, launch: runing}
servers:
  - web01
  - name: web01
    subnet: subnet-bbbb0001
  - name: ~
  - path: DC0/vm/x
  - folder: /DC0/vm/x
    private_ip: 10.0.0.1
  - {name: a, private_ip: 10.0.0.300}
  - {name: b, path: /DC0/vm/b}
  - {name: c, private_ip: 10.0.0.9, quiesce: maybe}
  - {name: d, private_ip: 10.0.0.8}
  - {name: e, private_ip: 10.0.0.8}
  - {name: a/b}
  - {}
""",
    )
    places = [line.split(": ")[0] + " " + line.split(": ")[1] for line in found]
    assert places == [
        "waves/erp.yaml:1 wave",
        "waves/erp.yaml:2 source.conector",
        "waves/erp.yaml:4 retries",
        "waves/erp.yaml:5 verify",
        "waves/erp.yaml:6 defaults.verify",
        "waves/erp.yaml:6 defaults.launch",
        "waves/erp.yaml:9 servers[1].name",
        "waves/erp.yaml:10 servers[1].subnet",
        "waves/erp.yaml:11 servers[2]",
        "waves/erp.yaml:12 servers[3]",
        "waves/erp.yaml:13 servers[4]",
        "waves/erp.yaml:15 servers[5].private_ip",
        "waves/erp.yaml:16 servers[6]",
        "waves/erp.yaml:17 servers[7].quiesce",
        "waves/erp.yaml:19 servers[9].private_ip",
        "waves/erp.yaml:20 servers[10]",
        "waves/erp.yaml:21 servers[11]",
    ]
    text = "\n".join(found)
    for words in (
        "'sales' must equal the file's name: write 'wave: erp', or rename the file to 'sales.yaml'",
        "unknown key 'conector' (did you mean 'connector'?); allowed: connection, connector",
        "must be greater than or equal to 2, not 1",
        "unknown key 'verify': it belongs under 'defaults'",
        "'of' is not a verify level; allowed: full, sample:<pct> with 0 < pct <= 100, off",
        "'runing' is not a valid value (did you mean 'running'?); allowed: none, running",
        "name 'web01' is already servers[0]; remove one",
        "this entry has none of them: 'name' is nothing (null, ~ and an empty value without quotes mean nothing; put a "
        "text in quotes)",
        "path 'DC0/vm/x' must start with '/' and the data centre: '/Datacenter/vm/…'",
        "private_ip is for one VM",
        "'10.0.0.300' is not an IPv4 address",
        "this entry has name and path",
        "this entry has none of them",
        "'10.0.0.8' is already the address of servers[8]; choose another",
        "'a/b' contains '/'",
    ):
        assert words in text


def test_verify_off_is_off_and_not_false(folders: Any, wave_text: str) -> None:
    folders.wave(wave_text.replace("defaults:", "defaults:\n  verify: off"))
    wave = load_resolved(folders.waves / "erp.yaml", folders.environments)
    assert {plan.verify for plan in wave.servers} == {"off"}


@pytest.mark.parametrize(
    ("replaced", "by", "expected"),
    [
        (
            "environment: prod",
            "environment: prd",
            ":4: environment: there is no environments/prd.yaml (did you mean 'prod'?); allowed: prod",
        ),
        ("servers:\n", "servers: web\n_:\n", ":8: servers: must be a list ('- item' lines or '[a, b]'), not 'web'"),
        ("  - web01\n", "  - [web01]\n", ":9: servers[0]: must be a mapping ('key: value' lines), not a list"),
        ("source: {connection: vc1, connector: dc-west}\n", "", ":1: source: is missing: Where the servers are"),
        ("{connection: vc1, connector: dc-west}", "{connector: a}", ":3: source.connection: is missing: Airflow conn"),
        ("tier: db", "aws:tier: db", "is reserved"),
        ("wave: erp", "wave: instance_export", "erp.yaml:1: wave: 'instance_export' is reserved"),
        (
            "wave: erp",
            "wave: ERP",
            "'ERP' is not a name that consists of a-z, 0-9, '_' and '-' and starts with a letter or digit",
        ),
    ],
)
def test_words_of_single_errors(folders: Any, wave_text: str, replaced: str, by: str, expected: str) -> None:
    assert replaced in wave_text
    assert expected in "\n".join(errors(folders, wave_text.replace(replaced, by)))


def test_launch_beside_a_running_source_needs_a_choice(folders: Any, wave_text: str) -> None:
    """Invariant 12."""
    launching = wave_text.replace(
        "defaults:", "defaults:\n  launch: running\n  subnet: subnet-aaaa0001\n  security_groups: [sg-aaaa0001]"
    )
    (line,) = errors(folders, launching)
    assert line.startswith(
        "waves/erp.yaml:6: defaults.launch: 'running' would start the instance while its source may still run"
    )
    for choice in ("source_power: require_off", "allow_twin: true"):
        assert errors(folders, launching.replace("defaults:", f"defaults:\n  {choice}")) == []
    # A server's own choice is wrong at its own line.
    own = launching.replace("defaults:", "defaults:\n  source_power: require_off") + "    source_power: leave_running\n"
    assert [line.split(":")[1] for line in errors(folders, own)] == ["7"]


def test_launch_needs_everything_it_needs(folders: Any, wave_text: str) -> None:
    text = wave_text + "    launch: running\n    allow_twin: true\n"
    assert errors(folders, text) == [
        "waves/erp.yaml:10: servers[1].security_groups: needed to launch: set it here or under defaults; "
        "allowed: sg-aaaa0001, sg-aaaa0002"
    ]


def test_the_only_choice_is_taken(folders: Any, wave_text: str, environment_text: str) -> None:
    folders.environment(environment_text.replace(", subnet-aaaa0002", "").replace(", sg-aaaa0002", ""))
    folders.wave(wave_text.replace("    subnet: subnet-aaaa0002\n", ""))
    wave = load_resolved(folders.waves / "erp.yaml", folders.environments)
    assert {(plan.subnet, plan.security_groups) for plan in wave.servers} == {("subnet-aaaa0001", ("sg-aaaa0001",))}


def test_environment_errors(folders: Any, environment_text: str) -> None:
    path = folders.environment(
        environment_text.replace(
            "region: eu-central-1", "region: frankfurt\nkms_key: alias/x\nlimits: {imports_per_regon: 9}"
        )
        .replace("[m6i.large, t3.small]", "[m6i.large, m6i.large]")
        .replace("staging: {bucket: staging-bucket", "staging: {bucket: Staging_Bucket")
    )
    with pytest.raises(SpecError) as caught:
        load_environment(path)
    assert str(caught.value).splitlines() == [
        "environments/prod.yaml:6: region: 'frankfurt' is not an AWS region such as 'eu-central-1'; "
        "a new region may need a newer botocore",
        "environments/prod.yaml:9: staging.bucket: 'Staging_Bucket' is not an S3 bucket name "
        "(3 to 63 of a-z, 0-9, '.', '-')",
    ]
    path = folders.environment(path.read_text().replace("frankfurt", "eu-west-1").replace("Staging_Bucket", "bbb"))
    lines = format_errors(check_file(path, folders.environments)).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["kms_key", "limits.imports_per_regon", "instance_types[1]"]
    assert "did you mean 'imports_per_region'?" in lines[1]


@pytest.mark.parametrize("key", ["account", "may"])
def test_amp_02_an_environment_without_account_or_rights_is_an_error_that_shows_the_key(
    folders: Any, environment_text: str, key: str
) -> None:
    kept = [line for line in environment_text.splitlines() if not line.startswith(f"{key}:")]
    (line,) = format_errors(check_file(folders.environment("\n".join(kept)), folders.environments)).splitlines()
    assert line.startswith(f"environments/prod.yaml:1: {key}: is missing: ")
    assert f"{key}: " in line.partition("such as ")[2]


def test_amp_02_all_that_a_new_environment_lacks_is_told_at_once(folders: Any, environment_text: str) -> None:
    """Also beside a key that every file needs: nobody looks for one key after the other."""
    gone = ("account:", "may:", "vpc:")
    kept = "\n".join(line for line in environment_text.splitlines() if not line.startswith(gone))
    lines = format_errors(check_file(folders.environment(kept), folders.environments)).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["vpc", "account", "may"]


@pytest.mark.parametrize("number", ["12345", "''", "11112222333a"])
def test_amp_02_a_wrong_account_number_is_one_line(folders: Any, environment_text: str, number: str) -> None:
    lines = [f"account: {number}" if line.startswith("account:") else line for line in environment_text.splitlines()]
    (line,) = format_errors(check_file(folders.environment("\n".join(lines)), folders.environments)).splitlines()
    shown = (
        "is missing: the number of the AWS account" if number == "''" else "is not an AWS account number (12 digits)"
    )
    assert shown in line


def test_a_principal_is_a_user_or_a_group(folders: Any, environment_text: str) -> None:
    path = folders.environment(environment_text.replace("migrate: ['user:admin']", "migrate: [ana]"))
    (line,) = format_errors(check_file(path, folders.environments)).splitlines()
    assert line == "environments/prod.yaml:4: may.migrate[0]: 'ana' is not 'user:NAME' or 'group:NAME'"


def test_a_wave_of_a_broken_environment_says_so(folders: Any) -> None:
    folders.environment("environment: prod")
    specs = load_folder(folders.waves, folders.environments)
    assert specs.waves == {}
    assert "waves/erp.yaml:4: environment: environments/prod.yaml has errors; correct them first" in specs.errors
    assert sum(line.startswith("environments/prod.yaml:1: region: is missing") for line in specs.errors) == 1


def test_the_dag_import_error_is_the_same_text(folders: Any, wave_text: str) -> None:
    path = folders.wave(wave_text.replace("tier: db", "tier: ~").replace("retries", "retry"))
    validated = format_errors(check_file(path, folders.environments))
    assert validated
    assert "\n".join(usable_waves(folders.waves, folders.environments, folders.kept).errors) == validated
    with pytest.raises(SpecError) as caught:
        load_wave(path)
    assert str(caught.value) == validated


def test_the_text_does_not_depend_on_where_one_stands(
    folders: Any, wave_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folders.wave(wave_text + "x: 1\n")
    absolute = format_errors(check_file(path, folders.environments))
    monkeypatch.chdir(folders.waves)
    assert format_errors(check_file(Path("erp.yaml"), Path("../environments"))) == absolute


def test_folders_never_raise(folders: Any, tmp_path: Path) -> None:
    missing = load_folder(tmp_path / "no-waves", tmp_path / "no-environments")
    assert len(missing.errors) == 2
    assert "can't be read: No such file or directory" in missing.errors[0]
    (folders.waves / "old.yml").write_text("wave: old")
    (folders.waves / ".hidden.yaml").write_text("nonsense: [")
    (folders.waves / "README.md").write_text("x")
    (folders.waves / "folder.yaml").mkdir()
    specs = load_folder(folders.waves, folders.environments)
    assert list(specs.waves) == ["erp"]
    assert specs.errors == (
        "waves/folder.yaml: can't be read: Is a directory",
        "waves/old.yml: wavelift does not read this file: rename it to 'old.yaml'",
    )


def test_an_unused_environment_is_checked_too(folders: Any) -> None:
    folders.environment("environment: other", "spare")
    assert any(
        line.startswith("environments/spare.yaml:1: environment: 'other' must equal") or "spare.yaml:1: region" in line
        for line in load_folder(folders.waves, folders.environments).errors
    )


def test_only_one_wave_reads_one_file(folders: Any) -> None:
    folders.wave("broken: [", "other")
    specs = load_folder(folders.waves, folders.environments, only="erp")
    assert (list(specs.waves), specs.errors) == (["erp"], ())


def test_fifty_waves_of_150_servers_are_cheap(folders: Any) -> None:
    """``benchmarks.dag_parse`` has 5 s for everything; 1.4 s of it are for files."""
    servers = "".join(
        f"  - name: srv{n:03d}\n    subnet: subnet-aaaa0001\n    private_ip: 10.0.1.{n + 1}\n    tags: {{tier: db}}\n"
        for n in range(150)
    )
    source = "source: {connection: vc1, connector: dc-west}"
    for number in range(50):
        folders.wave(
            f"wave: w{number}\n{source}\nenvironment: prod\nservers:\n{servers}",
            f"w{number}",
        )
    spent = []
    for _ in range(3):
        start = time.process_time()
        usable = usable_waves(folders.waves, folders.environments, folders.kept)
        spent.append(time.process_time() - start)
    assert (len(usable.shapes), usable.errors) == (51, ())
    assert len(usable.shapes["w7"].server_names) == 150
    assert min(spent) < 1.4


def test_a_source_that_the_environment_does_not_name_is_refused(folders: Any, wave_text: str) -> None:
    ask = "choose another, or let an administrator add it to 'sources' in environments/prod.yaml"
    assert errors(folders, wave_text.replace("connection: vc1", "connection: vc2")) == [
        "waves/erp.yaml:3: source.connection: environment 'prod' takes no servers of connection 'vc2' "
        f"(did you mean 'vc1'?); allowed: vc1; {ask}"
    ]
    moved = wave_text.replace("\nsource: {", "\nsource:\n  {").replace("connector: dc-west", "connector: dc-east")
    assert errors(folders, moved) == [
        "waves/erp.yaml:4: source.connector: environment 'prod' takes no servers of 'vc1' through connector 'dc-east' "
        f"(did you mean 'dc-west'?); allowed: dc-west; {ask}"
    ]
    assert errors(folders, wave_text.replace(", connector: dc-west", "")) == [
        "waves/erp.yaml:3: source.connector: environment 'prod' takes no servers of 'vc1' through connector 'default'; "
        f"allowed: dc-west; {ask}"
    ]


def test_an_environment_without_sources_is_told_what_to_write(folders: Any, environment_text: str) -> None:
    before, _, _ = environment_text.partition("sources:")
    path = folders.environment(before)
    assert format_errors(check_file(path, folders.environments)) == (
        "environments/prod.yaml:1: sources: is missing: The vCenters whose servers may land here, and the connectors "
        "that may read each. An entry is '- {connection: vsphere_dc1, connectors: [datacenter1]}'."
    )
    for written, place in (
        ("[]", ": sources: must not be empty"),
        ("[{connection: vc1, connectors: []}]", ": sources[0].connectors: must not be empty"),
        ("[{connection: vc1}]", ": sources[0].connectors: is missing: Connectors (Airflow queues)"),
        ("[{connection: vc1, connectors: [a, a]}]", ": sources[0].connectors[1]: 'a' is listed twice; remove one"),
        (
            "[{connection: vc1, connectors: [a]}, {connection: vc1, connectors: [b]}]",
            ": sources[1].connection: 'vc1' is listed twice; remove one",
        ),
    ):
        path = folders.environment(f"{before}sources: {written}\n")
        assert place in format_errors(check_file(path, folders.environments)), written


def test_no_name_hides_the_problems_of_its_entry(folders: Any, wave_text: str) -> None:
    """An entry with errors is replaced by a placeholder, whose problems are not told; no file can name one."""
    text = wave_text.replace("name: db01", 'name: "\\0"').replace("subnet-aaaa0002", "subnet-bbbb0003")
    found = errors(folders, text)
    assert all("servers[1].name" in each for each in found)
    assert "contains an invisible character" in "\n".join(found)
