"""Applying a function to the items of a database, by processes, threads or workers elsewhere.

The invariant: nothing that a worker makes is in the database before the caller writes it there, or merges the
receipt of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, overload

from ebooklet_tx.connection import Connection
from ebooklet_tx.database.coordinating import ForkingDatabase
from ebooklet_tx.errors import InvalidArgumentError, InvalidTypeError
from ebooklet_tx.keys import several, text_of
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.serializers import CUSTOM, Serializer

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ebooklet_tx.database.forking import Fork, Part
    from ebooklet_tx.database.parallel import ItemFunction
    from ebooklet_tx.sync.forks.receipt import Receipt

MAP_PAGE_KEYS = 200
"""How many values `map` fetches together."""

MAX_TASK_KEYS = 1000
"""Items of a task that writes into a fork: it sends at least two objects."""

_MISSING = object()


class ApplyingDatabase(ForkingDatabase):
    """The part of a database that applies functions to its items."""

    @overload
    def map(
        self,
        func: ItemFunction,
        keys: Iterable[str] | None = None,
        n_workers: int | None = None,
        *,
        executor: Executor | None = None,
        into: None = None,
    ) -> Iterator[tuple[Any, Any]]: ...

    @overload
    def map(
        self,
        func: ItemFunction,
        keys: Iterable[str] | None = None,
        n_workers: int | None = None,
        *,
        executor: Executor | None = None,
        into: Fork,
    ) -> Iterator[Receipt]: ...

    @at_edge
    def map(
        self,
        func: ItemFunction,
        keys: Iterable[str] | None = None,
        n_workers: int | None = None,
        *,
        executor: Executor | None = None,
        into: Fork | None = None,
    ) -> Iterator[tuple[Any, Any]] | Iterator[Receipt]:
        """Yields what a function makes of each item, computed in several processes, as it is done.

        Args:
            func: Called as func(key, value); returns (key, value), or None to leave the item out. Without `into`,
                anything else that it returns is yielded as it is. Where it runs in other processes, it must be
                one that they can import: defined at the top level of a module. A script calls map under
                `if __name__ == "__main__":`, as they import it too.
            keys: The keys to take; None for all. Those that are not there are left out.
            n_workers: How many processes; None for one a processor. With an executor: for how many workers items
                are taken at a time; None for what it says itself.
            executor: Where the function runs: any executor as those of `concurrent.futures` are, such as a
                ThreadPoolExecutor, which takes lambdas, or `client.get_executor()` of Dask. It is left running.
            into: A fork of this database. Then the workers read their values from the fork and write what the
                function makes into it, nothing of that passes through here, and what is yielded are receipts to
                `merge`. What is pending here is not seen by the function.

        Raises:
            InvalidTypeError: The function is a lambda, or defined inside another, and would be sent to another
                process; nothing was started.
            WorkerError: A process died, or could not import the function.
            Error: A value can't be fetched.
            Exception: What the function raises comes out as it is, with a note that names the key.

        Examples:
            >>> from stations import doubled  # def doubled(key, value): return key, 2 * value
            >>> dict(db.map(doubled, keys=["a"], n_workers=1))
            {'a': 2}
            >>> from concurrent.futures import ThreadPoolExecutor
            >>> with ThreadPoolExecutor(2) as pool:
            ...     print(sorted(db.map(lambda key, value: (key, -value), executor=pool)))
            ...     db.merge(*db.map(doubled, executor=pool, into=db.fork())).set_count
            [('a', -1), ('b', -2)]
            2
        """
        from ebooklet_tx.database.forking import Fork
        from ebooklet_tx.database.parallel import map_into, map_items, worker_count

        wanted = None if keys is None else several(keys, "map")
        total = len(wanted) if isinstance(wanted, Sized) else None
        phase = self._usable().remote.reporter.phase("map", keys_total=total)
        if into is None:
            return map_items(func, self._mapped_items(wanted), n_workers, executor, phase)
        if not isinstance(into, Fork):
            raise InvalidTypeError(f"into must be a fork, not a {type(into).__name__}", operation="map")
        if into.uuid != self.uuid:
            raise InvalidArgumentError(
                f"into is a fork of the database {into.uuid}, not of this one", operation="map"
            )
        workers = worker_count(n_workers, executor)
        opener = _PartOpener(into, _given_serializer(self._serializer), self._connection_of(executor))
        return map_into(func, opener, self._tasks(wanted, workers), workers, executor, phase)

    def _connection_of(self, executor: Executor | None) -> Connection | None:
        """Returns this session's connection for workers on this machine; others have credentials of their own."""
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

        is_here = executor is None or isinstance(executor, ProcessPoolExecutor | ThreadPoolExecutor)
        return self._connection if is_here else None

    def _tasks(self, keys: Iterable[str] | None, workers: int) -> Iterator[list[str]]:
        """Yields keys by the task: few where there are few, so that each worker gets some."""
        from ebooklet_tx.database.parallel import ITEMS_IN_FLIGHT

        total = len(self) if keys is None else len(keys) if isinstance(keys, Sized) else MAX_TASK_KEYS
        size = max(1, min(MAX_TASK_KEYS, -(-total // (workers * ITEMS_IN_FLIGHT))))
        wanted = iter(self) if keys is None else map(text_of, keys)
        while page := list(islice(wanted, size)):
            yield page

    def _mapped_items(self, keys: Iterable[str] | None) -> Iterator[tuple[str, Any]]:
        if keys is None:
            yield from self._iter_items()
            return
        wanted = iter(keys)
        while page := list(islice(wanted, MAP_PAGE_KEYS)):
            for key, value in self.get_items(page, _MISSING):
                if value is not _MISSING:
                    yield key, value


@dataclass(frozen=True, slots=True)
class _PartOpener:
    """Opens a part of a fork in a worker."""

    fork: Fork
    serializer: Any
    connection: Connection | None

    def __call__(self) -> Part:
        return self.fork.open(self.connection, value_serializer=self.serializer)


def _given_serializer(serializer: Serializer) -> Any:
    """Returns what a worker has to be given to decode values: nothing where their serializer has a name."""
    if serializer.name != CUSTOM:
        return None
    return SimpleNamespace(dumps=serializer._dumps, loads=serializer._loads)


__all__ = ["ApplyingDatabase"]
