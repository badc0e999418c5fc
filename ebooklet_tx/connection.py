"""Where a remote is: the places a database can be opened from, never an open socket.

Owns no state. The invariants: a connection that exists names a usable place (everything is checked
when it is made), two connections are equal when they name the same place whatever credentials they
carry, and no credential leaves a connection through `repr`, `str`, `url` or `to_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.group_entries import is_entry, is_named_by_user, place_in

if TYPE_CHECKING:
    from ebooklet_tx.remote_session import RemoteSession

MAX_DATABASE_KEY_BYTES = 900
"""S3 allows 1,024 bytes; what the database appends to its key must fit as well."""

RESERVED_NAME_PREFIX = ".ebooklet_tx"
"""File names that a directory store keeps for itself."""

_ACCEPTED = (
    "an S3Connection, DirectoryConnection or HTTPConnection; a URL str (s3://bucket/key, "
    "file:///folder/name, https://host/path); or a dict from a connection's to_dict()"
)

_PUT_ARGUMENTS = ("sse", "sse_kms_key_id", "storage_class", "acl")
"""What an `S3Connection` asks of the store for the objects that it writes."""

_URL_OPTIONS = ("endpoint_url", "region", "profile", *_PUT_ARGUMENTS)
"""What the query of an s3 URL may say."""

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


def check_object_key(key: str, what: str = "object key") -> str:
    """Returns `key` if its parts can stand in a path as well as in a bucket.

    Raises:
        InvalidArgumentError: The key is empty, absolute, has an empty, `.` or `..` part, or can't
            be written as UTF-8 without NUL.
    """
    if not isinstance(key, str) or not key:
        raise InvalidArgumentError(f"{what} must be a non-empty str, not {_shown(key)}")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{what} {key!r} can't be written as UTF-8") from None
    if "\0" in key:
        raise InvalidArgumentError(f"{what} {key!r} has a NUL in it")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidArgumentError(
            f"{what} {key!r} begins or ends with '/', or has an empty, '.' or '..' part; "
            "write it like 'folder/name'"
        )
    return key


def without_secrets(url: str) -> str:
    """Returns a checked URL without the query parameters that are credentials."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    kept = [pair for pair in pairs if pair[0].lower() not in _SECRET_PARAMETERS]
    if len(kept) == len(pairs):
        return url
    return urlunsplit(parts._replace(query=urlencode(kept)))


class _Place:
    """Equality, hash and text by the place that is named, never by what opens it."""

    @property
    def url(self) -> str:
        raise NotImplementedError

    def _place(self) -> tuple[str, ...]:
        raise NotImplementedError

    def endpoint(self) -> tuple[str, ...]:
        """Returns what a place shares with others to which the same credentials go: endpoint or folder."""
        return self._place()[:2]

    def open(self, flag: str = "r") -> RemoteSession:
        """Opens the remote itself, without a local file; see `RemoteSession`.

        Args:
            flag: `r` to read what the remote says of its database; `w`, `c` or `n` to delete it as well, or
                to break its locks. Nothing is sent or changed by opening.

        Raises:
            ReadOnlyError: The place can only be read, and the flag is another than `r`.
        """
        # The session stands on all of sync, which stands on this module.
        from ebooklet_tx.remote_session import RemoteSession

        return RemoteSession(parse_connection(self), flag)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Place):
            return NotImplemented
        return self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


@dataclass(frozen=True, eq=False, repr=False)
class S3Connection(_Place):
    """A database in an S3 bucket, or, with nothing but a `db_url`, one read over plain HTTP.

    Attributes:
        access_key_id: With `access_key`, the credentials to use. Without them `profile`, and
            without that boto3's own chain (environment, shared files, role, SSO) is asked.
        access_key: The secret belonging to `access_key_id`.
        db_key: The database's key in the bucket. It may contain `/`.
        bucket: The bucket's name.
        endpoint_url: The store's address when it is not AWS itself.
        db_url: A public http(s) address of the same database, for reading without credentials.
        threads: How many requests may be under way at once.
        read_timeout: Seconds to wait for an answer.
        retries: How often a failed request is sent again at most; None for as often as fits into two minutes,
            so that a store that is restarted is waited for.
        profile: A profile name of the shared AWS configuration.
        session_token: The token belonging to temporary credentials.
        region: The bucket's region.
        sse: How the store encrypts what is written, `AES256` or `aws:kms`; None for the bucket's default.
        sse_kms_key_id: The KMS key to encrypt with; needs `sse="aws:kms"` or `"aws:kms:dsse"`.
        storage_class: The storage class of the packs, which hold the values. Readers read ranges of
            them at once, so one that archives makes values unreadable. All else keeps the bucket's default.
        acl: The canned ACL of everything but locks, as `public-read` for a public database. One of
            `bucket-owner-*` is put on locks as well.
    """

    access_key_id: str | None = None
    access_key: str | None = None
    db_key: str | None = None
    bucket: str | None = None
    endpoint_url: str | None = None
    db_url: str | None = None
    threads: int = 20
    read_timeout: float = 60
    retries: int | None = None
    _: KW_ONLY
    profile: str | None = None
    session_token: str | None = None
    region: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    acl: str | None = None

    def __post_init__(self) -> None:
        for name in ("access_key_id", "access_key", "session_token", "profile", "region", *_PUT_ARGUMENTS):
            _check_optional_text(getattr(self, name), name)
        self._check_place()
        self._check_credentials()
        if self.sse_kms_key_id is not None and not (self.sse or "").startswith("aws:kms"):
            raise InvalidArgumentError('sse_kms_key_id needs sse="aws:kms" or "aws:kms:dsse" beside it')
        _check_number(self.threads, "threads", minimum=1, whole=True)
        if self.retries is not None:
            _check_number(self.retries, "retries", minimum=0, whole=True)
        _check_number(self.read_timeout, "read_timeout", minimum=0.001, whole=False)

    def _check_place(self) -> None:
        if self.db_url is not None:
            _check_http_url(self.db_url, "db_url")
        if self.endpoint_url is not None:
            endpoint = _check_http_url(self.endpoint_url, "endpoint_url")
            if urlsplit(endpoint).query:
                raise InvalidArgumentError("endpoint_url must not have a query string")
            object.__setattr__(self, "endpoint_url", endpoint.rstrip("/"))
        if self.db_key is not None:
            _check_database_key(self.db_key, "db_key")
        if self.bucket is not None:
            _check_bucket(self.bucket)
            if self.db_key is None:
                raise InvalidArgumentError(f"db_key is missing: which database in bucket {self.bucket!r}?")
        elif self.db_url is None:
            raise InvalidArgumentError("bucket is missing: give bucket and db_key, or a db_url to read from")

    def _check_credentials(self) -> None:
        if (self.access_key_id is None) != (self.access_key is None):
            raise InvalidArgumentError("access_key_id and access_key belong together: give both or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise InvalidArgumentError("session_token needs access_key_id and access_key beside it")

    @property
    def has_credentials(self) -> bool:
        """True when keys or a profile were given, so that boto3's own chain is not asked."""
        return self.access_key_id is not None or self.profile is not None

    @property
    def key(self) -> str:
        """The database's key in the store."""
        return self.db_key if self.db_key is not None else _last_part(self.db_url or "")

    @property
    def url(self) -> str:
        """Names the place; holds no credential, and `parse_connection` reads it back."""
        if self.bucket is None:
            return without_secrets(self.db_url or "")
        query = urlencode(self._given("endpoint_url", "region", *_PUT_ARGUMENTS))
        return f"s3://{self.bucket}/{quote(self.key)}" + (f"?{query}" if query else "")

    def to_dict(self) -> dict[str, str | None]:
        """Returns the place without credentials, in a form that makes a connection again."""
        place: dict[str, str | None] = {
            "db_key": self.db_key,
            "bucket": self.bucket,
            "endpoint_url": self.endpoint_url,
            "db_url": without_secrets(self.db_url) if self.db_url is not None else None,
        }
        return place | self._given("region", *_PUT_ARGUMENTS)

    def _given(self, *names: str) -> dict[str, str]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _place(self) -> tuple[str, ...]:
        if self.bucket is None:
            return ("http", without_secrets(self.db_url or ""))
        return ("s3", self.endpoint_url or "", self.bucket, self.key)


@dataclass(frozen=True, eq=False, repr=False)
class DirectoryConnection(_Place):
    """A database in a local folder or on a shared drive.

    Attributes:
        folder: The folder that holds the remote; a relative one is taken from the current folder.
        name: The database's name in it, a single path part.
    """

    folder: Path
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | Path) or not str(self.folder) or "\0" in str(self.folder):
            raise InvalidArgumentError(f"folder must be a path, not {_shown(self.folder)}")
        object.__setattr__(self, "folder", Path(self.folder).resolve())
        _check_database_key(self.name, "name")
        # One folder has one lock file: a name reaching into a subfolder would be the same database
        # under two locks.
        if "/" in self.name or self.name.startswith(RESERVED_NAME_PREFIX):
            raise InvalidArgumentError(
                f"name {self.name!r} must be a single file name not beginning with "
                f"{RESERVED_NAME_PREFIX!r}; put its folders in `folder`"
            )

    @property
    def key(self) -> str:
        """The database's key in the store."""
        return self.name

    @property
    def url(self) -> str:
        """Names the place, as a file URL."""
        return f"file://{quote(str(self.folder / self.name))}"

    def to_dict(self) -> dict[str, str]:
        """Returns the place in a form that makes a connection again."""
        return {"folder": str(self.folder), "name": self.name}

    def _place(self) -> tuple[str, ...]:
        return ("file", str(self.folder), self.name)


@dataclass(frozen=True, eq=False, repr=False)
class HTTPConnection(_Place):
    """A database read from a public http(s) address.

    Attributes:
        db_url: The address of the root object; the other objects lie beside it.
    """

    db_url: str

    def __post_init__(self) -> None:
        _check_http_url(self.db_url, "db_url")

    @property
    def key(self) -> str:
        """The database's key in the store: the last part of the URL's path."""
        return _last_part(self.db_url)

    @property
    def url(self) -> str:
        """Names the place, without query parameters that are credentials."""
        return without_secrets(self.db_url)

    def to_dict(self) -> dict[str, str]:
        """Returns the place without credentials, in a form that makes a connection again."""
        return {"db_url": self.url}

    def _place(self) -> tuple[str, ...]:
        return ("http", self.url)


Connection: TypeAlias = S3Connection | DirectoryConnection | HTTPConnection

_S3_FIELDS = frozenset(name for name in S3Connection.__dataclass_fields__ if name != "_")


def connect(source: object, *, trust_entries: bool = False) -> Connection:
    """Returns the connection that a URL, a dict or an entry of a connection group describes.

    Nothing is sent, and no credential is looked up: a connection only names a place. What `open` takes
    as its first argument is what this takes.

    Args:
        source: A URL: `s3://bucket/key`, whose query may give `endpoint_url`, `region`, `profile`, `sse`,
            `sse_kms_key_id`, `storage_class` and `acl`; `file:///folder/name`; or `http(s)://...` for
            reading only. A dict with the arguments of a connection, or with `url`. An entry of a connection
            group, a dict holding such a dict under `remote_conn`. Or a connection, returned as it is.
        trust_entries: Whether an entry of a group may name a bucket or a folder that you did not name; see
            `open`.

    Example:
        remote = connect("s3://my-bucket/stations.blt?endpoint_url=https://s3.example.org&region=eu-1")
        with ebooklet_tx.open(remote, "stations.blt") as db:
            ...

    Raises:
        InvalidArgumentError: It is none of these, or does not name a usable place.
    """
    return parse_connection(source, "source", trust_entries=trust_entries)


def parse_connection(
    source: object, argument: str = "remote_conn", *, trust_entries: bool = False, for_reading: bool = True
) -> Connection:
    """Returns the connection that an object, a URL or a dict describes, as `connect` does.

    Args:
        source: What `connect` takes.
        argument: How messages call it.
        trust_entries: Whether an entry of a group is followed wherever it leads.
        for_reading: Whether the public address of an entry will do.

    Raises:
        InvalidArgumentError: It is none of these, or does not name a usable place.
    """
    if isinstance(source, S3Connection | DirectoryConnection | HTTPConnection):
        return source
    if isinstance(source, str):
        try:
            return _parse_url(source)
        except InvalidArgumentError as error:
            # The str itself is not shown: it may hold a credential.
            raise InvalidArgumentError(f"{argument} can't be used: {error}") from None
    if not isinstance(trust_entries, bool):
        raise InvalidArgumentError(f"trust_entries must be True or False, not {_shown(trust_entries)}")
    if isinstance(source, Mapping):
        if is_entry(source):
            return _parse_entry(source, trusted=trust_entries, for_reading=for_reading)
        return _parse_mapping(source)
    raise InvalidArgumentError(
        f"{argument} is a {type(source).__name__}, which is no connection; accepted are {_ACCEPTED}"
    )


def _parse_entry(entry: Mapping[Any, Any], *, trusted: bool, for_reading: bool) -> Connection:
    """Returns the connection of a group's entry, which others wrote.

    Without trust, only a place that the user named himself is more than a public address.
    """
    place = place_in(entry)
    if not isinstance(place, Mapping) or "remote_conn" in place:
        raise InvalidArgumentError("remote_conn of a group's entry must be a dict from to_dict()")
    connection = _parse_mapping(place)
    public_only = isinstance(connection, HTTPConnection) or (
        isinstance(connection, S3Connection) and connection.bucket is None
    )
    own = is_named_by_user(entry, connection) and not getattr(connection, "has_credentials", False)
    if trusted or public_only or own:
        return connection
    if for_reading and isinstance(connection, S3Connection) and connection.db_url is not None:
        return HTTPConnection(connection.db_url)
    raise InvalidArgumentError(
        f"a group's entry leads to {connection.url}, which whoever writes to the group has chosen: nothing was "
        "asked there, and no credential was sent. If you trust the group's writers give trust_entries=True (to "
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
        raise InvalidArgumentError(f"a dict with unknown entries {unknown}; accepted are {_ACCEPTED}")
    return S3Connection(**source)


def _parse_url(url: str) -> Connection:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidArgumentError(f"a str that is no URL; accepted are {_ACCEPTED}") from None
    if parts.scheme in ("http", "https"):
        return HTTPConnection(url)
    if parts.scheme == "s3":
        return _parse_s3_url(url)
    if parts.scheme == "file":
        return _parse_file_url(url)
    raise InvalidArgumentError(f"a str of scheme {parts.scheme!r}; accepted are {_ACCEPTED}")


def _parse_s3_url(url: str) -> S3Connection:
    parts = urlsplit(url)
    _refuse_user_info(parts.netloc, "the s3 URL")
    if parts.fragment:
        raise InvalidArgumentError("the s3 URL has a '#'; write it as %23 if it belongs to the key")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(_URL_OPTIONS))
    if unknown:
        raise InvalidArgumentError(
            f"the s3 URL has unknown parameters {unknown}; known are {', '.join(_URL_OPTIONS)}"
        )
    return S3Connection(
        db_key=unquote(parts.path.removeprefix("/")), bucket=unquote(parts.netloc), **_options(options)
    )


def _options(options: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _parse_file_url(url: str) -> DirectoryConnection:
    parts = urlsplit(url)
    if not url.lower().startswith("file:///") and parts.netloc.lower() != "localhost":
        raise InvalidArgumentError("a file URL must be absolute, like file:///folder/name")
    if parts.query or parts.fragment:
        raise InvalidArgumentError("a file URL has no '?' or '#'; write them as %3F and %23")
    folder, _, name = parts.path.rpartition("/")
    return DirectoryConnection(Path(unquote(folder) or "/"), unquote(name))


def _check_http_url(url: object, what: str) -> str:
    if not isinstance(url, str):
        raise InvalidArgumentError(f"{what} must be a str, not {_shown(url)}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgumentError(f"{what} must be an http:// or https:// address with a host")
    _refuse_user_info(parts.netloc, what)
    if parts.fragment:
        raise InvalidArgumentError(f"{what} has a '#'; write it as %23 if it belongs to the path")
    if what == "db_url":
        check_object_key(unquote(parts.path).removeprefix("/"), "the path of db_url")
    return url


def _refuse_user_info(netloc: str, what: str) -> None:
    if "@" in netloc:
        raise InvalidArgumentError(f"{what} holds a user name or password; credentials don't belong in it")


def _check_database_key(key: object, what: str) -> None:
    checked = check_object_key(key, what)  # type: ignore[arg-type]  # the check is of foreign input
    if len(checked.encode("utf-8")) > MAX_DATABASE_KEY_BYTES:
        raise InvalidArgumentError(f"{what} is over {MAX_DATABASE_KEY_BYTES} bytes long")


def _check_bucket(bucket: object) -> None:
    if not isinstance(bucket, str) or not bucket or set(bucket) & set("/:@?# \0"):
        raise InvalidArgumentError(f"bucket must be a bucket's name, not {_shown(bucket)}")


def _check_optional_text(value: object, what: str) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidArgumentError(f"{what} must be a non-empty str or None")


def _check_number(value: object, what: str, *, minimum: float, whole: bool) -> None:
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= minimum:  # type: ignore[operator]
        raise InvalidArgumentError(f"{what} must be {'an int' if whole else 'a number'} of at least {minimum}")


def _last_part(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _shown(value: object) -> str:
    return "an empty str" if value == "" else f"a {type(value).__name__}"
