"""The ``cutover:`` section: what a file may say, what it means, and where a wrong value is reported."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from wavelift.rules.plans import WaveShape
from wavelift.specs import installed, load_resolved
from wavelift.specs.load import check_file

from .conftest import ENVIRONMENT, WAVE, Folders

pytestmark = pytest.mark.unit

LISTED = """\
isolation: {subnets: [subnet-aaaa0009], security_groups: [sg-aaaa0009]}
network:
  hosted_zones: [Z0123456789]
  elastic_ips: [eipalloc-0a1b2c3d]
  route_tables: [rtb-0a1b2c3d]
instance_profiles: [ssm-core]
key_names: [ops]
"""
SECTION = """\
replication: {}
cutover:
  tiers: [data, web]
  tier: web
  approval: four_eyes
  downtime_minutes: 30
  checks:
    - {kind: tcp, port: 443}
"""
DNS = "dns: {zone: Z0123456789, name: app01.corp.example}"


def wave(servers: str = "", section: str = SECTION) -> str:
    head, _, own = WAVE.partition("servers:\n")
    own = own.replace("    subnet: subnet-aaaa0002\n", "    subnet: subnet-aaaa0002\n    cutover: {tier: data}\n")
    own = own.replace("- web01", "- {name: web01, subnet: subnet-aaaa0001}")
    return f"{head}{section}servers:\n{servers or own}".replace(
        "instance_type:", "security_groups: [sg-aaaa0001]\n  instance_type:"
    )


def issues(folders: Folders, text: str, environment: str = ENVIRONMENT + LISTED) -> list[str]:
    folders.environment(environment)
    return [str(issue) for issue in check_file(folders.wave(text), folders.environments)]


def test_a_server_s_values_override_the_wave_s(folders: Folders) -> None:
    folders.environment(ENVIRONMENT + LISTED)
    resolved = load_resolved(folders.wave(wave()), folders.environments)
    web, db = (plan.cutover for plan in resolved.servers)
    assert web is not None
    assert db is not None
    assert (web.tier, web.tier_index, db.tier, db.tier_index) == ("web", 1, "data", 0)
    assert web.approval == db.approval == "four_eyes"
    assert [check.kind for check in db.checks] == ["tcp"]


def test_only_a_wave_with_the_section_has_the_dags(folders: Folders) -> None:
    from wavelift.specs import usable_waves

    folders.environment(ENVIRONMENT + LISTED)
    folders.wave(wave())
    folders.wave(WAVE.replace("wave: erp", "wave: crm"), "crm")
    shapes: dict[str, WaveShape] = usable_waves(folders.waves, folders.environments, folders.kept).shapes
    assert shapes["erp"].cuts_over
    assert shapes["erp"].approval == "four_eyes"
    assert not shapes["crm"].cuts_over


STEPS = [
    ("steps: [{dns: {zone: Z9999, name: a.example}}]", "network.hosted_zones does not list 'Z9999'"),
    ("steps: [{elastic_ip: {allocation: eipalloc-00000000}}]", "network.elastic_ips does not list"),
    ("steps: [{route: {table: rtb-00000000, destination: 10.1.0.0/24, target: instance}}]", "network.route_tables"),
    ("steps: [{security_groups: {groups: [sg-0000ffff]}}]", "the environment does not allow 'sg-0000ffff'"),
    ("steps: [{dns: {zone: Z0123456789, name: a.example}, person: {ask: a, undo: b}}]", "exactly one of dns"),
    ("address: keep", "'keep' needs a step that moves the address's prefix"),
    (
        "steps: [{dns: {zone: Z0123456789, name: a.example, to: public}}, "
        "{elastic_ip: {allocation: eipalloc-0a1b2c3d}}]",
        "'public' needs an elastic_ip step before this one",
    ),
    ("tier: dtaa", "'dtaa' is none of the wave's tiers"),
    ("checks: [{kind: ssm, command: 'true'}]", "needs an instance_profile"),
    ("checks: [{kind: tcp}]", "needs its port"),
    ("checks: [{kind: status, port: 4}]", "takes no port"),
    ("checks: [{kind: tcpp, arguments: {}}]", "no check 'tcpp' is installed (did you mean 'tcp'?)"),
    ("volume_initialization_mib_s: 50", "volume_initialization_mib_s"),
    ("window: {start: '2026-12-05T22:00:00', end: '2026-12-06T02:00:00+01:00'}", "needs its offset"),
]


@pytest.mark.parametrize(("key", "words"), STEPS)
def test_a_wrong_value_is_reported_with_its_line(folders: Folders, key: str, words: str) -> None:
    own = f"  - name: web01\n    subnet: subnet-aaaa0001\n    cutover: {{{key}}}\n"
    if key.startswith("window"):  # only a wave has one
        text = wave(section=SECTION + f"  {key}\n")
    else:
        text = wave(own + "  - {name: db01, subnet: subnet-aaaa0002, cutover: {tier: data}}\n")
    found = issues(folders, text)
    line = next(number for number, content in enumerate(text.splitlines(), 1) if key in content)
    assert any(words in issue and f"erp.yaml:{line}:" in issue for issue in found), found


def test_a_public_record_after_its_elastic_ip_and_one_of_several_kept_addresses_are_fine(folders: Folders) -> None:
    steps = (
        "[{elastic_ip: {allocation: eipalloc-0a1b2c3d}}, {dns: {zone: Z0123456789, name: a.example, to: public}}, "
        "{person: {ask: move the prefix, undo: move it back}}]"
    )
    own = (
        "  - name: web01\n    subnet: subnet-aaaa0001\n    private_ip: 10.0.1.20\n"
        f"    cutover: {{address: keep, steps: {steps}}}\n"
        "  - {name: db01, subnet: subnet-aaaa0002, cutover: {tier: data}}\n"
    )
    assert issues(folders, wave(own)) == []


def test_two_servers_can_t_have_one_record(folders: Folders) -> None:
    own = "".join(
        f"  - {{name: {name}, subnet: subnet-aaaa0001, cutover: {{tier: {tier}, steps: [{{{DNS}}}]}}}}\n"
        for name, tier in (("web01", "web"), ("db01", "data"))
    )
    found = issues(folders, wave(own))
    assert len(found) == 1
    assert "servers[0] has the record A app01.corp.example of Z0123456789 already" in found[0]


def test_a_tier_without_a_server_and_one_that_is_listed_twice(folders: Folders) -> None:
    found = issues(folders, wave(section=SECTION.replace("[data, web]", "[data, web, web, empty]")))
    assert any("no server is in tier 'empty'" in issue for issue in found)
    assert any("'web' is listed twice" in issue for issue in found)


def test_a_server_that_is_not_replicated_can_t_be_cut_over(folders: Folders) -> None:
    found = issues(folders, wave(section=SECTION.replace("replication: {}\n", "")))
    assert any("is not replicated" in issue and "add a replication section" in issue for issue in found)


def test_an_instance_profile_and_a_key_must_be_listed(folders: Folders) -> None:
    text = wave().replace("defaults:\n", "defaults:\n  instance_profile: admin\n  key_name: mine\n")
    found = issues(folders, text)
    assert any("does not allow 'admin'" in issue for issue in found)
    assert any("does not allow 'mine'" in issue for issue in found)


def test_an_installed_check_is_known(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    text = wave(section=SECTION.replace("{kind: tcp, port: 443}", "{kind: ledger-open, arguments: {who: web01}}"))
    assert any("no check 'ledger-open' is installed" in issue for issue in issues(folders, text))
    entry = {"ledger-open": EntryPoint("ledger-open", "acme.checks:ledger", "wavelift.checks")}
    monkeypatch.setattr(installed, "installed", lambda group: entry)
    assert issues(folders, text) == []


def test_without_an_isolation_the_section_is_still_valid(folders: Folders) -> None:
    """Who never tests needs none; the test DAG refuses then."""
    assert issues(folders, wave(), ENVIRONMENT + LISTED.split("\n", 1)[1]) == []
