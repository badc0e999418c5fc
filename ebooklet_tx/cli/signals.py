"""Ctrl-C and SIGTERM at the command line: the first ends the command in good order, the second at once.

The invariants: an end that a signal has begun is never begun anew by another one; a process that ignores one of
the two goes on ignoring it; and afterwards the handlers are what they were.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TerminatedError(KeyboardInterrupt):
    """SIGTERM came; what ends by Ctrl-C ends by this as well."""


@contextmanager
def signals_end_the_command() -> Iterator[None]:
    """Lets a first signal raise `KeyboardInterrupt` or `TerminatedError` in the block; a second one exits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}
    is_ending = False

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal is_ending
        if is_ending:
            # Nothing is lost by it that a power cut would not lose.
            os._exit(128 + number)
        is_ending = True
        raise TerminatedError if number == signal.SIGTERM else KeyboardInterrupt

    try:
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) is usual:
                before[number] = usual
                signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["TerminatedError", "signals_end_the_command"]
