"""HTTP/1.1 of the stub: requests read from a connection that is kept, answers written to it.

Owns the state of each connection. The invariants: one request of a connection is under way at a time; a body
goes from the socket into one buffer of its size; and a large answer is written a chunk at a time, as fast as
the client takes it.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from typing import Any, Protocol, cast

_HEAD_BYTES = 64 * 1024
_NO_BODY = (204, 304)


@dataclass(slots=True)
class Request:
    """One request.

    Attributes:
        method: The method, in upper case.
        target: Path and query, as they were sent.
        headers: By name in lower case.
        body: Decoded: neither HTTP's chunks nor those of `aws-chunked` are left in it.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | bytearray


@dataclass(slots=True)
class Answer:
    """One answer; with `length_bytes` the body comes from an iterator."""

    status: int = 200
    headers: Iterable[tuple[str, str]] = ()
    body: bytes = b""
    chunks: Iterator[memoryview | bytes] | None = None
    length_bytes: int | None = None


Respond = Callable[[Answer], None]


class Service(Protocol):
    """What answers requests."""

    def handle(self, request: Request, respond: Respond) -> None:
        """Answers a request by a call of `respond`, at once, later, or never."""


class BadRequestError(Exception):
    """The request can't be understood; the connection is closed."""


class Connection(asyncio.BufferedProtocol):
    """One connection of a client."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._input = bytearray(_HEAD_BYTES)
        self._filled = 0
        self._request: Request | None = None
        self._body = bytearray()
        self._got = 0
        self._chunked = False
        self._busy = False
        self._paused = False
        self._sending: Iterator[memoryview | bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._sending = None

    # -- reading ---------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> Any:
        if self._request is not None and not self._chunked and not self._busy:
            return memoryview(self._body)[self._got :]
        if self._filled == len(self._input):
            self._input += bytes(len(self._input))
        return memoryview(self._input)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._request is not None and not self._chunked and not self._busy:
            self._got += nbytes
        else:
            self._filled += nbytes
        try:
            self._advance()
        except BadRequestError as error:
            self._send(Answer(400, body=str(error).encode()))
            if self._transport is not None:
                self._transport.close()

    def _advance(self) -> None:
        if self._busy:
            return
        if self._request is None:
            end = self._input.find(b"\r\n\r\n", 0, self._filled)
            if end < 0:
                return
            self._request = self._parsed_head(bytes(self._input[:end]))
            self._take(end + 4)
            self._begin_body(self._request.headers)
        if self._chunked:
            whole = _unchunked(self._input, self._filled)
            if whole is None:
                return
            self._body, taken = whole
            self._take(taken)
        elif self._got < len(self._body):
            return
        self._handle()

    def _parsed_head(self, head: bytes) -> Request:
        lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, _ = lines[0].split(" ")
            headers = {}
            for line in lines[1:]:
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
        except ValueError:
            raise BadRequestError("not HTTP") from None
        return Request(method, target, headers, b"")

    def _begin_body(self, headers: dict[str, str]) -> None:
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._body = bytearray(0 if self._chunked else int(headers.get("content-length", "0")))
        if "100-continue" in headers.get("expect", "").lower() and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What came with the head already.
        self._got = 0
        if not self._chunked and self._body:
            self._got = min(self._filled, len(self._body))
            self._body[: self._got] = self._input[: self._got]
            self._take(self._got)

    def _take(self, count: int) -> None:
        left = self._filled - count
        if left:
            self._input[:left] = self._input[count : self._filled]
        self._filled = left

    def _handle(self) -> None:
        request, body = self._request, self._body
        if request is None:
            return
        self._busy, self._body, self._got = True, bytearray(), 0
        if "x-amz-decoded-content-length" in request.headers:
            body = _without_aws_chunks(body, request.headers)
        request.body = body
        self._service.handle(request, self._send)

    # -- answering -------------------------------------------------------------------------

    def _send(self, answer: Answer) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        head = bytearray(f"HTTP/1.1 {answer.status} {responses.get(answer.status, '')}\r\n".encode())
        head += _date_header()
        for name, value in answer.headers:
            head += f"{name}: {value}\r\n".encode("latin-1")
        length = answer.length_bytes if answer.length_bytes is not None else len(answer.body)
        if answer.status not in _NO_BODY:
            head += b"Content-Length: %d\r\n" % length
        head += b"\r\n"
        is_head = self._request is not None and self._request.method == "HEAD"
        if answer.status in _NO_BODY or is_head:
            transport.write(head)
        elif answer.chunks is None:
            transport.write(head + answer.body)
        else:
            transport.write(head)
            self._sending = answer.chunks
            self._pump()
            return
        self._finish()

    def _pump(self) -> None:
        while self._sending is not None and not self._paused and self._transport is not None:
            chunk = next(self._sending, None)
            if chunk is None:
                self._sending = None
                self._finish()
                return
            self._transport.write(chunk)

    def _finish(self) -> None:
        self._request, self._busy, self._chunked = None, False, False
        if self._filled:
            self._advance()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()


_dated: tuple[int, bytes] = (0, b"")


def _date_header() -> bytes:
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, f"Date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _dated[1]


def _unchunked(data: bytearray, filled: int) -> tuple[bytearray, int] | None:
    """Returns a chunked body and how many bytes it took; None while it is not whole."""
    body, at = bytearray(), 0
    while True:
        end = data.find(b"\r\n", at, filled)
        if end < 0:
            return None
        size = _chunk_size(data[at:end])
        if size == 0:
            # Trailers of HTTP's own, if any, end with an empty line.
            stop = end if data[end : end + 4] == b"\r\n\r\n" else data.find(b"\r\n\r\n", end, filled)
            return None if stop < 0 or stop + 4 > filled else (body, stop + 4)
        start = end + 2
        if start + size + 2 > filled:
            return None
        body += data[start : start + size]
        at = start + size + 2


def _chunk_size(line: bytes | bytearray) -> int:
    try:
        return int(bytes(line).split(b";")[0], 16)
    except ValueError:
        raise BadRequestError("a chunk without a size") from None


def _without_aws_chunks(data: bytes | bytearray, headers: dict[str, str]) -> bytearray:
    """Returns the payload of an `aws-chunked` body, held to its length and to a trailing CRC-32."""
    body, at = bytearray(), 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise BadRequestError("an aws-chunked body that is cut")
        size = _chunk_size(data[at:end])
        if size == 0:
            break
        body += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    if len(body) != int(headers["x-amz-decoded-content-length"]):
        raise BadRequestError("an aws-chunked body of another length than announced")
    trailer = re.search(rb"x-amz-checksum-crc32:\s*([A-Za-z0-9+/=]+)", bytes(data[end:]))
    if trailer is not None and base64.b64decode(trailer[1]) != zlib.crc32(body).to_bytes(4, "big"):
        raise BadRequestError("a trailing checksum that does not hold")
    return body
