"""Requests side by side, with a bound on the bytes that they hold in memory.

The invariant: the bytes of all requests that were begun and whose outcomes are still in use stay within the
bound, whatever the number of threads; one that is larger by itself is in flight alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

IN_FLIGHT_BYTES = 64 * 2**20
"""How many bytes of values, or of packs, one fetch or push holds in memory on their way."""

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def side_by_side(
    tasks: Iterable[Task],
    work: Callable[[Task], Outcome],
    *,
    size_bytes: Callable[[Task], int],
    threads: int,
) -> Iterator[tuple[Task, Outcome]]:
    """Yields tasks with their outcomes, in order, some of them being worked on at once.

    An outcome counts as in use until the next one is asked for. Where the work raises, so does the iteration;
    what was begun by then is waited for.

    Args:
        tasks: What is to be done; taken one by one, as there is room.
        work: Called in a thread of its own for each.
        size_bytes: Tells how many bytes a task's work and outcome hold.
        threads: How many are worked on at once, at most.
    """
    waiting = iter(tasks)
    running: deque[tuple[Task, int, Future[Outcome]]] = deque()
    held_bytes = 0
    following = next(waiting, None)
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        try:
            while following is not None or running:
                while following is not None and len(running) < max(1, threads):
                    size = size_bytes(following)
                    if held_bytes and held_bytes + size > IN_FLIGHT_BYTES:
                        break
                    held_bytes += size
                    running.append((following, size, pool.submit(work, following)))
                    following = next(waiting, None)
                task, size, future = running.popleft()
                yield task, future.result()
                # Neither may keep the outcome alive while the next one is waited for.
                del task, future
                held_bytes -= size
        finally:
            for _, _, future in running:
                future.cancel()


class ByteBudget:
    """A bound on bytes that threads share: each takes what it needs, and waits while there is not enough."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, size_bytes: int) -> Iterator[None]:
        """Takes so many bytes for the time of a block; more than there are in all are taken alone."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._taken_bytes or self._taken_bytes + size_bytes <= self._limit_bytes
            )
            self._taken_bytes += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken_bytes -= size_bytes
                self._changed.notify_all()
