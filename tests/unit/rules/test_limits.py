"""Numbers of services are settings with the documented default."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import SpecError
from wavelift.rules.limits import ENVIRONMENT_LIMITS, LIMITS, OnExceed, limits

pytestmark = pytest.mark.unit


def test_amp_04_amp_06_and_sms_10_have_their_documented_defaults() -> None:
    found = {name: (limit.value, limit.unit, limit.on_exceed) for name, limit in limits().items()}
    assert found["transfers_per_connector"] == (4, "transfers", OnExceed.WAIT)
    assert found["imports_per_region"] == (5, "import tasks", OnExceed.WAIT)
    assert found["exports_per_region"] == (5, "export tasks", OnExceed.WAIT)
    assert found["migrations_per_account"] == (50, "VMs", OnExceed.WAIT)
    assert found["compressed_disk_bytes"] == (215_000_000_000, "bytes", OnExceed.WARN)
    assert found["volumes_per_image"] == (21, "volumes", OnExceed.REFUSE)
    assert all(limit.source for limit in LIMITS.values())


@given(st.sampled_from(sorted(name for name, limit in LIMITS.items() if limit.settable)), st.integers(1, 10**15))
def test_a_setting_replaces_its_own_default_only(name: str, value: int) -> None:
    value = min(value, LIMITS[name].most or value)
    changed = limits({name: value})
    assert changed[name].value == value
    assert str(LIMITS[name].value) in changed[name].source
    assert {key: limit for key, limit in changed.items() if key != name} == {
        key: limit for key, limit in LIMITS.items() if key != name
    }
    assert not changed[name].exceeded(value)
    assert changed[name].exceeded(value + 1)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("transfer_per_connector", 1, "did you mean 'transfers_per_connector'"),
        ("object_parts", 5, "defined by a format"),
        ("imports_per_region", 0, "must be at least 1"),
        ("exports_per_region", 21, "is 21: it must be at most 20: AWS raises it no further"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: int, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        limits({name: value})


@given(st.integers(-3, 40))
def test_vie_04_exports_are_raised_to_20_at_most(value: int) -> None:
    limit = LIMITS["exports_per_region"]
    assert (limit.refusal(value) == "") is (1 <= value <= 20)
    assert "VIE-04" in limit.source
    assert "VIE-04" not in LIMITS["imports_per_region"].source, "it counts imports only"
    assert LIMITS["imports_per_region"].refusal(value) == ("" if value >= 1 else "it must be at least 1")


def test_environments_override_what_aws_raises() -> None:
    assert {"exports_per_region", "imports_per_region", "migrations_per_account"} <= ENVIRONMENT_LIMITS <= set(LIMITS)
    assert "transfers_per_connector" not in ENVIRONMENT_LIMITS
