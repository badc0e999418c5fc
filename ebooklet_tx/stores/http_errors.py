"""What a store's HTTP answers mean, as errors of ours.

Owns no state and knows no client library. The invariant: every answer that is not a success becomes
exactly one error, and an error is transient only if the same request may succeed later.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    ObjectTooLargeError,
    PreconditionFailedError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
)

_CHUNK_BYTES = 1 << 20
_START_BYTES = 64
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")

_TRANSIENT_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
# The body did not arrive as it was sent; the store has thrown it away.
_DAMAGED_ON_THE_WAY_CODES = frozenset({"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
# What newer credentials may put right: the store says of a token of long ago that it knows none such.
RENEWAL_CODES = EXPIRED_CODES | {"InvalidToken"}
# A missing right; or, by Ceph, temporary credentials that have expired.
DENIAL_CODES = frozenset({"AccessDenied", "Forbidden"})

_WAYS_OUT = {
    "NoSuchBucket": "no such bucket: check its name and the endpoint, or create it",
    "InvalidAccessKeyId": "the access key is unknown: check access_key_id",
    "SignatureDoesNotMatch": "the signature does not match: check access_key and region",
    "InvalidToken": "the session token is not valid, or expired long ago: get new credentials",
    "RequestTimeTooSkewed": "the clocks differ too much: set this machine's clock",
    "AuthorizationHeaderMalformed": "the signature names a wrong region: give the bucket's region",
    "PermanentRedirect": "the bucket is elsewhere: give its region or endpoint_url",
    "IllegalLocationConstraintException": "the bucket is in another region: give its region",
    "AccessControlListNotSupported": "the bucket takes no ACLs: leave acl out; a bucket policy makes it public",
    "InvalidStorageClass": "the store does not know the storage class: change storage_class, or leave it out",
    "InvalidObjectState": "the object is archived: restore it, and use a storage_class that is readable at once",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, as far as it decides the meaning of an answer.

    Attributes:
        operation: The store's operation, for the message.
        location: The store, for the message.
        key: The object, for the message; empty when the request is about none.
        writes: True when a success changes the store.
        if_match: True when the write is conditional on an ETag.
        if_absent: True when the write is conditional on the object's absence.
    """

    operation: str
    location: str
    key: str = ""
    writes: bool = False
    if_match: bool = False
    if_absent: bool = False

    @property
    def conditional(self) -> bool:
        """True when the write has a condition."""
        return self.if_match or self.if_absent

    def describe(self) -> str:
        """Names operation, object and store."""
        return f"{self.operation} of {self.key!r} at {self.location}"


def error_for_answer(
    request: Request, status: int, code: str, *, detail: str = "", retry_after_seconds: float | None = None
) -> Error:
    """Returns the error that an unsuccessful answer means.

    Args:
        request: What was asked.
        status: The answer's HTTP status.
        code: The store's own word for it, as in S3's error bodies; may be empty.
        detail: The store's own sentence, already free of credentials; may be empty.
        retry_after_seconds: What the store asked to wait.
    """
    shown = request.describe()
    said = f"{status} {code}".strip() + (f": {detail}" if detail else "")
    if status == 501 or code == "NotImplemented":
        return _unsupported(request, said)
    if status == 412 or code == "PreconditionFailed":
        return PreconditionFailedError(f"{shown}: the object is not in the expected state ({said}); read again")
    if code in _TRANSIENT_CODES or code in _DAMAGED_ON_THE_WAY_CODES or _is_transient(status):
        applied = request.writes and status != 429 and code not in _DAMAGED_ON_THE_WAY_CODES
        return TransientStoreError(
            f"{shown} failed for now: {said}",
            may_have_applied=applied,
            retry_after_seconds=retry_after_seconds,
        )
    if status == 416 or code == "InvalidRange":
        return NotFoundInRangeError(f"{shown}: the object ends before the bytes asked for ({said})")
    if code in _WAYS_OUT:
        return RemoteAccessError(f"{shown} was refused ({said}): {_WAYS_OUT[code]}")
    if code in EXPIRED_CODES:
        return RemoteAccessError(f"{shown} was refused ({said}): the credentials have expired; renew them")
    if code in ("KeyTooLongError", "KeyTooLong"):
        return InvalidArgumentError(f"{shown}: the object's name is too long for this store")
    if status in (404, 410):
        return _missing(request, said)
    return RemoteAccessError(f"{shown} was refused ({said}): {_way_out(status)}")


def retry_after_seconds(value: str | None, *, now: float | None = None) -> float | None:
    """Returns the seconds that a Retry-After header asks for, or None if it says nothing usable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        seconds = moment - (time.time() if now is None else now)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _is_transient(status: int) -> bool:
    return status in (408, 409, 423, 425, 429) or status >= 500


def _unsupported(request: Request, said: str) -> Error:
    if request.conditional:
        return ConditionUnsupportedError(
            f"{request.describe()}: the store refuses conditional writes ({said}); use ticket locks"
        )
    return RemoteAccessError(f"{request.describe()}: the store does not offer this operation ({said})")


def _missing(request: Request, said: str) -> Error:
    if request.if_match:
        return PreconditionFailedError(f"{request.describe()}: the object is gone ({said}); read again")
    return ObjectMissingError(f"{request.describe()}: there is no such object ({said})")


def _way_out(status: int) -> str:
    if status in (401, 403):
        return (
            "check the credentials and their permissions (without permission to list the bucket, "
            "S3 says the same of an object that is missing)"
        )
    if status in (301, 302, 307, 308):
        return "the bucket is elsewhere: give its region or endpoint_url"
    return "check endpoint_url, bucket and what the store supports"


class Stream(Protocol):
    """The body of an answer."""

    def read(self, amount: int, /) -> bytes:
        """Returns up to `amount` bytes, none at the end."""
        ...


def check_range(offset_bytes: int, length_bytes: int) -> None:
    """Refuses a range that no object can have.

    Raises:
        InvalidArgumentError: One of the numbers is negative.
    """
    if offset_bytes < 0 or length_bytes < 0:
        raise InvalidArgumentError(f"a range can't begin at {offset_bytes} or be {length_bytes} bytes long")


def bytes_to_skip(
    request: Request, content_range: str | None, whole_bytes: int | None, offset_bytes: int, length_bytes: int
) -> int:
    """Returns how many bytes of an answer to a ranged read lie before the range.

    Args:
        request: What was asked.
        content_range: The answer's Content-Range, None if the server sent the whole object.
        whole_bytes: The length announced of a whole answer, if any.
        offset_bytes: Where the range begins.
        length_bytes: How long it is.

    Raises:
        NotFoundInRangeError: The object is too short.
        RemoteIntegrityError: It is another range than the one asked for.
    """
    skip_bytes, total_bytes = offset_bytes, whole_bytes
    if content_range is not None:
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match is None or int(match[1]) != offset_bytes:
            raise RemoteIntegrityError(f"{request.describe()}: the server sent another range than asked for")
        skip_bytes = 0
        total_bytes = None if match[3] == "*" else int(match[3])
    if total_bytes is not None and offset_bytes + length_bytes > total_bytes:
        raise NotFoundInRangeError(
            f"{request.describe()}: bytes {offset_bytes} to {offset_bytes + length_bytes} "
            f"of an object of {total_bytes}"
        )
    return skip_bytes


def read_part(request: Request, stream: Stream, skip_bytes: int, length_bytes: int) -> bytes:
    """Returns exactly `length_bytes` bytes of a body after passing over the first `skip_bytes`.

    Raises:
        TransientStoreError: The body ends before, as a cut connection makes it.
    """
    while skip_bytes > 0 and (skipped := stream.read(min(skip_bytes, _CHUNK_BYTES))):
        skip_bytes -= len(skipped)
    pieces = []
    missing_bytes = length_bytes
    while missing_bytes and (piece := stream.read(min(missing_bytes, _CHUNK_BYTES))):
        pieces.append(piece)
        missing_bytes -= len(piece)
    if missing_bytes:
        raise cut_short(request, length_bytes - missing_bytes, length_bytes)
    return b"".join(pieces)


def read_whole(
    request: Request, stream: Stream, announced_bytes: int | None, max_bytes: int | None, etag: str
) -> bytes:
    """Returns a whole body, holding no more than `max_bytes` of it in memory.

    Args:
        request: What was asked.
        stream: The body.
        announced_bytes: Its length as the store tells it, if it does.
        max_bytes: The most to take; None for what is announced, however much it is.
        etag: The object's ETag.

    Raises:
        ObjectTooLargeError: It is longer.
        TransientStoreError: It ends before its announced end.
    """
    if max_bytes is not None and announced_bytes is not None and announced_bytes > max_bytes:
        raise _too_large(request, max_bytes, etag, stream.read(_START_BYTES))
    pieces = []
    taken_bytes = 0
    while piece := stream.read(_CHUNK_BYTES):
        pieces.append(piece)
        taken_bytes += len(piece)
        if max_bytes is not None and taken_bytes > max_bytes:
            raise _too_large(request, max_bytes, etag, pieces[0][:_START_BYTES])
    if announced_bytes is not None and taken_bytes < announced_bytes:
        raise cut_short(request, taken_bytes, announced_bytes)
    return b"".join(pieces)


def _too_large(request: Request, max_bytes: int, etag: str, start: bytes) -> ObjectTooLargeError:
    return ObjectTooLargeError(
        f"{request.describe()}: the object is over the limit of {max_bytes} bytes for what should lie there",
        etag=etag,
        start=start,
    )


def cut_short(request: Request, taken_bytes: int, announced_bytes: int) -> TransientStoreError:
    """Returns the error of a body that ended before its announced end."""
    return TransientStoreError(
        f"{request.describe()}: the answer ended after {taken_bytes} of {announced_bytes} bytes",
        may_have_applied=False,
    )
