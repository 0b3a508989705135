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
BUCKET: Final = "export-to-s3-pages-eu-central-1"
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
        """Of the objects in the bucket."""
        return [one["Key"] for one in self.world.aws.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]

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
    """The environment is there until the end; then its bucket goes with all that lies in it."""
    file = world.dags / "environments" / f"{ENVIRONMENT}.yaml"
    file.write_text(environment_text(world.stage, ENVIRONMENT, ["default"], exports={"name": "pages"}))
    world.airflow.wait_for_dag(DAG)
    made = Outward(world)
    yield made
    file.unlink()
    s3 = world.aws.client("s3")
    for key in made.objects():
        s3.delete_object(Bucket=BUCKET, Key=key)
    s3.delete_bucket(Bucket=BUCKET)
