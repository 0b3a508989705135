"""What HCX says of extensions, in forms that no simulator uses: doubt is never taken for an end."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from tests.contexts import run_context

from wavelift.adapters.hcx.extensions import Extensions
from wavelift.adapters.hcx.transport import RefusedRequestError
from wavelift.base.rest import Answer, Ask, RestClient, UnreadableError
from wavelift.base.run import DagRun
from wavelift.services.dataplane.steps.network import ExtensionRemoved

pytestmark = pytest.mark.unit

OURS = {"stretchId": "ext-1", "sourceNetwork": {"networkId": "dvportgroup-30"}}


class Told:
    """A client that gives one answer to all."""

    def __init__(self, body: Any, status: int = 200) -> None:
        self.answer = Answer(status, {}, json.dumps(body).encode(), "HCX")

    def send(self, ask: Ask, **where: object) -> Answer:
        return self.answer


def client(body: Any, status: int = 200) -> RestClient:
    return cast(RestClient, Told(body, status))


def test_a_job_is_followed_whatever_errors_stand_beside_it() -> None:
    told = client({"id": "job-1", "errors": [{"message": "one appliance did not answer"}]}, 202)
    assert Extensions(told).unextend("ext-1", connect=True) == "job-1"
    with pytest.raises(RefusedRequestError, match="did not answer"):
        Extensions(client({"errors": [{"message": "it did not answer"}]}, 202)).unextend("ext-1", connect=True)


@pytest.mark.parametrize(
    "items", [None, {}, "none", [None], ["ext-1"], [OURS, 5]], ids=["null", "object", "text", "null item", "id", "mix"]
)
def test_a_list_in_another_form_is_no_empty_one(items: Any) -> None:
    with pytest.raises(UnreadableError):
        Extensions(client({"items": items})).list()


@pytest.mark.parametrize("network", [None, {}, "VLAN-100", {"networkName": "VLAN-100"}, {"networkId": None}])
def test_an_extension_without_its_network_may_be_ours(network: Any) -> None:
    listed = client({"items": [{**OURS, "sourceNetwork": network}]})
    step = ExtensionRemoved(
        listed,
        run_context(DagRun("web.network_cutover", "r1")),
        source_id="dvportgroup-30",
        record=OURS,
        guards=(lambda: None, lambda: None),
    )
    with pytest.raises(UnreadableError, match="ext-1"):
        step.read()
