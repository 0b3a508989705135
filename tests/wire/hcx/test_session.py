"""The login: its token, its errors, and its end in the middle of the work."""

from __future__ import annotations

import json
import threading

import pytest
from tests.wire.hcx.conftest import Pair

from wavelift.adapters.hcx.doctor import test_connection as told_connection
from wavelift.adapters.hcx.inventory import Inventory
from wavelift.adapters.hcx.transport import RefusedRequestError
from wavelift.base.errors import LoginError, UnreachableError
from wavelift.base.rest import Ask, RestClient

pytestmark = pytest.mark.wire


def test_one_login_serves_many_calls(pair: Pair, client: RestClient) -> None:
    inventory = Inventory(client)
    before = pair.calls("Login")
    for _ in range(3):
        assert [each.name for each in inventory.managers()] == ["HCX-CLOUD"]
    assert pair.calls("Login") - before == 1


def test_an_ended_session_is_begun_again_once(pair: Pair, client: RestClient) -> None:
    inventory = Inventory(client)
    inventory.managers()
    pair.hcx.expire_sessions()
    before = pair.calls("Login")
    threads = [threading.Thread(target=inventory.managers) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert inventory.managers()
    assert pair.calls("Login") - before == 1


@pytest.mark.parametrize("xml", [True, False])
def test_a_wrong_password_is_told_once_and_never_tried_again(pair: Pair, xml: bool) -> None:
    pair.hcx.settings(xml_login_errors=xml)
    before = pair.calls("Login")
    with pair.access(password="wrong").client() as client:
        for _ in range(2):
            with pytest.raises(LoginError) as caught:
                Inventory(client).managers()
    assert pair.calls("Login") - before == 1, "a further try could lock the account"
    assert "Invalid username or password" in str(caught.value)
    assert "wrong" not in str(caught.value).replace("wrong user", "")
    assert json.dumps(caught.value.where).count("password") == 0


def test_a_manager_that_starts_is_waited_for(pair: Pair, client: RestClient) -> None:
    pair.hcx.settings(starting=True)
    timer = threading.Timer(0.5, pair.hcx.settings, kwargs={"starting": False})
    timer.start()
    try:
        assert Inventory(client).managers()
    finally:
        timer.join()
    assert pair.calls("Login") > 1


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_the_words_of_a_starting_manager_decide_not_its_status(pair: Pair, status: int) -> None:
    words = "'Trusted root certificates' value should not be empty"
    pair.hcx.rule(operation="Login", status=status, message=words, xml=True)
    with pair.access(patience_s=0.0).client() as client, pytest.raises(UnreachableError, match="still starting"):
        Inventory(client).managers()


def test_an_outage_is_borne(pair: Pair, client: RestClient) -> None:
    pair.hcx.rule(operation="ListClouds", status=503, count=2)
    pair.hcx.rule(operation="ListClouds", cut_response_after=0, skip=2, count=1)
    assert Inventory(client).managers()


@pytest.mark.parametrize("xml", [True, False])
def test_a_refusal_is_told_in_hcxs_words(pair: Pair, client: RestClient, xml: bool) -> None:
    pair.hcx.rule(operation="ListClouds", status=400, message="The cloud is shut", xml=xml)
    with pytest.raises(RefusedRequestError, match="The cloud is shut"):
        Inventory(client).managers()


def test_it_leads_to_hcx_only(pair: Pair) -> None:
    """Something else at this address: no token."""
    pair.hcx.rule(operation="Login", status=200)
    with pair.access(patience_s=0.0).client() as client, pytest.raises(UnreachableError):
        client.send(Ask("GET", "/hybridity/api/cloudConfigs"))


def test_the_test_button_names_version_user_and_the_other_site(pair: Pair) -> None:
    words = told_connection(pair.access())
    assert words.startswith("HCX HCX-CONN at 127.0.0.1:")
    assert words.endswith("signed in as administrator@vsphere.local, paired with HCX-CLOUD (HCX 4.10.0)")
