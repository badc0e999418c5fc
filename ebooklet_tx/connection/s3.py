"""A database in an S3 bucket, with what is needed to reach it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from urllib.parse import quote, urlencode, urlsplit

from ebooklet_tx.connection.base import BaseConnection
from ebooklet_tx.connection.checks import check_database_key, check_number, check_optional_text, shown
from ebooklet_tx.connection.urls import check_database_url, check_http_url, last_part, without_secrets
from ebooklet_tx.errors import InvalidArgumentError

PUT_ARGUMENTS = ("sse", "sse_kms_key_id", "storage_class", "acl")
"""What a connection asks of the store for the objects that it writes."""


@dataclass(frozen=True, eq=False, repr=False)
class S3Connection(BaseConnection):
    """A database in an S3 bucket, or, with nothing but a `db_url`, one read over plain HTTP.

    Attributes:
        access_key_id: With `access_key`, the credentials to use. Without them `profile` is used, and
            without that boto3's own chain (environment, shared files, role, SSO).
        access_key: The secret that belongs to `access_key_id`.
        db_key: The database's key in the bucket. It may contain `/`.
        bucket: The bucket's name.
        endpoint_url: The store's address when it is not AWS itself.
        db_url: A public http(s) address of the same database, for reading without credentials.
        threads: How many requests may run at once.
        read_timeout: Seconds to wait for an answer.
        retries: How often a failed request is sent again at most. None: as often as fits into two minutes,
            so that a store that restarts is waited for.
        profile: A profile name of the shared AWS configuration.
        session_token: The token that belongs to temporary credentials.
        region: The bucket's region.
        sse: How the store encrypts what is written, `AES256` or `aws:kms`; None for the bucket's default.
        sse_kms_key_id: The KMS key to encrypt with; needs `sse="aws:kms"` or `"aws:kms:dsse"`.
        storage_class: The storage class of the packs, which hold the values. Readers read ranges of
            them at any time, so an archive class makes values unreadable. Other objects keep the bucket's
            default.
        acl: The canned ACL of every object but locks, as `public-read` for a public database. Locks get it
            only if it is one of `bucket-owner-*`.

    Examples:
        >>> connection = ebooklet_tx.S3Connection(db_key="stations.blt", bucket="my-bucket")
        >>> connection.url
        's3://my-bucket/stations.blt'
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
        for name in ("access_key_id", "access_key", "session_token", "profile", "region", *PUT_ARGUMENTS):
            check_optional_text(getattr(self, name), name)
        self._check_address()
        self._check_credentials()
        if self.sse_kms_key_id is not None and not (self.sse or "").startswith("aws:kms"):
            raise InvalidArgumentError('sse_kms_key_id needs sse="aws:kms" or "aws:kms:dsse" beside it')
        check_number(self.threads, "threads", minimum=1, whole=True)
        if self.retries is not None:
            check_number(self.retries, "retries", minimum=0, whole=True)
        check_number(self.read_timeout, "read_timeout", minimum=0.001, whole=False)

    def _check_address(self) -> None:
        if self.db_url is not None:
            check_database_url(self.db_url)
        if self.endpoint_url is not None:
            endpoint = check_http_url(self.endpoint_url, "endpoint_url")
            if urlsplit(endpoint).query:
                raise InvalidArgumentError("endpoint_url must not have a query string")
            object.__setattr__(self, "endpoint_url", endpoint.rstrip("/"))
        if self.db_key is not None:
            check_database_key(self.db_key, "db_key")
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
        """True when keys or a profile were given, so that boto3's own chain is not used."""
        return self.access_key_id is not None or self.profile is not None

    @property
    def key(self) -> str:
        """The database's key in the store."""
        return self.db_key if self.db_key is not None else last_part(self.db_url or "")

    @property
    def url(self) -> str:
        """The address as a URL that `connect` reads back; holds no credential."""
        if self.bucket is None:
            return without_secrets(self.db_url or "")
        query = urlencode(self._given("endpoint_url", "region", *PUT_ARGUMENTS))
        return f"s3://{self.bucket}/{quote(self.key)}" + (f"?{query}" if query else "")

    def to_dict(self) -> dict[str, str | None]:
        """Returns the address, without credentials, as a dict from which `connect` makes a connection again."""
        address: dict[str, str | None] = {
            "db_key": self.db_key,
            "bucket": self.bucket,
            "endpoint_url": self.endpoint_url,
            "db_url": without_secrets(self.db_url) if self.db_url is not None else None,
        }
        return address | self._given("region", *PUT_ARGUMENTS)

    def _given(self, *names: str) -> dict[str, str]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _address(self) -> tuple[str, ...]:
        if self.bucket is None:
            return ("http", without_secrets(self.db_url or ""))
        return ("s3", self.endpoint_url or "", self.bucket, self.key)


def _check_bucket(bucket: object) -> None:
    if not isinstance(bucket, str) or not bucket or set(bucket) & set("/:@?# \0"):
        raise InvalidArgumentError(f"bucket must be the name of a bucket, not {shown(bucket)}")
