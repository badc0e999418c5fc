"""Bars that show progress, in a terminal or a notebook; the only module that knows tqdm."""

from __future__ import annotations

from functools import cache
from typing import Any

from ebooklet_tx.progress.event import Progress

UNSEEN_SECONDS = 0.3
"""A phase that is over sooner shows no bar."""


class Bars:
    """Shows a bar for each phase; one within another goes when it ends."""

    def __init__(self) -> None:
        self._open: dict[int, Any] = {}

    def tell(self, number: int, event: Progress, *, ended: bool) -> None:
        bar = self._open.get(number)
        by_bytes = event.bytes_total is not None
        if bar is None:
            bar = self._open[number] = _bar_class()(
                desc=event.phase,
                total=event.bytes_total if by_bytes else event.keys_total,
                unit="B" if by_bytes else " keys",
                unit_scale=True,
                unit_divisor=1000,
                leave=not self._open,
                mininterval=0,
                miniters=1,
                delay=UNSEEN_SECONDS,
            )
        done = event.bytes_done if by_bytes else event.keys_done
        if by_bytes and event.keys_total is not None:
            bar.set_postfix_str(f"{event.keys_done:,} of {event.keys_total:,} keys", refresh=False)
        bar.update(done - bar.n)
        if ended:
            del self._open[number]
            bar.close()


@cache
def _bar_class() -> Any:
    # It takes a while to import, and most programs show no bar.
    from tqdm.auto import tqdm

    # Without tqdm's own thread, which would look after bars that stand still.
    return type("Bar", (tqdm,), {"monitor_interval": 0})


__all__ = ["Bars"]
