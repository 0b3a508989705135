"""What stands between this machine and AWS: a proxy that makes no tunnel, or one that signs TLS anew (SMS-15)."""

from __future__ import annotations

import re
import ssl
from typing import Final
from urllib.parse import urlsplit

from wavelift.base.errors import SpecError, TlsError, WaveliftError
from wavelift.base.net import PKIX, causes, tls_fault
from wavelift.base.tunnel import LOGIN_WANTED, Proxy, ProxyAway, ProxyRefused, offered_logins, proxy_error

PROXY_FIELDS: Final = (
    "the AWS connection (proxies in config_kwargs, with proxy_user and proxy_password beside it) or in this worker's "
    "HTTPS_PROXY"
)
ASK_TIMEOUT_S: Final = 5.0
"""For a question whose answer only makes a message better."""
AWS_HOST: Final = "sts.amazonaws.com"
"""What a proxy is asked for when the error does not say for what it was asked."""
HTTPS_PORT: Final = 443
_REFUSED: Final = re.compile(r"Tunnel connection failed: (\d{3}) ?(.*)")
"""http.client's words, also within urllib3's and botocore's. They keep nothing else of the proxy's answer."""
_NO_PATH: Final = re.compile(
    r"self[- ]signed certificate|unable to (get|verify)|unable to find valid cert", re.IGNORECASE
)


def refused_login(error: BaseException) -> bool:
    """Whether a proxy answered 407. Time does not cure that, and further tries can lock the account."""
    return any(_refused(each) == LOGIN_WANTED for each in causes(error))


def _refused(error: BaseException) -> int:
    """The status with which a proxy refused a tunnel; 0: this error is no such refusal."""
    if isinstance(error, ProxyRefused):
        return error.status
    said = _REFUSED.search(str(error)) if isinstance(error, OSError) else None
    return int(said[1]) if said else 0


def proxy_failure(
    error: BaseException, *, url: str = "", proxy: str | None = None, **where: object
) -> WaveliftError | None:
    """``error`` as one of ours if a proxy is its reason, else None.

    :param url: what was asked for. :param proxy: the proxy's URL, where the error does not tell it.
    """
    for each in causes(error):
        if isinstance(each, ProxyRefused | ProxyAway):
            return proxy_error(each, where=PROXY_FIELDS, **where)
        kwargs = getattr(each, "kwargs", None)
        if isinstance(kwargs, dict):
            proxy = proxy or kwargs.get("proxy_url")
            url = url or str(kwargs.get("endpoint_url") or "")
        said = _REFUSED.search(str(each)) if isinstance(each, OSError) else None
        if said:
            return proxy_error(_answer(int(said[1]), said[2], url, proxy), where=PROXY_FIELDS, **where)
    return None


def _answer(status: int, reason: str, url: str, proxy: str | None) -> ProxyRefused:
    """What the proxy said. Its ways to log in are asked for again, as nobody kept them."""
    try:
        known = Proxy.parse(proxy or "", default_port=80)
    except SpecError:  # a proxy of another kind, or nobody knows which
        return ProxyRefused(Proxy("of this worker", 0), _place(url), status, reason)
    host, port = _target(url)
    schemes = offered_logins(known, host, port, timeout=ASK_TIMEOUT_S) if status == LOGIN_WANTED else ()
    return ProxyRefused(known, _place(url), status, reason, schemes)


def _target(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or AWS_HOST, parts.port or HTTPS_PORT


def _place(url: str) -> str:
    return urlsplit(url).netloc or "AWS"


def is_certificate_error(error: BaseException) -> bool:
    """True for a refused certificate; a connection cut in mid-TLS is an ``SSLError`` too, and only a cut."""
    texts = [str(each).lower() for each in causes(error)]
    return any("certificate verify failed" in text or "doesn't match" in text for text in texts)


def certificate_refused(error: BaseException, what: str, *, next_step: str = "", **where: object) -> TlsError:
    """``error``, for which :func:`is_certificate_error` holds, with the words that users search for.

    :param what: what was being done, and the library's words.
    """
    faults = {tls_fault(each) for each in causes(error) if isinstance(each, ssl.SSLCertVerificationError)}
    if "unknown issuer" not in faults and (faults or not _NO_PATH.search(str(error))):
        hint = "Check the host in endpoint_url, this machine's clock, and any TLS-inspecting proxy on the way"
        return TlsError(what, next_step=next_step or hint, **where)
    hint = (
        "No authority that signed it is trusted: a TLS-inspecting proxy may sign anew. Set the CA bundle (verify) of "
        "the AWS connection to a PEM file with its authority"
    )
    return TlsError(f"{what} ({PKIX})", next_step=next_step or hint, **where)
