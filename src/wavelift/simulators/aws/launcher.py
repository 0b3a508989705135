"""Start the AWS simulator as a process, and use it."""

from __future__ import annotations

import base64
import json
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wavelift.simulators.aws.canonical import exporter
from wavelift.simulators.aws.settings import partition_of
from wavelift.simulators.aws.vmimport.roles import export_policy_document, policy_document, trust_document
from wavelift.simulators.kit.client import Simulator, launch
from wavelift.simulators.kit.process import SimulatorProcess

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
    isolated_group_id: str
    """A security group that lets nothing in."""
    kms_key_arn: str


class AwsSimulator(Simulator):
    """A running simulator of AWS."""

    def __init__(self, process: SimulatorProcess, hello: dict[str, Any], state: Path) -> None:
        super().__init__(process, hello, state)
        self.endpoint_url: str = hello["url"]
        self.region: str = hello["region"]
        self.access_key, self.secret_key = ACCESS_KEY, SECRET_KEY
        self._making = threading.Lock()  # a boto3 session is not safe for threads, and slow to make: it loads models
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    def expire_sessions(self) -> int:
        """End all of AssumeRole's sessions now; how many."""
        return int(self.control("POST", "credentials")["expired"])

    def write_volume(self, volume_id: str, block: int, data: bytes) -> None:
        """Write into a block (512 KiB) of a volume, as its guest does; what is missing in the block is zero."""
        values = {"volume": volume_id, "block": block, "data": base64.b64encode(data).decode()}
        self.control("POST", "volumes", values)

    def write_at(self, volume_id: str, offset: int, data: bytes) -> None:
        """Write bytes at an offset of a volume, as its guest does; the bytes around them stay."""
        values = {"volume": volume_id, "offset": offset, "data": base64.b64encode(data).decode()}
        self.control("POST", "volume/write", values)

    def amend(self, resource_id: str, **fields: Any) -> dict[str, Any]:
        """Make an instance, image or snapshot what no call of ours makes it (``moto_bridge/cases.py`` has the fields):
        of AWS Marketplace, of another account, Windows from AWS."""
        found: dict[str, Any] = self.control("POST", "resources", {"id": resource_id, **fields})
        return found

    def _constraint(self) -> dict[str, Any]:
        """CreateBucket names every region but one."""
        if self.region == "us-east-1":
            return {}
        return {"CreateBucketConfiguration": {"LocationConstraint": self.region}}

    def bucket_elsewhere(self, name: str, *, region: str = "", account: str = "") -> None:
        """Make a bucket of another region or another account. :meth:`drop_bucket` removes it."""
        self.control("POST", "buckets", {"name": name, "region": region, "account": account})

    def drop_bucket(self, name: str) -> None:
        self.control("DELETE", "buckets", {"name": name})

    def export_bucket(self, name: str = "exports") -> str:
        """Make a bucket into which exports of instances and images may write; its name. The role ``vmimport`` of
        :meth:`bootstrap` may write there, too."""
        grantee = f'id="{exporter(self.region)}"'
        self.client("s3").create_bucket(
            Bucket=name,
            ObjectOwnership="BucketOwnerPreferred",
            GrantWrite=grantee,
            GrantReadACP=grantee,
            **(
                {} if self.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
            ),
        )
        document = json.dumps(export_policy_document(name, partition_of(self.region)))
        self.client("iam").put_role_policy(RoleName="vmimport", PolicyName=f"vmimport-{name}", PolicyDocument=document)
        return name

    def hold(self, user: str, policies: Sequence[Mapping[str, Any]]) -> Any:
        """A boto3 session of a new user of this account, who may do only what these identity policies allow."""
        key = f"AKIAHELD{secrets.token_hex(6).upper()}"
        secret = secrets.token_urlsafe(30)
        values = {"user": user, "access_key": key, "secret_key": secret, "policies": list(policies)}
        self.control("POST", "identities", values)
        return self.session(aws_access_key_id=key, aws_secret_access_key=secret)

    def held(self) -> dict[str, dict[str, Any]]:
        """By user: what was ``used`` of the policies (statement, action, times), and what was ``denied``."""
        found = self.control("GET", "identities")
        return {one["user"]: one for one in found.values()}

    def address_log(self) -> list[dict[str, Any]]:
        """When each private address came up with an instance, and went down (``up``), oldest first."""
        found: list[dict[str, Any]] = self.control("GET", "addresses")
        return found

    def let_go(self) -> None:
        """Forget the users of :meth:`hold`."""
        self.control("DELETE", "identities")

    def client(self, service: str, **options: Any) -> Any:
        """A boto3 client with the permanent keys, always the same one. With ``options`` (of ``Session.client``), a new
        one."""
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
        """The value of boto3's parameter ``verify``."""
        return str(self.ca_file) if self.ca_file else True

    def environment(self) -> dict[str, str]:
        """Environment variables that make boto3 and the AWS CLI use this simulator."""
        found = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return found | ({"AWS_CA_BUNDLE": str(self.ca_file)} if self.ca_file else {})

    def bootstrap(self, bucket: str = "staging", *, role: bool = True) -> Bootstrap:
        """Make a bucket, the vmimport role, a role to assume, a VPC with two subnets and two security
        groups, and a KMS key.

        A bucket or role that exists stays.
        """
        s3, iam, ec2, kms = (self.client(name) for name in ("s3", "iam", "ec2", "kms"))
        if bucket not in {item["Name"] for item in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=bucket, **self._constraint())
        arn = self._roles(iam, bucket, role)
        vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        subnets = tuple(
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.20.{number}.0/24", AvailabilityZone=f"{self.region}{zone}")[
                "Subnet"
            ]["SubnetId"]
            for number, zone in ((1, "a"), (2, "b"))
        )
        group, isolated = (
            ec2.create_security_group(GroupName=f"{name}-{vpc}", Description=name, VpcId=vpc)["GroupId"]
            for name in ("wavelift", "isolated")
        )
        key = kms.create_key(Description="staging and volumes")["KeyMetadata"]["Arn"]
        return Bootstrap(bucket, "vmimport", arn, vpc, subnets, group, isolated, key)

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
    """Start a simulator that writes below ``state`` and ends with this process at the latest.

    ``settings`` are fields of :class:`.settings.Settings` (``evidence=True``, ``region=...``, ``phase_seconds=...``).
    Raises SimulatorError with the end of its log if it does not start.
    """
    program = [sys.executable, "-m", "wavelift.simulators.aws"]
    process = launch(program, state, tls=tls, listen=listen, settings=settings)
    return AwsSimulator(process, process.ready(), state)
