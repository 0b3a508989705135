"""What `reserve` signs for a connector: which VM, and for whom vCenter is asked again (AMP-03)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.contexts import run_context
from tests.rights import open_to
from tests.unit.rules.conftest import _environment, _wave
from tests.unit.services.test_authority import Office, asked, office
from tests.unit.services.test_frozen import RUN, task_of

from wavelift.base.run import Requester, SystemClock
from wavelift.rules.authority import Action
from wavelift.rules.environment import VcenterCheck
from wavelift.rules.frozen import check_plan, digest_of
from wavelift.rules.grants import Grant, read
from wavelift.rules.plans import resolve
from wavelift.rules.principals import Principals
from wavelift.services.common import grant_keys, grants
from wavelift.services.common.authority import Allowed, require_again
from wavelift.services.common.grant_keys import KeyFiles, private_key

__all__ = ["office"]

pytestmark = pytest.mark.unit

MAPPED = Principals.model_validate({"vcenter": {"users": {"ana": "CORP\\a.kern"}, "pattern": "CORP\\{user}"}})


def moved(folder: Path, user: str, mode: VcenterCheck = "require", principals: Principals = MAPPED) -> Grant:
    files = KeyFiles(folder / "keys" / "private.pem", folder / "keys" / "public")
    grant_keys.keygen(files)
    granting = open_to(user, principals=principals).load("prod")
    granting = replace(granting, environment=granting.environment.model_copy(update={"vcenter_check": mode}))
    entries = resolve(_wave({"tag": "plan:moves"}), _environment()).servers
    task = task_of("web01")
    task = task.model_copy(update={"plan": entries[0].bind("web01", task.facts.path)})
    frozen = check_plan(task.plan, task.facts, entries)
    ctx = run_context(RUN, "web01", requester="ana")
    allowed = Allowed(Requester(user), granting)
    token = grants.move(files.private, task, task.plan, ctx, action="migrate", frozen=frozen, by=allowed)
    grant = read(token, private_key(files.private).public_key(), now=SystemClock().now())
    assert (grant.vm, grant.plan, grant.entry) == ("uuid-web01", digest_of(task.plan), digest_of(entries[0]))
    assert grant.tags == ("plan:moves",)
    return grant


@pytest.mark.parametrize(
    ("user", "mode", "principal"),
    [
        ("ana", "require", "CORP\\a.kern"),
        ("bo", "require", "CORP\\bo"),
        ("ana", "mapped", "CORP\\a.kern"),
        ("bo", "mapped", None),
        ("ana", "off", None),
    ],
)
def test_whose_right_vcenter_is_asked_about_is_signed(
    tmp_path: Path, user: str, mode: VcenterCheck, principal: str | None
) -> None:
    """By the files of the moment in which the slot was won, whatever pre-flight was told."""
    grant = moved(tmp_path, user, mode)
    assert (grant.principal("web01"), grant.vcenter_check) == (principal, mode)


def test_who_has_no_name_in_vcenter_is_refused_there_not_forgotten(tmp_path: Path) -> None:
    assert moved(tmp_path, "ana", principals=Principals()).principal("web01") == ""


def test_the_right_that_is_asked_again_tells_whose_it_is_and_by_which_files(office: Office) -> None:
    office.grant("user:ana", groups="vcenter: {pattern: 'CORP\\{user}'}\n")
    office.admit(asked("ana"))
    allowed = require_again(office.ledger, asked("ana", server="web01"), Action.MIGRATE, rights=office.rights)
    assert (allowed.requester.name, allowed.by.principals.vcenter_principal("ana")) == ("ana", "CORP\\ana")
    assert allowed.by.environment.may is not None
