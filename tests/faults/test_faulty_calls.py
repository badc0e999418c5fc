"""Any system call below SQLite and Python fails or is torn: no wrong state, and nothing sound is set aside.

A layer in C, built here and loaded below a child (`faulty_calls.c`), does it to one call, or to all from one on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.campaigns import amounts
from tests.faults.enduring import ENDURED
from tests.faults.faulty import Account, Campaign, built_layer, layer_server
from tests.faults.killing import KillServer

KIND = "faulty calls"
Counted = Callable[[str, int], None]

CI_FAULTS = {
    "everything": 7,
    "the first time": 4,
    "fetching": 4,
    "only reading": 3,
    "after plain edits": 4,
    "exclusively": 4,
    "recovering": 4,
}
"""How many faults of each scenario CI tries, and the default run half of them."""

SLOW_FAULTS = 72
"""Of each scenario, which makes over 500."""

SEED = 9


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillServer]:
    library = built_layer(tmp_path_factory.mktemp("layer"))
    if library is None:
        pytest.skip("there is no C compiler here that makes a shared library")
    server = layer_server(library)
    yield server
    server.close()


def _go_through(server: KillServer, scratch: Path, name: str, count: int) -> Account:
    campaign = Campaign(server, scratch, name)
    account = Account()
    try:
        campaign.go_through(campaign.faults(count, SEED), account)
    finally:
        campaign.remove()
    print(f"{name}: {account.table()}")
    assert not account.failures, "\n".join(account.failures)
    # A thread more or less moves the numbers of calls, so a few are missed.
    assert account.met >= count * 7 // 10
    return account


@pytest.mark.parametrize("one_in", amounts(2, 1))
@pytest.mark.parametrize("name", ENDURED)
def test_faulty_calls(server: KillServer, scratch: Path, name: str, one_in: int, counted: Counted) -> None:
    counted(KIND, _go_through(server, scratch, name, max(2, CI_FAULTS[name] // one_in)).injected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDURED)
def test_five_hundred_faulty_calls(server: KillServer, scratch: Path, name: str, counted: Counted) -> None:
    counted(KIND, _go_through(server, scratch, name, SLOW_FAULTS).injected)


def test_the_layer_reaches_sqlite_and_python(server: KillServer, scratch: Path) -> None:
    """Without this, faults that reach nothing would pass for faults that do no harm."""
    campaign = Campaign(server, scratch, "the first time")
    try:
        calls = {(call, about) for call, _, about in campaign.calls()}
    finally:
        campaign.remove()
    sqlite = [("pwrite", "a.blt.journal-wal"), ("setlk", "a.blt.journal-shm"), ("mmap", "a.blt.journal-shm")]
    python = [("pread", "a.blt"), ("flock", "a.blt"), ("rename", "remote /db"), ("fsync", "remote ")]
    assert set(sqlite + python) <= calls
