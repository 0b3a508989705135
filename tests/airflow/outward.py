"""An environment of the running Airflow whose instances are exported to S3, and what a person does with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.airflow.waves import environment_text
from tests.airflow.world import World

ENVIRONMENT: Final = "outward"
DAG: Final = f"instance_export.{ENVIRONMENT}"
NAME: Final = "tests"
"""Of all environments of the account and region."""
BUCKET: Final = f"export-to-s3-{NAME}-eu-central-1"
PREFIX: Final = f"{ENVIRONMENT}/"
COMMAND_SECONDS: Final = 600


@dataclass
class Outward:
    world: World

    @property
    def instance(self) -> str:
        """One with one disk, which a wave's run has launched."""
        return str(self.world.early["full"].ends("success").outcome("full-web")["instance_id"])

    def get(self, path: str) -> dict[str, Any]:
        return dict(self.world.airflow.client("op").call("GET", f"/wavelift{path}"))

    def objects(self) -> list[str]:
        """Keys of this environment's objects."""
        found = self.world.aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=PREFIX)
        return [one["Key"] for one in found.get("Contents", [])]

    def cli(self, *arguments: str, user: str = "op") -> subprocess.CompletedProcess[str]:
        """``wavelift export ARGUMENTS`` of this user."""
        airflow = self.world.airflow
        login = {"WAVELIFT_USER": user, "WAVELIFT_PASSWORD": airflow.password_of(user), "WAVELIFT_URL": airflow.url}
        return subprocess.run(
            [str(Path(sys.executable).parent / "wavelift"), "export", *arguments],
            env={**airflow.environment, **login, "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )


@contextmanager
def exporting(world: World) -> Iterator[Outward]:
    """The environment is there until the end; then its objects go, and the bucket if it was not there before."""
    there = BUCKET in world.aws.state()["buckets"]
    exports = {"name": NAME, "prefix": PREFIX}
    file = world.dags / "environments" / f"{ENVIRONMENT}.yaml"
    file.write_text(environment_text(world.stage, ENVIRONMENT, ["default"], exports=exports))
    world.airflow.wait_for_dag(DAG)
    made = Outward(world)
    yield made
    file.unlink()
    s3 = world.aws.client("s3")
    for key in made.objects():
        s3.delete_object(Bucket=BUCKET, Key=key)
    if not there:
        s3.delete_bucket(Bucket=BUCKET)
