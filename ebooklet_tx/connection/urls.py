"""Checks of http(s) addresses, and their text without credentials."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ebooklet_tx.connection.checks import check_object_key, shown
from ebooklet_tx.errors import InvalidArgumentError

_SECRET_PARAMETERS = frozenset(
    {
        "access_token",
        "api_key",
        "apikey",
        "auth",
        "awsaccesskeyid",
        "key",
        "password",
        "secret",
        "sig",
        "signature",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)


def without_secrets(url: str) -> str:
    """Returns a checked URL without the query parameters that are credentials."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [pair for pair in pairs if pair[0].lower() not in _SECRET_PARAMETERS]
    if len(kept) == len(pairs):
        return url
    return urlunsplit(parts._replace(query=urlencode(kept)))


def check_http_url(url: object, what: str) -> str:
    """Returns `url` if it is an http(s) address with a host, without a user name, password or fragment."""
    if not isinstance(url, str):
        raise InvalidArgumentError(f"{what} must be a str, not {shown(url)}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgumentError(f"{what} must be an http:// or https:// address with a host")
    refuse_user_info(parts.netloc, what)
    if parts.fragment:
        raise InvalidArgumentError(f"{what} contains a '#'; write it as %23 if it is part of the path")
    return url


def check_database_url(url: object) -> str:
    """Returns a `db_url` if it is an address whose path can be a database's key."""
    checked = check_http_url(url, "db_url")
    check_object_key(unquote(urlsplit(checked).path).removeprefix("/"), "the path of db_url")
    return checked


def refuse_user_info(netloc: str, what: str) -> None:
    """Refuses a user name or a password in a URL: a URL is shown in messages and logs."""
    if "@" in netloc:
        raise InvalidArgumentError(f"{what} contains a user name or password; give credentials another way")


def last_part(url: str) -> str:
    """Returns the last part of a URL's path, decoded."""
    return unquote(urlsplit(url).path).rpartition("/")[2]
