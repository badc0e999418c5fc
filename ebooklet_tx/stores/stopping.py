"""Stopping the requests of an operation that is to end now.

Owns a context variable: what may stop the requests of this thread. The invariant: once a `Stop` is set, none of
its threads begins another wait, neither for the network nor before another attempt, and the waits that are under
way end at once.
"""

from __future__ import annotations

import socket
import threading
from contextvars import ContextVar


class StoppedError(Exception):
    """A request was not sent, or not waited for, as its operation has ended; no user sees it."""


class Stop:
    """Ends the waits of some threads, once it is set."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._mutex = threading.Lock()
        self._waiting: dict[int, socket.socket] = {}

    @property
    def is_set(self) -> bool:
        """Whether the requests are to end."""
        return self._event.is_set()

    def set(self) -> None:
        """Ends the waits that are under way, and all later ones."""
        self._event.set()
        with self._mutex:
            for sock in self._waiting.values():
                try:
                    # Of the socket below TLS: the layer above is in use by its thread.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    # It is not connected any more.
                    continue

    def check(self) -> None:
        """Raises once it is set.

        Raises:
            StoppedError: It is.
        """
        if self._event.is_set():
            raise StoppedError("the request was stopped, as the operation that it belongs to has ended")

    def pause(self, seconds: float) -> None:
        """Waits so many seconds, or until it is set."""
        self._event.wait(seconds)

    def begin_waiting(self, sock: socket.socket) -> None:
        """Notes that this thread is about to wait on a socket.

        Raises:
            StoppedError: It is set.
        """
        with self._mutex:
            self.check()
            self._waiting[threading.get_ident()] = sock

    def end_waiting(self) -> None:
        """Notes that this thread does not wait on a socket any more."""
        with self._mutex:
            self._waiting.pop(threading.get_ident(), None)


_current: ContextVar[Stop | None] = ContextVar("ebooklet_tx_stop", default=None)


def stop_by(stop: Stop) -> None:
    """Lets all requests of this thread be stopped by one; for a thread that makes no others."""
    _current.set(stop)


def current_stop() -> Stop | None:
    """Returns what may stop the requests of this thread."""
    return _current.get()


def is_stopped() -> bool:
    """Whether the requests of this thread are to end."""
    stop = _current.get()
    return stop is not None and stop.is_set


def check_stopped() -> None:
    """Raises where the requests of this thread are to end.

    Raises:
        StoppedError: They are.
    """
    stop = _current.get()
    if stop is not None:
        stop.check()


__all__ = ["Stop", "StoppedError", "check_stopped", "current_stop", "is_stopped", "stop_by"]
