from __future__ import annotations

from collections.abc import Callable

import pytest
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Take

from wavelift.adapters.vsphere.doctor import test_connection as check_connection
from wavelift.adapters.vsphere.properties import read_one
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.errors import LoginError, MissingPrivilegeError, TlsError, UnreachableError, WaveliftError
from wavelift.simulators.vcenter import VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]


def calls(sim: VCenterSimulator, method: str) -> int:
    return int(sim.counters()["methods"].get(method, 0))


def test_vcenter_s_clock_may_differ(start_vc: Take, config_of: Configure) -> None:
    with connect(config_of(start_vc([], clock_skew=-7200.0))) as session:
        assert session.clock_ahead().total_seconds() == pytest.approx(-7200, abs=60)


def test_the_test_button_says_who_and_what(sim: VCenterSimulator, config_of: Configure) -> None:
    text = check_connection(config_of(sim))
    assert "API 8.0.3.0" in text
    assert sim.username in text
    assert sim.password not in text


def test_trouble_bad_credentials_are_refused_once_and_without_the_password(
    sim: VCenterSimulator, config_of: Configure
) -> None:
    before = calls(sim, "Login")
    with pytest.raises(LoginError) as refusal:
        connect(config_of(sim, password="wrong-secret"))
    assert calls(sim, "Login") == before + 1
    text = repr(refusal.value) + str(refusal.value) + repr(refusal.value.__cause__) + repr(refusal.value.__context__)
    assert "wrong-secret" not in text
    assert not refusal.value.retryable


def test_amp_12_loopback_is_verified_too(sim: VCenterSimulator, config_of: Configure) -> None:
    with pytest.raises(TlsError) as refusal:
        connect(config_of(sim, ca_bundle=None))
    assert refusal.value.where["fault"] == "unknown issuer"
    assert "issuer" in str(refusal.value)


def test_the_newest_common_api_is_spoken(session: VsphereSession) -> None:
    assert session.about.api_version == "8.0.3.0"
    assert session._stub.version == "vim.version.v8_0_3_0"


def test_trouble_a_read_signs_in_again_when_the_session_was_ended(sim: VCenterSimulator, config_of: Configure) -> None:
    with connect(config_of(sim)) as session:
        vm = next(iter(sim.state()["vms"]))["moref"]
        first = read_one(session, vim.VirtualMachine, vm, ["name"])
        sim.expire_sessions()
        before = calls(sim, "Login")
        assert read_one(session, vim.VirtualMachine, vm, ["name"]) == first
        assert calls(sim, "Login") == before + 1
        assert session.generation == 2


def test_trouble_a_change_is_never_repeated_by_itself(
    sim: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    sim.expire_sessions()
    before = calls(sim, "Login")
    with pytest.raises(UnreachableError, match="session has ended"):
        session.change(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
    assert calls(sim, "Login") == before


def test_trouble_a_password_changed_meanwhile_does_not_lock_the_account(
    sim: VCenterSimulator, config_of: Configure
) -> None:
    with connect(config_of(sim)) as session:
        sim.expire_sessions()
        sim.rule(kind="fault", method="Login", fault="InvalidLogin", times=0)
        before = calls(sim, "Login")
        for _ in range(3):
            with pytest.raises(LoginError):
                session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
        assert calls(sim, "Login") == before + 1


@pytest.mark.parametrize("action", ["before", "after"])
def test_trouble_a_cut_read_is_repeated_once(sim: VCenterSimulator, session: VsphereSession, action: str) -> None:
    sim.rule(kind="drop", method="CurrentTime", action=action, times=1)
    session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
    sim.rule(kind="drop", method="CurrentTime", action=action, times=2)
    with pytest.raises(UnreachableError) as lost:
        session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
    assert lost.value.where["vcenter"] == f"{sim.host}:{sim.port}"


def test_every_call_has_a_timeout_and_slow_ones_are_not_repeated(start_vc: Take, config_of: Configure) -> None:
    sim = start_vc([])
    with connected(config_of(sim, timeout=0.5)) as session:
        sim.rule(kind="latency", method="CurrentTime", delay=3600, times=0)
        before = calls(sim, "CurrentTime")
        with pytest.raises(UnreachableError, match="in time"):
            session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
        assert calls(sim, "CurrentTime") == before + 1


def connected(config: VsphereConfig) -> VsphereSession:
    """Under a time-out that a busy machine may miss while it signs in."""
    for _ in range(20):
        try:
            return connect(config)
        except UnreachableError:
            continue
    pytest.fail("no sign-in was quick enough")


def test_signs_of_life_keep_the_session(sim: VCenterSimulator, config_of: Configure) -> None:
    before = calls(sim, "CurrentTime")
    with connect(config_of(sim, keepalive=0.1)):
        assert eventually(lambda: calls(sim, "CurrentTime") >= before + 3)


def test_keepalive_survives_a_cut(sim: VCenterSimulator, config_of: Configure) -> None:
    sim.rule(kind="drop", method="CurrentTime", times=4)
    before = calls(sim, "CurrentTime")
    with connect(config_of(sim, keepalive=0.1)):
        assert eventually(lambda: calls(sim, "CurrentTime") >= before + 2)


def test_closing_signs_out_also_after_an_error(sim: VCenterSimulator, config_of: Configure) -> None:
    before = len(sim.state()["sessions"])
    with pytest.raises(RuntimeError):
        with connect(config_of(sim)) as session:
            assert len(sim.state()["sessions"]) == before + 1
            raise RuntimeError("anything")
    assert len(sim.state()["sessions"]) == before
    session.close()  # twice is fine


def test_sms_12_a_refused_call_names_the_privilege(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(
        kind="fault",
        method="CurrentTime",
        fault="NoPermission",
        args={"PrivilegeId": "VirtualMachine.State.CreateSnapshot"},
    )
    with pytest.raises(MissingPrivilegeError) as refusal:
        session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime, server="web01")
    assert refusal.value.where["privilege"] == "VirtualMachine.State.CreateSnapshot"
    assert refusal.value.where["server"] == "web01"


def test_inv_13_no_vendor_exception_is_kept_in_ours(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(kind="fault", method="CurrentTime", fault="SystemError", times=1)
    with pytest.raises(WaveliftError) as told:
        session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
    assert told.value.__cause__ is None
    assert told.value.__context__ is None
