"""A holder of the lock that stands still or is killed: nobody waits for long, and nothing is lost."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import ConflictError, Database, LockTimeoutError, WeakStoreWarning
from ebooklet_tx.locks.lease import LEASE_TTL_SECONDS
from ebooklet_tx.locks.lease_rules import MAX_POLL_SECONDS
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync import locking
from ebooklet_tx.sync.connecting import remote_at
from tests.places import Place, new_place
from tests.processes import Worker, workers
from tests.writer_processes import hold, open_at

SHORT_TTL_SECONDS = 1.0
BASE = {"mine": "base", "both": "base", "theirs": "base"}
HOLDERS = {"mine": "holder", "both": "holder"}


@pytest.fixture(autouse=True)
def _quiet_about_weak_stores() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStoreWarning)
        yield


@pytest.fixture
def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process one of another machine than every child's."""
    monkeypatch.setattr("ebooklet_tx.locks.process_identity.boot_id", lambda: "boot of the taker's")
    monkeypatch.setattr("ebooklet_tx.sync.commit.writer_locks.LOCK_TTL_SECONDS", SHORT_TTL_SECONDS)


@pytest.fixture
def holder() -> Iterator[Any]:
    with workers() as start:
        yield start


def begun(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    """Makes a database with something in it."""
    place = new_place(kind, request, folder)
    with open_at(place, folder / "first.blt", "n") as db:
        db.update(BASE)
        db.changes().push()
    return place


def fresh(place: Place, folder: Path) -> dict[str, Any]:
    """What somebody sees who has seen nothing yet."""
    path = folder / "fresh.blt"
    for name in (path, Path(f"{path}.journal")):
        name.unlink(missing_ok=True)
    with open_at(place, path, "r") as db:
        return dict(db.items())


def commit_theirs(db: Database) -> None:
    db.update({"theirs": "taker", "both": "taker"})
    db.changes().push()


def loses_and_leaves_the_lock_alone(worker: Worker, place: Place, folder: Path) -> None:
    """Lets the old holder find out, and close; the lock stays the new one's."""
    assert worker.receive() == ("lost", ["both", "mine"])
    worker.finish()
    with pytest.raises(LockTimeoutError):
        open_at(place, folder / "third.blt", "w", lock_timeout=0)


def comes_back(place: Place, folder: Path) -> None:
    """Opens the old holder's file again: other keys merge, the same key is a conflict."""
    assert fresh(place, folder) == {"mine": "base", "both": "taker", "theirs": "taker", "after": "taker"}
    with open_at(place, folder / "holder.blt", "w", lock_timeout=60) as back:
        assert dict(back.items()) == {"mine": "holder", "both": "holder", "theirs": "taker", "after": "taker"}
        (conflict,) = back.changes().conflicts()
        assert (conflict.key, conflict.base, conflict.ours, conflict.theirs) == (
            "both",
            "base",
            "holder",
            "taker",
        )
        with pytest.raises(ConflictError):
            back.changes().push()
        back.changes().resolve("both", lambda sides: f"{sides.theirs} and {sides.ours}")
        back.changes().push()
    assert fresh(place, folder) == {
        "mine": "holder",
        "both": "taker and holder",
        "theirs": "taker",
        "after": "taker",
    }


@pytest.mark.usefixtures("another_machine")
@pytest.mark.parametrize("kind", ["directory", "ministack", "rclone"])
def test_a_holder_that_stood_still_finds_the_lock_lost(
    kind: str, holder: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = begun(kind, request, tmp_path)
    worker = holder(hold, place, tmp_path / "holder.blt", HOLDERS, SHORT_TTL_SECONDS, False)
    assert worker.receive() == "holding"
    worker.freeze()
    with open_at(place, tmp_path / "taker.blt", "w", lock_timeout=60) as db:
        assert db._session.locks.fence == 1
        commit_theirs(db)
        worker.thaw()
        worker.send("push")
        loses_and_leaves_the_lock_alone(worker, place, tmp_path)
        db["after"] = "taker"
        assert db.changes().push()
    comes_back(place, tmp_path)


@pytest.mark.usefixtures("another_machine")
@pytest.mark.parametrize(
    ("kind", "before_thaw"),
    [("directory", "commits"), ("directory", "only takes over"), ("ministack", "only takes over")],
)
def test_a_holder_frozen_on_the_brink_of_its_commit_fails_to_commit(
    kind: str, before_thaw: str, holder: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = begun(kind, request, tmp_path)
    worker = holder(hold, place, tmp_path / "holder.blt", HOLDERS, SHORT_TTL_SECONDS, True)
    assert worker.receive() == "holding"
    worker.send("push")
    worker.wait_until_frozen()
    with open_at(place, tmp_path / "taker.blt", "w", lock_timeout=60) as db:
        if before_thaw == "commits":
            commit_theirs(db)
        worker.thaw()
        loses_and_leaves_the_lock_alone(worker, place, tmp_path)
        if before_thaw != "commits":
            commit_theirs(db)
        db["after"] = "taker"
        assert db.changes().push()
    comes_back(place, tmp_path)


# -- killed ------------------------------------------------------------------------------------


def killed_holder(holder: Any, place: Place, folder: Path, *, on_this_machine: bool) -> None:
    """Leaves a lock whose holder was killed."""
    worker = holder(hold, place, folder / "holder.blt", HOLDERS, LEASE_TTL_SECONDS, False, not on_this_machine)
    assert worker.receive() == "holding"
    worker.kill()


@pytest.mark.parametrize("kind", ["directory", "ministack", "rclone"])
def test_nobody_waits_for_a_holder_that_was_killed_on_the_same_machine(
    kind: str, holder: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = begun(kind, request, tmp_path)
    killed_holder(holder, place, tmp_path, on_this_machine=True)
    waits: list[float] = []
    policy = RetryPolicy(attempts=6, sleep=waits.append)
    with open_at(place, tmp_path / "next.blt", "w", retry=policy) as db:
        # A ticket looks a second time after a moment, whoever was there before.
        assert len(waits) <= (1 if place.weak else 0)
        assert sum(waits) < 1.0
        db["mine"] = "next"
        db.changes().push()
    with open_at(place, tmp_path / "holder.blt", "w", retry=policy) as back:
        assert [conflict.key for conflict in back.changes().conflicts()] == ["mine"]
        back.changes().push(on_conflict="ours")
    assert fresh(place, tmp_path) == {**BASE, **HOLDERS}


class SteppedClock:
    """A clock that only moves when somebody waits."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def now(self) -> float:
        return self.now_seconds

    def sleep(self, seconds: float) -> None:
        self.now_seconds += seconds


@pytest.mark.parametrize("kind", ["directory", "ministack", "rclone"])
def test_a_holder_killed_on_another_machine_delays_the_next_by_one_ttl(
    kind: str, holder: Any, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = begun(kind, request, tmp_path)
    killed_holder(holder, place, tmp_path, on_this_machine=False)
    clock = SteppedClock()
    remote = remote_at(place.connection, retry=RetryPolicy(sleep=clock.sleep), for_writing=True)
    remote.mode.swaps = not place.weak
    lock = locking.new_lock(remote)
    monkeypatch.setattr(lock, "_clock", clock.now)
    try:
        lock.acquire(10 * LEASE_TTL_SECONDS)
        waited = clock.now_seconds - 1000.0
        lock.release()
    finally:
        remote.store.close()
    assert LEASE_TTL_SECONDS <= waited <= LEASE_TTL_SECONDS + 2 * MAX_POLL_SECONDS
    assert lock.taken_over
