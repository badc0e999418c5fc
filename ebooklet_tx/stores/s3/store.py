"""An object store in an S3 bucket: the requests of the store's interface.

Multipart completion, deletes and copies are never conditional: some stores ignore the conditions there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
)
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.stores.bodies import bytes_to_skip, check_encoding, check_range, read_part, read_whole
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState
from ebooklet_tx.stores.request import Request
from ebooklet_tx.stores.s3.boto_errors import NotModifiedError, UnreadableAnswerError
from ebooklet_tx.stores.s3.client import has_custom_endpoint, location_of
from ebooklet_tx.stores.s3.multipart import MIN_PART_BYTES, MultipartUpload
from ebooklet_tx.stores.s3.ranges import RangeReads
from ebooklet_tx.stores.s3.sender import Sender

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from ebooklet_tx.connection import S3Connection


class S3Store:
    """Objects of one bucket, under their full keys.

    Attributes:
        quote_etags: Whether ETags are sent in quotes, as HTTP wants; Ceph wants them without. The first write
            that is refused although its ETag is right changes it.
        etags_proven: Whether a conditional write succeeded with that setting.
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
        self._location = location_of(connection)
        self._has_custom_endpoint = has_custom_endpoint(connection)
        self._sender = Sender(connection)
        self._ranges = RangeReads(connection.bucket)
        endpoint_url = self._sender.client.meta.endpoint_url
        self.is_aws = (urlsplit(endpoint_url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        self.place = ("aws" if self.is_aws else endpoint_url.rstrip("/"), connection.bucket)

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
            self._ranges.proved(client)
            with contextlib.closing(answer["Body"]) as body:
                check_encoding(request, answer.get("ContentEncoding"))
                etag = _received_etag(answer)
                data = read_whole(request, body, answer.get("ContentLength"), max_bytes, etag)
            return Blob(data, etag, _metadata(answer))

        request = Request("get", self._location, key)
        try:
            blob = self._sender.send(request, fetch)
        except NotModifiedError:
            if if_none_match is None:
                raise
            return None
        return None if blob.etag == if_none_match else blob

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on; no bytes need no object."""
        check_range(offset_bytes, length_bytes)
        if length_bytes == 0:
            return b""
        request = Request("get_range", self._location, key)
        headers = {"Range": f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}"}
        if if_match is not None:
            headers["If-Match"] = self._sent_etag(if_match)

        def fetch(client: S3Client) -> bytes:
            answer = self._ranges.ask(client, self._sender.credentials_number, key, headers)
            with contextlib.closing(answer.body) as body:
                check_encoding(request, answer.headers.get("content-encoding"))
                if if_match is not None and not answer.etag:
                    raise UnreadableAnswerError("it has no ETag")
                # Some stores ignore If-Match, and some send a part as 200, told only by its Content-Range.
                if if_match is not None and answer.etag != if_match:
                    raise PreconditionFailedError(
                        f"{request.describe()}: the object has changed; read it again", **request.fields
                    )
                content_range = answer.headers.get("content-range", "" if answer.status == 206 else None)
                skip_bytes = bytes_to_skip(
                    request, content_range, answer.length_bytes, offset_bytes, length_bytes
                )
                return read_part(request, body, skip_bytes, length_bytes)

        return self._sender.send(request, fetch)

    def head(self, key: str) -> StoredObject:
        """Returns what the store knows about the object, without its bytes."""

        def send_head(client: S3Client) -> StoredObject:
            return _described(key, client.head_object(Bucket=self._bucket, Key=key))

        def send_get(client: S3Client) -> StoredObject:
            answer = client.get_object(Bucket=self._bucket, Key=key)
            answer["Body"].close()
            return _described(key, answer)

        request = Request("head", self._location, key)
        # Only the answer to a GET has a body that tells a missing object from a missing bucket or a wrong key.
        with contextlib.suppress(ObjectMissingError, RemoteAccessError):
            return self._sender.send(request, send_head)
        return self._sender.send(request, send_get)

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
            return self._sender.send(request, send)
        return self._put_quoted_or_not(key, if_match, lambda: self._sender.send(request, send))

    def _put_quoted_or_not(self, key: str, etag: str, put: Callable[[], str]) -> str:
        """Sends a write with If-Match; again in the other quoting if it is refused although the ETag is right."""
        try:
            written = put()
        except PreconditionFailedError:
            # A refused write took no effect, so it may be sent again.
            if self.etags_proven or not self._has_etag(key, etag):
                raise
        else:
            self.etags_proven = True
            return written
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

        Parts are at least 5 MiB. An object of no more than one part is sent as a plain put, with
        nothing to resume and no call of `on_part`. A failed upload is not aborted, so that it can be
        resumed; the bucket's lifecycle rule for unfinished uploads removes it if it never is.
        """
        if source.size_bytes <= max(part_bytes, MIN_PART_BYTES):
            return self.put(key, source.read_at(0, source.size_bytes))
        request = Request("put_parts", self._location, key, writes=True)
        upload = MultipartUpload(self._bucket, request, self._sender.send, self._put_options(key), self._checksum)
        etag = upload.send(source, part_bytes=part_bytes, resume=resume, on_part=on_part)
        # The ETag that some stores answer a completion with is not the object's.
        return etag if self.is_aws else self.head(key).etag

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, a page at a time, in the server's order."""
        request = Request("list", self._location, prefix)
        options: dict[str, str] = {}

        def fetch(client: S3Client) -> tuple[list[StoredObject], str | None]:
            page = client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **options)  # type: ignore[arg-type]
            found = [
                StoredObject(each["Key"], each["Size"], _etag_of(each), each.get("LastModified"))
                for each in page.get("Contents", ())
            ]
            token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            # What a listing leaves out would count as gone.
            if page.get("IsTruncated") and (not token or token == options.get("ContinuationToken")):
                raise UnreadableAnswerError("a listing that has more does not say how it goes on")
            return found, token

        while True:
            found, token = self._sender.send(request, fetch)
            # Names that were not asked for must not pass for parts of a database.
            yield from (each for each in found if each.key.startswith(prefix))
            if token is None:
                return
            options["ContinuationToken"] = token

    def delete(self, key: str) -> None:
        """Removes the object; it is no error if there is none."""
        request = Request("delete", self._location, key, writes=True)
        try:
            self._sender.send(request, lambda client: client.delete_object(Bucket=self._bucket, Key=key))
        except ObjectMissingError:
            return

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object inside the bucket and returns the copy's ETag."""
        return self._copy(self, source_key, target_key)

    def copy_from(self, source: object, source_key: str, target_key: str) -> str | None:
        """Copies an object of another bucket, or of another key, inside the store and returns the copy's ETag.

        Returns None and sends nothing unless `source` is a bucket at the same endpoint with the same
        credentials. The store refuses an object over 5 GiB.
        """
        if not isinstance(source, S3Store) or _account(source) != _account(self):
            return None
        return self._copy(source, source_key, target_key)

    def _copy(self, source: S3Store, source_key: str, target_key: str) -> str:
        copied: Any = {"Bucket": source._bucket, "Key": source_key}
        options = self._put_options(target_key)

        def send(client: S3Client) -> str:
            answer = client.copy_object(Bucket=self._bucket, Key=target_key, CopySource=copied, **options)
            return _etag_of(answer["CopyObjectResult"])

        etag = self._sender.send(Request("copy", source.location, source_key, writes=True), send)
        return etag or self.head(target_key).etag

    def create_bucket(self) -> None:
        """Makes the bucket; it is no error if the caller already owns it."""

        def send(client: S3Client) -> None:
            region = client.meta.region_name
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                if region in (None, "us-east-1") or not self.is_aws:
                    client.create_bucket(Bucket=self._bucket)
                else:
                    configuration: Any = {"LocationConstraint": region}
                    client.create_bucket(Bucket=self._bucket, CreateBucketConfiguration=configuration)

        self._sender.send(Request("create_bucket", self._location, writes=True), send)

    def close(self) -> None:
        """Closes the connections to the server."""
        self._sender.close()

    def _put_options(self, key: str) -> dict[str, Any]:
        """Returns the arguments with which an object is written, as the connection asks for them."""
        given = self._connection
        names = ObjectNames(given.key)
        arguments = {"ServerSideEncryption": given.sse, "SSEKMSKeyId": given.sse_kms_key_id}
        # Only writers read locks, so the public gets no right to them. The bucket's owner does: it may be
        # another account, which would be locked out.
        for_readers = key == names.root or key.startswith(names.prefix)
        if for_readers or (given.acl or "").startswith("bucket-owner-"):
            arguments["ACL"] = given.acl
        # Cheaper classes charge extra for objects that are soon overwritten, as all others are.
        if key.startswith(f"{names.prefix}pack/"):
            arguments["StorageClass"] = given.storage_class
        return {name: value for name, value in arguments.items() if value is not None}

    def _checksum(self, data: bytes) -> dict[str, str]:
        """Returns the argument that makes the store refuse a body that did not arrive whole.

        Without it some stores keep whatever arrived, even nothing. For AWS the SDK adds its own checksum.
        Other stores may not know that one, but all know Content-MD5, which a bucket with Object Lock wants too.
        """
        if not self._has_custom_endpoint:
            return {}
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def _sent_etag(self, etag: str) -> str:
        return f'"{etag}"' if self.quote_etags else etag


def _account(store: S3Store) -> tuple[str | None, ...]:
    given = store._connection
    return (given.endpoint_url, given.access_key_id, given.access_key, given.session_token, given.profile)


def _etag_of(answer: Any) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _received_etag(answer: Any) -> str:
    """Returns the ETag of a success, without which nothing tells that it is one of a store's.

    Raises:
        UnreadableAnswerError: There is none.
    """
    etag = _etag_of(answer)
    if not etag:
        raise UnreadableAnswerError("it has no ETag")
    return etag


def _metadata(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.get("Metadata", {}).items()}


def _described(key: str, answer: Any) -> StoredObject:
    return StoredObject(
        key, answer["ContentLength"], _received_etag(answer), answer.get("LastModified"), _metadata(answer)
    )
