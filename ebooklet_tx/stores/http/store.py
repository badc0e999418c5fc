"""An object store read from a public http(s) address.

The invariants: it never writes; no answer makes it hold more bytes than the limit; and bytes that a server has
transformed are refused. Its connections are used again, and idle ones close with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import socket
import ssl
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import NoReturn, Protocol, cast
from urllib.parse import quote, urlsplit, urlunsplit

from ebooklet_tx.connection import HTTPConnection, check_object_key, without_secrets
from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ObjectMissingError,
    PreconditionFailedError,
    ReadOnlyError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
    UnreachableStoreError,
)
from ebooklet_tx.stores.bodies import bytes_to_skip, check_encoding, check_range, read_part, read_whole
from ebooklet_tx.stores.deadline import deadline_in
from ebooklet_tx.stores.http.connections import Answer, Connections, cause_of
from ebooklet_tx.stores.http.opener import http_only_opener
from ebooklet_tx.stores.http_errors import error_for_answer, retry_after_seconds
from ebooklet_tx.stores.object_store import Blob, StoredObject
from ebooklet_tx.stores.request import Request
from ebooklet_tx.stores.unwritable import UnwritableStore

DEFAULT_MAX_BODY_BYTES = 1 << 30

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ETIMEDOUT})
_URL_SAFE = "/%:@!$&'()*+,;=~"


class _Answer(Protocol):
    status: int
    headers: Message

    def read(self, amount: int, /) -> bytes: ...


class HTTPStore(UnwritableStore):
    """Objects at one URL and at that URL with suffixes, those of the database's key.

    With the database's key D and the address U, the object `D` is at U and `D.d/pack/x` at U with
    `.d/pack/x` appended to its path; a query string stays at the end. ETags are the web
    server's own: if it serves a copy of a bucket, they are not the bucket's.

    A server that supports neither Range nor conditions still works: the range is cut out of its answer, and a
    missing ETag is made from the content. A server that compresses without being asked is refused, because a
    range of compressed bytes is no range of the object.

    Attributes:
        suffix_starts: What may follow D in the name of an object. In a database of ebooklet's a "/" may, too.
    """

    def __init__(
        self,
        db_url: str,
        *,
        key: str | None = None,
        timeout_seconds: float = 60.0,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        """Names the address; nothing is sent.

        Args:
            db_url: The address of the root object.
            key: The database's key D; the last part of the URL's path if None.
            timeout_seconds: How long one request may take, beside what its bytes take.
            max_body_bytes: The longest object that is read as a whole.
        """
        connection = HTTPConnection(db_url)
        self.suffix_starts = "."
        self._url = urlsplit(db_url)
        self._key = connection.key if key is None else check_object_key(key)
        self._location = without_secrets(db_url)
        self._timeout_seconds = timeout_seconds
        self._max_body_bytes = max_body_bytes
        self._connections = Connections()
        self._opener = http_only_opener(self._connections)
        # For a store that is not closed: it refers to nothing that its connections would be collected with.
        weakref.finalize(self, self._connections.close)

    @property
    def location(self) -> str:
        """Names the store for messages; never holds a credential."""
        return self._location

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        request = self._request("get", key)
        headers = {"If-None-Match": _quoted(if_none_match)} if if_none_match is not None else {}
        with self._answer(request, headers) as answer:
            if answer.status == 304:
                return None
            limit_bytes = self._max_body_bytes if max_bytes is None else min(max_bytes, self._max_body_bytes)
            announced = _announced_bytes(answer)
            data = read_whole(request, answer, announced, limit_bytes, _etag(answer) or "")
            etag = _etag(answer) or f"blake2b-{hashlib.blake2b(data, digest_size=16).hexdigest()}"
        return None if etag == if_none_match else Blob(data, etag, _metadata(answer))

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on; no bytes need no object."""
        check_range(offset_bytes, length_bytes)
        if length_bytes == 0:
            return b""
        request = self._request("get_range", key)
        headers = {"Range": f"bytes={offset_bytes}-{offset_bytes + length_bytes - 1}"}
        if if_match is not None:
            headers["If-Match"] = _quoted(if_match)
        with self._answer(request, headers) as answer:
            if if_match is not None and (_etag(answer) or if_match) != if_match:
                raise PreconditionFailedError(
                    f"{request.describe()}: the object has changed; read it again", **request.fields
                )
            content_range = answer.headers.get("Content-Range", "" if answer.status == 206 else None)
            skip_bytes = bytes_to_skip(
                request, content_range, _announced_bytes(answer), offset_bytes, length_bytes
            )
            return read_part(request, answer, skip_bytes, length_bytes)

    def head(self, key: str) -> StoredObject:
        """Returns the object's size, ETag (empty if the server sends none) and time of writing."""
        request = self._request("head", key)
        with self._answer(request, {}, method="HEAD") as answer:
            size_bytes = _announced_bytes(answer)
            if size_bytes is None:
                raise RemoteIntegrityError(
                    f"{request.describe()}: the server does not send the size", **request.fields
                )
            return StoredObject(key, size_bytes, _etag(answer) or "", _modified(answer), _metadata(answer))

    def close(self) -> None:
        """Closes the connections that are kept; a request after it uses one of its own."""
        self._connections.close()

    def _refuse(self, operation: str, key: str) -> NoReturn:
        # A listing is refused as well: a web server has none to rely on.
        raise ReadOnlyError(
            f"{operation} of {key!r}: {self.location} is for reading only; write through its bucket",
            object_name=key or None,
            operation=operation,
        )

    def _request(self, operation: str, key: str) -> Request:
        return Request(operation, self.location, key)

    def _address(self, key: str) -> str:
        check_object_key(key)
        suffix = key.removeprefix(self._key)
        if not key.startswith(self._key) or (suffix and suffix[0] not in self.suffix_starts):
            raise InvalidArgumentError(f"object key {key!r} does not belong to the database {self._key!r}")
        path = quote(self._url.path, safe=_URL_SAFE) + quote(suffix)
        return urlunsplit(self._url._replace(path=path))

    @contextlib.contextmanager
    def _answer(self, request: Request, headers: dict[str, str], *, method: str = "GET") -> Iterator[_Answer]:
        asked = urllib.request.Request(self._address(request.key), headers=headers, method=method)  # noqa: S310
        try:
            with (
                deadline_in(self._timeout_seconds),
                self._opener.open(asked, timeout=self._timeout_seconds) as answer,
            ):
                check_encoding(request, answer.headers.get("Content-Encoding"))
                yield answer
                answer.finish()
        except urllib.error.HTTPError as error:
            # Not `with error`, which refuses one whose body is read already.
            with contextlib.closing(error):
                answer = cast(Answer, error.fp)
                answer.finish()
                if error.code == 304 and "If-None-Match" in headers:
                    yield _NotModified(error.headers)
                    return
                raise _answer_error(request, error) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, Error):
                raise
            raise _connection_error(request, error) from None


class _NotModified:
    """The answer that the object is unchanged."""

    status = 304

    def __init__(self, headers: Message) -> None:
        self.headers = headers

    def read(self, _amount: int, /) -> bytes:
        return b""


def _answer_error(request: Request, error: urllib.error.HTTPError) -> Error:
    if error.code == 403:
        return ObjectMissingError(
            f"{request.describe()}: missing or not public (403; S3 answers the same for both if the bucket "
            "may not be listed)",
            **request.fields,
        )
    if error.code in (404, 410):
        return ObjectMissingError(
            f"{request.describe()}: there is no such object ({error.code})", **request.fields
        )
    if error.code in (301, 302, 303, 307, 308):
        return RemoteAccessError(
            f"{request.describe()}: the server redirects ({error.code}) to an address that is not followed: to "
            "another scheme than http and https, from https to http, or in a circle; give the address that the "
            "redirect leads to",
            **request.fields,
        )
    if error.code == 304:
        return TransientStoreError(
            f"{request.describe()} failed for now: 304 without being asked for",
            may_have_applied=False,
            **request.fields,
        )
    wait_seconds = retry_after_seconds(error.headers.get("Retry-After"))
    return error_for_answer(request, error.code, "", retry_after_seconds=wait_seconds)


def _connection_error(request: Request, error: OSError | http.client.HTTPException) -> Error:
    reason = cause_of(error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return RemoteAccessError(
            f"{request.describe()}: the server's certificate is not valid; check the address and the CA bundle",
            **request.fields,
        )
    if isinstance(reason, str):
        return RemoteAccessError(
            f"{request.describe()}: the address can't be opened ({reason})", **request.fields
        )
    kind = UnreachableStoreError if _is_unreachable(error, reason) else TransientStoreError
    return kind(
        f"{request.describe()} failed: {type(reason).__name__}: {reason}",
        may_have_applied=False,
        **request.fields,
    )


def _is_unreachable(error: Exception, reason: object) -> bool:
    """True when no connection was made; urllib wraps errors only until the request is sent."""
    if not isinstance(error, urllib.error.URLError):
        return False
    if isinstance(reason, socket.gaierror | ConnectionRefusedError | TimeoutError):
        return True
    return isinstance(reason, OSError) and reason.errno in _NO_ROUTE


def _announced_bytes(answer: _Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _etag(answer: _Answer) -> str | None:
    text: str | None = answer.headers.get("ETag")
    if text is None:
        return None
    # A weak ETag keeps its mark, without which it would equal a strong one.
    return text if text.startswith("W/") else text.strip('"')


def _quoted(etag: str) -> str:
    return etag if etag.startswith("W/") else f'"{etag}"'


def _modified(answer: _Answer) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers.get("Last-Modified", ""))
    except (TypeError, ValueError, OverflowError):
        return None


def _metadata(answer: _Answer) -> dict[str, str]:
    prefix = "x-amz-meta-"
    return {
        name.lower().removeprefix(prefix): str(value)
        for name, value in answer.headers.items()
        if name.lower().startswith(prefix)
    }
