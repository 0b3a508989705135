"""botocore's descriptions of AWS services, read once per process and shared by all sessions.

A boto3 client of EC2 reads and parses 3 MB of JSON. botocore keeps that per session, and Airflow's hooks make a session
per connection; here it is kept per process, and a process that forks hands it to its children.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import boto3
from botocore.loaders import Loader, create_loader

BOTO3_MODELS: Final = str(Path(boto3.__file__).parent / "data")
"""What boto3 adds to every session for its resources, which we do not use."""


@cache
def _loader() -> Loader:
    return create_loader(None)


def share_models(session: boto3.Session) -> None:
    """Let ``session`` use the models that this process has read; one with models of its own keeps them."""
    core = session._session  # boto3 hands its botocore session out nowhere
    own, shared = core.get_component("data_loader"), _loader()
    if type(own) is Loader and set(own.search_paths) <= {*shared.search_paths, BOTO3_MODELS}:
        core.register_component("data_loader", shared)


def read_models(services: Iterable[str]) -> None:
    """Read what clients of these services will ask for. Makes no client: no session, no credentials, no connection."""
    import boto3.s3.inject  # noqa: F401 - which boto3 imports with the first S3 client

    loader = _loader()
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(name)
    for service in services:
        for kind in ("service-2", "endpoint-rule-set-1"):
            # With the argument that botocore gives: its cache goes by the call's words.
            loader.load_service_model(service, kind, api_version=None)
