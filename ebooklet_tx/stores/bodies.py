"""Reads the bodies of answers, whole or in part, and never takes more into memory than was asked for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from ebooklet_tx.errors import (
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectTooLargeError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
)
from ebooklet_tx.stores.request import Request

_CHUNK_BYTES = 1 << 18
_START_BYTES = 64
_PLAIN_ENCODINGS = frozenset({"", "identity", "aws-chunked"})
"""Some stores repeat the encoding of the upload (`aws-chunked`) although they send the plain bytes."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


_pieces: ContextVar[list[bytes] | None] = ContextVar("ebooklet_tx_pieces", default=None)


@contextlib.contextmanager
def gathering_in(pieces: list[bytes]) -> Iterator[None]:
    """Puts into a list what arrives of the part that this thread reads in the block, also where that fails."""
    token = _pieces.set(pieces)
    try:
        yield
    finally:
        _pieces.reset(token)


class Stream(Protocol):
    """The body of an answer."""

    def read(self, amount: int, /) -> bytes:
        """Returns up to `amount` bytes, none at the end."""
        ...


def check_encoding(request: Request, encoding: str | None) -> None:
    """Refuses an answer whose bytes are not the object's, which would pass for damage.

    Raises:
        RemoteAccessError: They were compressed on the way.
    """
    encoding = (encoding or "").strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise RemoteAccessError(
            f"{request.describe()}: the server sent it {encoding!r}-encoded although no encoding was asked for; "
            "configure it to serve these objects as they are, without compression",
            **request.fields,
        )


def check_range(offset_bytes: int, length_bytes: int) -> None:
    """Refuses a range that no object can have.

    Raises:
        InvalidArgumentError: One of the numbers is negative.
    """
    if offset_bytes < 0 or length_bytes < 0:
        raise InvalidArgumentError(f"a range can't begin at {offset_bytes} or be {length_bytes} bytes long")


def check_end(request: Request, offset_bytes: int, length_bytes: int, total_bytes: int) -> None:
    """Refuses a range that ends past the object's end.

    Raises:
        NotFoundInRangeError: The object is too short.
    """
    if offset_bytes + length_bytes > total_bytes:
        raise NotFoundInRangeError(
            f"{request.describe()}: bytes {offset_bytes} to {offset_bytes + length_bytes} "
            f"of an object of {total_bytes}",
            **request.fields,
        )


def bytes_to_skip(
    request: Request, content_range: str | None, whole_bytes: int | None, offset_bytes: int, length_bytes: int
) -> int:
    """Returns how many bytes of an answer to a ranged read lie before the range.

    Args:
        request: What was asked.
        content_range: The answer's Content-Range, None if the server sent the whole object.
        whole_bytes: The announced length of a whole answer, None if the server did not announce one.
        offset_bytes: Where the range begins.
        length_bytes: How long it is.

    Raises:
        NotFoundInRangeError: The object is too short.
        RemoteIntegrityError: The server sent another range.
    """
    skip_bytes, total_bytes = offset_bytes, whole_bytes
    if content_range is not None:
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match is None or int(match[1]) != offset_bytes:
            raise RemoteIntegrityError(
                f"{request.describe()}: the server sent another range than the one asked for", **request.fields
            )
        skip_bytes = 0
        total_bytes = None if match[3] == "*" else int(match[3])
    if total_bytes is not None:
        check_end(request, offset_bytes, length_bytes, total_bytes)
    return skip_bytes


def read_part(request: Request, stream: Stream, skip_bytes: int, length_bytes: int) -> bytes:
    """Returns exactly `length_bytes` bytes of a body after its first `skip_bytes`.

    Raises:
        TransientStoreError: The body ends earlier, as it does when the connection breaks.
    """
    while skip_bytes > 0 and (skipped := stream.read(min(skip_bytes, _CHUNK_BYTES))):
        skip_bytes -= len(skipped)
    pieces = _pieces.get()
    if pieces is None:
        pieces = []
    pieces.clear()
    missing_bytes = length_bytes
    while missing_bytes and (piece := stream.read(min(missing_bytes, _CHUNK_BYTES))):
        pieces.append(piece)
        missing_bytes -= len(piece)
    if missing_bytes:
        raise _cut_short(request, length_bytes - missing_bytes, length_bytes)
    return b"".join(pieces)


def read_whole(
    request: Request, stream: Stream, announced_bytes: int | None, max_bytes: int | None, etag: str
) -> bytes:
    """Returns a whole body, holding no more than `max_bytes` of it in memory.

    Args:
        request: What was asked.
        stream: The body.
        announced_bytes: Its length as the store announced it, None if it did not.
        max_bytes: The most to read; None for no limit.
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
        raise _cut_short(request, taken_bytes, announced_bytes)
    return b"".join(pieces)


def _too_large(request: Request, max_bytes: int, etag: str, start: bytes) -> ObjectTooLargeError:
    return ObjectTooLargeError(
        f"{request.describe()}: the object is over the limit of {max_bytes} bytes for its kind; it was not read",
        etag=etag,
        start=start,
        **request.fields,
    )


def _cut_short(request: Request, taken_bytes: int, announced_bytes: int) -> TransientStoreError:
    return TransientStoreError(
        f"{request.describe()}: the answer ended after {taken_bytes} of {announced_bytes} bytes",
        may_have_applied=False,
        **request.fields,
    )
