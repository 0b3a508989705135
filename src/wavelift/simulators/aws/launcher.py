"""Start the simulator as a process of its own and talk to it."""

from __future__ import annotations

import json
import select
import ssl
import subprocess
import sys
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from wavelift.simulators.aws.settings import partition_of
from wavelift.simulators.aws.vmimport.roles import policy_document, trust_document

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
CONTROL_SECONDS: Final = 30.0
ACCESS_KEY: Final = "AKIASIMULATOR0000001"
SECRET_KEY: Final = "simulator-secret-key"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What :meth:`AwsSimulator.bootstrap` made or found."""

    bucket: str
    role: str
    assumable_role_arn: str
    vpc_id: str
    subnet_ids: tuple[str, ...]
    security_group_id: str
    kms_key_arn: str


class AwsSimulator:
    """A running simulator. As a context manager it ends at the end of the block; its folder is the caller's."""

    def __init__(self, process: subprocess.Popen[bytes], hello: dict[str, Any], state: Path) -> None:
        self._process = process
        self.state_folder = state
        self.endpoint_url: str = hello["url"]
        self.control_url: str = hello["control"]
        self.ca_file: Path | None = Path(hello["ca_file"]) if hello["ca_file"] else None
        self.region: str = hello["region"]
        self.access_key, self.secret_key = ACCESS_KEY, SECRET_KEY
        self.pid: int = hello["pid"]
        self._making = threading.Lock()  # boto3 sessions are not made for threads, and dear: they load the models
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._tls = ssl.create_default_context(cafile=str(self.ca_file)) if self.ca_file else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, gently and then not. Idempotent."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    # control

    def control(self, method: str, name: str, values: dict[str, Any] | None = None) -> Any:
        """One call to ``/_sim/<name>``. Raises urllib's HTTPError when it is refused."""
        request = urllib.request.Request(
            f"{self.control_url}/{name}",
            method=method,
            data=json.dumps(values or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=CONTROL_SECONDS, context=self._tls) as answer:
            return json.loads(answer.read())

    def rule(self, **values: Any) -> int:
        """Add a fault rule (fields: :class:`.faults.Rule`); its id."""
        return int(self.control("POST", "rules", values)["id"])

    def clear_rules(self) -> None:
        self.control("DELETE", "rules")

    def rules(self) -> list[dict[str, Any]]:
        """The rules in force, with how often each matched and applied."""
        found: list[dict[str, Any]] = self.control("GET", "rules")
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.control("GET", "state")
        return found

    def counters(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = self.control("GET", "counters")
        return found

    def evidence(self) -> dict[str, Any]:
        found: dict[str, Any] = self.control("GET", "evidence")
        return found

    def settings(self, **values: Any) -> dict[str, Any]:
        """Change settings (fields: :class:`.settings.Settings`); all of them as they are now."""
        found: dict[str, Any] = self.control("POST", "settings", values)
        return found

    def advance(self, seconds: float) -> None:
        """Let the simulator's clock jump."""
        self.control("POST", "clock", {"advance": seconds})

    def expire_sessions(self) -> int:
        """End all AssumeRole sessions now; how many."""
        return int(self.control("POST", "credentials")["expired"])

    def reset(self) -> None:
        """As just started (the bootstrap is gone too); evidence stays."""
        self.control("POST", "reset")

    # use

    def client(self, service: str, **options: Any) -> Any:
        """A plain boto3 client with the permanent keys, the same each time; with ``options``, which go to
        ``Session.client``, one of its own."""
        with self._making:
            if not options and service in self._clients:
                return self._clients[service]
            if self._session is None:
                self._session = self.session()
            made = self._session.client(
                service, **{"endpoint_url": self.endpoint_url, "verify": self.verify, **options}
            )
            if not options:
                self._clients[service] = made
            return made

    def session(self, **credentials: str) -> Any:
        """A boto3 session in the region, by default with the permanent keys."""
        import boto3

        keys = credentials or {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return boto3.Session(region_name=self.region, **keys)

    @property
    def verify(self) -> str | bool:
        """For boto3's parameter of that name."""
        return str(self.ca_file) if self.ca_file else True

    def environment(self) -> dict[str, str]:
        """Variables under which boto3 and the AWS CLI find this simulator."""
        found = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return found | ({"AWS_CA_BUNDLE": str(self.ca_file)} if self.ca_file else {})

    def bootstrap(self, bucket: str = "staging", *, role: bool = True) -> Bootstrap:
        """Bucket, vmimport role, a role to assume, a VPC with two subnets and a group, a KMS key: what exists stays."""
        s3, iam, ec2, kms = (self.client(name) for name in ("s3", "iam", "ec2", "kms"))
        if bucket not in {item["Name"] for item in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": self.region})
        arn = self._roles(iam, bucket, role)
        vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        subnets = tuple(
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.20.{number}.0/24", AvailabilityZone=f"{self.region}{zone}")[
                "Subnet"
            ]["SubnetId"]
            for number, zone in ((1, "a"), (2, "b"))
        )
        group = ec2.create_security_group(GroupName=f"wavelift-{vpc}", Description="migrated", VpcId=vpc)
        key = kms.create_key(Description="staging and volumes")["KeyMetadata"]["Arn"]
        return Bootstrap(bucket, "vmimport", arn, vpc, subnets, group["GroupId"], key)

    def _roles(self, iam: Any, bucket: str, with_vmimport: bool) -> str:
        known = {item["RoleName"]: item["Arn"] for item in iam.list_roles()["Roles"]}
        if with_vmimport:
            if "vmimport" not in known:
                iam.create_role(RoleName="vmimport", AssumeRolePolicyDocument=json.dumps(trust_document()))
            document = json.dumps(policy_document(bucket, partition_of(self.region)))
            iam.put_role_policy(RoleName="vmimport", PolicyName=f"vmimport-{bucket}", PolicyDocument=document)
        if "wavelift" not in known:
            anybody = {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
            }
            created = iam.create_role(RoleName="wavelift", AssumeRolePolicyDocument=json.dumps(anybody))
            return str(created["Role"]["Arn"])
        return str(known["wavelift"])


def start(state: Path, *, tls: bool = False, listen: str = "127.0.0.1:0", **settings: Any) -> AwsSimulator:
    """Start a simulator that keeps everything below ``state`` and ends with this process at the latest.

    ``settings`` are fields of :class:`.settings.Settings` (``evidence=True``, ``region=...``, ``phase_seconds=...``).
    Raises RuntimeError with its last words when it does not come up.
    """
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "wavelift.simulators.aws", "--state", str(state), "--listen", listen]
    command += ["--until-stdin-closes", *(["--tls"] if tls else [])]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    log = state / "simulator.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if ready else b""
    try:
        hello = json.loads(line)
    except ValueError:
        process.kill()
        process.communicate()
        raise RuntimeError(f"the AWS simulator did not start: {log.read_text()[-2000:]}") from None
    return AwsSimulator(process, hello, state)
