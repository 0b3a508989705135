"""One try of the task that reads an instance's snapshots, as a process of its own: what it does comes as JSON on
standard input, keys included; the result is one line of JSON. Its checkpoints lie in a file that outlives it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3
from tests.contexts import context_of

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.errors import WaveliftError
from wavelift.services.dataplane.export_messages import ExportOrder
from wavelift.services.dataplane.instance_export import read_instance

from .export_lab import RUN
from .phase_worker import FileStore, memory


def main(told: dict[str, Any]) -> dict[str, Any]:
    order = ExportOrder.load(told["order"])
    access = AwsAccess(boto3.Session(**told["keys"]), **told["aws"])
    ctx = context_of(RUN, checkpoints=FileStore(Path(told["store"])))
    access.client("s3"), access.client("ebs"), access.client("ec2")
    idle = memory("VmRSS")
    try:
        written = read_instance(access, order, ctx)
    except WaveliftError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"result": written.dump(), "added": memory("VmHWM") - idle}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))), flush=True)
