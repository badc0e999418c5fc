"""What botocore's exceptions mean, as errors of ours; no credential enters a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import botocore.exceptions
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
    UnreachableStoreError,
)
from ebooklet_tx.stores.http_errors import (
    DENIAL_CODES,
    RENEWAL_CODES,
    error_for_answer,
    retry_after_seconds,
)
from ebooklet_tx.stores.request import Request


class UnreadableAnswerError(Exception):
    """An answer lacks what every answer of its kind has; the message says what, in none of the words received."""


# botocore reads headers and XML without a doubt: whatever a server sends in their place ends in one of these.
_UNREADABLE = (
    UnreadableAnswerError,
    ResponseParserError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)
# Reading an answer's body, botocore lets some errors of urllib3 through.
FAILURES = (
    botocore.exceptions.ClientError,
    botocore.exceptions.BotoCoreError,
    HTTPError,
    OSError,
    *_UNREADABLE,
)

_NOT_CONNECTED = (
    botocore.exceptions.EndpointConnectionError,
    botocore.exceptions.ConnectTimeoutError,
    botocore.exceptions.ProxyConnectionError,
)
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.NoAuthTokenError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.UnknownCredentialError,
    botocore.exceptions.SSOError,
)
_LONGEST_CHAIN = 16


class NotModifiedError(TransientStoreError):
    """The object still has the ETag that the request named; no answer at all where it named none."""

    kind = "not_modified"


def translated(request: Request, error: Exception, redact: Callable[[str], str]) -> Error:
    """Returns our error for one of botocore.

    Args:
        request: What was asked.
        error: One of `FAILURES`.
        redact: Takes credentials out of the store's own words.
    """
    if isinstance(error, Error):
        return error
    if isinstance(error, botocore.exceptions.ClientError):
        return _answer_error(request, error, redact)
    shown = request.describe()
    if isinstance(error, _NO_CREDENTIALS):
        return RemoteAccessError(
            f"{shown}: no usable credentials ({type(error).__name__}); give access_key_id "
            "and access_key, or a profile, or set up boto3's own chain",
            **request.fields,
        )
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return InvalidArgumentError(f"{shown}: not a valid name or metadata for S3", **request.fields)
    if isinstance(error, botocore.exceptions.FlexibleChecksumError):
        return RemoteIntegrityError(f"{shown}: the bytes do not match the store's checksum", **request.fields)
    if isinstance(error, botocore.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return RemoteAccessError(
            f"{shown}: the server's certificate is not valid; check endpoint_url and the CA bundle",
            **request.fields,
        )
    if _is_no_header(error):
        return RemoteAccessError(
            f"{shown}: it can't be sent, as the credentials have a character that no request can hold, such as a "
            "line break at their end; give them without it",
            **request.fields,
        )
    if isinstance(error, _NOT_CONNECTED):
        return UnreachableStoreError(
            f"{shown} failed: {_reason(error)}", may_have_applied=False, **request.fields
        )
    if isinstance(error, _UNREADABLE) and not isinstance(error, OSError):
        what = str(error) if isinstance(error, UnreadableAnswerError) else type(error).__name__
        return TransientStoreError(
            f"{shown}: what came is no answer of an S3 store ({what}); if it stays so, check endpoint_url and "
            "the proxies on the way",
            may_have_applied=request.writes,
            **request.fields,
        )
    return TransientStoreError(
        f"{shown} failed: {_reason(error)}", may_have_applied=request.writes, **request.fields
    )


def _is_no_header(error: Exception) -> bool:
    """Whether a request was not begun, as what was to be a header can't be one."""
    below = getattr(error, "kwargs", {}).get("error")
    return isinstance(below, ValueError) and str(below).startswith("Invalid header value")


def needs_renewal(error: Exception) -> bool:
    """Whether an answer says that the credentials have expired."""
    return isinstance(error, botocore.exceptions.ClientError) and _code(error) in RENEWAL_CODES


def is_denial(error: Exception) -> bool:
    """Whether an answer says that a right is missing."""
    if not isinstance(error, botocore.exceptions.ClientError):
        return False
    return _code(error) in DENIAL_CODES or (_status(error) == 403 and _code(error) == "403")


def _answer_error(
    request: Request, error: botocore.exceptions.ClientError, redact: Callable[[str], str]
) -> Error:
    status, code = _status(error), _code(error)
    if status == 304:
        return NotModifiedError(
            f"{request.describe()} failed for now: 304 without being asked for", **request.fields
        )
    headers = _metadata(error).get("HTTPHeaders", {})
    return error_for_answer(
        request,
        status,
        "" if code == str(status) else code,
        detail=redact(str(error.response.get("Error", {}).get("Message", ""))),
        retry_after_seconds=retry_after_seconds(headers.get("retry-after")),
    )


def _metadata(error: botocore.exceptions.ClientError) -> Mapping[str, Any]:
    return error.response.get("ResponseMetadata", {})


def _status(error: botocore.exceptions.ClientError) -> int:
    return int(_metadata(error).get("HTTPStatusCode", 0))


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _reason(error: Exception) -> str:
    """Names an error's kind, and what the system said below it; botocore's own text may hold credentials."""
    # Causes only: the context may be an error that the caller was handling.
    below: object = getattr(error, "kwargs", {}).get("error") or error
    for _ in range(_LONGEST_CHAIN):
        if isinstance(below, OSError) and below.strerror:
            return f"{type(error).__name__} ({below.strerror})"
        below = getattr(below, "__cause__", None)
    return type(error).__name__
