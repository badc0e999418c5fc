"""What users' own tests get: remotes in memory, stores on command, and retries without waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import InvalidArgumentError, OfflineError, RemoteMissingError, testing
from ebooklet_tx.errors import TransientStoreError
from ebooklet_tx.stores import factory
from ebooklet_tx.stores.retry import RetryPolicy
from tests.pairs import N_BUCKETS

URL = "memory://team/stations"


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    testing.clear()
    yield
    testing.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def opened(path: Path, url: Any = URL, flag: str = "c", **options: Any) -> ebooklet_tx.Database:
    options = {"n_buckets": N_BUCKETS, "lock": None, "lock_timeout": 5.0} | options
    return ebooklet_tx.open(url, path, flag, **options)


def test_an_address_in_memory(folder: Path) -> None:
    connection = ebooklet_tx.connect("memory://team/st%20a")
    assert isinstance(connection, testing.MemoryConnection)
    assert (connection.name, connection.key, connection.url) == ("team/st a", "team/st a", "memory://team/st%20a")
    for same in (connection.url, connection.to_dict(), json.loads(json.dumps(connection.to_dict()))):
        assert ebooklet_tx.connect(same) == connection
    assert connection != ebooklet_tx.connect(URL)
    for wrong in ("memory://", "memory:///a", "memory://a/", "memory://a?x=1", "memory://a#x", "memory://u:pw@a"):
        with pytest.raises(InvalidArgumentError) as caught:
            ebooklet_tx.connect(wrong)
        assert "pw" not in str(caught.value)
        with pytest.raises(InvalidArgumentError):
            opened(folder / "a.blt", wrong)


def test_the_whole_life_of_a_database_in_memory(folder: Path) -> None:
    large = b"l" * 100_000
    with opened(folder / "a.blt", lock="exclusive") as db:
        assert db.lock is not None
        db.update({"a": b"1", "large": large})
        assert db.changes().push(message="first")
        db.snapshot("monday")
        db["a"] = b"2"
        db.changes().push()
    with opened(folder / "b.blt", flag="r") as copy:
        assert dict(copy) == {"a": b"2", "large": large}
        assert [commit.message for commit in copy.history()] == ["", "first"]
    with opened(folder / "c.blt", flag="r", at="monday") as then:
        assert then["a"] == b"1"
    assert ebooklet_tx.status(folder / "a.blt").remote == URL
    assert ebooklet_tx.recover(folder / "a.blt").failure is None
    assert ebooklet_tx.verify(URL, read_values=True).sound
    assert ebooklet_tx.collect(URL).seq == 2
    with ebooklet_tx.connect(URL).open("w") as remote:
        assert remote.copy_remote("memory://copied").key_count == 2
        assert remote.delete_remote().existed
    with opened(folder / "d.blt", "memory://copied", "r") as copied:
        assert copied["large"] == large


def test_a_group_and_its_members_in_memory(folder: Path) -> None:
    with opened(folder / "a.blt") as db:
        db["a"] = b"1"
        db.changes().push()
    with opened(folder / "g.blt", "memory://group", remote_conn_group=True) as group:
        group.add(URL, key="stations")
        with opened(folder / "m.blt", group["stations"], "r") as member:
            assert member["a"] == b"1"


def test_conflicts_between_threads_on_one_remote(folder: Path) -> None:
    counts: list[int] = []

    def count(name: str) -> None:
        with opened(folder / f"{name}.blt", value_serializer="orjson") as db:
            for _ in range(3):
                db["n"] = db.get("n", 0) + 1
                db.changes().push(on_conflict=lambda one: one.theirs + one.ours - one.base)
            counts.append(db["n"])

    threads = [threading.Thread(target=count, args=(name,)) for name in "ab"]
    with testing.without_backoff(), opened(folder / "first.blt", value_serializer="orjson") as db:
        db["n"] = 0
        db.changes().push()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        db.changes().pull()
        assert len(counts) == 2
        assert db["n"] == max(counts) == 6


def test_one_remote_or_all_are_emptied(folder: Path) -> None:
    sessions = [opened(folder / f"{name}.blt", f"memory://{name}") for name in "ab"]
    for db in sessions:
        db["k"] = b"1"
        db.changes().push()
    testing.clear("a")
    assert [bool(ebooklet_tx.connect(f"memory://{name}").open()) for name in "ab"] == [False, True]
    with pytest.raises(RemoteMissingError):
        sessions[0].changes().pull()
    assert not sessions[1].changes().pull()
    testing.clear()
    with pytest.raises(RemoteMissingError):
        sessions[1].changes().pull()
    assert sessions[0]["k"] == sessions[1]["k"] == b"1"
    assert sessions[0].changes().push(force_push=True)
    for db in sessions:
        db.close()


def failing(inner: Any) -> testing.FaultyStore:
    return testing.FaultyStore(inner, error=TransientStoreError("503", may_have_applied=False))


def test_the_switch_takes_the_waits_away(folder: Path) -> None:
    waits: list[float] = []
    given = RetryPolicy(attempts=2, sleep=waits.append)
    with testing.wrapped_stores(failing):
        with testing.without_backoff():
            with pytest.raises(OfflineError, match=r"after 6 attempts in 0\.\d s"):
                opened(folder / "a.blt", flag="r")
            with testing.without_backoff(2), pytest.raises(OfflineError, match="after 2 attempts"):
                opened(folder / "a.blt", flag="r")
            with pytest.raises(OfflineError, match="after 6 attempts"):
                opened(folder / "a.blt", flag="r")
            # What the caller gives counts.
            with pytest.raises(OfflineError, match="after 2 attempts"):
                opened(folder / "a.blt", flag="r", retry=given)
        assert len(waits) == 1
    assert factory._everywhere is None


def test_the_switch_holds_in_other_threads(folder: Path) -> None:
    policies = []

    def look() -> None:
        with ebooklet_tx.connect(URL).open() as session:
            policies.append(session._remote.policy)

    with testing.without_backoff(3):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    look()
    assert [policy.attempts for policy in policies] == [3, RetryPolicy().attempts]
    assert [policy.base_seconds for policy in policies] == [0.0, RetryPolicy().base_seconds]


def test_stores_are_wrapped_in_the_block_alone(folder: Path) -> None:
    with testing.wrapped_stores(testing.CountingStore) as stores:
        first = opened(folder / "a.blt")
        with opened(folder / "b.blt"):
            assert len(stores) == 2
    with opened(folder / "c.blt"):
        assert len(stores) == 2
    stores[0].reset()
    first["k"] = b"1"
    first.changes().push()
    assert stores[0].total > 0
    assert stores[0].bytes_up > 0
    assert set(stores[0].requests) <= set(testing.KINDS)
    first.close()


def test_a_store_fails_until_it_is_let(folder: Path) -> None:
    with testing.without_backoff(2), testing.wrapped_stores(testing.FaultyStore) as stores:
        db = opened(folder / "a.blt")
    db["k"] = b"1"
    stores[0].error = TransientStoreError("503", may_have_applied=False)
    with pytest.raises(OfflineError):
        db.changes().push()
    stores[0].error = None
    assert db.changes().push()
    db.close()


def test_a_fault_needs_no_error() -> None:
    fault = testing.Fault(at=1)
    assert isinstance(fault.error, TransientStoreError)
    assert fault.error is not testing.Fault(at=1).error


def test_a_gate_that_nothing_comes_to_is_told(folder: Path) -> None:
    def gated(inner: Any) -> testing.GatedStore:
        return testing.GatedStore(inner, 99, timeout_seconds=0.01)

    with testing.wrapped_stores(gated) as stores:
        opened(folder / "a.blt").close()
    with pytest.raises(TimeoutError, match="no request came to the gate"):
        stores[0].wait_until_stopped()
