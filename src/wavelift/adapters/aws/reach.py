"""Checks whether a machine reaches AWS with the credentials of a connection, and how far its clock is off (SMS-01).

S3 is asked without a signature: any answer proves the network path and the certificate, and it needs no permission.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import urllib3

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.connections import pool_through, tls_context
from wavelift.adapters.aws.errors import aws_errors
from wavelift.adapters.aws.ways import certificate_refused, proxy_failure
from wavelift.base.errors import UnreachableError


def sign_in(access: AwsAccess) -> tuple[str, timedelta | None]:
    """The caller's account, and how far AWS's clock is ahead of ours to within a second; None when it told no time.

    :raises WaveliftError: no way to STS, or it refuses the credentials (a skewed clock is a cause of that, too).
    """
    asked = datetime.now(UTC)
    with aws_errors("could not log in to AWS", service="sts"):
        answer = access.client("sts").get_caller_identity()
    return str(answer["Account"]), _ahead(answer["ResponseMetadata"]["HTTPHeaders"].get("date"), asked)


def reach_s3(access: AwsAccess) -> str:
    """The endpoint of S3, once it has answered.

    :raises UnreachableError: no answer. :raises TlsError: its certificate is refused.
    """
    url = str(access.client("s3").meta.endpoint_url)
    connect, read = access.timeouts()
    proxy = access.proxy_for(url)
    pool = pool_through(
        proxy,
        timeout=urllib3.Timeout(connect=connect, read=read),
        retries=False,
        ssl_context=tls_context(access.verify),
    )
    try:
        pool.request("HEAD", url, redirect=False)
    except urllib3.exceptions.SSLError as error:
        raise certificate_refused(error, f"the certificate of S3 is refused: {error}", endpoint=url) from error
    except urllib3.exceptions.HTTPError as error:
        if (refused := proxy_failure(error, url=url, proxy=proxy, endpoint=url)) is not None:
            raise refused from error
        raise UnreachableError(
            f"S3 does not answer: {error}", next_step="Check DNS, proxy and firewall towards port 443", endpoint=url
        ) from error
    finally:
        pool.clear()
    return url


def _ahead(date: str | None, asked: datetime) -> timedelta | None:
    if not date:
        return None
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    return theirs - (asked + (datetime.now(UTC) - asked) / 2)
