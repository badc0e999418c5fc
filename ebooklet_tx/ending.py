"""Clean-up steps that all run once, whatever raises meanwhile.

Owns the steps that are left. The invariant: a step is on the list before what it ends has begun, and leaves the
list only after it has run. So an interrupt loses no step: the next `finish` continues.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import TracebackType


def interrupts() -> int:
    """Returns how many interrupts this thread is handling.

    After one, nothing is waited for long; after two, nothing at all. They are counted in what they unwind:
    `except` and `finally` blocks, and the exits of contexts.
    """
    found, error = 0, sys.exception()
    while error is not None:
        found += isinstance(error, KeyboardInterrupt)
        error = error.__context__
    return found


class Ending:
    """Steps for the end of something, in the reverse order of their adding.

    A step may run twice, when an interrupt comes between its end and its removal, so running twice must be no
    error. As a context, it runs `finish` only when the block raises; give it twice (`with ending, ending:`), as
    the first exit can be interrupted as well.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Adds a step; what it ends must not have begun."""
        self._steps.append(step)

    @property
    def is_finished(self) -> bool:
        """Whether no step is left."""
        return not self._steps

    def finish(self) -> None:
        """Runs the steps that are left.

        Raises:
            Exception: The first that a step raised; all others have run all the same.
        """
        failure: Exception | None = None
        while self._steps:
            try:
                self._steps[-1]()
            except Exception as error:
                failure = failure or error
            self._steps.pop()
        if failure is not None:
            raise failure

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.finish()
        if error is not None and not isinstance(error, Exception):
            # A notebook keeps the traceback of an interrupt, and so would keep open what its frames hold.
            traceback.clear_frames(trace)


__all__ = ["Ending", "interrupts"]
