"""What collect leaves of forks, live and expired, and what can still be pushed of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ebooklet_tx.errors import RemoteIntegrityError, RemoteMissingError
from ebooklet_tx.stores.object_store import ObjectStore
from tests.campaigns import amounts
from tests.fleets import open_part, work
from tests.remotes import DyingStore, Killed, dying
from tests.store_wrappers import CountingStore, HookedStore
from tests.yard import Yard, value

DAY = 24.0
CHANGES = {"k": value("worker"), "new": value("n"), "gone": None}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    made = Yard(tmp_path)
    made.push({"k": value("old"), "gone": value("g"), "stays": value("s")}, at_hours=0)
    return made


def objects(yard: Yard) -> set[str]:
    return {key for key in yard.store.objects if not key.endswith("garbage") and ".lock" not in key}


def test_a_live_fork_keeps_what_it_needs_and_an_expired_one_does_not(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork(ttl_seconds=int(4 * DAY * 3600))
    before = objects(yard)
    work(fork, yard.store, CHANGES)
    sent = objects(yard) - before
    assert len(sent) == 2
    # The base's packs are named by nothing else from here on.
    yard.push(dict.fromkeys(("k", "gone", "stays"), value("newer")), at_hours=1)
    for hours in (30, 4 * DAY - 1):
        report = yard.collect(at_hours=hours)
        assert report.deleted_names == ()
        assert before | sent <= objects(yard)
        with open_part(fork, yard.store) as part:
            assert part["stays"] == value("s")
    # Expired, and dead for less than the grace.
    assert yard.collect(at_hours=4 * DAY + 1).deleted_names == ()
    assert yard.collect(at_hours=5 * DAY - 0.5).deleted_names == ()
    report = yard.collect(at_hours=5 * DAY + 0.5)
    assert sent | {f"db.d/fork/{fork.fork_id}"} <= set(report.deleted_names)
    assert report.live.objects >= 1
    with pytest.raises(RemoteMissingError):
        open_part(fork, yard.store)
    assert yard.verify().sound
    assert not any("/fork/" in key for key in objects(yard))


def test_a_dry_run_and_the_rest_of_the_reports(yard: Yard) -> None:
    with yard.open() as db:
        work(db.fork(), yard.store, CHANGES)
    report = yard.collect(at_hours=2, dry_run=True)
    assert report.strange.objects == 0
    assert yard.verify().sound
    with yard.open() as db:
        db.delete_remote()
    assert objects(yard) == set()


def test_a_push_after_the_expiry_protects_the_fork_anew(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork(ttl_seconds=3600)
        db.merge(work(fork, yard.store, CHANGES))
        yard.collect(at_hours=20)
        assert db.changes().push().set_count == 2
        modified = yard.store.head(f"db.d/fork/{fork.fork_id}").last_modified
        assert modified is not None
        assert modified.hour == 20
    assert yard.collect(at_hours=60).deleted.objects > 0
    assert yard.fresh_contents()["k"] == value("worker")
    assert yard.verify(read_values=True).sound


def test_too_late_it_is_refused_and_nothing_is_lost(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork(ttl_seconds=3600)
        db.merge(work(fork, yard.store, CHANGES))
        db["own"] = b"1"
        yard.hours = 1 + 23.5
        with pytest.raises(RemoteMissingError, match=r"can't be relied on any more.*discard"):
            db.changes().push()
        assert db.changes().discard(["k", "new", "gone"]) == 3
        assert db.changes().push().set_count == 1
    assert yard.fresh_contents()["k"] == value("old")


def test_packs_that_a_shorter_grace_took_are_missed_before_the_commit(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork(ttl_seconds=3600)
        db.merge(work(fork, yard.store, CHANGES))
        yard.collect(at_hours=3, grace_seconds=0)
        with pytest.raises(RemoteMissingError, match="discard"):
            db.changes().push()
        with pytest.raises(RemoteIntegrityError, match="merged from a fork"):
            db["new"]
    assert yard.fresh_contents()["k"] == value("old")
    assert yard.verify().sound


def test_a_fork_that_is_renewed_while_collect_is_at_work(yard: Yard) -> None:
    """It is expired when collect reads it, and written anew before anything is deleted."""
    with yard.open() as db:
        fork = db.fork(ttl_seconds=3600)
        db.merge(work(fork, yard.store, CHANGES))
    key = f"db.d/fork/{fork.fork_id}"
    data = yard.store.objects[key].data
    yard.hours = 40

    def renewing(inner: ObjectStore) -> HookedStore:
        return HookedStore(inner, "db.d/fork/", kind="list", before=lambda: yard.store.put(key, data))

    report = yard.collect(wrap=renewing, grace_seconds=0)
    assert not any("fork/" in name or "pack/" in name for name in report.deleted_names)
    assert key in yard.store.objects


def test_a_damaged_fork_stops_collect_until_no_fork_can_be_that_old(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork()
    yard.store.put(f"db.d/fork/{fork.fork_id}", b"nonsense")
    yard.push({"k": value("newer")}, at_hours=1)
    with pytest.raises(RemoteIntegrityError, match="nothing was deleted"):
        yard.collect(at_hours=10 * DAY)
    report = yard.collect(at_hours=40 * DAY)
    assert f"db.d/fork/{fork.fork_id}" in report.deleted_names


def test_a_fork_of_an_earlier_database_is_no_obstacle(yard: Yard) -> None:
    """A push that was at work while the database was deleted has written its fork's object once more."""
    with yard.open() as db:
        fork = db.fork()
        key = f"db.d/fork/{fork.fork_id}"
        data = yard.store.objects[key].data
        db.delete_remote()
    yard.store.put(key, data)
    yard.push({"k": value("another")}, copy="another", at_hours=1)
    yard.push({"k": value("newer")}, copy="another", at_hours=2)
    assert yard.collect(at_hours=20).deleted_names == ()
    assert key not in yard.collect(at_hours=30).deleted_names
    assert key in yard.collect(at_hours=60).deleted_names


def test_times_that_a_store_does_not_tell_keep_everything(yard: Yard) -> None:
    with yard.open() as db:
        work(db.fork(ttl_seconds=1), yard.store, CHANGES)
    before = objects(yard)
    yard.collect(at_hours=0.5)
    assert objects(yard) == before


# -- crashes -----------------------------------------------------------------------------------


def crash_points(count: int) -> Iterator[tuple[int, bool]]:
    for at in range(1, count + 1):
        yield at, False
        yield at, True


def test_a_worker_that_dies_at_any_request_leaves_nothing_visible(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork(ttl_seconds=3600)
        whole = CountingStore(yard.store)
        work(fork, whole, CHANGES)
        for at, after in crash_points(whole.total):
            with pytest.raises(Killed):
                work(fork, DyingStore(yard.store, at, after=after), CHANGES)
            assert yard.store.get("db") is not None
        # The one that was done again.
        db.merge(work(fork, yard.store, CHANGES))
        assert db.changes().push().set_count == 2
    assert yard.fresh_contents() == {"k": value("worker"), "new": value("n"), "stays": value("s")}
    yard.collect(at_hours=60)
    yard.collect(at_hours=120)
    left = [key for key in objects(yard) if key.startswith(("db.d/pack/", "db.d/fork/"))]
    assert len(left) == 2
    assert yard.verify(read_values=True).sound


@pytest.mark.parametrize("step", amounts(5, 1))
def test_a_coordinator_that_dies_at_any_request_can_go_on(tmp_path: Path, step: int) -> None:
    """In fork, merge or push, before a request takes effect or after it."""
    at = number = 0
    expected = {"k": value("worker"), "new": value("n"), "stays": value("s")}
    while True:
        at, after = at + 1, bool(number % 2)
        number += 1
        if number % step and step > 1:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        yard = Yard(folder)
        yard.push({"k": value("old"), "gone": value("g"), "stays": value("s")})
        with yard.open() as db:
            receipt = work(db.fork(), yard.store, CHANGES)
        store = DyingStore(yard.store, at + 3, after=after)
        db = yard.open(wrap=lambda inner, store=store: store)  # type: ignore[misc]
        try:
            with dying(db):
                work(db.fork(), yard.store, {})
                db.merge(receipt)
                db.changes().push()
        except AssertionError:
            # It has lived on: no more requests to die at.
            db.close()
            return
        with yard.open() as db:
            db.merge(receipt)
            db.changes().push()
            assert dict(db) == expected
        assert yard.fresh_contents() == expected
        assert yard.verify(read_values=True).sound
