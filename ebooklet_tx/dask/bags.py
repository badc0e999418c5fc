"""Writing to a database from Dask: each partition goes into a part of a fork, and one push commits all of it.

The invariant: no value passes through the scheduler or the client. What the tasks of the graph hand on are
receipts.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from ebooklet_tx.connection import RemoteConn
from ebooklet_tx.database import Database
from ebooklet_tx.database.forking import Fork
from ebooklet_tx.errors import InvalidArgumentError, InvalidTypeError, MissingPackageError
from ebooklet_tx.sync.forks.merge import MergeResult
from ebooklet_tx.sync.forks.receipt import Receipt
from ebooklet_tx.sync.pull.resolve import Resolver, check_choice

SPLIT_EVERY = 16
"""So many lists of receipts are joined by one task."""


def store(
    pairs: Any,
    database: Database,
    *,
    on_conflict: str | Resolver = "raise",
    connection: RemoteConn | None = None,
    value_serializer: Any = None,
    ttl_seconds: int = 86_400,
    split_every: int = SPLIT_EVERY,
    **compute: Any,
) -> MergeResult:
    """Computes keys with their values on Dask's workers, and takes them in as pending changes of a database.

    Each partition's task writes what it yields into a part of a fork of the database's newest commit, and hands
    on its receipt; the receipts are joined in a tree and merged here. `database.changes().push()` then makes one
    commit of all of it. A task that is done twice, or whose worker dies, changes nothing in that.

    Args:
        pairs: A `dask.bag.Bag` of (key, value), or a sequence of delayed objects, each an iterable of such pairs.
        database: An open database, which was pushed.
        on_conflict: What becomes of a key that two partitions set, or that is pending here; see `Database.merge`.
        connection: How the workers reach the database; None for its address, with credentials that boto3 finds
            there. What is given here travels to the workers, credentials included.
        value_serializer: The class, where the database has one of its own.
        ttl_seconds: For how long the work may take; see `Database.fork`.
        split_every: How many lists of receipts a task joins.
        compute: Further arguments of `dask.compute`, such as `scheduler=`.

    Returns:
        What was taken in.

    Raises:
        InvalidTypeError: `pairs` is nothing of Dask's.
        ConflictError: Two partitions set the same key; nothing was taken in.
        MissingPackageError: Dask is not installed.

    Examples:
        >>> import dask.bag
        >>> from ebooklet_tx.dask import store
        >>> numbers = dask.bag.from_sequence(range(4), npartitions=2).map(lambda n: (f"square {n}", n * n))
        >>> store(numbers, db, scheduler="threads").set_count
        4
        >>> bool(db.changes().push()), db["square 3"]
        (True, 9)
    """
    dask = _dask()
    check_choice(on_conflict)
    if isinstance(split_every, bool) or not isinstance(split_every, int) or split_every < 2:
        raise InvalidArgumentError(f"split_every must be an int from 2 on, not {split_every!r}")
    partitions = _partitions(pairs)
    if not partitions:
        return database.merge(on_conflict=on_conflict)
    fork = database.fork(ttl_seconds)
    write, join = dask.delayed(_write, pure=False), dask.delayed(_joined)
    lists = [write(fork, connection, value_serializer, partition) for partition in partitions]
    while len(lists) > 1:
        lists = [join(lists[start : start + split_every]) for start in range(0, len(lists), split_every)]
    (receipts,) = dask.compute(lists[0], **compute)
    return database.merge(*receipts, on_conflict=on_conflict)


def _dask() -> Any:
    try:
        return importlib.import_module("dask")
    except ImportError as error:
        raise MissingPackageError(
            'ebooklet_tx.dask uses dask, which is not installed; pip install "ebooklet-tx[dask]"'
        ) from error


def _partitions(pairs: Any) -> list[Any]:
    """Returns the delayed objects of which each is an iterable of pairs."""
    # A delayed object has every attribute that is asked for.
    if callable(getattr(type(pairs), "to_delayed", None)):
        pairs = pairs.to_delayed()
    found = list(pairs) if isinstance(pairs, Sequence) and not isinstance(pairs, str | bytes) else [pairs]
    if not all(hasattr(type(partition), "__dask_graph__") for partition in found):
        raise InvalidTypeError(
            "store takes a dask.bag.Bag of (key, value) pairs, or a list of delayed objects, each an "
            f"iterable of such pairs, not a {type(pairs).__name__}",
            operation="store",
        )
    return found


def _write(
    fork: Fork, connection: RemoteConn | None, value_serializer: Any, pairs: Iterable[tuple[str, Any]]
) -> tuple[Receipt, ...]:
    """Runs in a worker: writes a partition into a part of the fork."""
    with fork.open(connection, value_serializer=value_serializer) as part:
        for pair in pairs:
            # A str of two letters would do as well.
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InvalidTypeError(
                    f"store takes pairs of key and value, not a {type(pair).__name__} such as {pair!r:.60}",
                    operation="store",
                )
            part[pair[0]] = pair[1]
    return (part.receipt,) if part.receipt else ()


def _joined(lists: Iterable[tuple[Receipt, ...]]) -> tuple[Receipt, ...]:
    return tuple(receipt for some in lists for receipt in some)


__all__ = ["store"]
