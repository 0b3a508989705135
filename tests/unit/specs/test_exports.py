"""``exports`` of environments: what is wrong by line, and one bucket for each account and region."""

from __future__ import annotations

from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from tests.specs import HCX_ENVIRONMENT

from wavelift.rules.environment import Environment, Exports
from wavelift.rules.hcx_environment import aws_only
from wavelift.specs import check_file, format_errors, load_environment, load_folder
from wavelift.specs.schema import json_schema

pytestmark = pytest.mark.unit
EXPORTS: Final = "exports: {name: acme, prefix: prod/}\n"


def errors(folders: Any, text: str, name: str = "prod") -> list[str]:
    path = folders.environment(text, name)
    return format_errors(check_file(path, folders.environments)).splitlines()


def exporting(folders: Any, text: str) -> Environment:
    path = folders.environment(text)
    assert check_file(path, folders.environments) == ()
    return aws_only(load_environment(path))


def other(text: str, name: str = "test") -> str:
    return text.replace("environment: prod", f"environment: {name}")


def test_amp_10_an_environment_has_one_bucket_in_its_region(folders: Any, environment_text: str) -> None:
    assert exporting(folders, environment_text).exports_bucket == ""
    found = exporting(folders, environment_text + EXPORTS)
    assert found.exports_bucket == "export-to-s3-acme-eu-central-1"
    assert found.exports == Exports(name="acme", prefix="prod/")
    assert exporting(folders, environment_text + "exports: {name: acme}\n").exports == Exports(name="acme", prefix="")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("exports: {prefix: x}", "exports.name: is missing: Part of the name of the S3 bucket"),
        ("exports: {name: Acme}", "exports.name: 'Acme' makes no bucket name: write 1 to 37 of a-z, 0-9 and '-'"),
        ("exports: {name: a.b}", "exports.name: 'a.b' makes no bucket name"),
        (f"exports: {{name: {'x' * 38}}}", "exports.name: 'export-to-s3-xxx"),
        ("exports: {name: acme, prefix: /x}", "exports.prefix: '/x' is not an S3 prefix"),
        ("exports: {name: acme, prefix: a/../b}", "exports.prefix: 'a/../b' is not an S3 prefix: no '..'"),
        (f"exports: {{name: acme, prefix: {'x' * 513}}}", "a prefix has at most 512 characters"),
        ("exports: {name: acme, bucket: x}", "exports.bucket: unknown key 'bucket'"),
        ("exports: acme", "exports: must be a mapping"),
        ("limits: {exports_per_region: 21}", "limits.exports_per_region: it must be at most 20"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(
    folders: Any, environment_text: str, written: str, expected: str
) -> None:
    (line,) = [line for line in errors(folders, f"{environment_text}{written}\n") if line.startswith("environments/")]
    assert line.startswith("environments/prod.yaml:16: ")
    assert expected in line


def test_vie_04_an_environment_raises_the_limit_to_20(folders: Any, environment_text: str) -> None:
    text = f"{environment_text}{EXPORTS}limits: {{exports_per_region: 20}}\n"
    assert exporting(folders, text).limits == {"exports_per_region": 20}


def test_environments_of_one_account_and_region_share_their_bucket(folders: Any, environment_text: str) -> None:
    folders.environment(environment_text + EXPORTS)
    assert errors(folders, other(environment_text) + "exports: {name: acme, prefix: test/}\n", "test") == []
    assert load_folder(folders.waves, folders.environments).errors == ()

    (line,) = errors(folders, other(environment_text) + "exports: {name: zeta}\n", "test")
    assert line == (
        "environments/test.yaml:16: exports.name: environment 'prod' of the same account and region has 'acme': a "
        "region has one bucket for exports; give both the same name"
    )
    specs = load_folder(folders.waves, folders.environments)
    assert specs.environments == {}
    assert [line.partition(" exports.name: ")[0] for line in specs.errors if "exports" in line] == [
        "environments/prod.yaml:16:",
        "environments/test.yaml:16:",
    ], "each of the two says so, whichever is looked at"


@pytest.mark.parametrize(
    ("replaced", "by"),
    [("'123456789012'", "'210987654321'"), ("region: eu-central-1", "region: eu-west-1"), (EXPORTS, "")],
)
def test_another_account_or_region_has_its_own(folders: Any, environment_text: str, replaced: str, by: str) -> None:
    folders.environment(environment_text + "exports: {name: zeta}\n")
    text = (other(environment_text) + EXPORTS).replace(replaced, by)
    assert errors(folders, text, "test") == []


def test_a_file_with_other_errors_counts_too(folders: Any, environment_text: str) -> None:
    folders.environment(environment_text.replace("m6i.large", "M6I") + EXPORTS)
    (line,) = errors(folders, other(environment_text) + "exports: {name: zeta}\n", "test")
    assert "environment 'prod' of the same account and region has 'acme'" in line


@pytest.mark.parametrize("broken", ["a: [", "exports: {name: [a]}", "exports: {name: 1}\naccount: {}", "", "- a"])
def test_a_file_that_says_nothing_of_exports_is_no_obstacle(folders: Any, environment_text: str, broken: str) -> None:
    folders.environment(broken)
    assert errors(folders, other(environment_text) + EXPORTS, "test") == []


def test_an_environment_of_hcx_has_no_exports(folders: Any) -> None:
    (line,) = errors(folders, HCX_ENVIRONMENT + EXPORTS, "vmc")
    assert "exports: 'exports' belongs to an environment of 'kind: aws'; remove it" in line


@pytest.mark.parametrize(("value", "valid"), [("{name: acme, prefix: a/}", True), ("{prefix: a}", False), ("a", False)])
def test_editors_know_the_key(environment_text: str, value: str, valid: bool) -> None:
    content = yaml.safe_load(f"{environment_text}exports: {value}")
    found = jsonschema.Draft202012Validator(json_schema("environment")).is_valid(content)
    assert found is valid
