"""Connections to web servers that are used for one request after another.

Owns the idle connections of a store, which its threads share. The invariants: a connection belongs to one request
at a time, and is used again only if the answer before was read to its end; a process never uses a connection
that another one made; and a request that fails on a kept connection is sent once more, on a new one, as the
server may have closed the old one meanwhile. All requests here are reads, so that sending one twice does no harm.
"""

from __future__ import annotations

import http.client
import os
import select
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.stores.deadline import TimedSocket, connect_seconds, deadline_in
from ebooklet_tx.stores.stopping import check_stopped

MOST_IDLE = 20
IDLE_SECONDS = 30.0
"""Routers on the way forget connections that are idle for longer, and then answer nothing at all."""

_MOST_REST_BYTES = 16 * 2**10
_REST_SECONDS = 1.0
"""Reading the rest of an answer may take this long, beside what its bytes take."""


@dataclass(frozen=True, slots=True)
class _Route:
    """What two requests must have in common to use one connection."""

    process_id: int
    tls: bool
    host: str
    tunnel_to: str | None
    tunnel_authorization: str | None


class Answer(http.client.HTTPResponse):
    """An answer; its connection closes with it, unless `finish` has given it back."""

    _came_by: tuple[Connections, _Connection] | None = None

    def came_by(self, connections: Connections, connection: _Connection) -> None:
        """Names the connection, which stays open after the answer, and where to give it back."""
        self._came_by = connections, connection

    def finish(self) -> None:
        """Reads a short rest, gives the connection back if that is the end, and closes the answer."""
        try:
            is_short = self.length is None or self.length <= _MOST_REST_BYTES
            if self._came_by is not None and is_short and not self.isclosed():
                with deadline_in(_REST_SECONDS):
                    self.read(_MOST_REST_BYTES)
            if self._came_by is not None and self.isclosed():
                connections, connection = self._came_by
                self._came_by = None
                connections.give_back(connection)
        except (OSError, http.client.HTTPException):
            pass  # What was asked for has arrived.
        finally:
            self.close()

    def close(self) -> None:
        """Closes the answer, and the connection if it was not given back."""
        came_by, self._came_by = self._came_by, None
        super().close()
        if came_by is not None:
            came_by[1].close()


class _Connection(http.client.HTTPConnection):
    """A connection whose requests keep their deadlines."""

    response_class = Answer
    route: _Route
    idle_since = 0.0

    def connect(self) -> None:
        timeout = self.timeout
        self.timeout = connect_seconds(timeout)
        super().connect()
        self.sock: Any = TimedSocket(self.sock)
        self.sock.settimeout(timeout)

    def is_quiet(self) -> bool:
        """Whether the server has neither closed it nor sent anything that nobody asked for."""
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        return not poll.poll(0)


class _TLSConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


class Connections:
    """The connections of one store.

    There is no lock: a fork could copy one while it is held. Each step on the list is one call, which the
    interpreter does not interrupt.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._idle: list[_Connection] = []
        self._is_closed = False

    def ask(self, request: urllib.request.Request) -> Answer:
        """Sends a request of urllib's, for which proxies are settled, and returns the answer, its body not read.

        Raises:
            URLError: It could not be sent.
            OSError, http.client.HTTPException: There is no answer.
        """
        sent = {**request.headers, **request.unredirected_hdrs}
        headers = {name.title(): value for name, value in sent.items()}
        # urllib keeps here what to have the proxy connect to; it has no public name.
        tunnel_to: str | None = getattr(request, "_tunnel_host", None)
        # A proxy's credentials are none of the server's business behind its tunnel.
        authorization = headers.pop("Proxy-Authorization", None) if tunnel_to is not None else None
        route = _Route(os.getpid(), request.type == "https", request.host, tunnel_to, authorization)
        kept = self._take(route)
        if kept is not None:
            try:
                return self._exchange(kept, request, headers)
            except (OSError, http.client.HTTPException) as error:
                # What ended this connection may have ended all that are as old.
                self._close_idle()
                if isinstance(cause_of(error), TimeoutError):
                    raise
            check_stopped()
        made = (_TLSConnection if route.tls else _Connection)(route.host, timeout=request.timeout)
        made.route = route
        if tunnel_to is not None:
            made.set_tunnel(tunnel_to, headers={"Proxy-Authorization": authorization} if authorization else None)
        return self._exchange(made, request, headers)

    def give_back(self, connection: _Connection) -> None:
        """Keeps a connection whose answer was read to its end for the next request."""
        connection.idle_since = self._clock()
        self._idle.append(connection)
        for oldest in self._idle[:-MOST_IDLE]:
            self._close(oldest)
        if self._is_closed:
            self._close_idle()

    def close(self) -> None:
        """Closes the idle connections, and from now on each one after its request."""
        self._is_closed = True
        self._close_idle()

    def _take(self, route: _Route) -> _Connection | None:
        """Returns the connection that was used last and is still open, None if there is none."""
        for connection in reversed(self._idle.copy()):
            if connection.route == route and self._claim(connection):
                if self._clock() - connection.idle_since < IDLE_SECONDS and connection.is_quiet():
                    return connection
                connection.close()
        return None

    def _exchange(
        self, connection: _Connection, request: urllib.request.Request, headers: dict[str, str]
    ) -> Answer:
        try:
            try:
                connection.request(request.get_method(), request.selector, headers=headers)
            except OSError as error:
                raise urllib.error.URLError(error) from error
            answer: Any = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:
            answer.came_by(self, connection)
        # As urllib's own handlers do for those that follow.
        answer.url, answer.msg = request.full_url, answer.reason
        return answer  # type: ignore[no-any-return]

    def _claim(self, connection: _Connection) -> bool:
        """Takes a connection out of the idle ones; False if another thread has done so."""
        try:
            self._idle.remove(connection)
        except ValueError:
            return False
        return True

    def _close_idle(self) -> None:
        for connection in self._idle.copy():
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        # In a forked child this closes its copy of the socket alone: closing says nothing to the server.
        if self._claim(connection):
            connection.close()


def cause_of(error: OSError | http.client.HTTPException) -> object:
    """Returns what a `URLError` stands for, an exception or a text, and any other error as it is.

    Errors of ssl have a `reason` as well, which is not what is meant.
    """
    return error.reason if isinstance(error, urllib.error.URLError) else error


__all__ = ["IDLE_SECONDS", "MOST_IDLE", "Answer", "Connections", "cause_of"]
