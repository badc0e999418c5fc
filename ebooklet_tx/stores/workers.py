"""Threads for the requests of one operation, which end with it.

The invariants: an operation that ends, or fails, leaves no request under way. One that is ended from outside, by
Ctrl-C or by what is told how far it is, drops what is queued, ends the requests under way, and waits for their
threads a second at most; a thread that is still at work then is left to itself, and keeps no process alive.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from ebooklet_tx.progress import EVERY_SECONDS, Phase
from ebooklet_tx.stores.stopping import Stop, stop_by

STOPPED_SECONDS = 1.0
"""How long requests that are stopped are waited for."""

T = TypeVar("T")
R = TypeVar("R")

_Job: TypeAlias = tuple["Future[Any]", "Callable[[], Any]"]


class Workers:
    """Threads that work on tasks, as a context.

    What is asked of them, waiting included, is asked by the thread that made them.
    """

    def __init__(self, threads: int, phase: Phase | None = None) -> None:
        """Starts nothing yet.

        Args:
            threads: How many tasks are worked on at once, at most.
            phase: What is told how far it is, while tasks are waited for.
        """
        self._most_threads = max(1, threads)
        self._phase = phase if phase is not None and phase.is_told else None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._unfinished: set[Future[Any]] = set()
        self._threads: list[threading.Thread] = []
        self._stop = Stop()

    def submit(self, work: Callable[..., R], *arguments: Any) -> Future[R]:
        """Has a task worked on, once a thread is free."""
        future: Future[R] = Future()
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        self._jobs.put((future, lambda: work(*arguments)))
        if len(self._threads) < min(self._most_threads, len(self._unfinished)):
            jobs, stop = self._jobs, self._stop
            # Where an interrupt comes in between, the threads end once nothing refers to this any more.
            dropped = weakref.ref(self, lambda _: jobs.put(None))
            thread = threading.Thread(target=_work, args=(jobs, stop, dropped), name="request", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def result(self, future: Future[R]) -> R:
        """Waits for a task, and returns what came of it."""
        if self._phase is not None:
            while not wait([future], timeout=EVERY_SECONDS).done:
                self._phase.tick()
        return future.result()

    def any_done(
        self, futures: Collection[Future[R]], most_seconds: float | None = None
    ) -> tuple[set[Future[R]], set[Future[R]]]:
        """Waits until one of some tasks is done, or so long; returns those that are, and the others."""
        while True:
            timeout = EVERY_SECONDS if self._phase is not None and most_seconds is None else most_seconds
            done, others = wait(futures, timeout=timeout, return_when=FIRST_COMPLETED)
            if self._phase is not None:
                self._phase.tick()
            if done or most_seconds is not None:
                return done, others

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yields what comes of each task, in order; all are queued at once."""
        futures = [self.submit(work, task) for task in tasks]
        futures.reverse()
        while futures:
            yield self.result(futures.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is under way may still arrive where the operation fails, and is needed for the next try.
        has_refused = self._phase is not None and self._phase.has_refused
        is_waited_for = error is None or (isinstance(error, Exception) and not has_refused)
        try:
            if is_waited_for:
                self._end(all_queued=error is None)
            else:
                self._stop_all()
        finally:
            for _ in self._threads:
                self._jobs.put(None)
        if is_waited_for:
            for thread in self._threads:
                thread.join()

    def _end(self, *, all_queued: bool) -> None:
        """Waits for what is under way, and for what is queued if that is to be done still."""
        try:
            if not all_queued:
                self._drop_queued()
            wait(self._unfinished.copy())
        except BaseException:
            self._stop_all()
            raise

    def _stop_all(self) -> None:
        """Ends what is under way, and waits for that a little."""
        self._drop_queued()
        self._stop.set()
        wait(self._unfinished.copy(), timeout=STOPPED_SECONDS)

    def _drop_queued(self) -> None:
        for future in self._unfinished.copy():
            future.cancel()


def _work(jobs: SimpleQueue[_Job | None], stop: Stop, dropped: weakref.ref[Workers]) -> None:
    """Works on jobs until there is none any more."""
    stop_by(stop)
    while (job := jobs.get()) is not None:
        future, work = job
        if future.set_running_or_notify_cancel():
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
                del error
            else:
                future.set_result(result)
                del result
        # Neither is to be held while the next one is waited for.
        del job, future, work
    if dropped() is None:
        # The others are to end as well.
        jobs.put(None)


__all__ = ["STOPPED_SECONDS", "Workers"]
