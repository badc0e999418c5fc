"""Map: a function over a database's items, in several processes, or wherever an executor runs it.

Owns the processes that it starts while a map runs; an executor of the caller's stays the caller's. The
invariants: no more than a few items for each worker are in memory at once, and what map has begun ends with the
iteration, however that ends; what passes between processes is pickled and unpickled by the code here, never by
the pool, whose own threads hang or give up where that fails.

Processes are never forked from this one: a fork copies locks that other threads hold, such as the one that renews
the remote's lock, and no thread in the copy ever releases them.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, Protocol, TypeAlias

from ebooklet_tx.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    InvalidValueError,
    WorkerError,
)
from ebooklet_tx.progress import Phase

ItemFunction: TypeAlias = Callable[[str, Any], tuple[Any, Any] | None]

ITEMS_IN_FLIGHT = 4
"""How many items wait or are at work for each worker."""


class OpenedPart(Protocol):
    """What a task does with its part of a fork."""

    @property
    def receipt(self) -> Any: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, *_: Any) -> None: ...

    def get_items(self, keys: Iterable[str], default: Any) -> Iterable[tuple[str, Any]]: ...

    def __setitem__(self, key: str, value: Any, /) -> None: ...


Opener: TypeAlias = Callable[[], OpenedPart]
"""Opens a part of a fork in a worker."""

_MISSING = object()


def map_items(
    function: ItemFunction,
    items: Iterable[tuple[str, Any]],
    n_workers: int | None,
    executor: Executor | None = None,
    phase: Phase | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yields what a function makes of each item, as it is done; what is None is left out.

    Args:
        function: Called with key and value by a worker. Where map sends it to another process, it must be one
            that pickle knows by name.
        items: The items; taken one by one as there is room.
        n_workers: How many processes, or how many workers the executor has; None for one a processor.
        executor: Where to run it; None for processes of map's own.
        phase: Counts the items that are done.

    Raises:
        InvalidTypeError: The function can't be sent to another process, or `executor` is none; nothing was
            started.
        InvalidArgumentError: `n_workers` is no number of workers.
    """
    workers = worker_count(n_workers, executor)
    if _is_pickling(executor):
        sent = _pickled(function)
        tasks: Iterator[tuple[Any, ...]] = ((_work, sent, _pickled_item(*item)) for item in items)
    else:
        _check_function(function)
        tasks = ((_work_here, function, *item) for item in items)
    return _results(tasks, workers, executor, phase, _one_key, unpickle=_is_pickling(executor))


def map_into(
    function: ItemFunction,
    opener: Opener,
    pages: Iterable[list[str]],
    n_workers: int | None,
    executor: Executor | None = None,
    phase: Phase | None = None,
) -> Iterator[Any]:
    """Yields receipts of a fork, into which workers write what a function makes of its items.

    Args:
        function: As for `map_items`.
        opener: Opens a worker's part; it is sent along with the function.
        pages: The keys; each page is one task.
        n_workers: As for `map_items`.
        executor: Likewise.
        phase: Counts the keys that are done.

    Raises:
        InvalidTypeError, InvalidArgumentError: As for `map_items`.
    """
    workers = worker_count(n_workers, executor)
    if _is_pickling(executor):
        sent = _pickled(function), _pickled(opener)
        tasks: Iterator[tuple[Any, ...]] = ((_write, *sent, keys) for keys in pages)
    else:
        _check_function(function)
        tasks = ((_write_here, function, opener, keys) for keys in pages)
    return _results(tasks, workers, executor, phase, _keys_of, unpickle=_is_pickling(executor))


def worker_count(n_workers: int | None, executor: object) -> int:
    if n_workers is not None and (isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1):
        raise InvalidArgumentError(f"n_workers must be a number of processes from 1 on, not {n_workers!r}")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise InvalidTypeError(
            f"executor must be one as those of concurrent.futures are, not a {type(executor).__name__}; with "
            "Dask give client.get_executor()",
            operation="map",
        )
    known = getattr(executor, "_max_workers", None)
    return n_workers or (known if isinstance(known, int) and known > 0 else None) or os.cpu_count() or 1


def _is_pickling(executor: Executor | None) -> bool:
    """Whether map itself sends functions and items to other processes; other executors have ways of their own."""
    return executor is None or isinstance(executor, ProcessPoolExecutor)


def _check_function(function: object) -> None:
    if not callable(function):
        raise InvalidTypeError(f"map needs a function of key and value, not a {type(function).__name__}")


def _pickled(function: object) -> bytes:
    _check_function(function)
    try:
        return pickle.dumps(function)
    # Whatever it is that a user's __reduce__ raises.
    except Exception as error:
        raise InvalidTypeError(
            f"the function {function!r} can't be sent to other processes: {error}; give one that is defined with "
            "def at the top level of a module (functools.partial of such a one takes further arguments), not a "
            "lambda or one that is defined inside another function; or give an executor of threads; or loop over "
            "items() in this process",
            operation="map",
        ) from error


def _results(
    tasks: Iterator[tuple[Any, ...]],
    workers: int,
    executor: Executor | None,
    phase: Phase | None,
    keys_of: Callable[[Any], int],
    *,
    unpickle: bool,
) -> Iterator[Any]:
    pool = executor
    if pool is None:
        pool = ProcessPoolExecutor(max_workers=workers, mp_context=multiprocessing.get_context("spawn"))
    working: set[Future[Any]] = set()
    try:
        with phase or _no_phase() as counted:
            while True:
                room = workers * ITEMS_IN_FLIGHT - len(working)
                working |= {pool.submit(*task) for task in islice(tasks, room)}
                if not working:
                    return
                done, working = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    result = _unpickled(future.result()) if unpickle else future.result()
                    if counted is not None:
                        counted.advance(keys_of(result))
                    if result is not None:
                        yield result
    except BrokenExecutor as error:
        raise WorkerError(
            "a worker process of map ended in the middle of its work: it was killed, ran out of memory, or could "
            "not start, as where the main program opens databases without being under "
            "if __name__ == '__main__': its stderr may say which. What came before is right; nothing was changed",
            operation="map",
        ) from error
    finally:
        for future in working:
            future.cancel()
        if executor is None:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_phase() -> Iterator[None]:
    yield None


def _one_key(_: object) -> int:
    """Returns for how many keys what a function made of an item stands, whatever it is."""
    return 1


def _keys_of(receipt: Any) -> int:
    """Returns for how many keys a receipt stands."""
    return int(receipt.set_count + receipt.deleted_count)


def _pickled_item(key: str, value: object) -> bytes:
    try:
        return pickle.dumps((key, value))
    except Exception as error:
        raise InvalidValueError(
            f"the value of key {key!r} (a {type(value).__name__}) can't be sent to another process: {error}; use "
            "a serializer whose values pickle takes, or loop over items() in this process",
            key=key,
            operation="map",
        ) from error


def _unpickled(data: bytes) -> Any:
    # Bytes that these processes have made for each other.
    return pickle.loads(data)  # noqa: S301


# -- in a worker -------------------------------------------------------------------------------


def _work(function: bytes, item: bytes) -> bytes:
    """Applies a pickled function to a pickled item; what can't be sent back comes as an error that can."""
    key, value = _unpickled(item)
    try:
        result = _work_here(_loaded(function), key, value)
    except Exception as error:
        if _survives(error):
            raise
        raise _raised(error, key) from None
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise InvalidValueError(
            f"what the function made of the key {key!r} can't be sent back: {error}; return what pickle takes",
            key=key,
            operation="map",
        ) from None


def _work_here(function: ItemFunction, key: str, value: Any) -> tuple[Any, Any] | None:
    """Applies a function to an item; what it raises says for which key."""
    try:
        return function(key, value)
    except Exception as error:
        error.add_note(f"raised by the function that map applied to the key {key!r}")
        raise
    except BaseException as error:
        # Such as SystemExit, which is to end no program but that of the worker.
        raise _raised(error, key) from None


def _raised(error: BaseException, key: str) -> WorkerError:
    return WorkerError(
        f"the function raised {type(error).__name__} for the key {key!r}: {error}", key=key, operation="map"
    )


def _write(function: bytes, opener: bytes, keys: list[str]) -> bytes:
    """Applies a pickled function to some items of a fork, and writes what comes of it; returns the receipt."""
    try:
        return pickle.dumps(_write_here(_loaded(function), _unpickled(opener), keys))
    except Exception as error:
        if _survives(error):
            raise
        raise WorkerError(f"{type(error).__name__}: {error}", operation="map") from None


def _write_here(function: ItemFunction, opener: Opener, keys: list[str]) -> Any:
    part = opener()
    with part:
        for key, value in part.get_items(keys, _MISSING):
            result = None if value is _MISSING else _work_here(function, key, value)
            if result is not None:
                new_key, new_value = _pair(result, key)
                part[new_key] = new_value
    return part.receipt


def _pair(result: object, key: str) -> tuple[Any, Any]:
    """Returns a key and a value to write; a str of two letters is none."""
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], result[1]
    raise InvalidTypeError(
        f"the function made a {type(result).__name__} of the key {key!r}, and what goes into a fork is a key "
        "and a value; return (key, value), or None to leave it out",
        key=key,
        operation="map",
    )


@functools.lru_cache(maxsize=1)
def _loaded(function: bytes) -> ItemFunction:
    try:
        loaded: ItemFunction = _unpickled(function)
    except Exception as error:
        raise WorkerError(
            f"the function can't be loaded in a worker process: {error}; define it in a module that can be "
            "imported there, not in a notebook or at a prompt",
            operation="map",
        ) from None
    return loaded


def _survives(error: Exception) -> bool:
    """Whether an exception comes out of pickle as one of its own type."""
    try:
        return type(_unpickled(pickle.dumps(error))) is type(error)
    except Exception:
        return False


__all__ = ["ITEMS_IN_FLIGHT", "ItemFunction", "map_into", "map_items", "worker_count"]
