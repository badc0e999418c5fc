"""What the fault tests share: a fast folder, fork servers, and the count that is printed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.killing import KillServer, strace_works

_MEMORY_FOLDER = Path("/dev/shm")
_MEMORY_NEEDED_BYTES = 256 * 2**20
COUNT_PROPERTY = "fault matrix"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process leaves the same there as on a disk."""
    roomy = (
        _MEMORY_FOLDER.is_dir()
        and os.access(_MEMORY_FOLDER, os.W_OK)
        and shutil.disk_usage(_MEMORY_FOLDER).free > _MEMORY_NEEDED_BYTES
    )
    if not roomy:
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(prefix="ebooklet-faults-", dir=_MEMORY_FOLDER) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def kill_server() -> Iterator[KillServer]:
    server = KillServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def strace_is_there() -> bool:
    return strace_works()


@pytest.fixture
def counted(record_property: Any) -> Any:
    """Notes how many points of a kind a test has been through, for the line at the end."""
    return lambda kind, points: record_property(COUNT_PROPERTY, [kind, points])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    totals: Counter[str] = Counter()
    failures = 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            counts = [value for name, value in report.user_properties if name == COUNT_PROPERTY]
            failures += bool(counts) and outcome == "failed"
            for kind, points in counts:
                totals[kind] += points
    if totals:
        account = ", ".join(f"{points} {kind}" for kind, points in sorted(totals.items()))
        terminalreporter.write_line(f"kill matrix: {account}: {failures} failing tests")
