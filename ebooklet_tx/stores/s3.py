"""An object store in an S3 bucket; the only module that knows boto3.

Owns one boto3 client, which threads may share. The invariants: a request is sent once (botocore's own
retries are off: its silent second try of a conditional put turns our own success into a conflict),
multipart completion, deletes and copies are never conditional, and no credential enters a message.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import gzip
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.exceptions as boto_errors
import botocore.session
import orjson
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config
from botocore.loaders import JSONFileLoader, Loader
from urllib3.exceptions import HTTPError

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
    UnreachableStoreError,
)
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.stores.deadline import TimedSocket, deadline_in
from ebooklet_tx.stores.http_errors import (
    DENIAL_CODES,
    RENEWAL_CODES,
    Request,
    bytes_to_skip,
    check_range,
    error_for_answer,
    read_part,
    read_whole,
    retry_after_seconds,
)
from ebooklet_tx.stores.multipart import MIN_PART_BYTES, MultipartUpload
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from ebooklet_tx.connection import S3Connection

T = TypeVar("T")

SLOW_ANSWER_SECONDS = 900.0
_SLOWLY_ANSWERED = frozenset({"copy", "put_parts"})
"""S3 works on large copies and on the end of an upload for minutes, and sends blanks meanwhile."""

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

# botocore lets some errors of the library below it through, from reading an answer's body.
_FAILURES = (boto_errors.ClientError, boto_errors.BotoCoreError, HTTPError, OSError)
_NOT_CONNECTED = (
    boto_errors.EndpointConnectionError,
    boto_errors.ConnectTimeoutError,
    boto_errors.ProxyConnectionError,
)
_NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.NoAuthTokenError,
    boto_errors.TokenRetrievalError,
    boto_errors.ProfileNotFound,
    boto_errors.UnknownCredentialError,
    boto_errors.SSOError,
)


class S3Store:
    """Objects of one bucket, under their full keys.

    Attributes:
        quote_etags: Whether ETags are sent in quotes, as HTTP wants; Ceph wants them without. Found out by
            the first write that is refused although the ETag is there.
        etags_proven: Whether a conditional write was accepted so.
        is_aws: Whether the endpoint is AWS itself.
        place: Endpoint and bucket, as roots name them.
    """

    def __init__(self, connection: S3Connection) -> None:
        """Makes the client; nothing is sent.

        Raises:
            RemoteAccessError: The profile does not exist, or no client can be made of the settings.
        """
        if connection.bucket is None:
            raise InvalidArgumentError("this connection names no bucket; it can only be read through db_url")
        self.quote_etags = True
        self.etags_proven = False
        self._bucket = connection.bucket
        self._connection = connection
        self._renewing = threading.Lock()
        at = f" at {connection.endpoint_url}" if connection.endpoint_url else ""
        self._location = f"s3://{connection.bucket}{at}"
        named = any(os.environ.get(name) for name in _ENDPOINT_VARIABLES)
        self._custom = connection.endpoint_url is not None or named
        self._secrets: tuple[str | None, ...] = ()
        self._denied_key: str | None = None
        self._retired: list[S3Client] = []
        self._client, self._credentials = self._new_client()
        host = urlsplit(self._client.meta.endpoint_url).hostname or ""
        self.is_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        endpoint = "aws" if self.is_aws else self._client.meta.endpoint_url.rstrip("/")
        self.place = (endpoint, connection.bucket)

    @property
    def location(self) -> str:
        """Names the store for messages; never holds a credential."""
        return self._location

    @property
    def writable(self) -> bool:
        """True: whether the credentials allow writing shows at the first write."""
        return True

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        options = {"IfNoneMatch": self._sent_etag(if_none_match)} if if_none_match is not None else {}

        def fetch(client: S3Client) -> Blob:
            answer = client.get_object(Bucket=self._bucket, Key=key, **options)  # type: ignore[arg-type]
            etag = _received_etag(answer)
            with contextlib.closing(answer["Body"]) as body:
                data = read_whole(request, body, answer.get("ContentLength"), max_bytes, etag)
            return Blob(data, etag, _metadata(answer))

        request = Request("get", self._location, key)
        try:
            blob = self._ask(request, fetch)
        except _NotModifiedError:
            return None
        return None if blob.etag == if_none_match else blob

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on; no bytes need no object."""
        check_range(offset_bytes, length_bytes)
        if length_bytes == 0:
            return b""
        request = Request("get_range", self._location, key)
        options = {"Range": f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}"}
        if if_match is not None:
            options["IfMatch"] = self._sent_etag(if_match)

        def fetch(client: S3Client) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=key, **options)  # type: ignore[arg-type]
            with contextlib.closing(answer["Body"]) as body:
                # Some stores ignore If-Match, and some send a part as 200, told only by its Content-Range.
                if if_match is not None and _received_etag(answer) != if_match:
                    raise PreconditionFailedError(f"{request.describe()}: the object has changed; read again")
                partial = answer["ResponseMetadata"]["HTTPStatusCode"] == 206
                content_range = answer.get("ContentRange", "" if partial else None)
                skip_bytes = bytes_to_skip(
                    request, content_range, answer.get("ContentLength"), offset_bytes, length_bytes
                )
                return read_part(request, body, skip_bytes, length_bytes)

        return self._ask(request, fetch)

    def head(self, key: str) -> StoredObject:
        """Returns what the store knows of the object without its bytes."""

        def look(client: S3Client) -> StoredObject:
            return _described(key, client.head_object(Bucket=self._bucket, Key=key))

        def look_again(client: S3Client) -> StoredObject:
            answer = client.get_object(Bucket=self._bucket, Key=key)
            answer["Body"].close()
            return _described(key, answer)

        request = Request("head", self._location, key)
        try:
            return self._ask(request, look)
        except (ObjectMissingError, RemoteAccessError):
            # An answer to HEAD has no body that tells a missing object from a missing bucket or a
            # wrong key; the one to GET has.
            return self._ask(request, look_again)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Writes the whole object in one request and returns its ETag."""
        if if_match is not None and if_absent:
            raise InvalidArgumentError(f"put of {key!r}: if_match and if_absent exclude each other")
        request = Request(
            "put", self._location, key, writes=True, if_match=if_match is not None, if_absent=if_absent
        )
        options = self._put_options(key)
        if metadata:
            options["Metadata"] = dict(metadata)
        if if_absent:
            options["IfNoneMatch"] = "*"
        options |= self._checksum(data)

        def send(client: S3Client) -> str:
            if if_match is not None:
                options["IfMatch"] = self._sent_etag(if_match)
            return _received_etag(client.put_object(Bucket=self._bucket, Key=key, Body=data, **options))

        if if_match is None:
            return self._ask(request, send)
        return self._with_quotes_or_without(key, if_match, lambda: self._ask(request, send))

    def _with_quotes_or_without(self, key: str, etag: str, put: Callable[[], str]) -> str:
        """Sends a write that wants an ETag; once more the other way if it is refused though the ETag is there."""
        try:
            written = put()
        except PreconditionFailedError:
            # A refusal is an answer: nothing took effect, and the write may go again.
            if self.etags_proven or not self._has_etag(key, etag):
                raise
            self.quote_etags = not self.quote_etags
            try:
                written = put()
            except Error:
                self.quote_etags = not self.quote_etags
                raise
        self.etags_proven = True
        return written

    def _has_etag(self, key: str, etag: str) -> bool:
        try:
            return self.head(key).etag == etag
        except ObjectMissingError:
            return False

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object as a multipart upload and returns its ETag.

        Parts are at least 5 MiB. An object of no more than one part goes up as a plain put, with
        nothing to resume and no call of `on_part`. A failed upload is not aborted, so that it can be
        gone on with; the bucket's lifecycle rule for unfinished uploads removes what nobody resumes.
        """
        if source.size_bytes <= max(part_bytes, MIN_PART_BYTES):
            return self.put(key, source.read_at(0, source.size_bytes))
        request = Request("put_parts", self._location, key, writes=True)
        upload = MultipartUpload(self._bucket, request, self._ask, self._put_options(key), self._checksum)
        etag = upload.send(source, part_bytes=part_bytes, resume=resume, on_part=on_part)
        # Some stores answer a completion with another ETag than the object then has.
        return etag if self.is_aws else self.head(key).etag

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, a page at a time, in the server's order."""
        token: str | None = None
        while True:
            options = {"ContinuationToken": token} if token is not None else {}
            page = self._ask(
                Request("list", self._location, prefix),
                lambda client, options=options: client.list_objects_v2(  # type: ignore[misc]
                    Bucket=self._bucket, Prefix=prefix, **options
                ),
            )
            for entry in page.get("Contents", ()):
                etag = entry.get("ETag", "").strip('"')
                yield StoredObject(entry["Key"], entry["Size"], etag, entry.get("LastModified"))
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or token is None:
                return

    def delete(self, key: str) -> None:
        """Removes the object; one that is not there is no error."""
        request = Request("delete", self._location, key, writes=True)
        try:
            self._ask(request, lambda client: client.delete_object(Bucket=self._bucket, Key=key))
        except ObjectMissingError:
            return

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object inside the bucket and returns the copy's ETag."""
        source: Any = {"Bucket": self._bucket, "Key": source_key}
        options = self._put_options(target_key)

        def send(client: S3Client) -> str:
            answer = client.copy_object(Bucket=self._bucket, Key=target_key, CopySource=source, **options)
            return _received_etag(answer["CopyObjectResult"])

        return self._ask(Request("copy", self._location, source_key, writes=True), send)

    def copy_from(self, source: object, source_key: str, target_key: str) -> str | None:
        """Copies an object of another bucket, or another key, inside the store and returns the copy's ETag.

        None, and nothing is sent, where `source` is not a bucket of the same endpoint spoken to with the
        same credentials. An object over 5 GiB is refused by the store.
        """
        if not isinstance(source, S3Store) or _account(source) != _account(self):
            return None
        place: Any = {"Bucket": source._bucket, "Key": source_key}
        options = self._put_options(target_key)

        def send(client: S3Client) -> str:
            answer = client.copy_object(Bucket=self._bucket, Key=target_key, CopySource=place, **options)
            return _received_etag(answer["CopyObjectResult"])

        return self._ask(Request("copy", source.location, source_key, writes=True), send)

    def create_bucket(self) -> None:
        """Makes the bucket; one that is the caller's already is no error."""

        def send(client: S3Client) -> None:
            region = client.meta.region_name
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                if region in (None, "us-east-1") or not self.is_aws:
                    client.create_bucket(Bucket=self._bucket)
                else:
                    place: Any = {"LocationConstraint": region}
                    client.create_bucket(Bucket=self._bucket, CreateBucketConfiguration=place)

        self._ask(Request("create_bucket", self._location, writes=True), send)

    def close(self) -> None:
        """Closes the connections of the client, and of those before it."""
        for client in (*self._retired, self._client):
            client.close()

    def _put_options(self, key: str) -> dict[str, Any]:
        """Returns what is asked of the store for an object that is written, beside its bytes."""
        given = self._connection
        names = ObjectNames(given.key)
        asked = {"ServerSideEncryption": given.sse, "SSEKMSKeyId": given.sse_kms_key_id}
        # Locks are nobody's to read but the writers', so the public gets no right to them; the bucket's owner
        # does, who may be another account's and would be locked out. Cheap classes charge for what is soon
        # overwritten.
        for_all = key == names.root or key.startswith(names.prefix)
        if for_all or (given.acl or "").startswith("bucket-owner-"):
            asked["ACL"] = given.acl
        if key.startswith(f"{names.prefix}pack/"):
            asked["StorageClass"] = given.storage_class
        return {name: value for name, value in asked.items() if value is not None}

    def _checksum(self, data: bytes) -> dict[str, str]:
        """Returns what makes the store refuse a body that did not arrive whole.

        Some stores keep what arrived, be it nothing at all. AWS has the SDK's own checksum; others may not
        know it, but all know this one, which also satisfies a bucket whose objects are locked by default.
        """
        if not self._custom:
            return {}
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def _new_client(self) -> tuple[S3Client, Any]:
        """Returns a client and what it takes its credentials from, None if nothing gives any."""
        given = self._connection
        custom = self._custom
        options: dict[str, Any] = {}
        if custom:
            options["request_checksum_calculation"] = "when_required"
            options["response_checksum_validation"] = "when_required"
            options["s3"] = {"addressing_style": "path"}
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=min(10, given.read_timeout),
            read_timeout=given.read_timeout,
            max_pool_connections=max(given.threads, 10),
            signature_version="s3v4",
            **options,
        )
        try:
            base = botocore.session.Session()
            base.register_component("data_loader", _DescriptionLoader.shared(base))
            session = boto3.session.Session(
                botocore_session=base,
                aws_access_key_id=given.access_key_id,
                aws_secret_access_key=given.access_key,
                aws_session_token=given.session_token,
                profile_name=given.profile if given.access_key_id is None else None,
                region_name=given.region,
            )
            region = session.region_name or ("us-east-1" if custom else None)
            client = session.client("s3", endpoint_url=given.endpoint_url, region_name=region, config=config)
            _time_connections(client)
            return client, session.get_credentials()
        except (boto_errors.BotoCoreError, ValueError, OSError) as error:
            raise RemoteAccessError(
                f"no client for {self._location} can be made ({type(error).__name__}): check profile, "
                "region, endpoint_url and the AWS configuration files"
            ) from None

    def _renew(self, used: S3Client) -> bool:
        """Makes a client with credentials read anew; False if they were given and can't be."""
        if self._connection.access_key_id is not None:
            return False
        with self._renewing:
            # Another thread may have renewed it meanwhile.
            if self._client is used:
                self._client, self._credentials = self._new_client()
                # Not closed yet: other threads may be in the middle of a request of theirs.
                self._retired.append(used)
        return True

    def _refresh_credentials(self, request: Request) -> None:
        """Has credentials that are about to expire fetched again, before anything is signed with them."""
        if self._credentials is None:
            return
        try:
            frozen = self._credentials.get_frozen_credentials()
        except (boto_errors.HTTPClientError, boto_errors.ConnectionError) as error:
            raise TransientStoreError(
                f"{request.describe()}: credentials could not be fetched ({type(error).__name__})",
                may_have_applied=False,
            ) from None
        except Exception as error:
            # Who gives them is a program of the user's or a service, and fails in ways of its own. Its
            # words are not shown: they may hold what it gives.
            raise RemoteAccessError(
                f"{request.describe()}: the credentials are missing or have expired, and no new ones can be had "
                f"({type(error).__name__}); check the profile, credential_process, login or role that gives them"
            ) from None
        self._secrets = (frozen.secret_key, frozen.token, frozen.access_key)

    def _deadline(self, request: Request) -> contextlib.AbstractContextManager[None]:
        """Returns the time that one request has, beside what its bytes take."""
        if request.operation in _SLOWLY_ANSWERED:
            return deadline_in(max(SLOW_ANSWER_SECONDS, self._connection.read_timeout), at_least=True)
        return deadline_in(self._connection.read_timeout)

    def _ask(self, request: Request, send: Callable[[S3Client], T]) -> T:
        """Sends a request once, and once more after an answer that the credentials have expired."""
        self._refresh_credentials(request)
        client = self._client
        try:
            with self._deadline(request):
                return send(client)
        except _FAILURES as error:
            # Expired credentials are an answer: nothing took effect, and the request may go again.
            denied = self._may_be_expired(error)
            expired = isinstance(error, boto_errors.ClientError) and _error_code(error) in RENEWAL_CODES
            if not (expired or denied) or not self._renew(client):
                raise self._translated(request, error) from _cause(error)
        self._refresh_credentials(request)
        if denied:
            # Whatever comes of these, a refusal of theirs is one of rights.
            self._denied_key = self._secrets[2]
        try:
            with self._deadline(request):
                return send(self._client)
        except _FAILURES as error:
            raise self._translated(request, error) from _cause(error)

    def _may_be_expired(self, error: Exception) -> bool:
        """Whether a denial may mean that temporary credentials have expired, as Ceph answers then.

        It is asked once for each credentials; those that were fetched because of a denial are believed to be
        good, so that a right that is missing costs one request more, and not one each time.
        """
        if not isinstance(error, boto_errors.ClientError) or len(self._secrets) < 3:
            return False
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        denied = _error_code(error) in DENIAL_CODES or (status == 403 and _error_code(error) == "403")
        _, token, key_id = self._secrets
        return denied and token is not None and key_id != self._denied_key

    def _translated(self, request: Request, error: Exception) -> Error:
        if isinstance(error, Error):
            return error
        if isinstance(error, boto_errors.ClientError):
            return self._answer_error(request, error)
        if isinstance(error, _NO_CREDENTIALS):
            return RemoteAccessError(
                f"{request.describe()}: no usable credentials ({type(error).__name__}); give access_key_id "
                "and access_key, or a profile, or set up boto3's own chain"
            )
        if isinstance(error, boto_errors.ParamValidationError):
            return InvalidArgumentError(f"{request.describe()}: not a valid name or metadata for S3")
        if isinstance(error, boto_errors.FlexibleChecksumError):
            return RemoteIntegrityError(f"{request.describe()}: the bytes do not match the store's checksum")
        if isinstance(error, boto_errors.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            return RemoteAccessError(f"{request.describe()}: the server's certificate is not valid")
        if isinstance(error, _NOT_CONNECTED):
            return UnreachableStoreError(
                f"{request.describe()} failed: {type(error).__name__}", may_have_applied=False
            )
        return TransientStoreError(
            f"{request.describe()} failed: {type(error).__name__}", may_have_applied=request.writes
        )

    def _answer_error(self, request: Request, error: boto_errors.ClientError) -> Error:
        about: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
        status = int(about.get("HTTPStatusCode", 0))
        if status == 304:
            return _NotModifiedError(f"{request.describe()}: not modified")
        code = _error_code(error)
        detail = self._redacted(str(error.response.get("Error", {}).get("Message", "")))
        wait_seconds = retry_after_seconds(about.get("HTTPHeaders", {}).get("retry-after"))
        return error_for_answer(
            request,
            status,
            "" if code == str(status) else code,
            detail=detail,
            retry_after_seconds=wait_seconds,
        )

    def _redacted(self, text: str) -> str:
        given = self._connection
        for secret in (given.access_key, given.session_token, given.access_key_id, *self._secrets):
            if secret:
                text = text.replace(secret, "***")
        return text[:300]

    def _sent_etag(self, etag: str) -> str:
        return f'"{etag}"' if self.quote_etags else etag


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keeps Python from looking for garbage while descriptions are read, which are all there to stay.

    Looking takes a third of the time of making the first client, and more in a large program.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _DescriptionFiles(JSONFileLoader):
    """Reads botocore's descriptions as botocore does, in a fifth of the time."""

    def load_file(self, file_path: str) -> Any:
        """Returns the description of a path, which comes without a suffix; None when there is none."""
        for suffix, plain in ((".json", bytes), (".json.gz", gzip.decompress)):
            path = Path(file_path + suffix)
            if path.is_file():
                with _no_garbage_collection():
                    return orjson.loads(plain(path.read_bytes()))
        return None


class _DescriptionLoader(Loader):
    """Reads descriptions once for all clients: reading S3's takes most of making one.

    Those of other services are read too: a profile may need STS or SSO to come by its credentials.
    """

    _shared: _DescriptionLoader | None = None

    @property
    def search_paths(self) -> list[str]:
        """The folders to look in; a copy, because every boto3 session adds one of its own to them."""
        return list(super().search_paths)

    @classmethod
    def shared(cls, session: botocore.session.Session) -> _DescriptionLoader:
        """Returns the process's loader, which looks where the first session was told to."""
        if cls._shared is None:
            given = session.get_config_variable("data_path") or ""
            paths = [Path(os.path.expandvars(path)).expanduser() for path in given.split(os.pathsep) if path]
            cls._shared = cls(extra_search_paths=[str(path) for path in paths], file_loader=_DescriptionFiles())
        return cls._shared

    def list_available_services(self, type_name: str) -> list[str]:
        """Returns the names of all folders of descriptions; botocore looks through the files in each."""
        folders = [Path(path) for path in self.search_paths]
        return sorted({name for folder in folders if folder.is_dir() for name in os.listdir(folder)})  # noqa: PTH208


class _TimedHTTPConnection(AWSHTTPConnection):
    """A connection whose requests keep their deadline."""

    def connect(self) -> None:
        super().connect()
        self.sock = TimedSocket(self.sock)


class _TimedHTTPSConnection(AWSHTTPSConnection):
    """As above, encrypted."""

    def connect(self) -> None:
        super().connect()
        self.sock = TimedSocket(self.sock)


class _TimedHTTPPool(AWSHTTPConnectionPool):
    ConnectionCls = _TimedHTTPConnection


class _TimedHTTPSPool(AWSHTTPSConnectionPool):
    ConnectionCls = _TimedHTTPSConnection


def _time_connections(client: S3Client) -> None:
    """Has a client make connections that keep deadlines; botocore has no setting for a request's whole time."""
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]
    session._pool_classes_by_scheme.update(http=_TimedHTTPPool, https=_TimedHTTPSPool)


def _account(store: S3Store) -> tuple[str | None, ...]:
    given = store._connection
    return (given.endpoint_url, given.access_key_id, given.access_key, given.session_token, given.profile)


class _NotModifiedError(Error):
    """The object still has the ETag that was asked about."""


def _error_code(error: boto_errors.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _cause(error: Exception) -> Exception | None:
    """Returns the error to show as the cause, unless its text may tell more than ours should."""
    if isinstance(error, (boto_errors.ClientError, *_NO_CREDENTIALS)):
        return None
    return error


def _received_etag(answer: Any) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _metadata(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def _described(key: str, answer: Any) -> StoredObject:
    return StoredObject(
        key, answer["ContentLength"], _received_etag(answer), answer.get("LastModified"), _metadata(answer)
    )
