"""From Airflow's connections to what the adapters get."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import (
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowSecretsBackendAccessDenied,
    ErrorType,
)
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ConnectionResult, ErrorResponse
from botocore.httpsession import URLLib3Session

from wavelift.adapters.aws.connections import tls_context as aws_tls_context
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere.session import tls_context
from wavelift.airflow.hooks import connections
from wavelift.airflow.hooks.vm_import import VmImportHook
from wavelift.airflow.hooks.vsphere import VsphereHook, config_of
from wavelift.base.errors import LoginError, NoConnectionError, SpecError, UnreachableError, WaveliftError
from wavelift.base.tunnel import Proxy
from wavelift.operators._base import OpensAws
from wavelift.operators.connector._plane import OpensVcenter

pytestmark = pytest.mark.airflow


def _aws(**extra: Any) -> Connection:
    return Connection(
        conn_id="aws_near",
        conn_type="aws",
        login="AKIAEXAMPLE000000001",
        password="a secret",
        extra=json.dumps({"region_name": "eu-central-1", **extra}),
    )


def _endpoint(access: Any, service: str) -> str:
    return str(access.client(service).meta.endpoint_url)


def test_sms_15_every_service_has_the_endpoint_that_the_connection_gives_it() -> None:
    plain = VmImportHook.from_connection(_aws(), None).access()
    assert plain.region == "eu-central-1"
    assert _endpoint(plain, "ec2") == "https://ec2.eu-central-1.amazonaws.com"
    one = VmImportHook.from_connection(_aws(endpoint_url="https://all.example"), None).access()
    assert {_endpoint(one, service) for service in ("ec2", "s3", "ebs", "iam")} == {"https://all.example"}
    vpc = {
        "s3": {"endpoint_url": "https://bucket.vpce-1.s3.example"},
        "ec2": {"endpoint_url": "https://vpce-2.example"},
    }
    split = VmImportHook.from_connection(_aws(service_config=vpc), None).access()
    assert _endpoint(split, "s3") == "https://bucket.vpce-1.s3.example"
    assert _endpoint(split, "ec2") == "https://vpce-2.example"
    assert _endpoint(split, "ebs") == "https://ebs.eu-central-1.amazonaws.com"


def test_what_the_task_says_goes_over_the_connection() -> None:
    connection = _aws(verify="/etc/ssl/connection.pem", config_kwargs={"read_timeout": 7})
    access = VmImportHook.from_connection(connection, None).access()
    assert (access.verify, access.timeouts()[1]) == ("/etc/ssl/connection.pem", 7.0)
    access = VmImportHook.from_connection(
        connection, "eu-west-1", verify="/etc/ssl/task.pem", botocore_config={"read_timeout": 9}
    ).access()
    assert (access.region, access.verify, access.timeouts()[1]) == ("eu-west-1", "/etc/ssl/task.pem", 9.0)
    assert "a secret" not in repr(access)


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"profile_name": "nobody"}, LoginError),
        ({"role_arn": "arn:aws:iam::111122223333:role/x", "endpoint_url": "http://127.0.0.1:9"}, UnreachableError),
    ],
)
def test_inv_13_a_connection_that_gives_no_credentials_says_so_in_our_words(
    extra: dict[str, str], kind: type[WaveliftError]
) -> None:
    """The Amazon provider assumes the role when it makes the session, before any client of ours."""
    once = {"retries": {"total_max_attempts": 1}}
    with pytest.raises(kind) as caught:
        VmImportHook.from_connection(_aws(config_kwargs=once, **extra), None).access()
    assert type(caught.value) is kind
    assert caught.value.next_step


def _vsphere(**extra: Any) -> Connection:
    return Connection(
        conn_id="vc", conn_type="vsphere", host="vc.example", login="me", password="a secret", extra=json.dumps(extra)
    )


PIN, OTHER = (":".join([pair] * 20) for pair in ("AA", "0F"))


def test_every_field_of_the_vsphere_form_arrives() -> None:
    config = config_of(
        _vsphere(
            certificate_mode="thumbprint",
            thumbprint=PIN,
            ca_bundle="/etc/ssl/vcenter.pem",
            esxi_mode="pin",
            esxi_thumbprints=f"{PIN}, {OTHER}",
            proxy="http://proxy:3128",
            dns_suffixes="corp.example, ,lab.example",
            esxi_addresses="esx1.corp = 203.0.113.5, esx2=fd00::2",
        ),
        "vc",
    )
    assert (config.host, config.port, config.username, config.password) == ("vc.example", 443, "me", "a secret")
    assert (config.certificate_mode, config.thumbprint, config.ca_bundle) == (
        "thumbprint",
        PIN,
        "/etc/ssl/vcenter.pem",
    )
    assert (config.esxi_mode, config.esxi_thumbprints) == ("pin", (PIN, OTHER))
    assert (config.proxy, config.dns_suffixes) == ("http://proxy:3128", ("corp.example", "lab.example"))
    assert config.esxi_addresses == {"esx1.corp": "203.0.113.5", "esx2": "fd00::2"}
    assert "a secret" not in repr(config)


# --- proxies ----------------------------------------------------------------------------------------------------------

HARD = 'p:/+@<&"% x'
"""A password with characters that a URL escapes."""


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Airflow was asked to hide in logs."""
    found: list[str] = []
    monkeypatch.setattr(connections, "mask_secret", found.append)
    return found


def test_sms_15_the_login_of_a_proxy_has_fields_of_its_own(hidden: list[str]) -> None:
    vsphere = config_of(_vsphere(proxy="http://proxy:8080", proxy_user="CORP\\me", proxy_password=HARD), "vc")
    aws = {"proxies": {"https": "http://proxy:8080"}}
    access = VmImportHook.from_connection(
        _aws(config_kwargs=aws, proxy_user="CORP\\me", proxy_password=HARD), None
    ).access()
    over_aws = access.proxy_for("https://sts.eu-central-1.amazonaws.com")
    assert over_aws == vsphere.proxy
    assert vsphere.http_proxy == Proxy("proxy", 8080, "CORP\\me", HARD)
    assert vsphere.http_proxy is not None
    assert HARD in hidden
    assert {quote(HARD, safe=""), vsphere.http_proxy.headers["Proxy-Authorization"].split()[1]} <= set(hidden)
    for text in (repr(vsphere), repr(vsphere.http_proxy), vsphere.http_proxy.url, repr(access)):
        assert HARD not in text
        assert quote(HARD, safe="") not in text


def test_sms_15_a_login_in_the_proxy_s_address_is_used_and_hidden_in_logs(hidden: list[str]) -> None:
    config = config_of(_vsphere(proxy="me:geheim@proxy"), "vc")
    assert config.http_proxy == Proxy("proxy", 3128, "me", "geheim")
    aws = {"proxies": {"https": "http://me:geheim2@proxy"}}
    access = VmImportHook.from_connection(_aws(config_kwargs=aws), None).access()
    assert access.proxy_for("https://x") == "http://me:geheim2@proxy:80"
    assert {"geheim", "geheim2"} <= set(hidden)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"proxy_password": "x"}, "proxy_user is empty"),
        ({"proxy_user": "me", "proxy_password": "x", "config_kwargs": {}}, "no proxy"),
        ({"config_kwargs": {"proxies": {"https": "ftp://me:geheim@proxy"}}}, "does not have the form"),
    ],
)
def test_sms_15_half_a_login_of_a_proxy_is_refused(extra: dict[str, Any], words: str) -> None:
    given = {"config_kwargs": {"proxies": {"https": "http://proxy"}}, **extra}
    with pytest.raises(SpecError, match=words) as caught:
        VmImportHook.from_connection(_aws(**given), None)
    assert "geheim" not in str(caught.value)
    if "config_kwargs" not in extra:
        with pytest.raises(SpecError, match=words):
            config_of(_vsphere(proxy="proxy", **extra), "vc")


@pytest.mark.parametrize(
    "text",
    [
        "esx1",
        "esx1=",
        "=203.0.113.5",
        "esx1=203.0.113.5,esx2",
        "esx1=203.0.113.5:902",
        "esx1=evil.example/../",
        "esx1=-oProxy",
        "esx1=203.0.113.5\nesx2=203.0.113.6",
    ],
)
def test_addresses_of_hosts_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match="must be 'host name=address'"):
        config_of(_vsphere(esxi_addresses=text), "vc")


def test_a_host_with_two_addresses_is_refused() -> None:
    with pytest.raises(SpecError, match="names 'ESX1' twice"):
        config_of(_vsphere(esxi_addresses="esx1=203.0.113.5,ESX1=203.0.113.6"), "vc")


def test_amp_12_empty_fields_of_the_form_verify() -> None:
    config = config_of(_vsphere(certificate_mode="", thumbprint=None, esxi_mode=None, dns_suffixes=""), "vc")
    assert (config.certificate_mode, config.esxi_mode, config.dns_suffixes) == ("verify", "vcenter", ())


def test_a_connection_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was retried as if it might come back."""

    def missing(_hook: VsphereHook, conn_id: str) -> Connection:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

    monkeypatch.setattr(VsphereHook, "get_connection", missing)
    with pytest.raises(SpecError, match="no connection 'vc_gone'") as caught:
        VsphereHook("vc_gone").config()
    assert not caught.value.retryable


def test_an_aws_connection_that_does_not_exist_is_not_the_worker_s_own_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The Amazon provider goes on with the credentials that lie around; only the default may be left out."""

    def missing(_hook: VmImportHook, conn_id: str) -> Connection:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

    monkeypatch.setattr(VmImportHook, "get_connection", missing)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHERACCOUNT0001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of another account")
    with pytest.raises(SpecError, match="no connection 'aws_gone'") as caught:
        VmImportHook.of("aws_gone", "eu-west-1").access()
    assert not caught.value.retryable
    assert VmImportHook.of("aws_default", "eu-west-1").access().credentials().access_key == "AKIAOTHERACCOUNT0001"


@pytest.mark.parametrize(
    "extra",
    [{"certificate_mode": "off"}, {"esxi_mode": "none"}, {"esxi_mode": "pin"}, {"certificate_mode": "thumbprint"}],
)
def test_a_wrong_field_is_refused_by_name(extra: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=next(iter(extra))):
        config_of(_vsphere(**extra), "vc")


def test_what_is_loaded_on_a_connector_comes_from_its_own_configuration(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection is edited in the web UI: it must not name what a worker runs."""
    evil = {"vddk_libdir": "/tmp/evil", "nbdkit": "/tmp/evil/nbdkit", "vddk_config": "/tmp/evil.conf"}
    evil["vddk_compression"] = "fastlz"
    assert config_of(_vsphere(**evil), "vc").vddk is None
    assert "vddk_libdir of the connection vc is ignored: set [wavelift] nbdkit_folder" in caplog.text
    assert "vddk_config of the connection vc is ignored: set [wavelift] vddk_config" in caplog.text
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_PLUGIN", "vddk")
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_FOLDER", "/opt/vddk")
    found = config_of(_vsphere(**evil), "vc").vddk
    assert found is not None
    assert (found.plugin, found.folder, found.nbdkit, found.compression) == ("vddk", "/opt/vddk", "nbdkit", "fastlz")
    assert found.config_file == ""
    assert not any("/tmp/evil" in str(value) for value in vars(config_of(_vsphere(**evil), "vc")).values())
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_PLUGIN", "nfc")
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_FOLDER", "")
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT", "/opt/nbdkit/bin/nbdkit")
    found = config_of(_vsphere(**evil), "vc").vddk
    assert found is not None
    assert (found.plugin, found.folder, found.nbdkit) == ("nfc", "", "/opt/nbdkit/bin/nbdkit")
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_PLUGIN", "sh")
    with pytest.raises(SpecError, match=r"nbdkit_plugin is 'sh'.*vddk, nfc"):
        config_of(_vsphere(), "vc")


def test_every_field_of_reading_through_nbdkit_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_PLUGIN", "vddk")
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_FOLDER", "/opt/vddk")
    plain = config_of(_vsphere(), "vc").vddk
    assert plain is not None
    assert (plain.transports, plain.compression, plain.connections) == (("nbdssl", "nbd"), "none", 1)
    assert (plain.host_sessions, plain.vcenter_sessions, plain.nbdkit) == (8, 52, "nbdkit")
    fields = {
        "vddk_transports": "hotadd:nbdssl",
        "vddk_compression": "skipz",
        "vddk_connections": "2",
        "vddk_host_sessions": "12",
        "vddk_vcenter_sessions": 40,
    }
    monkeypatch.setenv("AIRFLOW__WAVELIFT__VDDK_CONFIG", "/etc/vddk.conf")
    full = config_of(_vsphere(**fields), "vc").vddk
    assert full is not None
    assert (full.transports, full.compression, full.connections) == (("hotadd", "nbdssl"), "skipz", 2)
    assert (full.config_file, full.host_sessions, full.vcenter_sessions) == ("/etc/vddk.conf", 12, 40)


@pytest.mark.parametrize(
    "extra",
    [
        {"vddk_connections": "few"},
        {"vddk_connections": True},
        {"vddk_connections": 1.5},
        {"vddk_connections": "0x2"},
        {"vddk_transports": "usb"},
        {"vddk_compression": "best"},
    ],
)
@pytest.mark.parametrize("plugin", ["vddk", ""])
def test_vddk_fields_that_cannot_be_are_named(
    extra: dict[str, Any], plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no plugin is set, as in the api-server, which answers the Test button."""
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_PLUGIN", plugin)
    monkeypatch.setenv("AIRFLOW__WAVELIFT__NBDKIT_FOLDER", "/opt/vddk")
    with pytest.raises(SpecError, match=next(iter(extra))):
        config_of(_vsphere(**extra), "vc")


def _given(monkeypatch: pytest.MonkeyPatch, hook: type[Any], connection: Connection) -> list[str]:
    """What Airflow is asked for; each answer is ``connection``."""
    asked: list[str] = []

    def get(_hook: Any, conn_id: str) -> Connection:
        asked.append(conn_id)
        return connection

    monkeypatch.setattr(hook, "get_connection", get)
    return asked


@pytest.mark.parametrize("kind", ["ssh", "aws", "generic", "", None])
def test_a_connection_of_another_type_is_no_vcenter(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    """Its password belongs to another system, and would be sent to this one."""
    connection = _vsphere()
    connection.conn_type = kind  # a secrets backend may leave it out
    _given(monkeypatch, VsphereHook, connection)
    with pytest.raises(SpecError, match=f"'vc' is of type {kind!r}, not 'vsphere'") as told:
        VsphereHook("vc").config()
    assert "a secret" not in str(told.value)
    good, words = VsphereHook("vc").test_connection()
    assert (good, "not 'vsphere'" in words) == (False, True)


@pytest.mark.parametrize("kind", ["ssh", "vsphere", "", None])
@pytest.mark.parametrize("name", ["aws_near", "aws_default"])
def test_a_connection_of_another_type_is_no_aws_account(
    monkeypatch: pytest.MonkeyPatch, kind: str | None, name: str
) -> None:
    connection = _aws()
    connection.conn_type = kind
    _given(monkeypatch, VmImportHook, connection)
    with pytest.raises(SpecError, match=f"is of type {kind!r}, not 'aws'"):
        VmImportHook.of(name, "eu-west-1").access()
    with pytest.raises(SpecError, match="not 'aws'"):
        VmImportHook.from_connection(connection, None)


@pytest.mark.parametrize("id", ["vc?x", "vc#x", "../variables/x", "a/b", "", "a b", "vc\n", "..", "%2e%2e", "x" * 300])
def test_an_id_that_leads_to_another_connection_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, id: str) -> None:
    """Airflow's workers ask for ``connections/<id>``."""
    asked = _given(monkeypatch, VsphereHook, _vsphere()) + _given(monkeypatch, VmImportHook, _aws())
    with pytest.raises(SpecError, match="not the id of a connection"):
        VsphereHook(id).config()
    if id:  # none at all means the worker's own credentials
        with pytest.raises(SpecError, match="not the id of a connection"):
            VmImportHook.of(id, "eu-west-1").access()
    assert asked == []


@pytest.mark.parametrize(
    "extra",
    [
        {"assume_role_method": "assume_role_with_web_identity", "assume_role_with_web_identity_federation": "file"},
        {"assume_role_with_web_identity_token_file": "FILE"},
        {"assume_role_method": "assume_role_with_saml", "assume_role_with_saml": {"idp_url": "https://evil.example"}},
        {"assume_role_with_saml": {}},
        {"assume_role_method": "run_a_program"},
    ],
)
def test_an_aws_connection_sends_no_file_of_the_worker_to_a_host_of_its_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    """The Amazon provider reads the file that the connection names, and sends it to the endpoint that it names."""
    secret = tmp_path / "airflow.cfg"
    secret.write_text("a secret of the worker")
    sent: list[str] = []
    monkeypatch.setattr(URLLib3Session, "send", lambda _self, request: sent.append(str(request.body)))
    extra = {name: str(secret) if value == "FILE" else value for name, value in extra.items()}
    connection = _aws(
        role_arn="arn:aws:iam::111122223333:role/x",
        service_config={"sts": {"endpoint_url": "https://evil.example"}},
        **{"assume_role_method": "assume_role_with_web_identity", "assume_role_with_web_identity_federation": "file"}
        | extra,
    )
    with pytest.raises(SpecError, match="aws_near") as told:
        VmImportHook.from_connection(connection, None).access().credentials()
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in told.value.next_step
    assert "a secret of the worker" not in f"{sent} {told.value}"
    assert sent == []


@pytest.mark.parametrize(
    "extra",
    [{"config_kwargs": {"no_such_thing": 1}}, {"config_kwargs": "text"}, {"config_kwargs": {"retries": {"mode": "x"}}}],
)
def test_an_aws_connection_that_botocore_does_not_take_is_an_error_of_ours(extra: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="'aws_near' is invalid"):
        VmImportHook.from_connection(_aws(**extra), None)


def test_a_ca_bundle_that_never_ends_is_not_read() -> None:
    for path in ("/dev/zero", "/dev/null"):
        with pytest.raises(SpecError, match="neither a file nor a folder"):
            VmImportHook.from_connection(_aws(verify=path), None).access()
        with pytest.raises(SpecError, match="neither a file nor a folder"):
            tls_context(config_of(_vsphere(ca_bundle=path), "vc"))


def test_a_file_that_is_no_ca_bundle_is_not_quoted(tmp_path: Path) -> None:
    """A path of a connection is a way to ask for a file of the worker."""
    secret = tmp_path / "airflow.cfg"
    secret.write_text("fernet_key = geheim")
    access = VmImportHook.from_connection(_aws(verify=str(secret)), None).access()
    with pytest.raises(SpecError, match="CA bundle") as first:
        tls_context(config_of(_vsphere(ca_bundle=str(secret)), "vc"))
    with pytest.raises(SpecError, match="CA bundle") as second:
        aws_tls_context(access.verify)
    assert "geheim" not in f"{first.value} {second.value}"


@pytest.mark.parametrize("extra", ["[]", '["a"]', "5", '"text"'])
def test_extra_fields_that_are_no_object_are_an_error_of_ours(extra: str) -> None:
    for connection, use in (
        (_vsphere(), lambda one: config_of(one, "vc")),
        (_aws(), lambda one: VmImportHook.from_connection(one, None).access()),
    ):
        connection.extra = extra
        with pytest.raises(SpecError, match="no JSON object"):
            use(connection)


@pytest.mark.parametrize("value", [5, True, 1.5, ["a"], {"a": 1}])
@pytest.mark.parametrize(
    "field",
    ["certificate_mode", "thumbprint", "esxi_mode", "esxi_thumbprints", "esxi_addresses", "proxy", "vddk_transports"],
)
def test_a_field_of_another_type_is_an_error_of_ours(field: str, value: Any) -> None:
    extra = {field: value}
    if field == "thumbprint":
        extra["certificate_mode"] = "thumbprint"
    try:
        assert config_of(_vsphere(**extra), "vc").http_proxy is not None  # 'http://5:3128' is one
    except SpecError:
        return
    assert field == "proxy"


def test_who_makes_a_connection_is_told_its_type_as_the_form_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_hook: Any, conn_id: str) -> Connection:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

    monkeypatch.setattr(VsphereHook, "get_connection", missing)
    monkeypatch.setattr(VmImportHook, "get_connection", missing)
    with pytest.raises(NoConnectionError) as vcenter:
        VsphereHook("vsphere_dc1").config()
    with pytest.raises(NoConnectionError) as aws:
        VmImportHook.of("aws_gone", "eu-west-1").access()
    made = "{}. Make it under Admin → Connections (type {}), or name another one in the spec"
    assert str(vcenter.value) == made.format("Airflow has no connection 'vsphere_dc1'", "VMware vCenter (wavelift)")
    assert str(aws.value) == made.format("Airflow has no connection 'aws_gone'", "Amazon Web Services")


def test_a_connection_of_another_team_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's error is an OSError, and was retried like an outage."""

    def denied(_hook: Any, conn_id: str) -> Connection:
        raise AirflowSecretsBackendAccessDenied(f"Access denied for connection {conn_id!r}")

    monkeypatch.setattr(VsphereHook, "get_connection", denied)
    monkeypatch.setattr(VmImportHook, "get_connection", denied)
    for use in (VsphereHook("vc").config, VmImportHook.of("aws_near", "eu-west-1").access):
        with pytest.raises(SpecError, match="refuses the connection") as told:
            use()
        assert "team" in told.value.next_step


@pytest.mark.parametrize(
    "host",
    [
        "https://vc.example",
        "vc.example/ui",
        "vc.example:443",
        "user@vc.example",
        "a b",
        "x" * 64,
        "a..b",
        "vc\n.example",
    ],
)
def test_a_host_that_is_no_name_is_refused_before_dns_is_asked(host: str) -> None:
    """It was looked up again and again, or ended in an error of Python's codec."""
    connection = _vsphere()
    connection.host = host
    with pytest.raises(SpecError, match="the host") as told:
        config_of(connection, "vc")
    assert "Admin → Connections" in told.value.next_step


@pytest.mark.parametrize("host", ["vc", "vc.example", "vc.example.", "10.0.0.5", "fd00::5", "[fd00::5]", "a-b.c_d"])
def test_names_and_addresses_are_hosts(host: str) -> None:
    connection = _vsphere()
    connection.host = host
    assert config_of(connection, "vc").host == host


@pytest.mark.parametrize("port", [-1, 65_536, 4_430_443])
def test_a_port_that_no_machine_has_is_refused(port: int) -> None:
    connection = _vsphere()
    connection.port = port
    with pytest.raises(SpecError, match=f"the port {port}"):
        config_of(connection, "vc")


@pytest.mark.parametrize("missing", ["host", "login"])
def test_a_connection_without_host_or_user_says_which(missing: str) -> None:
    connection = _vsphere()
    setattr(connection, missing, "")
    with pytest.raises(SpecError, match=f"lacks a {'host' if missing == 'host' else 'user'}") as told:
        config_of(connection, "vc")
    assert "'vc'" in str(told.value)


def test_an_endpoint_that_is_no_address_is_no_lost_login() -> None:
    with pytest.raises(SpecError, match="ec2: Invalid endpoint") as told:
        VmImportHook.from_connection(_aws(endpoint_url="somewhere"), None).access().client("ec2")
    assert "endpoint_url" in told.value.next_step


class Opening(OpensVcenter, OpensAws):
    """An operator near a vCenter."""


class Beginning(Opening):
    """The first task of a run that meets vCenter and AWS."""

    first_contact = True


class Supervisor:
    """Answers a task's request for a connection, as the SDK's does."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def send(self, request: Any) -> Any:
        self.asked.append(request.conn_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _nothing_found(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Supervisor:
    """Airflow finds no connection, whatever the reason, and the supervisor says it when it is asked itself."""

    def missing(_hook: Any, conn_id: str) -> Connection:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

    for hook in (VsphereHook, VmImportHook):
        monkeypatch.setattr(hook, "get_connection", missing)
    supervisor = Supervisor(answer)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    return supervisor


_EMPTY = dict.fromkeys(("host", "schema", "login", "password", "port", "extra"))
FOUND = ConnectionResult.model_validate({"conn_id": "vc", "conn_type": "vsphere", **_EMPTY})
AWAY = {"status_code": None, "message": "", "exception_type": "ConnectError"}


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=AWAY)), "ConnectError"),
        (AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 502})), "502"),
        (ErrorResponse(error=ErrorType.GENERIC_ERROR), "GENERIC_ERROR"),
        (FOUND, "it answers again"),
        (OSError("the line is cut"), "OSError"),
    ],
)
@pytest.mark.parametrize("id", ["aws_near", "aws_default"])
def test_an_api_server_that_is_away_is_no_missing_connection(
    monkeypatch: pytest.MonkeyPatch, answer: Any, detail: str, id: str
) -> None:
    """Airflow says the same of both. A task that failed for good left its snapshot behind, and without ``aws_default``
    the worker's own credentials would be taken, of whatever account they are."""
    supervisor = _nothing_found(monkeypatch, answer)
    for use in (VsphereHook("vc").config, VmImportHook.of(id, "eu-west-1").access):
        with pytest.raises(UnreachableError, match="did not answer for the connection") as told:
            use()
        assert told.value.retryable
        assert detail in str(told.value)
    assert supervisor.asked == ["vc", id]


def test_a_connection_that_is_missing_is_wrong_on_the_first_contact_and_waited_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Airflow says the same of a secrets backend that is away, and nothing tells the two apart."""
    _nothing_found(monkeypatch, ErrorResponse(error=ErrorType.CONNECTION_NOT_FOUND))
    first, later = Beginning(), Opening()
    for use in (lambda: first.vcenter("vc"), lambda: first.aws("aws_near", "eu-west-1")):
        with pytest.raises(NoConnectionError):
            use()
    for use in (lambda: later.vcenter("vc"), lambda: later.aws("aws_near", "eu-west-1")):
        with pytest.raises(UnreachableError, match="Airflow has no connection") as told:
            use()
        assert "secrets backend" in told.value.next_step


def test_a_name_that_does_not_exist_is_wrong_on_the_first_contact_and_an_outage_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = _vsphere()
    connection.host = "vc.example"
    _given(monkeypatch, VsphereHook, connection)

    def no_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(SpecError, match=r"vc\.example cannot be resolved") as told:
        Beginning().vcenter("vc")
    assert told.value.next_step.startswith("Correct the host under Admin → Connections")
    with pytest.raises(UnreachableError) as later:
        Opening().vcenter("vc")
    assert later.value.retryable

    def no_answer(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_answer)
    with pytest.raises(UnreachableError) as silent:
        Beginning().vcenter("vc")
    assert silent.value.retryable, "the DNS server was silent: nobody said that the name is wrong"


class OpeningAws(OpensAws):
    """An operator that reaches AWS after pre-flight has reached it."""


class BeginningAws(OpensAws):
    """The first task of a run that reaches it."""

    first_contact = True


@pytest.mark.parametrize(
    "said", [AirflowNotFoundException("not defined"), AirflowSecretsBackendAccessDenied("Access denied")]
)
def test_a_connection_that_was_there_before_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    """Airflow says that it has none also while its api-server is away: no snapshot may stay for that."""

    def away(_hook: Any, _conn_id: str) -> Connection:
        raise said

    monkeypatch.setattr(VsphereHook, "get_connection", away)
    monkeypatch.setattr(VmImportHook, "get_connection", away)
    for first in (lambda: Beginning().vcenter("vc"), lambda: BeginningAws().aws("near", "eu-west-1")):
        with pytest.raises(SpecError):
            first()
    for later in (lambda: Opening().vcenter("vc"), lambda: OpeningAws().aws("near", "eu-west-1")):
        with pytest.raises(UnreachableError) as told:
            later()
        assert told.value.retryable
        assert "api-server" in told.value.next_step
        assert "Admin → Connections" in told.value.next_step, "it may be gone all the same"


@pytest.mark.parametrize("host", ["ana:geheim@vc.example", "https://ana:geheim@vc.example", "a:ge/heim@vc.example"])
def test_a_login_in_the_host_is_not_told(host: str) -> None:
    """It went into logs, XCom and the report: Airflow hides only what stands in the field of the password."""
    connection = _vsphere()
    connection.host = host
    with pytest.raises(SpecError, match=r"'\*\*\*@vc\.example'") as told:
        config_of(connection, "vc")
    assert "heim" not in str(told.value)


def test_a_login_in_an_endpoint_is_not_told() -> None:
    for endpoint in ("ana:geheim@x", "http://ana:geheim@aws.example", "https://ana:geheim@127.0.0.1:9"):
        extra = {"endpoint_url": endpoint, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
        with pytest.raises(WaveliftError) as told:
            Ec2(VmImportHook.from_connection(_aws(**extra), None).access()).snapshots(["snap-1"])
        assert "geheim" not in str(told.value)
        assert "***@" in str(told.value)
