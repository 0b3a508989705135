"""A browser sends Airflow's cookie with requests that other pages make: only our own pages may write with it.

The cookie is ``SameSite=Lax``, which keeps it from foreign sites but not from siblings: a page of
``wiki.example.com`` posts to ``airflow.example.com`` with the login of whoever looks at it. A bearer token is nothing
that a browser adds by itself, so a request that carries one needs no origin.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from wavelift.airflow import config

READING: Final = frozenset(("GET", "HEAD", "OPTIONS"))
"""No route of ours changes anything when it is called with one of these methods."""
SAME_ORIGIN: Final = "same-origin"
REFUSED: Final = (
    "This request came with the login cookie from a page of another origin ({origin}), so it was refused. "
    "Use Airflow's own pages, or send an API token as 'Authorization: Bearer …'. If it was Airflow's own page, the "
    "proxy in front changes the address: set [api] base_url to the one that browsers use"
)


class SameOrigin:
    """Refuses (403) what would write with a cookie and doesn't come from this Airflow's own pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            # Without any cookie there is no login that a browser could have added: the routes refuse by themselves.
            if "cookie" in headers and not bearer_token(headers) and not _same_origin(headers, scope["scheme"]):
                origin = headers.get("origin") or headers.get("sec-fetch-site") or "none told"
                answer = JSONResponse({"detail": REFUSED.format(origin=origin)}, status_code=403)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def bearer_token(headers: Headers) -> str:
    """The bearer token of the request, or an empty string. Like Airflow, we prefer it to the cookie."""
    scheme, token = get_authorization_scheme_param(headers.get("authorization"))
    return token if scheme.lower() == "bearer" else ""


def _same_origin(headers: Headers, scheme: str) -> bool:
    """Decide by ``Sec-Fetch-Site``. Browsers do not send it over plain HTTP: then the origin must be our own."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == SAME_ORIGIN
    origin = _origin(headers.get("origin", ""))
    return origin is not None and origin in (
        _origin(f"{scheme}://{headers.get('host', '')}"),
        _origin(config.api_url()),
    )


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None for what has none, as the ``null`` of a sandboxed page."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None:
        return None
    return parts.scheme, parts.hostname, port
