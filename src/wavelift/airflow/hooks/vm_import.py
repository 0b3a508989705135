"""Airflow connection ``aws`` → :class:`~wavelift.adapters.aws.access.AwsAccess`: S3, VM Import, EC2 and EBS direct."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from wavelift.base.errors import SpecError

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from wavelift.adapters.aws.access import AwsAccess, Outages
    from wavelift.base.run import CancelFlag


class VmImportHook(AwsBaseHook):
    """The Amazon provider's connection handling (profiles, assumed roles, endpoints, proxies) for wavelift's adapters.

    Thick wrapper around the AWS connection; what it opens are our own clients, with one retry layer.
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
        """For triggers: the connection was fetched asynchronously, nothing here asks for it again."""
        hook = cls.of(connection.conn_id, region_name, **kwargs)
        hook._use(connection)
        return hook

    def _use(self, connection: Connection) -> None:
        from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper

        self.__dict__["conn_config"] = AwsConnectionWrapper(
            conn=connection, region_name=self._region_name, botocore_config=self._config, verify=self._verify
        )

    def access(self, cancel: CancelFlag | None = None, *, proven: bool = False) -> AwsAccess:
        """An :class:`AwsAccess`; its credentials are asked for at every request, so they may expire.

        :param cancel: the task's wish to stop: its control calls may then wait for the end of an outage.
        :param proven: see :class:`AwsAccess`.
        :raises LoginError: its profile, keys or role give no credentials.
        :raises SpecError: there is no such connection. The Amazon provider would go on with the worker's own
            credentials, in whatever account they are; only its default connection may be missing.
        """
        from wavelift.adapters.aws.access import PROVIDER_ERRORS, AwsAccess, credential_failure
        from wavelift.airflow.config import patience_s

        if "conn_config" not in self.__dict__ and self.aws_conn_id not in (None, "", self.default_conn_name):
            self._use(self._existing(self.aws_conn_id))
        config = self.conn_config
        try:
            session = self.get_session(region_name=self.region_name)  # a role is assumed here already
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

    def _existing(self, aws_conn_id: str) -> Connection:
        try:
            return self.get_connection(aws_conn_id)
        except AirflowNotFoundException as error:
            raise SpecError(
                f"Airflow has no connection {aws_conn_id!r}",
                next_step="Create it under Admin, Connections (type aws), or name another one",
            ) from error
