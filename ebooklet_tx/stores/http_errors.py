"""What a store's HTTP answers mean, as errors of ours; it knows no client library.

Every answer that is not a success becomes exactly one error, and an error is transient only if the same request
may succeed later.
"""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.request import Request

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
# The body did not arrive as it was sent, and the store discarded it.
_DAMAGED_BODY_CODES = frozenset({"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
# New credentials may help: some stores call a token that expired long ago an unknown one.
RENEWAL_CODES = EXPIRED_CODES | {"InvalidToken"}
# A right is missing; or, on Ceph, temporary credentials have expired.
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
    "AccessControlListNotSupported": "the bucket allows no ACLs: leave acl out, and use a bucket policy",
    "InvalidStorageClass": "the store does not know the storage class: change storage_class, or leave it out",
    "InvalidObjectState": "the object is archived: restore it, and use a storage_class that is readable at once",
}


def error_for_answer(
    request: Request, status: int, code: str, *, detail: str = "", retry_after_seconds: float | None = None
) -> Error:
    """Returns the error that an unsuccessful answer means.

    Args:
        request: What was asked.
        status: The answer's HTTP status.
        code: The store's error code, as in S3's error bodies; may be empty.
        detail: The store's message, already free of credentials; may be empty.
        retry_after_seconds: How long the store asked to wait.
    """
    shown = request.describe()
    said = f"{status} {code}".strip() + (f": {detail}" if detail else "")
    if status == 501 or code == "NotImplemented":
        return _unsupported(request, said)
    if status == 412 or code == "PreconditionFailed":
        return PreconditionFailedError(
            f"{shown}: the object is not in the expected state ({said}); read it again", **request.fields
        )
    if code in _TRANSIENT_CODES or code in _DAMAGED_BODY_CODES or _is_transient(status):
        applied = request.writes and status != 429 and code not in _DAMAGED_BODY_CODES
        return TransientStoreError(
            f"{shown} failed for now: {said}",
            may_have_applied=applied,
            retry_after_seconds=retry_after_seconds,
            **request.fields,
        )
    if status == 416 or code == "InvalidRange":
        return NotFoundInRangeError(
            f"{shown}: the object ends before the bytes that were asked for ({said})", **request.fields
        )
    if code in _WAYS_OUT:
        return _refused(request, said, _WAYS_OUT[code])
    if code in EXPIRED_CODES:
        return _refused(request, said, "the credentials have expired; renew them")
    if code in ("KeyTooLongError", "KeyTooLong"):
        return InvalidArgumentError(
            f"{shown}: the object's name is too long for this store; give the database a shorter key",
            **request.fields,
        )
    if status in (404, 410):
        return _missing(request, said)
    return _refused(request, said, _way_out(status))


def retry_after_seconds(value: str | None, *, now: float | None = None) -> float | None:
    """Returns the seconds that a Retry-After header asks to wait, or None if it can't be read."""
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
            f"{request.describe()}: the store has no conditional writes ({said}); "
            "open with conditional_writes='auto', which finds another way to commit",
            **request.fields,
        )
    return RemoteAccessError(
        f"{request.describe()}: the store does not have this operation ({said})", **request.fields
    )


def _refused(request: Request, said: str, way_out: str) -> RemoteAccessError:
    return RemoteAccessError(f"{request.describe()} was refused ({said}): {way_out}", **request.fields)


def _missing(request: Request, said: str) -> Error:
    if request.if_match:
        return PreconditionFailedError(
            f"{request.describe()}: the object is gone ({said}); read it again", **request.fields
        )
    return ObjectMissingError(f"{request.describe()}: there is no such object ({said})", **request.fields)


def _way_out(status: int) -> str:
    if status in (401, 403):
        return (
            "check the credentials and their permissions (without permission to list the bucket, "
            "S3 answers the same for a missing object)"
        )
    if status in (301, 302, 307, 308):
        return "the bucket is elsewhere: give its region or endpoint_url"
    return "check endpoint_url, bucket and what the store supports"
