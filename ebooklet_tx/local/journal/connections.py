"""Connections to SQLite with an owner.

Owns one connection. The invariant: between SQLite's opening of it and its owner's knowing of it no bytecode runs,
so that no interrupt leaks one. (A connection that is merely dropped stays open until garbage is collected: it and
its cache of statements refer to each other.)
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from typing import Any


class OwnedConnection:
    """Owns a connection that it opens; make it first, and open it where its closing is provided for.

    It is closed at the latest when its owner is no longer referred to.
    """

    def __init__(self) -> None:
        self._connections: list[sqlite3.Connection] = []
        self._pid = os.getpid()

    def open(self, database: str, **options: Any) -> sqlite3.Connection:
        """Opens a connection as `sqlite3.connect` does."""
        # One call into C opens it and notes it.
        self._connections.extend(map(functools.partial(sqlite3.connect, **options), (database,)))
        return self._connections[0]

    def close(self) -> None:
        """Closes it; twice is no error."""
        for connection in self._connections:
            connection.close()

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # An interpreter that ends has cleared this module's names, and closes the connection itself.
        # SQLite forbids touching in a forked child what belongs to the parent.
        if not is_ending() and os.getpid() == self._pid:
            self.close()


@contextlib.contextmanager
def connected(database: str, **options: Any) -> Iterator[sqlite3.Connection]:
    """Opens a connection for a block, as `sqlite3.connect` does."""
    owned = OwnedConnection()
    try:
        yield owned.open(database, **options)
    finally:
        owned.close()


__all__ = ["OwnedConnection", "connected"]
