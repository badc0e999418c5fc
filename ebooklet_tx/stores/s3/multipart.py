"""One multipart upload to S3, new or resumed.

An upload is resumed only after those parts that the caller recorded and the store still has, in sequence from the
first; its completion is never conditional; and an upload that the store no longer knows is recognized as
completed, or begins again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.object_store import ByteSource, UploadState
from ebooklet_tx.stores.request import Request
from ebooklet_tx.stores.s3.boto_errors import UnreadableAnswerError

if TYPE_CHECKING:
    from typing import Protocol

    from mypy_boto3_s3 import S3Client

    T = TypeVar("T")

    class Ask(Protocol):
        """Sends one request and raises errors of ours."""

        def __call__(self, request: Request, send: Callable[[S3Client], T], /) -> T: ...


MIN_PART_BYTES = 5 << 20
MAX_PARTS = 10_000

_MD5 = re.compile(r"[0-9a-f]{32}")


class MultipartUpload:
    """Sends one object in parts."""

    def __init__(
        self,
        bucket: str,
        request: Request,
        ask: Ask,
        put_options: Mapping[str, Any],
        checksum: Callable[[bytes], Mapping[str, str]],
    ) -> None:
        """Sends nothing.

        Args:
            bucket: The bucket.
            request: The write that the requests belong to; names the object.
            ask: Sends one request and raises errors of ours.
            put_options: The arguments with which the object is written, as botocore names them.
            checksum: Returns the arguments that make the store refuse a part that did not arrive whole.
        """
        self._checksum = checksum
        self._put_options = put_options
        self._bucket = bucket
        self._key = request.key
        self._request = request
        self._ask = ask

    def send(
        self,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None,
        on_part: Callable[[UploadState], None] | None,
    ) -> str:
        """Returns the object's ETag once all parts are there and joined."""
        part_bytes = max(part_bytes, MIN_PART_BYTES, -(-source.size_bytes // MAX_PARTS))
        begun = self._found_again(source.size_bytes, resume)
        if isinstance(begun, str):
            return begun
        state, offset_bytes = begun if begun is not None else (self._begin(), 0)
        if on_part is not None:
            on_part(state)
        while offset_bytes < source.size_bytes:
            part = source.read_at(offset_bytes, min(part_bytes, source.size_bytes - offset_bytes))
            number = len(state.parts) + 1
            etag = self._send_part(state.upload_id, number, part)
            state = UploadState(state.upload_id, (*state.parts, (number, etag)))
            offset_bytes += len(part)
            if on_part is not None:
                on_part(state)
        return self._complete(state)

    def _begin(self) -> UploadState:
        def send(client: S3Client) -> UploadState:
            answer = client.create_multipart_upload(Bucket=self._bucket, Key=self._key, **self._put_options)
            return UploadState(_filled(answer, "UploadId"))

        return self._ask(self._request, send)

    def _found_again(self, size_bytes: int, resume: UploadState | None) -> tuple[UploadState, int] | str | None:
        """Returns the state to resume from and its length; the ETag if all is done; None to begin again."""
        if resume is None or not resume.upload_id:
            return None
        try:
            sizes = self._stored_parts(resume.upload_id)
        except ObjectMissingError:
            return self._completed_etag(size_bytes, resume)
        except (RemoteAccessError, InvalidArgumentError):
            # This store can't list parts, so it is unknown which of them it has, and none is used.
            return None
        kept: list[tuple[int, str]] = []
        offset_bytes = 0
        for number, etag in resume.parts:
            part_bytes = sizes.get((number, etag), 0)
            if number != len(kept) + 1 or part_bytes == 0 or offset_bytes + part_bytes > size_bytes:
                break
            kept.append((number, etag))
            offset_bytes += part_bytes
        if 0 < offset_bytes < size_bytes and any(sizes[part] < MIN_PART_BYTES for part in kept):
            return None
        return UploadState(resume.upload_id, tuple(kept)), offset_bytes

    def _stored_parts(self, upload_id: str) -> dict[tuple[int, str], int]:
        """Returns the sizes of the parts that the store has, by number and ETag."""
        sizes: dict[tuple[int, str], int] = {}
        marker = 0
        while True:
            marker = self._ask(
                self._request,
                lambda client, marker=marker: self._listed_parts(client, upload_id, marker, sizes),  # type: ignore[misc]
            )
            if not marker:
                return sizes

    def _listed_parts(
        self, client: S3Client, upload_id: str, marker: int, sizes: dict[tuple[int, str], int]
    ) -> int:
        """Adds the sizes of a page of parts; returns the marker of the next page, 0 if there is none."""
        page = client.list_parts(Bucket=self._bucket, Key=self._key, UploadId=upload_id, PartNumberMarker=marker)
        for part in page.get("Parts", ()):
            sizes[part["PartNumber"], _filled(part, "ETag")] = part["Size"]
        following = page.get("NextPartNumberMarker", 0)
        # A page that leads to itself or back would be asked for without an end.
        return following if page.get("IsTruncated") and following > marker else 0

    def _completed_etag(self, size_bytes: int, state: UploadState) -> str | None:
        """Returns the ETag of an upload whose completion arrived but whose answer did not."""
        expected = _joined_etag(state)
        if expected is None:
            return None

        def look(client: S3Client) -> bool:
            answer = client.head_object(Bucket=self._bucket, Key=self._key)
            return _filled(answer, "ETag") == expected and answer["ContentLength"] == size_bytes

        try:
            return expected if self._ask(self._request, look) else None
        except ObjectMissingError:
            return None

    def _send_part(self, upload_id: str, number: int, part: bytes) -> str:
        options: dict[str, Any] = {**self._checksum(part)}

        def send(client: S3Client) -> str:
            answer = client.upload_part(
                Bucket=self._bucket, Key=self._key, UploadId=upload_id, PartNumber=number, Body=part, **options
            )
            return _filled(answer, "ETag")

        return self._asked_of_known_upload(send)

    def _complete(self, state: UploadState) -> str:
        parts: Any = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in state.parts]

        def send(client: S3Client) -> str:
            answer = client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=state.upload_id,
                MultipartUpload={"Parts": parts},
            )
            return _filled(answer, "ETag")

        return self._asked_of_known_upload(send)

    def _asked_of_known_upload(self, send: Callable[[S3Client], str]) -> str:
        try:
            return self._ask(self._request, send)
        except ObjectMissingError:
            # The next attempt finds out that the upload is gone, and begins a new one.
            raise TransientStoreError(
                f"{self._request.describe()}: the store dropped the upload", **self._request.fields
            ) from None


def _filled(answer: Any, name: str) -> str:
    """Returns a text of an answer, without quotes around it.

    Raises:
        UnreadableAnswerError: It is missing or empty.
    """
    text = str(answer.get(name, "")).strip('"')
    if not text:
        raise UnreadableAnswerError(f"it has no {name}")
    return text


def _joined_etag(state: UploadState) -> str | None:
    """Returns the ETag that S3 gives to parts whose ETags are MD5, None if they are something else."""
    if not state.parts or not all(_MD5.fullmatch(etag) for _, etag in state.parts):
        return None
    joined = b"".join(bytes.fromhex(etag) for _, etag in state.parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(state.parts)}"
