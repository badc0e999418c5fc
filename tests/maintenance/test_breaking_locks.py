"""Locks that are taken away from others: by force with flag n, by `unlock`, by breaking them; each fences."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.errors import LockHeldError, LockLostError, RemoteIntegrityError
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.locks.lease import Lease
from ebooklet_tx.locks.lease_rules import Holder
from ebooklet_tx.locks.process_identity import new_holder
from ebooklet_tx.maintenance.break_locks import break_locks, held_locks, unlock
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.fencing import fence_off
from ebooklet_tx.sync.remote import Remote
from tests.memory_store import MemoryStore
from tests.pairs import limit_tails
from tests.remotes import Shelf
from tests.store_wrappers import HookedStore


@pytest.fixture(params=[True, False], ids=["lease", "tickets"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr("ebooklet_tx.locks.tickets.SETTLE_SECONDS", 0.0)
    store = MemoryStore("work" if request.param else "ignored", clock=time.time)
    return Shelf(tmp_path, store, conditional=request.param)


@pytest.fixture
def lease_shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path, MemoryStore())


@contextmanager
def held(shelf: Shelf, copy: str = "holder") -> Iterator[Database]:
    """A session that holds the lock of a database with one commit."""
    db = shelf.open("db", copy, "c", lock="exclusive")
    db["base"] = b"1"
    db.changes().push()
    try:
        yield db
    finally:
        with suppress(LockLostError):
            db.close()


def fence_of(shelf: Shelf) -> int:
    return decode_root(shelf.store.objects["db"].data, name="root").manifest.fence


# -- flag n ----------------------------------------------------------------------------------------


def test_force_lock_with_flag_n_fences_the_old_holder_off(shelf: Shelf) -> None:
    with held(shelf) as old:
        old["mine"] = b"2"
        before = fence_of(shelf)
        with shelf.open("db", "anew", "n", lock="exclusive", force_lock=True) as db:
            if shelf.conditional:
                assert fence_of(shelf) == before + 1
            # Until the push of the new one, the old database stays as it was.
            assert shelf.contents("db") == {"base": b"1"}
            with pytest.raises(LockLostError):
                old.changes().push()
            assert [change["key"] for change in old.changes().iter_changes()] == ["mine"]
            assert shelf.contents("db") == {"base": b"1"}
            db["new"] = b"3"
            db.changes().push()
            assert shelf.contents("db") == {"new": b"3"}


def test_a_fence_is_raised_once_for_a_lock_that_was_taken_by_force(lease_shelf: Shelf) -> None:
    with held(lease_shelf), lease_shelf.open("db", "anew", "n", lock="exclusive", force_lock=True):
        fence = fence_of(lease_shelf)
    with lease_shelf.open("db", "later", "w", lock="exclusive") as db:
        db["later"] = b"1"
        db.changes().push()
    assert fence_of(lease_shelf) == fence


@pytest.mark.parametrize("damage", [None, b"EBTXroot, cut off"])
def test_where_there_is_no_sound_root_flag_n_begins_all_the_same(
    lease_shelf: Shelf, damage: bytes | None
) -> None:
    with held(lease_shelf):
        if damage is None:
            lease_shelf.store.delete("db")
        else:
            lease_shelf.store.put("db", damage)
        with lease_shelf.open("db", "anew", "n", lock="exclusive", force_lock=True) as db:
            db["new"] = b"3"
            with suppress(RemoteIntegrityError):
                db.changes().push()


def test_the_fence_of_a_full_tail_and_of_a_root_without_one(lease_shelf: Shelf) -> None:
    with pytest.MonkeyPatch.context() as patch:
        limit_tails(patch, 10)
        lease_shelf.push("db", "a", {"k": b"v"})
    assert not decode_root(lease_shelf.store.objects["db"].data, name="root").tail
    for number in range(3):
        fence_off(lease_shelf.remote("db"))
        assert fence_of(lease_shelf) == number + 1
    lease_shelf.push("db", "a", {"more": b"w"})
    assert lease_shelf.contents("db") == {"k": b"v", "more": b"w"}
    assert lease_shelf.contents("db", "a") == {"k": b"v", "more": b"w"}


# -- unlock ----------------------------------------------------------------------------------------


def test_a_live_holders_lock_is_refused_without_force(shelf: Shelf) -> None:
    with held(shelf) as db:
        with pytest.raises(LockHeldError, match=r"process \d+, .*--force"):
            unlock(shelf.remote("db"))
        db["k"] = b"2"
        db.changes().push()
        assert unlock(shelf.remote("db"), force=True) is not None


@pytest.mark.parametrize("meanwhile", ["given back", "taken away", "removed"])
def test_a_lock_that_is_free_by_the_moment_it_is_taken_away_is_nobodys(
    lease_shelf: Shelf, meanwhile: str
) -> None:
    remote = lease_shelf.remote("db")
    with held(lease_shelf) as db:
        acts = {
            "given back": db.close,
            "taken away": lambda: unlock(remote, force=True),
            "removed": lambda: lease_shelf.store.delete("db.lock"),
        }
        hooked = replace(remote, store=HookedStore(lease_shelf.store, "db.lock", before=acts[meanwhile]))
        assert unlock(hooked, force=True) is None
    assert held_locks(remote) == []


def test_a_lock_that_another_takes_at_that_moment_is_refused(lease_shelf: Shelf) -> None:
    remote = lease_shelf.remote("db")
    other = Lease(lease_shelf.store, "db.lock")
    with held(lease_shelf) as db:

        def pass_on() -> None:
            db.close()
            other.acquire(0)

        hooked = replace(remote, store=HookedStore(lease_shelf.store, "db.lock", before=pass_on))
        with pytest.raises(LockHeldError, match="is alive"):
            unlock(hooked, force=True)
    assert [lock.record.holder for lock in held_locks(remote) if lock.record] == [other.holder]
    other.release()


def test_the_lock_of_a_process_of_this_machine_that_has_ended_is_taken_at_once(lease_shelf: Shelf) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lease = Lease(lease_shelf.store, "db.lock", holder=replace(new_holder(), pid=ended.pid))
    lease.acquire(0)
    assert f"process {ended.pid}" in str(unlock(lease_shelf.remote("db")))
    lease.release()


class Clock:
    """A clock that sleeping puts on, and that tells of each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)
        self.on_sleep()


def watching(shelf: Shelf, clock: Clock) -> Remote:
    return replace(shelf.remote("db"), policy=RetryPolicy(clock=clock, sleep=clock.sleep))


def test_a_lock_that_stands_still_for_its_ttl_while_it_is_watched_is_taken(lease_shelf: Shelf) -> None:
    elsewhere = Holder("somebody", "another-host", "another-boot", 1)
    lease = Lease(lease_shelf.store, "db.lock", holder=elsewhere)
    lease.acquire(0)
    lease.forget_in_child()
    clock = Clock()
    with pytest.raises(LockHeldError, match="another-host"):
        unlock(watching(lease_shelf, clock), watch_seconds=59.0)
    assert 59.0 <= clock.now < 60.0
    clock = Clock()
    assert "another-host" in str(unlock(watching(lease_shelf, clock), watch_seconds=90.0))
    assert 60.0 <= clock.now < 63.0
    lease._stop.set()


def test_a_lock_that_is_renewed_while_it_is_watched_is_refused(lease_shelf: Shelf) -> None:
    elsewhere = Holder("somebody", "another-host", "another-boot", 1)
    lease = Lease(lease_shelf.store, "db.lock", holder=elsewhere)
    lease.acquire(0)
    clock = Clock()
    renewed = [0.0]

    def renew_each_twenty_seconds() -> None:
        if clock.now - renewed[0] >= 20:
            renewed[0] = clock.now
            lease.renew()

    clock.on_sleep = renew_each_twenty_seconds
    with pytest.raises(LockHeldError, match="another-host"):
        unlock(watching(lease_shelf, clock), watch_seconds=200.0)
    lease.release()


@pytest.mark.parametrize("bad", [-1, "10", None, True, float("nan")])
def test_a_timeout_that_is_none_is_refused(bad: object, tmp_path: Path) -> None:
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="lock_timeout"):
        ebooklet_tx.unlock(remote_conn=f"file://{tmp_path}/db", lock_timeout=bad)  # type: ignore[arg-type]


# -- breaking --------------------------------------------------------------------------------------


def test_breaking_fences_a_live_holder_off_at_once(shelf: Shelf) -> None:
    with held(shelf) as old:
        old["mine"] = b"2"
        before = fence_of(shelf)
        (broken,) = break_locks(shelf.remote("db"))
        assert broken.pid > 0
        assert broken.owner == old._session.locks.held.holder.owner  # type: ignore[union-attr]
        assert fence_of(shelf) == before + 1
        assert held_locks(shelf.remote("db")) == []
        # Nobody took the lock since, and nobody has committed.
        with pytest.raises(LockLostError):
            old.changes().push()
    assert shelf.contents("db") == {"base": b"1"}
    assert break_locks(shelf.remote("db")) == []


def test_only_locks_taken_before_a_time_of_the_stores_clock_are_broken(shelf: Shelf) -> None:
    shift = timedelta(seconds=time.time()) + (datetime(2026, 1, 1, tzinfo=UTC) - datetime.now(UTC))
    # The store's clock is years away from the holder's.
    taken = datetime.now(UTC) + shift
    with held(shelf) as old:
        assert break_locks(shelf.remote("db"), before=taken - timedelta(seconds=30)) == []
        old["mine"] = b"2"
        old.changes().push()
        (broken,) = break_locks(shelf.remote("db"), before=taken + timedelta(seconds=30))
        assert abs(broken.taken_at_us / 1e6 - taken.timestamp()) < 30
        old["mine"] = b"3"
        with pytest.raises(LockLostError):
            old.changes().push()


def test_a_lock_that_was_renewed_since_counts_from_when_it_was_taken(lease_shelf: Shelf) -> None:
    store = lease_shelf.store
    now = [1_000_000.0]
    store.clock = lambda: now[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time_ns", lambda: int((now[0] + 77_777) * 1e9))
        lease = Lease(store, "db.lock")
        lease.acquire(0)
        now[0] += 500
        lease.renew()
    taken = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1_000_000)
    assert break_locks(lease_shelf.remote("db"), before=taken - timedelta(seconds=1)) == []
    assert len(break_locks(lease_shelf.remote("db"), before=taken + timedelta(seconds=1))) == 1
    lease.release()
