"""urllib's way to an answer: proxies of the environment and redirects, on connections that are kept.

The invariant: whatever a server redirects to, no request uses another scheme than http and https, falls back from
https to http, or gives a proxy's credentials to another server; and of a redirect's body a short one at most is
read.
"""

from __future__ import annotations

import urllib.request
from typing import Any
from urllib.parse import urlsplit

from ebooklet_tx.stores.http.connections import Answer, Connections


def http_only_opener(connections: Connections) -> urllib.request.OpenerDirector:
    """Returns an opener for http and https alone, so that a redirect to another scheme fails."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _KeepingHandler(connections),
        urllib.request.HTTPDefaultErrorHandler(),
        SafeRedirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "ebooklet_tx"), ("Accept", "*/*")]
    return opener


class _KeepingHandler(urllib.request.AbstractHTTPHandler):
    """Sends the requests on connections that are kept; urllib's own handlers close each one."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> Answer:
        return self._connections.ask(req)

    https_open = http_open
    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, except from https to http."""

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        # urllib would read the whole body, however long it is.
        fp.finish()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        # With None the redirect itself is the answer, which counts as a refusal.
        if req.type == "https" and urlsplit(newurl).scheme.lower() != "https":
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            # The next one may go past the proxy; if not, it gets them again.
            following.remove_header("Proxy-authorization")
        return following


__all__ = ["SafeRedirects", "http_only_opener"]
