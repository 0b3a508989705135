"""One reading of AWS's service models for all sessions of a process."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from botocore.loaders import Loader
from botocore.session import get_session

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.models import read_models, share_models

pytestmark = pytest.mark.unit


def session() -> boto3.Session:
    return boto3.Session("AKIAEXAMPLE", "secret", None, "eu-west-1")


def loader_of(one: boto3.Session) -> Loader:
    found: Loader = one._session.get_component("data_loader")
    return found


def test_two_connections_share_what_one_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read_models(["ebs"])
    read: list[str] = []
    real = Loader.load_data_with_path

    def watched(loader: Loader, name: str) -> object:
        key = ("load_data_with_path", name)
        if key not in loader._cache:
            read.append(name)
        return real(loader, name)

    monkeypatch.setattr(Loader, "load_data_with_path", watched)
    for _ in range(2):
        AwsAccess(session()).client("ebs")
    assert not [name for name in read if name.startswith("ebs/") and "extras" not in name], read


def test_a_connection_with_models_of_its_own_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    one = boto3.Session("AKIAEXAMPLE", "secret", None, "eu-west-1", botocore_session=get_session())
    own = loader_of(one)
    share_models(one)
    assert loader_of(one) is own


def test_a_loader_that_somebody_changed_stays() -> None:
    class Theirs(Loader):  # type: ignore[misc]  # botocore has no types
        pass

    added, replaced = session(), session()
    loader_of(added).search_paths.insert(0, "/their/models")
    replaced._session.register_component("data_loader", Theirs())
    for one in (added, replaced):
        own = loader_of(one)
        share_models(one)
        assert loader_of(one) is own
