"""A time by which a request has to end, even if the server keeps sending a byte now and then.

Owns context variables: the deadline of the request that this thread is making, what counts its bytes, and how
long requests are tried. The invariant: no wait for the network begins that would end past the deadline, or once
the request is to be stopped. A read timeout alone would begin again with every byte.

Each byte that is sent or received extends the deadline by the time that it takes at 4 KiB a second. So a large
value arrives over a slow line, and a server that sends single bytes can't hold a request up.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.stores.stopping import current_stop

SLOWEST_BYTES_PER_SECOND = 4096.0
_SEND_BYTES = 64 * 1024


class Deadline:
    """When a request has to end, on the clock of its retries."""

    def __init__(self, clock: Callable[[], float], at: float) -> None:
        self.clock = clock
        self.at = at
        self._moved_bytes = 0

    def moved(self, byte_count: int) -> None:
        """Counts bytes that were sent or received."""
        self._moved_bytes += byte_count

    def remaining_seconds(self) -> float:
        """Returns the time that is left; 0 or less once the deadline is past."""
        return self.at + self._moved_bytes / SLOWEST_BYTES_PER_SECOND - self.clock()


_current: ContextVar[Deadline | None] = ContextVar("ebooklet_tx_deadline", default=None)
_meter: ContextVar[Callable[[int], object] | None] = ContextVar("ebooklet_tx_meter", default=None)


@contextlib.contextmanager
def metered(meter: Callable[[int], object]) -> Iterator[None]:
    """Tells a function of each piece that this thread sends or receives in the block, by its bytes."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


def _moved(deadline: Deadline | None, byte_count: int) -> None:
    if deadline is not None:
        deadline.moved(byte_count)
    meter = _meter.get()
    if meter is not None:
        meter(byte_count)


@contextlib.contextmanager
def deadline_at(clock: Callable[[], float], at: float) -> Iterator[None]:
    """Sets a time by which all requests in the block have to end."""
    outer = _current.get()
    # Set inside the `try`: a deadline that an interrupt left set would end all later requests of the thread.
    try:
        _current.set(Deadline(clock, at))
        yield
    finally:
        _current.set(outer)


@contextlib.contextmanager
def deadline_in(seconds: float, *, at_least: bool = False) -> Iterator[None]:
    """Limits one request to so many seconds, or to the time left until its retries' deadline if that is less.

    Args:
        seconds: How long it may take.
        at_least: Whether it has that time even if the deadline of its retries comes earlier.
    """
    outer = _current.get()
    clock = time.monotonic if outer is None else outer.clock
    at = clock() + seconds
    with deadline_at(clock, at if outer is None or at_least else min(at, outer.at)):
        yield


@dataclass(frozen=True, slots=True)
class Patience:
    """How long requests are tried at most, whatever their policy says.

    Attributes:
        deadline_seconds: The limit for each request, with all its attempts and waits.
        unreachable_seconds: The limit for a request for which no connection can be made.
        ends_at: When the last of all requests is given up, on the system's clock.
    """

    deadline_seconds: float = math.inf
    unreachable_seconds: float = math.inf
    ends_at: float = math.inf


_ENDLESS = Patience()
_patience: ContextVar[Patience] = ContextVar("ebooklet_tx_patience", default=_ENDLESS)


def current_patience() -> Patience:
    """Returns how long this thread's requests are tried at most."""
    return _patience.get()


@contextlib.contextmanager
def patience(
    *,
    deadline_seconds: float = math.inf,
    unreachable_seconds: float = math.inf,
    block_seconds: float = math.inf,
) -> Iterator[None]:
    """Shortens the time that this thread's requests are tried for in the block; never lengthens it.

    Args:
        deadline_seconds: For each request.
        unreachable_seconds: For each for which no connection can be made.
        block_seconds: For all of them together.
    """
    outer = _patience.get()
    shortened = Patience(
        min(deadline_seconds, outer.deadline_seconds),
        min(unreachable_seconds, outer.unreachable_seconds),
        min(time.monotonic() + block_seconds, outer.ends_at),
    )
    # Set inside the `try`, so that no interrupt can leave it set for good.
    try:
        _patience.set(shortened)
        yield
    finally:
        _patience.set(outer)


def connect_seconds(seconds: Any) -> Any:
    """Returns how long to wait for a connection: what is given, or what is left until the deadline."""
    deadline = _current.get()
    if deadline is None or not isinstance(seconds, int | float):
        return seconds
    return max(min(seconds, deadline.remaining_seconds()), 0.001)


class TimedSocket:
    """A socket that never waits past the deadline of the current request; all else is the socket's own."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._timeout_seconds = sock.gettimeout()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, seconds: float | None) -> None:
        """Sets how long to wait for each piece."""
        self._timeout_seconds = seconds
        self._sock.settimeout(seconds)

    def sendall(self, data: Any) -> None:
        """Sends all data, waiting for each piece at most the timeout."""
        view = memoryview(data).cast("B")
        while view:
            with self.waiting() as deadline:
                sent = self._sock.send(view[:_SEND_BYTES])
            _moved(deadline, sent)
            view = view[sent:]

    def makefile(self, mode: str = "r", buffering: int | None = None, **options: Any) -> Any:
        """Returns a file that reads the socket, as http.client asks for."""
        if mode != "rb":
            return self._sock.makefile(mode, buffering, **options)  # type: ignore[call-overload]
        raw = _TimedReader(self, self._sock.makefile("rb", buffering=0))
        return raw if buffering == 0 else io.BufferedReader(raw)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Deadline | None]:
        """Limits a wait for the network, in the block, by the deadline; lets it be stopped.

        Raises:
            TimeoutError: The deadline is past.
            StoppedError: The request is to end.
        """
        deadline = _current.get()
        if deadline is not None:
            remaining = deadline.remaining_seconds()
            if remaining <= 0:
                raise TimeoutError("the request took longer than its deadline")
            timeout = self._timeout_seconds
            self._sock.settimeout(remaining if timeout is None else min(timeout, remaining))
        stop = current_stop()
        if stop is None:
            yield deadline
            return
        stop.begin_waiting(self._sock)
        try:
            yield deadline
        finally:
            stop.end_waiting()


class _TimedReader(io.RawIOBase):
    """The bytes that arrive on a socket, until the deadline of the request that reads them."""

    def __init__(self, sock: TimedSocket, inner: Any) -> None:
        super().__init__()
        self._sock = sock
        # The socket counts this file, and stays open until it is closed as well.
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        with self._sock.waiting() as deadline:
            count: int | None = self._inner.readinto(buffer)
        _moved(deadline, count or 0)
        return count

    def fileno(self) -> int:
        return int(self._inner.fileno())

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            super().close()


__all__ = [
    "Deadline",
    "Patience",
    "TimedSocket",
    "connect_seconds",
    "current_patience",
    "deadline_at",
    "deadline_in",
    "metered",
    "patience",
]
