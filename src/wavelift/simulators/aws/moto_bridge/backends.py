"""What moto holds of EC2, IAM, KMS and others, in one account and region."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.ec2.models import ec2_backends
from moto.elbv2.models import elbv2_backends
from moto.iam.models import iam_backends
from moto.kms.models import kms_backends
from moto.route53.models import route53_backends

from wavelift.simulators.aws.keys import SERVICE_ALIAS, Key
from wavelift.simulators.aws.settings import ACCOUNT, Settings
from wavelift.simulators.aws.vmimport.roles import Document, load


@dataclass(frozen=True, slots=True)
class Role:
    """A role of IAM: its trust policy and all its permission policies."""

    arn: str
    trust: Document
    policies: list[Document]


class Backends:
    """moto's state is global and not safe for threads: make one at a time, and hold ``lock`` for every use.

    Making one empties moto.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lock = threading.RLock()
        BackendDict.reset()
        reset_model_data()

    @property
    def ec2(self) -> Any:
        return ec2_backends[ACCOUNT][self._settings.region]

    @property
    def elbv2(self) -> Any:
        return elbv2_backends[ACCOUNT][self._settings.region]

    @property
    def route53(self) -> Any:
        return route53_backends[ACCOUNT][self._settings.partition]

    @property
    def _kms(self) -> Any:
        return kms_backends[ACCOUNT][self._settings.region]

    def role(self, name: str) -> Role | None:
        with self.lock:
            backend = iam_backends[ACCOUNT][self._settings.partition]
            found = next((role for role in backend.get_roles() if role.name == name), None)
            if found is None:
                return None
            documents = [load(text) for text in found.policies.values()]
            for policy in found.managed_policies.values():
                current = (item for item in policy.versions if item.version_id == policy.default_version_id)
                documents += [load(item.document) for item in current]
            return Role(str(found.arn), load(found.assume_role_policy_document), documents)

    def profile_roles(self, name: str) -> list[str]:
        """The ARNs of an instance profile's roles; none, if it does not exist."""
        with self.lock:
            profiles = iam_backends[ACCOUNT][self._settings.partition].instance_profiles.values()
            return [str(role.arn) for one in profiles if one.name == name for role in one.roles]

    def find_key(self, text: str) -> Key | None:
        """A KMS key of this account and region, by id, ARN, alias or alias's ARN."""
        parts = text.split(":")
        if text.startswith("arn:") and parts[3:5] != [self._settings.region, ACCOUNT]:
            return None
        with self.lock:
            try:
                found = self._kms.describe_key(text)
            except Exception:
                return None
            services = [name.removeprefix(SERVICE_ALIAS) for name in found.aliases if name.startswith(SERVICE_ALIAS)]
            return Key(
                arn=str(found.arn),
                state=str(found.key_state),
                spec=str(found.key_spec),
                usage=str(found.key_usage or "ENCRYPT_DECRYPT"),  # KMS's default, which moto leaves empty
                service=services[0] if services else "",
            )

    def key_arn(self, key: str) -> str:
        """The ARN of a KMS key, by id, ARN or alias."""
        with self.lock:
            return str(self._kms.describe_key(key).arn)
