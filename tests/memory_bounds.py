"""A process with little memory that opens remotes made to cost much; run by tests/formats/test_memory_bounds.py.

Reads a JSON list of cases from its standard input, does each, and prints a JSON list of what came of them.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import ebooklet_tx
from ebooklet_tx.stores.retry import RetryPolicy

ROOM_BYTES = 192 * 2**20
"""What a case may take beside the interpreter and the modules; no bomb fits in."""


def _attempt(case: dict[str, Any]) -> str:
    retry = RetryPolicy.without_backoff(2)
    try:
        if case["action"] == "collect":
            report = ebooklet_tx.collect(case["remote"], grace_seconds=0, retry=retry, lock_timeout=5)
            return f"collected {report.dry_run}"
        options = {"lock_timeout": 0, "retry": retry, "n_buckets": 101} | case.get("options", {})
        with ebooklet_tx.open(case["remote"], case["path"], case["flag"], **options) as db:
            return repr(sorted(db.items()))
    except (ebooklet_tx.Error, MemoryError) as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Does all cases under a limit of address space."""
    cases = json.load(sys.stdin)
    # What is imported and started lazily is no part of the cost.
    _attempt(cases[0])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit_bytes = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    json.dump([_attempt(case) for case in cases[1:]], sys.stdout)


if __name__ == "__main__":
    main()
