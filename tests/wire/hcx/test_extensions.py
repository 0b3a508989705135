"""Network extensions of both generations."""

from __future__ import annotations

from typing import Any

import pytest
from tests.wire.hcx.conftest import GATEWAY, SEGMENT, SOURCE_NETWORK, TIER, Pair

from wavelift.adapters.hcx.extensions import Extensions
from wavelift.adapters.hcx.jobs import Job, Jobs
from wavelift.adapters.hcx.transport import RefusedRequestError
from wavelift.base.errors import NotFoundError, UnreachableError
from wavelift.base.rest import LostAnswerError, RestClient

pytestmark = pytest.mark.wire


@pytest.fixture
def extended(pair: Pair) -> str:
    return pair.hcx.extend(SOURCE_NETWORK, gateway=GATEWAY, tier=TIER)


def finished(pair: Pair, client: RestClient, job_id: str) -> Job:
    for _ in range(20):
        job = Jobs(client).read(job_id)
        if job.over:
            return job
        pair.hcx.advance(1.0)
    raise AssertionError(job.words)


def test_the_list_has_all_that_the_plan_shows(pair: Pair, client: RestClient, extended: str) -> None:
    (found,) = Extensions(client).list()
    assert found.id == extended
    assert (found.gateway, found.netmask) == ("10.1.2.1", "255.255.255.0")
    assert found.source_name == SOURCE_NETWORK
    assert found.source_vcenter == pair.source.inventory()["instance_uuid"]
    assert (found.destination_id, found.destination_name, found.destination_gateway) == (SEGMENT, "app", TIER)
    assert found.mon is False
    assert found.raw["stretchId"] == extended


@pytest.mark.parametrize("connect", [True, False])
def test_hcx_06_unextend_with_a_job(pair: Pair, client: RestClient, extended: str, connect: bool) -> None:
    job = Extensions(client).unextend(extended, connect=connect)
    assert job is not None
    assert not Jobs(client).read(job).over
    assert finished(pair, client, job).words == "done"
    assert Extensions(client).find(extended) is None
    assert pair.nsx.segment(SEGMENT)["advanced_config"]["connectivity"] == ("ON" if connect else "OFF")


def test_hcx_06_unextend_without_a_job(pair: Pair, client: RestClient, extended: str) -> None:
    pair.hcx.settings(extensions="network")
    extensions = Extensions(client)
    assert extensions.unextend(extended, connect=True) is None
    assert extensions.find(extended) is not None, "it takes a while"
    pair.hcx.advance(1.0)
    assert extensions.find(extended) is None
    assert pair.nsx.segment(SEGMENT)["advanced_config"]["connectivity"] == "ON"
    assert extensions.unextend(extended, connect=True) is None, "gone is gone"


@pytest.mark.parametrize("end", ["didFail", "isCancelled", "isRolledBack"])
def test_hcx_06_done_is_not_good(pair: Pair, client: RestClient, extended: str, end: str) -> None:
    pair.hcx.settings(unextend_fails="kept", job_end=end)
    job = Extensions(client).unextend(extended, connect=True)
    assert job is not None
    found = finished(pair, client, job)
    assert found.done
    assert found.bad
    assert Extensions(client).find(extended) is not None


def test_hcx_06_a_lost_answer_is_not_sent_again(pair: Pair, client: RestClient, extended: str) -> None:
    pair.hcx.rule(operation="Unextend", cut_response_after=0, count=1)
    with pytest.raises(LostAnswerError):
        Extensions(client).unextend(extended, connect=True)
    assert pair.calls("Unextend") == 1
    pair.hcx.advance(1.0)
    assert Extensions(client).find(extended) is None, "the list tells"


def test_a_second_order_while_the_first_works_is_refused_in_words(
    pair: Pair, client: RestClient, extended: str
) -> None:
    pair.hcx.settings(unextend_seconds=1000.0)
    Extensions(client).unextend(extended, connect=True)
    with pytest.raises(RefusedRequestError, match="in progress"):
        Extensions(client).unextend(extended, connect=True)
    pair.hcx.advance(1000.0)


@pytest.mark.parametrize("generation", ["l2", "network"])
def test_hcx_07_an_extension_is_made_again_from_its_record(
    pair: Pair, client: RestClient, extended: str, generation: str
) -> None:
    extensions = Extensions(client)
    (record,) = extensions.list()
    extensions.unextend(extended, connect=False)
    pair.hcx.advance(1.0)
    assert not extensions.list()
    pair.hcx.settings(extensions=generation)
    job = extensions.create(record.raw)
    if generation == "l2":
        assert job is not None
        assert finished(pair, client, job).words == "done"
    (made,) = extensions.list()
    assert made.id != extended
    same: dict[str, Any] = {
        name: getattr(record, name) for name in ("gateway", "netmask", "source_id", "destination_id")
    }
    assert {name: getattr(made, name) for name in same} == same


def test_an_unreadable_list_is_not_an_empty_one(pair: Pair) -> None:
    pair.hcx.rule(operation="ListExtensions", status=200, message="busy")
    with pair.access(patience_s=0.0).client() as client, pytest.raises(UnreachableError):
        Extensions(client).list()


def test_a_job_that_nobody_knows(client: RestClient) -> None:
    with pytest.raises(NotFoundError):
        Jobs(client).read("nowhere")
