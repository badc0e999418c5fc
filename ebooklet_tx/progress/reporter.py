"""Progress: how far an operation is, told to a function, a bar and the log by one reporter.

The invariants: all three get the same numbers; a function is called only by the thread that called the operation,
between steps that are whole, so that what it raises ends the operation as Ctrl-C does; and the last event of a
phase that ends always arrives.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar, cast

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.progress.bars import Bars
from ebooklet_tx.progress.event import Listener, Progress, ProgressOption

EVERY_SECONDS = 0.1
"""How much time lies between two events of a phase, its first and last one aside."""

_log = logging.getLogger("ebooklet_tx")

T = TypeVar("T")


class _Function:
    """Passes events on to a function of the user's."""

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function

    def tell(self, number: int, event: Progress, *, ended: bool) -> None:
        self._function(event)


def listener_of(progress: ProgressOption) -> Listener | None:
    """Returns what gets the events that `progress=` asks for; None where it asks for none.

    Raises:
        InvalidArgumentError: It is no function, True, False or None.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        return Bars()
    if not callable(progress):
        raise InvalidArgumentError(f"progress must be a function, True, False or None, not {progress!r}")
    return _Function(progress)


_of_call: ContextVar[Listener | None] = ContextVar("ebooklet_tx_progress", default=None)


@contextlib.contextmanager
def telling(progress: ProgressOption) -> Iterator[None]:
    """Tells the phases that this thread begins in the block to what one call has named, if it has named any."""
    listener = listener_of(progress)
    with contextlib.nullcontext() if listener is None else _telling(listener):
        yield


def telling_each(progress: ProgressOption, items: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yields items, telling the phases in which they are had to what one call has named; not those in between."""
    listener = listener_of(progress)
    if listener is None:
        yield from items
        return
    nothing = object()
    with contextlib.closing(items):
        while True:
            with _telling(listener):
                item = next(items, nothing)
            if item is nothing:
                return
            yield cast("T", item)


@contextlib.contextmanager
def _telling(listener: Listener) -> Iterator[None]:
    token = _of_call.set(listener)
    try:
        yield
    finally:
        _of_call.reset(token)


class Reporter:
    """Begins phases, and tells them to what a session was opened with, or to what the call at work has named."""

    def __init__(self, progress: ProgressOption = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener_of(progress)
        self._clock = clock

    def phase(
        self, name: str, *, keys_total: int | None = None, bytes_total: int | None = None, kept: str = ""
    ) -> Phase:
        """Returns a phase, which begins when it is entered.

        Args:
            name: Its name; those that there are stand at `Progress`.
            keys_total: How many keys it is about.
            bytes_total: How many bytes.
            kept: What becomes of what is done where Ctrl-C ends it, such as "push again goes on".
        """
        return Phase(name, keys_total, bytes_total, kept, _of_call.get() or self._listener, self._clock)


class Phase:
    """One phase of an operation, as a context. Threads may advance it; its own thread alone tells of it.

    Attributes:
        name: What is done.
        has_refused: Whether what listens has ended it, by an exception.
    """

    _begun = 0
    _counting = threading.Lock()

    def __init__(
        self,
        name: str,
        keys_total: int | None,
        bytes_total: int | None,
        kept: str,
        listener: Listener | None,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._keys_total = keys_total
        self._bytes_total = bytes_total
        self._kept = kept
        self._listener = listener
        self._clock = clock
        self._mutex = threading.Lock()
        self._thread = threading.get_ident()
        self._keys_done = 0
        self._bytes_done = 0
        self._moving: dict[object, float] = {}
        self._kept_amounts: tuple[int, int] | None = None
        self._number = 0
        self._began_at = self._told_at = clock()
        self._is_told = True
        self.has_refused = False

    @property
    def is_told(self) -> bool:
        """Whether anything listens."""
        return self._listener is not None

    def __enter__(self) -> Self:
        with Phase._counting:
            Phase._begun += 1
            self._number = Phase._begun
        self._began_at = self._told_at = self._clock()
        self._tell(self._event())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        event = self._event(arrived=error is not None)
        if error is None:
            _log.info("%s: %s in %.2f s", self.name, _amounts(event), event.seconds)
            self._tell(event, ended=True)
            return
        why = "the caller" if isinstance(error, GeneratorExit) else type(error).__name__
        _log.info("%s: ended by %s after %s in %.2f s", self.name, why, _amounts(event), event.seconds)
        if isinstance(error, KeyboardInterrupt) and self._kept and not getattr(error, "__notes__", ()):
            if self._kept_amounts is not None:
                keys, byte_count = self._kept_amounts
                event = replace(event, keys_done=keys, bytes_done=byte_count)
            error.add_note(f"{_amounts(event)} arrived; {self._kept}")
        if self._is_told:
            with contextlib.suppress(Exception):
                self._tell(event, ended=True)

    def advance(self, keys: int = 0, byte_count: int = 0) -> None:
        """Counts what is done; tells of it where it is time to, if this is the phase's own thread."""
        with self._mutex:
            self._keys_done += keys
            self._bytes_done += byte_count
        if self._listener is not None and threading.get_ident() == self._thread:
            self.tick()

    def note_kept(self, keys: int, byte_count: int) -> None:
        """Counts what stays where the phase is ended early, in case that is another amount than what is done."""
        before = self._kept_amounts or (0, 0)
        self._kept_amounts = before[0] + keys, before[1] + byte_count

    @contextlib.contextmanager
    def moving(self, size_bytes: int, *, counts: float = 1.0) -> Iterator[Callable[[int], None]]:
        """Gives a function that counts bytes as they come or go; what has arrived is counted by `advance`.

        Nothing counts after the block.

        Args:
            size_bytes: How many there are. Bytes that are sent twice are not counted beyond it.
            counts: What one counts for.
        """
        if self._listener is None:
            yield _ignore
            return
        token = object()

        def moved(byte_count: int) -> None:
            with self._mutex:
                so_far = self._moving.get(token, 0.0)
                self._moving[token] = min(so_far + byte_count * counts, size_bytes * counts)

        try:
            yield moved
        finally:
            with self._mutex:
                self._moving.pop(token, None)

    def tick(self) -> None:
        """Tells how far the phase is, if the last event is long enough ago."""
        if self._listener is not None and self._clock() - self._told_at >= EVERY_SECONDS:
            self._tell(self._event())

    def _event(self, *, arrived: bool = False) -> Progress:
        with self._mutex:
            on_their_way = 0 if arrived else sum(self._moving.values())
            return Progress(
                self.name,
                self._keys_done,
                self._keys_total,
                self._bytes_done + int(on_their_way),
                self._bytes_total,
                self._clock() - self._began_at,
            )

    def _tell(self, event: Progress, *, ended: bool = False) -> None:
        if self._listener is None:
            return
        self._told_at = self._clock()
        try:
            self._listener.tell(self._number, event, ended=ended)
        except BaseException:
            # What has raised once is not asked again.
            self.has_refused = True
            self._is_told = isinstance(self._listener, Bars)
            raise


def _ignore(_byte_count: int) -> None:
    return None


def _amounts(event: Progress) -> str:
    """Returns the counts of an event in words."""
    parts = []
    if event.keys_done or event.keys_total:
        total = "" if event.keys_total is None else f" of {event.keys_total:,}"
        parts.append(f"{event.keys_done:,}{total} keys")
    if event.bytes_done or event.bytes_total:
        total = "" if event.bytes_total is None else f" of {event.bytes_total:,}"
        parts.append(f"{event.bytes_done:,}{total} bytes")
    return ", ".join(parts) or "nothing"


__all__ = ["EVERY_SECONDS", "Phase", "Reporter", "listener_of", "telling", "telling_each"]
