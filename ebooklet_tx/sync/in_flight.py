"""Requests side by side, with a bound on the bytes that they hold in memory.

The invariant: the bytes of all requests that were begun and whose outcomes are still in use stay within the
bound, whatever the number of threads; one that is larger by itself is in flight alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from ebooklet_tx.progress import Phase
from ebooklet_tx.stores.workers import Workers

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
    phase: Phase | None = None,
    left: Callable[[list[tuple[Task, Outcome]]], object] | None = None,
) -> Generator[tuple[Task, Outcome], None, None]:
    """Yields tasks with their outcomes, in order, some of them being worked on at once.

    An outcome counts as in use until the next one is asked for. Where the work raises, so does the iteration, and
    what was begun by then is waited for. Where it is ended from outside, as by Ctrl-C, what was begun is stopped;
    close the iterator, so that it is known to have ended.

    Args:
        tasks: What is to be done; taken one by one, as there is room.
        work: Called in a thread of its own for each.
        size_bytes: Tells how many bytes a task's work and outcome hold.
        threads: How many are worked on at once, at most.
        phase: What is told how far it is, while an outcome is waited for.
        left: Called where the iteration is ended early, with what was done by then and is not yielded.
    """
    waiting = iter(tasks)
    running: deque[tuple[Task, int, Future[Outcome]]] = deque()
    held_bytes = 0
    following = next(waiting, None)
    try:
        with Workers(threads, phase) as workers:
            while following is not None or running:
                while following is not None and len(running) < max(1, threads):
                    size = size_bytes(following)
                    if held_bytes and held_bytes + size > IN_FLIGHT_BYTES:
                        break
                    held_bytes += size
                    running.append((following, size, workers.submit(work, following)))
                    following = next(waiting, None)
                outcome = workers.result(running[0][2])
                task, size, _ = running.popleft()
                yield task, outcome
                # Neither may keep the outcome alive while the next one is waited for.
                del task, outcome
                held_bytes -= size
    except BaseException:
        if left is not None:
            left([(task, future.result()) for task, _, future in running if _is_outcome(future)])
        raise


def _is_outcome(future: Future[Outcome]) -> bool:
    """Whether a task has been worked on without an error."""
    return future.done() and not future.cancelled() and future.exception() is None


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
