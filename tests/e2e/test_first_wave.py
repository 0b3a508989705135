"""``wavelift simulators up --write`` as a person starts it: its files fit what runs, and stay."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tests.e2e.conftest import WAVELIFT, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("first_wave")]
LOOK: Final = """
import json, os, boto3, yaml
from pathlib import Path
given = json.loads(os.environ["AIRFLOW_CONN_AWS_DEMO"])
extra = given["extra"]
ec2 = boto3.client("ec2", aws_access_key_id=given["login"], aws_secret_access_key=given["password"], **extra)
spec = yaml.safe_load((Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / "environments" / "demo.yaml").read_text())
ec2.describe_vpcs(VpcIds=[spec["vpc"]])
ec2.describe_subnets(SubnetIds=spec["subnets"])
ec2.describe_security_groups(GroupIds=spec["security_groups"])
print("all there")
"""


def test_the_written_files_fit_the_running_simulators_and_stay_when_they_stop(tmp_path: Path) -> None:
    folder, told = tmp_path / "first", tmp_path / "told"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "WAVELIFT"))}
    with told.open("wb") as out:
        process = subprocess.Popen(
            [str(WAVELIFT), "simulators", "up", "--write", str(folder)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=inherited,
        )
    try:
        until(lambda: process.poll() is not None or "Ctrl-C stops" in told.read_text(), "the simulators")
        assert process.poll() is None, told.read_text()

        def shell(command: str) -> str:
            script = f". {shlex.quote(str(folder / 'env'))} && {command}"
            done = subprocess.run(["bash", "-euc", script], env=inherited, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert shell(f"wavelift wave validate {folder}/dags") == "1 wave and 1 groups file and 1 environment valid\n"
        assert shell(f"python -c {shlex.quote(LOOK)}") == "all there\n"
        secret = shell('printf %s "$WAVELIFT_PASSWORD"')
        assert secret
        assert secret not in told.read_text()
        assert "AIRFLOW_CONN" not in told.read_text(), "the connections are in the file only"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert (folder / "env").stat().st_mode & 0o777 == 0o600
    assert (folder / "dags" / "waves" / "demo.yaml").is_file()
