"""A slow line on loopback: what passes a port goes on to another one, so many bytes a second in each direction.

All connections share the line, as they do the one to the internet. It listens on a free port and ends with its
context.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator

PIECE_BYTES = 16 * 1024
BUFFER_BYTES = 64 * 1024
"""What the system may hold of one connection; without a bound it takes megabytes at once."""


class Direction:
    """One direction of a line: whoever sends waits until there is room.

    Attributes:
        passed_bytes: What has passed so far.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self.passed_bytes = 0
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0
        self._mutex = threading.Lock()

    def take(self, byte_count: int) -> None:
        """Waits until so many bytes have passed."""
        with self._mutex:
            self.passed_bytes += byte_count
            self._free_at = max(self._free_at, time.monotonic()) + byte_count / self._bytes_per_second
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class SlowLine:
    """A line to a server.

    Attributes:
        url: Its near end.
        up: From the near end to the server.
        down: Back.
    """

    def __init__(self, server_url: str, bytes_per_second: float) -> None:
        parts = urllib.parse.urlsplit(server_url)
        self._server = (parts.hostname or "", parts.port or 80)
        self.up, self.down = Direction(bytes_per_second), Direction(bytes_per_second)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Passes connections on until the line is closed."""
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
                far = socket.create_connection(self._server)
                self._ends += [near, far]
                for source, target, direction in ((near, far, self.up), (far, near, self.down)):
                    thread = threading.Thread(target=_pass_on, args=(source, target, direction), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def cut(self) -> None:
        """Ends the connections that there are, and drops what is on its way; the system of a child sends on."""
        _shut(*self._ends)

    def close(self) -> None:
        """Takes no more connections, and ends those that there are; called once `serve` is not at work."""
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def end_serving(self) -> None:
        """Lets `serve` return."""
        # Closing alone leaves the thread in accept.
        _shut(self._listener)
        self._listener.close()


def _pass_on(source: socket.socket, target: socket.socket, direction: Direction) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            direction.take(len(data))
            target.sendall(data)
    _shut(source, target)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def slow_line(server_url: str, bytes_per_second: float) -> Iterator[SlowLine]:
    """Gives a line to a server, both directions as slow as that."""
    line = SlowLine(server_url, bytes_per_second)
    thread = threading.Thread(target=line.serve, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.end_serving()
        thread.join()
        line.close()
