"""The TLS policy towards ESXi hosts, which serve downloads under certificates of their own (AMP-12).

By default vCenter vouches: the thumbprint that it reports for the host (over a verified connection) must be that of
the presented certificate. Where vCenter reports none, the authorities decide.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence

from wavelift.adapters.vsphere.session import VsphereConfig
from wavelift.base.net import ignoring_context, pin, verifying_context

log = logging.getLogger(__name__)

OVERRIDE = "esxi_mode (ca with a CA bundle, pin, or ignore) of the vSphere connection"


def esxi_context(
    config: VsphereConfig, host: str, port: int, reported: Sequence[str], *, timeout: float
) -> ssl.SSLContext:
    """The context for one ESXi host.

    :param reported: thumbprints that vCenter reports for it; empty texts are left out. :param timeout: seconds.
    :raises TlsError: the presented certificate is not the expected one. :raises UnreachableError: no connection.
    """
    if config.esxi_mode == "ignore":
        log.warning(
            "esxi_mode=ignore: the certificate of ESXi host %s:%d is NOT checked, anybody in between can read disks",
            host,
            port,
        )
        return ignoring_context()
    known = config.esxi_thumbprints if config.esxi_mode == "pin" else tuple(text for text in reported if text)
    if config.esxi_mode == "ca" or not known:
        return verifying_context(config.ca_bundle)
    address = config.esxi_address(host)
    return pin(host, port, known, timeout=timeout, proxy=config.http_proxy, override=OVERRIDE, address=address)
