"""The ``replication:`` section: a server's values override the wave's, which override the defaults (SMS-03)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from pydantic import ValidationError
from tests.specs import load_texts

from wavelift.base.errors import SpecError
from wavelift.rules.plans import ResolvedWave, WaveShape
from wavelift.rules.wave import Wave
from wavelift.rules.wave_replication import Replication, ReplicationPlan

pytestmark = pytest.mark.unit

ENVIRONMENT = """
environment: prod
aws_conn_id: aws
account: '123456789012'
may: {migrate: ['user:admin'], cut_over: ['user:admin'], administer: ['user:admin']}
region: eu-central-1
staging: {bucket: staging-bucket}
vpc: vpc-00000001
subnets: [subnet-aaaa0001]
security_groups: [sg-aaaa0001]
instance_types: [m6i.large]
sources: [{connection: vc, connectors: [default]}]
"""


def test_sms_03_a_wave_without_the_section_does_not_replicate(resolved: Callable[..., ResolvedWave]) -> None:
    assert [plan.replication for plan in resolved("web01").servers] == [None]


def test_sms_03_values_of_a_server_go_over_those_of_the_wave(resolved: Callable[..., ResolvedWave]) -> None:
    servers: list[Any] = ["web01", {"name": "db01", "replication": {"frequency_hours": 12, "ami": "register"}}]
    first, second = resolved(*servers, replication={"frequency_hours": 20, "keep_amis": 3}).servers
    assert first.replication == ReplicationPlan(frequency_hours=20, keep_amis=3)
    assert second.replication == ReplicationPlan(frequency_hours=12, keep_amis=3, ami="register")


def test_a_server_may_replicate_alone(wave: Callable[..., Wave], environment: Callable[..., Any]) -> None:
    alone = wave("web01", {"name": "db01", "replication": {}})
    assert WaveShape.of(alone, environment()).replicates
    assert not WaveShape.of(wave("web01"), environment()).replicates


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("now", "now"),
        (1795341600, "2026-11-22T10:00:00+00:00"),
        ("2026-11-22T11:00:00+01:00", "2026-11-22T10:00:00+00:00"),
    ],
)
def test_sms_03_one_instant_has_one_spelling(written: object, kept: str) -> None:
    assert Replication.load({"seed_time": written}).seed_time == kept


def test_sms_03_yaml_times_reach_the_section_as_they_were_written() -> None:
    head = "wave: erp\nsource: {connection: vc}\nenvironment: prod\nservers: [web01]\n"
    text = f"{head}replication:\n  seed_time: 2026-11-22T11:00:00+01:00\n"
    loaded = load_texts(text, ENVIRONMENT, where="prod")
    assert loaded is not None
    (plan,) = loaded.resolve().servers
    assert plan.replication == ReplicationPlan(seed_time="2026-11-22T10:00:00+00:00")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"seed_time": "2026-11-22T11:00:00"}, "no offset"),
        ({"seed_time": "soon"}, "not a seed time"),
        ({"seed_time": True}, "epoch seconds, or ISO 8601"),
        ({"frequency_hours": 11}, "greater than or equal to 12"),
        ({"frequency_hours": 25}, "less than or equal to 24"),
        ({"keep_amis": 0}, "greater than or equal to 1"),
        ({"frequencyhours": 12}, "not permitted"),
    ],
)
def test_sms_03_a_wrong_value_is_named(section: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Replication.load(section)


def test_sms_03_an_image_without_billing_data_cannot_have_an_aws_licence(resolved: Callable[..., ResolvedWave]) -> None:
    defaults = {"instance_type": "m6i.large", "license_type": "aws"}
    with pytest.raises(SpecError, match=r"replication\.ami: 'register' makes an image without billing data"):
        resolved("web01", defaults=defaults, replication={"ami": "register"})
    with pytest.raises(SpecError, match=r"servers\[0\]\.replication\.ami"):
        resolved({"name": "web01", "replication": {"ami": "register"}}, defaults=defaults)
    resolved("web01", defaults=defaults, replication={"ami": "register", "force_register": True})


@pytest.mark.parametrize("seed", ["now", 1795341600, "2026-11-22T11:00:00+01:00"])
def test_the_schema_takes_what_the_section_takes(seed: object) -> None:
    jsonschema.validate({"seed_time": seed}, Replication.model_json_schema())
