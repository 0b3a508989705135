"""Backups of instances: an image of all volumes, and a launch template that starts another instance like this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import GONE_STATES, Ec2, Image
from wavelift.adapters.aws.errors import aws_errors, error_code
from wavelift.adapters.aws.tagging import from_aws, specification
from wavelift.adapters.aws.texts import description
from wavelift.base.errors import NotFoundError, PermanentError, UnreachableError, WaveliftError

SOURCE_TAG: Final = "wavelift:backup-of"
"""On images of :meth:`Backups.create_image`: the instance."""


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """:ivar name: unique in account and region, 3 to 128 characters: a repeated name finds the image made before.
    :ivar reboot: shut the guest down for the snapshots: file systems are at rest. Without it the image is
        crash-consistent, as after a power cut."""

    instance_id: str
    name: str
    reboot: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def parameters(self) -> dict[str, Any]:
        tags = {**self.tags, SOURCE_TAG: self.instance_id}
        return {
            "InstanceId": self.instance_id,
            "Name": self.name,
            "NoReboot": not self.reboot,
            "Description": description(self.description),
            "TagSpecifications": [*specification("image", tags), *specification("snapshot", tags)],
        }


@dataclass(frozen=True, slots=True)
class TemplateVersion:
    """A version of a launch template."""

    template_id: str
    name: str
    version: int
    image_id: str = ""


class Backups:
    """Images of instances, and launch templates, of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access, self._ec2 = access, Ec2(access)

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    def create_image(self, request: BackupRequest) -> Image:
        """Begin an image; its state is ``pending`` at first. Wait with :meth:`image`.

        :raises PermanentError: the name is taken by an image of another instance.
        :raises UnreachableError: by one that EC2 does not show: look again.
        """
        known = self._ec2.image_named(request.name)
        if known is None:
            try:
                with aws_errors("could not begin the backup", service="ec2", instance=request.instance_id):
                    image_id = self._client.create_image(**request.parameters())["ImageId"]
                return Image(image_id=image_id, state="pending", name=request.name)
            except WaveliftError as error:
                said = error.__cause__
                if not isinstance(said, ClientError) or error_code(said) != "InvalidAMIName.Duplicate":
                    raise
                known = self._ec2.image_named(request.name)  # our first answer was lost
                if known is None:
                    raise UnreachableError(
                        "EC2 has an image of this name, and does not show it yet",
                        next_step="The retry looks again; a disabled image is never shown",
                        instance=request.instance_id,
                        name=request.name,
                    ) from error
        if known.tags.get(SOURCE_TAG) != request.instance_id:
            raise PermanentError(
                "the name of the backup is taken by an image of something else",
                next_step="Look at that image; when nobody needs it, deregister it and try again",
                image=known.image_id,
                name=request.name,
            )
        return known

    def image(self, image_id: str) -> Image:
        """:raises NotFoundError: there is no such image. :raises PermanentError: AWS could not make it."""
        found = self._ec2.images([image_id]).get(image_id)
        if found is None:
            raise NotFoundError("there is no such image", next_step="Check region and account", image=image_id)
        if found.state in {"failed", "error", "invalid"}:
            raise PermanentError(
                f"AWS could not make the image: it is {found.state}",
                next_step="Look at its state reason, deregister it, then make another backup",
                image=image_id,
            )
        return found

    def save_template(
        self, name: str, image_id: str, instance_id: str, *, token: str, tags: Mapping[str, str]
    ) -> TemplateVersion:
        """A launch template that starts ``image_id`` as the instance is: type, subnet, groups, key and profile.

        Without a private address: the instance that it was made of has that. A template of this name gets a new
        version, and that becomes its default; the same token gives the same version.

        :raises NotFoundError: there is no such instance.
        """
        data = self._data_of(instance_id, image_id)
        template = self._template(name)
        with aws_errors("could not save the launch template", service="ec2", template=name, instance=instance_id):
            if template is None:
                made = self._client.create_launch_template(
                    ClientToken=token,
                    LaunchTemplateName=name,
                    VersionDescription=token,
                    LaunchTemplateData=data,
                    TagSpecifications=specification("launch-template", tags),
                )["LaunchTemplate"]
                return TemplateVersion(made["LaunchTemplateId"], name, int(made["LatestVersionNumber"]), image_id)
        known = self._version(template, name, token)
        if known is None:
            with aws_errors("could not save the launch template", service="ec2", template=name):
                version = self._client.create_launch_template_version(
                    ClientToken=token, LaunchTemplateId=template, VersionDescription=token, LaunchTemplateData=data
                )["LaunchTemplateVersion"]
            known = TemplateVersion(template, name, int(version["VersionNumber"]), image_id)
        with aws_errors("could not make the new version the default", service="ec2", template=name):
            self._client.modify_launch_template(LaunchTemplateId=template, DefaultVersion=str(known.version))
        return known

    def _template(self, name: str) -> str | None:
        chosen = [{"Name": "launch-template-name", "Values": [name]}]
        with aws_errors("could not look at the launch template", service="ec2", template=name):
            found = self._client.describe_launch_templates(Filters=chosen)["LaunchTemplates"]
        return str(found[0]["LaunchTemplateId"]) if found else None

    def _version(self, template: str, name: str, token: str) -> TemplateVersion | None:
        """EC2 forgets client tokens in time; a version's description stays."""
        pages = self._client.get_paginator("describe_launch_template_versions").paginate(LaunchTemplateId=template)
        with aws_errors("could not look at the launch template", service="ec2", template=name):
            for page in pages:
                for one in page["LaunchTemplateVersions"]:
                    if one.get("VersionDescription") == token:
                        image = one.get("LaunchTemplateData", {}).get("ImageId", "")
                        return TemplateVersion(template, name, int(one["VersionNumber"]), image)
        return None

    def _data_of(self, instance_id: str, image_id: str) -> dict[str, Any]:
        chosen = [{"Name": "instance-id", "Values": [instance_id]}]
        with aws_errors("could not look at the instance", service="ec2", instance=instance_id):
            found = self._client.describe_instances(Filters=chosen)["Reservations"]
        instances = [one for row in found for one in row["Instances"] if one["State"]["Name"] not in GONE_STATES]
        if not instances:
            raise NotFoundError("there is no such instance", next_step="Check account and region", instance=instance_id)
        return _template_data(instances[0], image_id)


def _template_data(instance: Mapping[str, Any], image_id: str) -> dict[str, Any]:
    interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": instance["SubnetId"], "AssociatePublicIpAddress": False}
    if groups := [group["GroupId"] for group in instance.get("SecurityGroups", ())]:
        interface["Groups"] = groups
    tags = {name: value for name, value in from_aws(instance.get("Tags", [])).items() if not name.startswith("aws:")}
    data: dict[str, Any] = {
        "ImageId": image_id,
        "InstanceType": instance["InstanceType"],
        "NetworkInterfaces": [interface],
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
    }
    if tags:
        data["TagSpecifications"] = [*specification("instance", tags), *specification("volume", tags)]
    if instance.get("KeyName"):
        data["KeyName"] = instance["KeyName"]
    if profile := instance.get("IamInstanceProfile"):
        data["IamInstanceProfile"] = {"Arn": profile["Arn"]}
    return data
