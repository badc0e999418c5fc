"""Reads ranges of objects, with one signature for all ranges of an object.

Three quarters of what a read takes are botocore's preparing, signing and parsing. A signature covers the headers
that are there when it is made. So an object is signed for once, without Range and If-Match, which are then sent
unsigned beside it.

Owns the signed requests. Each is used for a minute; stores accept it for fifteen. The invariants: the first read
of a client is botocore's own, which finds the bucket's region; an answer that may be due to the signature is not
taken, but asked for again in botocore's own way; and nothing that was signed enters a message or a log.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ClientError
from botocore.parsers import create_parser
from botocore.response import StreamingBody

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SIGNED_SECONDS = 60.0
_MOST_OBJECTS = 256
_MOST_REFUSALS = 3
"""After so many refusals in a row where botocore's own way succeeded, it is the only one that is tried."""

_kept: ContextVar[list[AWSPreparedRequest] | None] = ContextVar("ebooklet_tx_signed", default=None)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is a success.

    Attributes:
        status: Its HTTP status.
        headers: Its headers, by names in lower case.
        body: Its body, not read yet.
    """

    status: int
    headers: Mapping[str, str]
    body: StreamingBody

    @property
    def etag(self) -> str:
        """The object's ETag, without quotes."""
        return self.headers.get("etag", "").strip('"')

    @property
    def length_bytes(self) -> int | None:
        """The announced length of the body."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None


@dataclass(frozen=True, slots=True)
class _Signed:
    """A signed request for a whole object.

    Attributes:
        client: What signed it.
        credentials: The number of the credentials that it was signed with.
        until: When it is too old, on the clock of these reads.
        request: The request.
    """

    client: S3Client
    credentials: int
    until: float
    request: AWSPreparedRequest


class RangeReads:
    """The ranged reads of one bucket."""

    def __init__(self, bucket: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket = bucket
        self._clock = clock
        self._signed: dict[str, _Signed] = {}
        self._proven: S3Client | None = None
        self._refusals = 0

    def proved(self, client: S3Client) -> None:
        """Notes that a client has read from the bucket."""
        self._proven = client

    def ask(self, client: S3Client, credentials: int, key: str, headers: dict[str, str]) -> Answer:
        """Returns the answer to a read of an object.

        Args:
            client: What to send it with.
            credentials: A number that changes with the client's credentials.
            key: The object.
            headers: Range and If-Match.

        Raises:
            ClientError: The answer is no success.
            BotoCoreError: There is none.
        """
        was_refused = False
        if self._proven is client and self._refusals < _MOST_REFUSALS:
            signed = self._signed_request(client, credentials, key)
            answer = _send(client, signed.request, headers)
            if answer is not None:
                self._refusals = 0
                return answer
            self._signed.pop(key, None)
            was_refused = True
        answer = self._ask_plainly(client, key, headers)
        self._proven = client
        self._refusals += was_refused
        return answer

    def _ask_plainly(self, client: S3Client, key: str, headers: dict[str, str]) -> Answer:
        options: Any = {name.replace("-", ""): value for name, value in headers.items()}
        answer = client.get_object(Bucket=self._bucket, Key=key, **options)
        about = answer["ResponseMetadata"]
        return Answer(about["HTTPStatusCode"], about["HTTPHeaders"], answer["Body"])

    def _signed_request(self, client: S3Client, credentials: int, key: str) -> _Signed:
        now = self._clock()
        signed = self._signed.get(key)
        if (
            signed is not None
            and signed.client is client
            and signed.credentials == credentials
            and now < signed.until
        ):
            return signed
        signed = _Signed(client, credentials, now + _SIGNED_SECONDS, self._sign(client, key))
        while len(self._signed) >= _MOST_OBJECTS:
            # Another thread may be at it as well.
            self._signed.pop(next(iter(self._signed.copy()), ""), None)
        self._signed[key] = signed
        return signed

    def _sign(self, client: S3Client, key: str) -> AWSPreparedRequest:
        """Has botocore prepare and sign a read of a whole object, which is not sent."""
        kept: list[AWSPreparedRequest] = []
        token = _kept.set(kept)
        try:
            client.get_object(Bucket=self._bucket, Key=key)
        finally:
            _kept.reset(token)
        return kept[0]


def http_session_of(client: S3Client) -> Any:
    """Returns what botocore sends a client's requests with, for which it has no public name."""
    internals: Any = client
    return internals._endpoint.http_session


def keep_signed(request: AWSPreparedRequest, **_: Any) -> AWSResponse | None:
    """Keeps what this thread signs, and answers in the store's place; leaves all other requests alone.

    Every client has it as a handler of what is about to be sent.
    """
    kept = _kept.get()
    if kept is None:
        return None
    kept.append(request)
    no_headers: Any = {}
    return AWSResponse(request.url, 200, no_headers, io.BytesIO())


def _send(client: S3Client, signed: AWSPreparedRequest, headers: dict[str, str]) -> Answer | None:
    """Sends a signed request with more headers; returns None for an answer that may be due to the signature."""
    request: Any = copy.copy(signed)
    request.headers = {**signed.headers, **headers}
    response = http_session_of(client).send(request)
    status = response.status_code
    if status in (200, 206):
        return Answer(
            status, response.headers, StreamingBody(response.raw, response.headers.get("content-length"))
        )
    body = response.content
    if status < 400 or status in (400, 401, 403):
        return None
    about: Any = {"status_code": status, "headers": response.headers, "body": body, "context": {}}
    shape: Any = None  # An error's fields are the same whatever was asked for.
    raise ClientError(create_parser("rest-xml").parse(about, shape), "GetObject")


__all__ = ["Answer", "RangeReads", "http_session_of", "keep_signed"]
