"""Connections to SQLite with an owner, and statements that take many rows at once.

Owns one connection. The invariant: between SQLite's opening of it and its owner's knowing of it no bytecode runs,
so that no interrupt leaks one. (A connection that is merely dropped stays open until garbage is collected: it and
its cache of statements refer to each other.)
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, repeat
from operator import le
from typing import Any

_ROWS_AT_ONCE = 100
_PARAMETERS_AT_ONCE = 999
"""As many as every SQLite takes."""


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


def insert_many(
    raw: sqlite3.Connection,
    statement: tuple[str, str, str],
    shared: Sequence[Any],
    columns: Sequence[Sequence[Any]],
) -> None:
    """Inserts rows, a hundred of them by each statement: that takes two thirds of the time of one for each row.

    No object is made of a row: the collector of garbage would go through all of them, more than once.

    Args:
        raw: The connection of a transaction.
        statement: What comes before the values of a row, those values, and what comes behind them. In the
            values `{s0}`, `{s1}` and so on stand for what all rows share, `{0}`, `{1}` and so on for a row's own.
        shared: What all rows share.
        columns: What each row has of its own, a sequence for each `{0}`, `{1}` and so on.
    """
    count = len(columns[0])
    if not count:
        return
    names = _names(statement[1])
    # A placeholder with a number would say it shorter; to Python such a one has a name, and takes no sequence.
    values = (repeat(shared[int(name[1:])]) if name[0] == "s" else columns[int(name)] for name in names)
    rows = zip(*values, strict=False)
    parameters = chain.from_iterable(rows)
    at_once = min(_ROWS_AT_ONCE, _PARAMETERS_AT_ONCE // len(names))
    text = _of_rows(statement, at_once) if count >= at_once else ""
    for _ in range(count // at_once):
        raw.execute(text, tuple(islice(parameters, at_once * len(names))))
    raw.executemany(_of_rows(statement, 1), rows)


def in_order_of_first(columns: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Returns columns with their rows in the order of the first column."""
    first = columns[0]
    if all(map(le, first, islice(first, 1, None))):
        return columns
    order = sorted(range(len(first)), key=first.__getitem__)
    return [list(map(column.__getitem__, order)) for column in columns]


@functools.lru_cache(maxsize=16)
def _names(values: str) -> tuple[str, ...]:
    """Returns what the placeholders of a row stand for, in their order."""
    return tuple(field for _, field, _, _ in string.Formatter().parse(values) if field is not None)


@functools.lru_cache(maxsize=16)
def _of_rows(statement: tuple[str, str, str], count: int) -> str:
    before, values, behind = statement
    row = "".join(
        literal + ("" if field is None else "?") for literal, field, _, _ in string.Formatter().parse(values)
    )
    return f"{before} VALUES {', '.join([row] * count)} {behind}"


__all__ = ["OwnedConnection", "connected", "in_order_of_first", "insert_many"]
