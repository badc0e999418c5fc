"""Map: a function over a database's items, in several processes.

Owns the processes while a map runs. The invariant: no more than a few items for each of them are in memory
at once, and they end with the iteration, however that ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, TypeAlias

from ebooklet_tx.errors import InvalidArgumentError

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
    """
    if n_workers is not None and (isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1):
        raise InvalidArgumentError(f"n_workers must be a number of processes from 1 on, not {n_workers!r}")
    return _run(function, iter(items), n_workers or os.cpu_count() or 1)


def _run(function: ItemFunction, items: Iterator[tuple[str, Any]], n_workers: int) -> Iterator[tuple[Any, Any]]:
    pool = ProcessPoolExecutor(max_workers=n_workers)
    working: set[Future[tuple[Any, Any] | None]] = set()
    try:
        while True:
            room = n_workers * ITEMS_IN_FLIGHT - len(working)
            working |= {pool.submit(function, key, value) for key, value in islice(items, room)}
            if not working:
                return
            done, working = wait(working, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                if result is not None:
                    yield result
    finally:
        pool.shutdown(cancel_futures=True)
