"""Airflow connection ``aws`` → :class:`~wavelift.adapters.aws.access.AwsAccess`: S3, VM Import, EC2 and EBS direct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

from wavelift.airflow.hooks.connections import PLACE, check_type, connection_of, extra_of, proxy_of
from wavelift.base.errors import NoConnectionError, SpecError

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
    from airflow.sdk import Connection

    from wavelift.adapters.aws.access import AwsAccess
    from wavelift.base.run import CancelFlag


ASSUME_ROLE: Final = "assume_role"
HTTP_PORT: Final = 80
"""Of a proxy whose URL has no port, as botocore takes it."""


class VmImportHook(AwsBaseHook):
    """Uses the Amazon provider's connection handling (profiles, roles, endpoints, proxies) for wavelift's adapters.

    It wraps the AWS connection. The clients that it opens are wavelift's own, with one retry layer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["client_type"] = "ec2"
        super().__init__(*args, **kwargs)

    @classmethod
    def of(
        cls,
        aws_conn_id: str,
        region_name: str | None,
        *,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> Self:
        from botocore.config import Config

        return cls(
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            config=Config(**botocore_config) if botocore_config else None,
        )

    @classmethod
    def from_connection(cls, connection: Connection, region_name: str | None, **kwargs: Any) -> Self:
        """For triggers: the caller has fetched the connection asynchronously, and the hook does not fetch it again."""
        hook = cls.of(connection.conn_id, region_name, **kwargs)
        hook._use(connection)
        return hook

    def _use(self, connection: Connection) -> None:
        from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
        from botocore.exceptions import BotoCoreError

        check_type(connection, self)
        _refuse_methods(connection)
        try:
            made = AwsConnectionWrapper(
                conn=connection, region_name=self._region_name, botocore_config=self._config, verify=self._verify
            )
            self.__dict__["conn_config"] = _with_proxy_login(made, extra_of(connection))
        except (AttributeError, BotoCoreError, NotImplementedError, TypeError, ValueError) as error:
            raise SpecError(
                f"The AWS connection {connection.conn_id!r} is invalid: {error}",
                next_step=f"Correct its extra fields (config_kwargs …) under {PLACE}",
            ) from error

    def access(self, cancel: CancelFlag | None = None, *, proven: bool = False) -> AwsAccess:
        """An :class:`AwsAccess`. It asks for credentials at every request, so they may expire.

        :param cancel: the task's cancel flag. With it, control calls may wait for the end of an outage.
        :param proven: see :class:`AwsAccess`.
        :raises LoginError: the profile, keys or role give no credentials.
        :raises SpecError: there is no such connection. The Amazon provider would use the worker's own credentials
            instead, which may belong to any account. Only the provider's default connection may be missing. Or the
            connection is of another type, or asks for a way to take a role that a connection may not ask for.
        """
        from wavelift.adapters.aws.access import PROVIDER_ERRORS, AwsAccess, Outages, credential_failure
        from wavelift.airflow.config import patience_s

        if "conn_config" not in self.__dict__ and self.aws_conn_id:
            self._look_up(self.aws_conn_id)
        config = self.conn_config
        try:
            session = self.get_session(region_name=self.region_name)  # this call already assumes the role
        except PROVIDER_ERRORS as error:
            raise credential_failure(error) from error
        return AwsAccess(
            session=session,
            region=self.region_name or config.region_name,
            endpoint_url=config.get_service_endpoint_url,
            verify=config.verify if config.verify is not None else True,
            config=config.botocore_config,
            outages=Outages(patience_s(), cancel, proven),
        )

    def _look_up(self, aws_conn_id: str) -> None:
        try:
            self._use(connection_of(self, aws_conn_id))
        except NoConnectionError:
            if aws_conn_id != self.default_conn_name:
                raise


def _with_proxy_login(config: AwsConnectionWrapper, extra: Mapping[str, Any]) -> AwsConnectionWrapper:
    """``config`` whose HTTP proxies (``config_kwargs``) have the login of ``proxy_user`` and ``proxy_password``, and
    whose passwords are hidden in logs.

    :raises SpecError: see :func:`proxy_of`, or there is a login and no proxy.
    """
    from botocore.config import Config

    botocore = config.botocore_config
    proxies: dict[str, str] = (botocore.proxies if botocore else None) or {}
    if botocore is None or not proxies:
        if extra.get("proxy_user") or extra.get("proxy_password"):
            raise SpecError(
                f"The AWS connection {config.conn_id!r} has a login of a proxy, but no proxy",
                next_step=f'Give config_kwargs {{"proxies": {{"https": "http://host:port"}}}} under {PLACE}',
            )
        return config
    login = {
        scheme: url if str(url).startswith("https://") else proxy_of(extra, str(url), default_port=HTTP_PORT)
        for scheme, url in proxies.items()
    }
    config.botocore_config = botocore.merge(Config(proxies=login))
    return config


def _refuse_methods(connection: Connection) -> None:
    """Of the Amazon provider's ways to take a role, only STS's AssumeRole is safe in the hands of whoever may edit the
    connection. The others read a file of the worker, or sign in with the worker's own identity at a host, and send
    what they got to an endpoint; the connection names file, host and endpoint.

    :raises SpecError: the connection asks for another one.
    """
    extra = extra_of(connection)
    method = extra.get("assume_role_method") or ASSUME_ROLE
    foreign = [name for name in extra if name.startswith("assume_role_with_")]
    if method != ASSUME_ROLE or foreign:
        field = foreign[0] if foreign else "assume_role_method"
        raise SpecError(
            f"{field} of the AWS connection {connection.conn_id!r} is refused: it may only ask for assume_role",
            next_step="Sign in with a web identity or SAML by the worker's own configuration: AWS_ROLE_ARN and "
            "AWS_WEB_IDENTITY_TOKEN_FILE in its environment, or a profile of its ~/.aws/config (profile_name)",
        )
