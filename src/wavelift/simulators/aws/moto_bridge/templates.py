"""Launch templates: client tokens, versions from versions, and launches from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moto.core.responses import ActionResult

from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import check_tagged, plain
from wavelift.simulators.aws.tags import check_client_token


class TemplateActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...

    def create_launch_template(self) -> ActionResult:
        check_tagged(plain(self.params), {"launch-template"})
        known, remember = self._token("CreateLaunchTemplate")
        if known is not None:
            return ActionResult(known)
        result: ActionResult = super().create_launch_template()  # type: ignore[misc]
        made: Any = result.result
        data = self.ec2_backend.get_launch_template(made["LaunchTemplate"]["LaunchTemplateId"]).default_version().data
        if specs := data.get("TagSpecifications"):  # moto adds the template's own tags to those of its launches
            data["TagSpecifications"] = [one for one in specs if one["ResourceType"] != "launch-template"]
        remember(made)
        return result

    def create_launch_template_version(self) -> ActionResult:
        known, remember = self._token("CreateLaunchTemplateVersion")
        if known is not None:
            return ActionResult(known)
        if source := self._get_param("SourceVersion"):
            template = (
                self.ec2_backend.get_launch_template(self._get_param("LaunchTemplateId"))
                if self._get_param("LaunchTemplateId")
                else self.ec2_backend.get_launch_template_by_name(self._get_param("LaunchTemplateName"))
            )
            before = plain(template.get_version(source).data)
            self.params["LaunchTemplateData"] = {**before, **plain(self._get_param("LaunchTemplateData") or {})}
        result: ActionResult = super().create_launch_template_version()  # type: ignore[misc]
        remember(result.result)
        return result

    def _token(self, operation: str) -> tuple[Any, Any]:
        """What the request's client token made before, or None, and how to remember what it makes."""
        token = self._get_param("ClientToken") or ""
        check_client_token(token)
        fingerprint = json.dumps(plain(self.params), sort_keys=True, default=str)

        def remember(made: Any) -> None:
            if token:
                self.account.made[operation, token] = (fingerprint, made)

        return self.account.repeated(operation, token, fingerprint), remember


def apply_template(ec2: Any, params: dict[str, Any]) -> dict[str, str]:
    """Fill a RunInstances request from its launch template. The tags that EC2 gives to the instances."""
    named = params.pop("LaunchTemplate", None)
    if not named:
        return {}
    version = ec2._get_template_from_args(plain(named))
    for name, value in plain(version.data).items():
        if value is not None and not params.get(name):
            params[name] = value
    return {
        "aws:ec2launchtemplate:id": str(version.template.id),
        "aws:ec2launchtemplate:version": str(version.number),
    }
