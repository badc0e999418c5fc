"""A measured process: it prepares, tells its parent that it is about to begin, does the work, tells what it took.

Owns the clock of one process. The invariant: while the parent reads the stub's counters the child waits, so
that every request lies inside or outside of what is measured, never astride; and nothing but the protocol goes
to standard output, a line of JSON for each event.
"""

from __future__ import annotations

import contextlib
import cProfile
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024

Watch = Callable[[str], contextlib.AbstractContextManager[None]]


class Protocol:
    """Speaks to the parent."""

    def __init__(self, profile: str | None) -> None:
        # What a library prints must not get between the lines.
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._profile = profile

    def tell(self, **event: Any) -> None:
        """Sends an event without waiting."""
        self._out.write(json.dumps(event) + "\n")
        self._out.flush()

    def _tell_and_wait(self, **event: Any) -> None:
        self.tell(**event)
        if not sys.stdin.readline():
            raise SystemExit("the parent is gone")

    @contextlib.contextmanager
    def watch(self, label: str) -> Iterator[None]:
        """Measures its block."""
        profiler = cProfile.Profile() if self._profile else None
        self._tell_and_wait(event="begin", label=label)
        started_cpu = _cpu_seconds()
        started = time.perf_counter()
        if profiler is not None:
            profiler.enable()
        yield
        if profiler is not None:
            profiler.disable()
        seconds = time.perf_counter() - started
        cpu_seconds = _cpu_seconds() - started_cpu
        usage = resource.getrusage(resource.RUSAGE_SELF)
        if profiler is not None:
            profiler.dump_stats(Path(self._profile or "") / f"{label}-{os.getpid()}.prof")
        self._tell_and_wait(
            event="end",
            label=label,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_rss_bytes=usage.ru_maxrss * _RSS_UNIT_BYTES,
        )


def _cpu_seconds() -> float:
    """Returns what this process and its children have taken; its own part is finer than `os.times` has it."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def main() -> None:
    """Does the one action that the specification names."""
    from scripts.bench.actions import ACTIONS, adapter_of

    spec = json.loads(sys.argv[1])
    protocol = Protocol(spec.get("profile"))
    adapter = adapter_of(spec)
    adapter.prepare()
    facts = ACTIONS[spec["action"]](adapter, spec, protocol.watch)
    protocol.tell(event="done", facts=facts or {})


if __name__ == "__main__":
    main()
