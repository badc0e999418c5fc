"""The phases that need no peer: imports, one huge value, ten thousand pushes in a row.

Owns no state. The invariant: as in `phases`.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from scripts.bench.phases import VALUE_BYTES
from scripts.bench.runner import BUCKET, EMPTY, OURS, Measured, Runner
from scripts.bench.stub_process import TREE, Counts, child_environment

HUGE_BYTES = 2**32 - 1
LONG_PUSHES = 10_000
IMPORT_REPEATS = 7

_IMPORT = (
    "import resource, sys, time; start = time.perf_counter(); import {}; taken = time.perf_counter() - start; "
    "print(taken, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def imports(runner: Runner) -> None:
    """How long the import takes, and what `status` does without."""
    for what in ("ebooklet_tx", "boto3, sqlalchemy"):
        for _ in range(IMPORT_REPEATS):
            seconds, cpu_seconds, peak = _python("-c", _IMPORT.format(what)).stdout.split()
            unit_bytes = 1 if sys.platform == "darwin" else 1024
            one = Measured(float(seconds), float(cpu_seconds), int(peak) * unit_bytes, Counts({}))
            runner.add("import", what, 0, "", one)

    def work() -> None:
        path = runner.enter(runner.state(OURS, min(runner.options.sizes)))
        log = _python("-X", "importtime", "-m", "ebooklet_tx", "status", str(path)).stderr
        loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in log.splitlines() if "|" in line}
        runner.leave(path)
        if "ebooklet_tx" not in loaded:
            raise RuntimeError("the log of imports names nothing of ebooklet_tx")
        nothing = Measured(0.0, 0.0, 0, Counts({}))
        runner.add("status imports", OURS, 0, "", nothing, alembic="alembic" in loaded, modules=len(loaded))

    runner.guarded("imports of status", work)


def huge(runner: Runner) -> None:
    """One value of 4 GiB - 1, pushed, and read by another machine."""

    def work() -> None:
        runner.stub.restore(EMPTY)
        path = runner.new_folder() / "db.blt"
        runner.run(OURS, "set_huge", path=path, value_bytes=HUGE_BYTES)
        measured, _ = runner.run(OURS, "push_huge", path=path)
        runner.add("huge push", OURS, 1, f"{HUGE_BYTES} B", measured["push"])
        runner.leave(path)
        path = runner.new_folder() / "db.blt"
        measured, facts = runner.run(OURS, "load_huge", path=path)
        runner.leave(path)
        runner.add("huge load", OURS, 1, f"{HUGE_BYTES} B", measured["load"], **facts)

    runner.guarded("huge value", work)


def long(runner: Runner) -> None:
    """Single-key pushes in a row, and what is left of them after `collect`."""
    # A smaller database is less than the history of so many commits, of which 10,000 are kept.
    n = max(min(runner.options.sizes), LONG_PUSHES)

    def work() -> None:
        path = runner.enter(runner.state(OURS, n))
        spec: dict[str, Any] = {"path": path, "n": n, "k": LONG_PUSHES, "value_bytes": VALUE_BYTES}
        measured, facts = runner.run(OURS, "many_pushes", **spec)
        _, root = runner.run(OURS, "read_root", **spec)
        runner.add("long", OURS, n, f"{LONG_PUSHES} pushes", measured["pushes"], **facts, **root)
        measured, facts = runner.run(OURS, "collect", **spec)
        if facts["there"]:
            left = sum(runner.stub.objects(BUCKET).values())
            live = n * (VALUE_BYTES + len("key-00000000"))
            runner.add("collect", OURS, n, "", measured["collect"], left_bytes=left, live_bytes=live)
        else:
            runner.say("  ebooklet_tx has no collect; what is left is not measured")
        runner.leave(path)

    runner.guarded("long", work)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=TREE,
        env=child_environment(),
        timeout=600,
    )
