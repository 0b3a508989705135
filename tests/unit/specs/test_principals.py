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
