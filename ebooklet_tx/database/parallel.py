"""Map: a function over a database's items, in several processes.

Owns the processes while a map runs. The invariants: no more than a few items for each of them are in memory at
once, and they end with the iteration, however that ends; what passes between processes is pickled and unpickled
by the code here, never by the pool, whose own threads hang or give up where that fails.

Processes are never forked from this one: a fork copies locks that other threads hold, such as the one that renews
the remote's lock, and no thread in the copy ever releases them.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeAlias

from ebooklet_tx.errors import (
    InvalidArgumentError,
    InvalidTypeError,
    InvalidValueError,
    WorkerError,
)

ItemFunction: TypeAlias = Callable[[str, Any], tuple[Any, Any] | None]

ITEMS_IN_FLIGHT = 4
"""How many items wait or are at work for each process."""


def map_items(
    function: ItemFunction, items: Iterable[tuple[str, Any]], n_workers: int | None
) -> Iterator[tuple[Any, Any]]:
    """Yields what a function makes of each item, as it is done; what is None is left out.

    Args:
        function: Called with key and value in another process, so it must be one that pickle knows by
            name.
        items: The items; taken one by one as there is room.
        n_workers: How many processes; None for one a processor.

    Raises:
        InvalidTypeError: The function can't be sent to another process; nothing was started.
        InvalidArgumentError: `n_workers` is no number of processes.
    """
    if n_workers is not None and (isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1):
        raise InvalidArgumentError(f"n_workers must be a number of processes from 1 on, not {n_workers!r}")
    return _run(_pickled_function(function), iter(items), n_workers or os.cpu_count() or 1)


def _pickled_function(function: object) -> bytes:
    if not callable(function):
        raise InvalidTypeError(f"map needs a function of key and value, not a {type(function).__name__}")
    try:
        return pickle.dumps(function)
    # Whatever it is that a user's __reduce__ raises.
    except Exception as error:
        raise InvalidTypeError(
            f"the function {function!r} can't be sent to other processes: {error}; give one that is defined with "
            "def at the top level of a module (functools.partial of such a one takes further arguments), not a "
            "lambda or one that is defined inside another function; or loop over items() in this process",
            operation="map",
        ) from error


def _run(function: bytes, items: Iterator[tuple[str, Any]], n_workers: int) -> Iterator[tuple[Any, Any]]:
    pool = ProcessPoolExecutor(max_workers=n_workers, mp_context=multiprocessing.get_context("spawn"))
    working: set[Future[bytes]] = set()
    try:
        while True:
            room = n_workers * ITEMS_IN_FLIGHT - len(working)
            working |= {pool.submit(_work, function, _pickled_item(*item)) for item in islice(items, room)}
            if not working:
                return
            done, working = wait(working, return_when=FIRST_COMPLETED)
            for future in done:
                result = _unpickled(future.result())
                if result is not None:
                    yield result
    except BrokenProcessPool as error:
        raise WorkerError(
            "a worker process of map ended in the middle of its work: it was killed, ran out of memory, or could "
            "not start, as where the main program opens databases without being under "
            "if __name__ == '__main__': its stderr may say which. What came before is right; nothing was changed",
            operation="map",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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
    call = _loaded(function)
    key, value = _unpickled(item)
    try:
        result = call(key, value)
    except BaseException as error:
        if isinstance(error, Exception) and _survives(error):
            raise
        raise WorkerError(
            f"the function raised {type(error).__name__} for the key {key!r}: {error}", key=key, operation="map"
        ) from None
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise InvalidValueError(
            f"what the function made of the key {key!r} can't be sent back: {error}; return what pickle takes",
            key=key,
            operation="map",
        ) from None


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


__all__ = ["ItemFunction", "map_items"]
