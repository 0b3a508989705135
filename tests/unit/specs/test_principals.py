"""``environments/principals.yaml``: a reserved name; while it is broken nothing new starts, and what runs goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.specs.conftest import ENVIRONMENT, WAVE

from wavelift.base.errors import SpecError
from wavelift.rules.principals import Principals
from wavelift.specs import (
    check_file,
    load_folder,
    load_granting,
    load_principals,
    resolved_wave,
    usable_waves,
)

pytestmark = pytest.mark.unit

GROUPS = """\
groups:
  erp-team: [ana, bo]
vcenter:
  users: {ana: 'CORP\\a.kern'}
  pattern: 'CORP\\{user}'
"""
WITH_GROUP = ENVIRONMENT.replace("migrate: ['user:admin']", "migrate: ['user:admin', 'group:erp-team']")


class Site:
    def __init__(self, folder: Path) -> None:
        self.waves, self.environments, self.kept = (folder / name for name in ("waves", "environments", "kept"))
        self.waves.mkdir()
        self.environments.mkdir()
        self.put(WITH_GROUP, GROUPS)
        (self.waves / "erp.yaml").write_text(WAVE)

    def put(self, environment: str, groups: str | None) -> None:
        (self.environments / "prod.yaml").write_text(environment)
        self.groups.unlink(missing_ok=True)
        if groups is not None:
            self.groups.write_text(groups)

    @property
    def groups(self) -> Path:
        return self.environments / "principals.yaml"

    def errors(self) -> str:
        """Airflow's import error."""
        return "\n".join(usable_waves(self.waves, self.environments, self.kept).errors)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_groups_and_principals_are_read_beside_the_environment(site: Site) -> None:
    found = load_granting("prod", site.environments)
    assert found.principals.groups_of("bo") == {"erp-team"}
    assert found.principals.vcenter_principal("ana") == "CORP\\a.kern"
    assert found.environment.may is not None
    assert found.environment.may.migrate == ("user:admin", "group:erp-team")
    assert site.errors() == ""
    assert check_file(site.groups, site.environments) == ()


def test_without_the_file_there_are_no_groups(site: Site) -> None:
    site.put(ENVIRONMENT, None)
    assert load_principals(site.environments) == Principals()
    assert load_granting("prod", site.environments).principals == Principals()
    assert list(load_folder(site.waves, site.environments).waves) == ["erp"]


def test_a_broken_file_lets_nothing_new_start_and_what_runs_goes_on(site: Site) -> None:
    usable_waves(site.waves, site.environments, site.kept)
    site.put(ENVIRONMENT, "groups:\n  erp-team: ana\n")  # no group is named: every grant is in doubt all the same
    said = "environments/principals.yaml:2: groups.erp-team: "
    assert said in site.errors()
    for ask in (
        lambda: resolved_wave("erp", site.waves, site.environments),
        lambda: load_granting("prod", site.environments),
        lambda: load_principals(site.environments),
    ):
        with pytest.raises(SpecError, match=r"principals\.yaml:2"):
            ask()
    known = usable_waves(site.waves, site.environments, site.kept).waves["erp"]
    assert (known.stale, known.shape.environment) == (True, "prod"), "its DAG is there, so its runs end"


def test_a_group_that_is_not_there_is_an_error_of_the_environment_with_its_line(site: Site) -> None:
    site.put(WITH_GROUP.replace("erp-team", "erp-teem"), GROUPS)
    (issue,) = check_file(site.environments / "prod.yaml", site.environments)
    line = next(at for at, text in enumerate(WITH_GROUP.splitlines(), 1) if text.startswith("may:"))
    assert (issue.file, issue.line, issue.path) == ("environments/prod.yaml", line, ("may", "migrate", 1))
    assert "did you mean 'erp-team'?" in issue.message
    with pytest.raises(SpecError, match="there is no group 'erp-teem'"):
        load_granting("prod", site.environments)


def test_the_errors_of_the_file_have_lines(site: Site) -> None:
    site.put(ENVIRONMENT, "groups: {a: [ana]}\nvcenter:\n  pattern: CORP\n  domain: CORP\n")
    found = {(issue.line, issue.path) for issue in check_file(site.groups, site.environments)}
    assert found == {(3, ("vcenter", "pattern")), (4, ("vcenter", "domain"))}


def test_no_environment_has_the_name_of_the_file(site: Site) -> None:
    site.put(ENVIRONMENT, ENVIRONMENT.replace("environment: prod", "environment: principals"))
    assert "environments/principals.yaml:1: environment: " in site.errors()
    site.put(ENVIRONMENT, GROUPS)
    with pytest.raises(SpecError, match=r"principals\.yaml is no environment"):
        load_granting("principals", site.environments)
    (site.waves / "erp.yaml").write_text(WAVE.replace("environment: prod", "environment: principals"))
    assert "principals.yaml is no environment" in site.errors()
    assert "allowed: prod" in site.errors()


# Attacks


@pytest.mark.parametrize("how", ["a link to nowhere", "a link to itself", "the other suffix"])
def test_a_file_that_is_meant_to_be_there_is_no_missing_one(site: Site, how: str) -> None:
    """With `vcenter_check: mapped` "no file" would mean that nobody's right in vCenter is asked."""
    site.put(ENVIRONMENT, None)
    assert load_principals(site.environments) == Principals()
    if how == "the other suffix":
        site.groups.with_suffix(".yml").write_text(GROUPS)
    else:
        site.groups.symlink_to(site.groups if how == "a link to itself" else "/nowhere/principals.yaml")
    with pytest.raises(SpecError, match=r"principals\.y"):
        load_granting("prod", site.environments)
    with pytest.raises(SpecError, match=r"principals\.y"):
        resolved_wave("erp", site.waves, site.environments)
    assert len([line for line in site.errors().splitlines() if line.startswith("environments/principals.y")]) == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("user:*", "stands for nobody"),
        ("group:corp-*", "stands for nobody"),
        ("user:an\u200ba", "an\\u200ba' contains an invisible character"),
        ("user:\u202eana", "invisible character"),
        ("user:user:ana", "without another 'user:'"),
    ],
)
def test_an_entry_that_would_silently_name_nobody_is_refused(site: Site, entry: str, said: str) -> None:
    site.put(ENVIRONMENT.replace("'user:admin'", f"'{entry}'", 1), GROUPS)
    with pytest.raises(SpecError) as caught:
        load_granting("prod", site.environments)
    assert said in str(caught.value)
    assert "prod.yaml:" in str(caught.value)


@pytest.mark.parametrize("name", ["*", "user:ana", "group:other"])
def test_a_member_that_would_silently_name_nobody_is_refused(site: Site, name: str) -> None:
    site.put(WITH_GROUP, f"groups:\n  erp-team: ['{name}']\n")
    with pytest.raises(SpecError, match=r"principals\.yaml:2"):
        load_granting("prod", site.environments)


def test_look_alikes_are_other_people(site: Site) -> None:
    site.put(WITH_GROUP, "groups:\n  erp-team: [ana, Ana, '\u0430na', 'a\u0301na', '\u00e1na']\n")
    known = load_granting("prod", site.environments).principals
    for name in ("ana", "Ana", "\u0430na", "a\u0301na", "\u00e1na"):
        assert known.groups_of(name) == {"erp-team"}
    for name in ("ANA", "ana ", "\uff41na", "ana\u200b", ""):
        assert known.groups_of(name) == frozenset()
