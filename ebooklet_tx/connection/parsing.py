"""Connections from what users write: a URL, a dict, or an entry of a connection group.

Parsing sends nothing and looks up no credential. A str or a dict that is refused is not shown in the message:
it may hold a credential. An entry of a group, which another writer chose, leads to a bucket or a folder only
where the user named that endpoint or folder too, or said that entries are trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from ebooklet_tx.connection.checks import shown
from ebooklet_tx.connection.directory import DirectoryConnection
from ebooklet_tx.connection.http import HTTPConnection
from ebooklet_tx.connection.memory import MemoryConnection
from ebooklet_tx.connection.s3 import PUT_ARGUMENTS, S3Connection
from ebooklet_tx.connection.urls import refuse_user_info
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.group_entries import address_in, is_entry, is_named_by_user

Connection: TypeAlias = S3Connection | DirectoryConnection | HTTPConnection | MemoryConnection

RemoteConn: TypeAlias = Connection | str | Mapping[str, Any]
"""What names a database wherever one is asked for: a connection, a URL, a dict, or an entry of a group."""

_ACCEPTED = (
    "an S3Connection, DirectoryConnection or HTTPConnection; a URL str (s3://bucket/key, "
    "file:///folder/name, https://host/path, or memory://name in tests); or a dict from a connection's to_dict()"
)

_URL_OPTIONS = ("endpoint_url", "region", "profile", *PUT_ARGUMENTS)
"""What the query of an s3 URL may say."""

_S3_FIELDS = frozenset(name for name in S3Connection.__dataclass_fields__ if name != "_")


def connect(source: RemoteConn, *, trust_entries: bool = False) -> Connection:
    """Returns the connection that a URL, a dict or an entry of a connection group describes.

    Nothing is sent, and no credential is looked up: a connection only names an address. `open` takes the
    same as its first argument.

    Args:
        source: A URL: `s3://bucket/key`, whose query may give `endpoint_url`, `region`, `profile`, `sse`,
            `sse_kms_key_id`, `storage_class` and `acl`; `file:///folder/name`; `http(s)://...` for
            reading only; or in tests `memory://name`, in the memory of this process. A dict with the arguments
            of a connection, or with `url`. An entry of a connection group, a dict holding such a dict under
            `remote_conn`. Or a connection, returned as it is.
        trust_entries: Whether an entry of a group may name a bucket or a folder that you did not name; see
            `open`.

    Raises:
        InvalidArgumentError: It is none of these, or does not name a usable address.

    Examples:
        >>> address = "s3://my-bucket/stations.blt?endpoint_url=https://s3.example.org&region=eu-1"
        >>> ebooklet_tx.connect(address).endpoint_url
        'https://s3.example.org'
    """
    return parse_connection(source, "source", trust_entries=trust_entries)


def parse_connection(
    source: object, argument: str = "remote_conn", *, trust_entries: bool = False, for_reading: bool = True
) -> Connection:
    """Returns the connection that an object, a URL or a dict describes, as `connect` does.

    Args:
        source: What `connect` takes.
        argument: The argument's name, for messages.
        trust_entries: Whether an entry of a group is followed wherever it leads.
        for_reading: Whether the public address of an entry is enough.

    Raises:
        InvalidArgumentError: It is none of these, or does not name a usable address.
    """
    if isinstance(source, S3Connection | DirectoryConnection | HTTPConnection | MemoryConnection):
        return source
    if isinstance(source, str):
        try:
            return _parse_url(source)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{argument} can't be used: {error}") from None
    if not isinstance(trust_entries, bool):
        raise InvalidArgumentError(f"trust_entries must be True or False, not {shown(trust_entries)}")
    if isinstance(source, Mapping):
        if is_entry(source):
            return _parse_entry(source, trusted=trust_entries, for_reading=for_reading)
        return _parse_mapping(source)
    raise InvalidArgumentError(
        f"{argument} is a {type(source).__name__}, which is no connection; accepted are {_ACCEPTED}"
    )


def _parse_entry(entry: Mapping[Any, Any], *, trusted: bool, for_reading: bool) -> Connection:
    """Returns the connection of a group's entry, which another writer chose.

    Without trust, only an endpoint or folder that the user named too is more than a public address.
    """
    described = address_in(entry)
    if not isinstance(described, Mapping) or "remote_conn" in described:
        raise InvalidArgumentError("remote_conn of a group's entry must be a dict from to_dict()")
    connection = _parse_mapping(described)
    public_only = isinstance(connection, HTTPConnection) or (
        isinstance(connection, S3Connection) and connection.bucket is None
    )
    own = is_named_by_user(entry, connection) and not getattr(connection, "has_credentials", False)
    if trusted or public_only or own:
        return connection
    if for_reading and isinstance(connection, S3Connection) and connection.db_url is not None:
        return HTTPConnection(connection.db_url)
    raise InvalidArgumentError(
        f"a group's entry leads to {connection.url}, an address that a writer of the group chose: no request and "
        "no credential was sent there. If you trust the group's writers, give trust_entries=True (to "
        "open, or to connect); or make a connection of entry['remote_conn'] with credentials of your own"
    )


def _parse_mapping(source: Mapping[Any, Any]) -> Connection:
    names = set(source)
    if names == {"url"} and isinstance(source["url"], str):
        return _parse_url(source["url"])
    if names == {"folder", "name"}:
        return DirectoryConnection(source["folder"], source["name"])
    if names == {"db_url"}:
        return HTTPConnection(source["db_url"])
    if not names or not names <= _S3_FIELDS:
        # Only names are shown: a value may be a credential under a misspelled name.
        unknown = sorted(str(name) for name in names - _S3_FIELDS)
        raise InvalidArgumentError(f"the dict has unknown entries {unknown}; accepted are {_ACCEPTED}")
    return S3Connection(**source)


def _parse_url(url: str) -> Connection:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidArgumentError(f"the str is no URL; accepted are {_ACCEPTED}") from None
    if parts.scheme in ("http", "https"):
        return HTTPConnection(url)
    if parts.scheme == "s3":
        return _parse_s3_url(url)
    if parts.scheme == "file":
        return _parse_file_url(url)
    if parts.scheme == "memory":
        return _parse_memory_url(url)
    raise InvalidArgumentError(f"the str has the scheme {parts.scheme!r}; accepted are {_ACCEPTED}")


def _parse_s3_url(url: str) -> S3Connection:
    parts = urlsplit(url)
    refuse_user_info(parts.netloc, "the s3 URL")
    if parts.fragment:
        raise InvalidArgumentError("the s3 URL contains a '#'; write it as %23 if it is part of the key")
    if not parts.netloc or not parts.path.removeprefix("/"):
        raise InvalidArgumentError("an s3 URL names a bucket and a db_key in it, like s3://bucket/key")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(_URL_OPTIONS))
    if unknown:
        raise InvalidArgumentError(
            f"the s3 URL has unknown parameters {unknown}; known are {', '.join(_URL_OPTIONS)}"
        )
    return S3Connection(
        db_key=unquote(parts.path.removeprefix("/")), bucket=unquote(parts.netloc), **_non_empty(options)
    )


def _non_empty(options: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _parse_memory_url(url: str) -> MemoryConnection:
    parts = urlsplit(url)
    refuse_user_info(parts.netloc, "the memory URL")
    if parts.query or parts.fragment:
        raise InvalidArgumentError("a memory URL has no '?' or '#'; write them as %3F and %23")
    return MemoryConnection(unquote(parts.netloc + parts.path))


def _parse_file_url(url: str) -> DirectoryConnection:
    parts = urlsplit(url)
    if not url.lower().startswith("file:///") and parts.netloc.lower() != "localhost":
        raise InvalidArgumentError("a file URL must be absolute, like file:///folder/name")
    if parts.query or parts.fragment:
        raise InvalidArgumentError("a file URL has no '?' or '#'; write them as %3F and %23")
    folder, _, name = parts.path.rpartition("/")
    if not name:
        raise InvalidArgumentError(
            "a file URL ends with the database's name, like file:///folder/name, and not with a '/'"
        )
    return DirectoryConnection(Path(unquote(folder) or "/"), unquote(name))
