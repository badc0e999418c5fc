"""Deleting a database from its remote: what goes, what stays, and what a death in the middle leaves."""

from __future__ import annotations

import logging
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import (
    LockLostError,
    LockTimeoutError,
    OfflineError,
    ReadOnlyError,
    RemoteIntegrityError,
    RemoteMissingError,
    TransientStoreError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.formats.root import KEEP_RECENT
from ebooklet_tx.maintenance.erase import GRACE_SECONDS, EraseReport, delete_remote, erase
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.commit import packing
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.remote import Remote
from tests.campaigns import amounts
from tests.memory_store import EPOCH, MemoryStore
from tests.pairs import limit_tails
from tests.remotes import DyingStore, Killed, Shelf, dying, values_of
from tests.store_wrappers import Fault, FaultyStore, PassingStore

T = TypeVar("T")

PACKED = values_of(12, 4000)
SMALL = {f"small{number}": b"%d" % number for number in range(5)}
ALL: dict[str, Any] = PACKED | SMALL | {"": {"about": "weather"}}
NEIGHBOURS = ("mydb2", "mydb/x", "mydb.d2", "my")
STRANGERS = (
    "mydb.lock2",
    "mydb.lock.hello",
    "mydb.d2/pack/" + "0" * 32,
    "mydb.d/notes.txt",
    "mydb.d/garbage2",
    "mydb.d/pack/notes",
    "mydb.d/pack/" + "A" * 32,
    "mydb.d/pack/" + "0" * 32 + ".bak",
    "mydb.d/pack/" + "0" * 32 + "/more",
    "mydb.d/index/" + "0" * 31,
    "mydb.d/snapshot/a/b",
    "mydb.d",
    "mydb.dat",
)


@pytest.fixture(autouse=True)
def _many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few small pushes make packs, index objects and a tail."""
    limit_tails(monkeypatch, 300)
    monkeypatch.setattr("ebooklet_tx.sync.commit.push.INLINE_TOTAL_BYTES", 2000)
    monkeypatch.setattr(packing, "PACK_BYTES", 10_000)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def make(shelf: Shelf, name: str = "mydb") -> None:
    """Makes a database of several packs, an index object and a tail, whose local file "a" holds all of it."""
    for half in (dict(list(PACKED.items())[:6]), dict(list(PACKED.items())[6:])):
        shelf.push(name, "a", half)
    shelf.push(name, "a", SMALL, {"about": "weather"})
    assert len(shelf.keys(f"{name}.d/pack/")) >= 6
    assert shelf.keys(f"{name}.d/index/")
    assert shelf.contents(name) == ALL


def own_keys(shelf: Shelf) -> set[str]:
    return {key for key in shelf.keys("mydb") if key not in STRANGERS} - {"mydb.lock"}


def faulty(*faults: Fault) -> Callable[[ObjectStore], FaultyStore]:
    return lambda inner: FaultyStore(inner, faults)


class HookedStore(PassingStore):
    """Calls something before or after each request for which a test wants it."""

    def __init__(self, inner: ObjectStore, hook: Callable[[str, str, bool], None]) -> None:
        super().__init__(inner)
        self._hook = hook

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        self._hook(kind, key, False)
        answer = send()
        self._hook(kind, key, True)
        return answer


# -- what goes and what stays --------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("threads", [1, 8])
def test_exactly_the_database_goes(tmp_path: Path, conditional: bool, threads: int) -> None:
    shelf = Shelf(tmp_path, MemoryStore("work" if conditional else "ignored"), conditional)
    make(shelf)
    shelf.store.put("mydb.d/snapshot/monday", b"whatever it is")
    shelf.store.put("mydb.d/garbage", b"what the collector has seen")
    sizes = [len(shelf.store.objects[key].data) for key in own_keys(shelf)]
    for name in NEIGHBOURS:
        shelf.push(name, f"copy of {name.replace('/', '_')}", SMALL | {"big": PACKED["k001"]})
    for key in STRANGERS:
        shelf.store.put(key, b"a stranger's")
    before = {entry.key: entry.etag for entry in shelf.store.list("")}

    report = erase(shelf.remote("mydb", threads=threads))

    # The note of what was to be deleted is one more.
    assert (report.existed, report.deleted_objects, report.left_objects) == (True, len(sizes) + 1, 0)
    assert 0 < report.deleted_bytes - sum(sizes) < 2000
    kept = {entry.key: entry.etag for entry in shelf.store.list("")}
    assert kept == {key: etag for key, etag in before.items() if key in kept}
    assert set(STRANGERS) <= set(kept)
    assert not [key for key in kept if key.startswith("mydb.d/") and key not in STRANGERS]
    assert not {"mydb", "mydb.lock"} & set(kept)
    for name in NEIGHBOURS:
        assert shelf.contents(name) == SMALL | {"big": PACKED["k001"]}


def test_the_root_goes_first_and_the_lock_last(shelf: Shelf) -> None:
    make(shelf)
    stores: list[DyingStore] = []

    def wrap(inner: ObjectStore) -> DyingStore:
        stores.append(DyingStore(inner))
        return stores[-1]

    erase(shelf.remote("mydb", wrap))
    log = stores[0].log
    deleted = [key for kind, key in log if kind == "delete"]
    assert deleted[0] == "mydb"
    assert deleted[-1] == "mydb.lock"
    kinds = [key.split("/")[1] for key in deleted[1:-1]]
    assert kinds == sorted(kinds, key=["pack", "index", "snapshot"].index)
    assert log.index(("list", "mydb.d/")) < log.index(("delete", "mydb"))
    # Nothing that came after the root's deletion is looked for.
    assert log.count(("list", "mydb.d/")) == 1


def test_deleting_nothing_is_harmless(shelf: Shelf) -> None:
    report = erase(shelf.remote("mydb"))
    assert report == EraseReport(existed=False)
    assert not report
    assert shelf.keys() == set()
    with shelf.open("mydb", "a") as db:
        db["k"] = b"1"
        assert not delete_remote(db._session)
        db.changes().push()
    assert shelf.contents("mydb") == {"k": b"1"}


def test_what_is_not_ours_is_refused(shelf: Shelf) -> None:
    make(shelf)
    whole = shelf.store.get("mydb").data
    strange = {
        b"ebooklet-db\x00 and more": UnsupportedFormatError,
        b"somebody's notes": UnsupportedFormatError,
        whole[:-1]: RemoteIntegrityError,
        whole[:40] + b"\xff" + whole[41:]: RemoteIntegrityError,
    }
    for data, kind in strange.items():
        shelf.store.put("mydb", data)
        before = shelf.keys() - {"mydb.lock"}
        with pytest.raises(kind):
            erase(shelf.remote("mydb"))
        assert shelf.keys() - {"mydb.lock"} == before
        assert shelf.store.get("mydb").data == data
    shelf.store.put("mydb", whole)
    assert shelf.contents("mydb") == ALL


def test_another_database_is_refused(shelf: Shelf) -> None:
    make(shelf)
    before = own_keys(shelf)
    with pytest.raises(UUIDMismatchError, match="nothing was deleted"):
        erase(shelf.remote("mydb"), uuid="0" * 32)
    # A session that is to replace the remote by another kind has an identity of its own.
    with shelf.open("mydb", "new", "n", value_serializer="str") as db:
        db["k"] = "1"
        with pytest.raises(UUIDMismatchError, match="delete_remote"):
            delete_remote(db._session)
        assert own_keys(shelf) == before
        assert db["k"] == "1"
    assert shelf.contents("mydb") == ALL


def test_a_session_that_is_to_replace_the_remote_may_delete_it_first(shelf: Shelf) -> None:
    make(shelf)
    with shelf.open("mydb", "new", "n") as db:
        db["k"] = b"1"
        assert delete_remote(db._session).existed
        assert own_keys(shelf) == set()
        assert db.changes().push().seq == 1
    assert shelf.contents("mydb") == {"k": b"1"}


def test_only_who_may_write_may_delete(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    make(shelf)
    before = shelf.keys()
    with shelf.open("mydb", "a", "r") as db, pytest.raises(ReadOnlyError, match="flag 'w'"):
        delete_remote(db._session)
    monkeypatch.setattr(MemoryStore, "writable", False)
    with pytest.raises(ReadOnlyError, match="bucket or folder"):
        erase(shelf.remote("mydb"))
    assert shelf.keys() == before


# -- objects that nothing names ------------------------------------------------------------------


def test_an_unnamed_object_goes_once_it_is_a_day_old(shelf: Shelf) -> None:
    store = shelf.store
    now = 1000.0
    store.clock = lambda: now
    old, young = "mydb.d/pack/" + "1" * 32, "mydb.d/pack/" + "2" * 32
    store.put(old, b"of a push that was given up")
    now += GRACE_SECONDS
    store.put(young, b"of a first push without a lock")
    store.put("mydb.d/snapshot/deleted-" + "3" * 32, b"a note that is damaged")
    report = erase(shelf.remote("mydb"))
    assert own_keys(shelf) == {young}
    assert (report.existed, report.deleted_objects, report.left_objects) == (False, 2, 1)
    now += GRACE_SECONDS
    report = erase(shelf.remote("mydb"))
    assert (report.existed, report.deleted_objects, report.left_objects) == (False, 1, 0)
    assert own_keys(shelf) == set()


def test_what_a_database_needs_no_more_goes_with_it(shelf: Shelf) -> None:
    make(shelf)
    shelf.store.put("mydb.d/pack/" + "1" * 32, b"of a push that was given up")
    with shelf.open("mydb", "a") as db:
        db.update(dict.fromkeys(PACKED, b"x" * 3000))
        db.changes().push()
    assert erase(shelf.remote("mydb")).left_objects == 0
    assert own_keys(shelf) == set()


def test_a_store_that_tells_no_times_is_taken_to_hold_young_objects(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.store.put("mydb.d/pack/" + "1" * 32, b"?")
    for found in shelf.store.objects.values():
        found.modified = None
    monkeypatch.setattr("tests.memory_store.EPOCH", _NoTime())
    report = erase(shelf.remote("mydb"))
    assert report.left_objects == 1
    assert own_keys(shelf) == {"mydb.d/pack/" + "1" * 32}


class _NoTime:
    def __add__(self, other: timedelta) -> None:
        assert EPOCH + other


def test_a_new_database_that_begins_meanwhile_is_not_robbed(shelf: Shelf) -> None:
    """The root's deletion takes effect and its answer is lost; before it is tried again somebody begins anew."""
    make(shelf)
    with shelf.open("mydb", "a", "r") as db:
        uuid = db.uuid
    begun: list[str] = []

    def hook(kind: str, key: str, after: bool) -> None:
        if after and (kind, key) == ("delete", "mydb") and not begun:
            begun.append(key)
            shelf.push("mydb", "b", PACKED)
            raise TransientStoreError("the answer was lost")

    for known in (uuid, None):
        report = erase(shelf.remote("mydb", lambda inner: HookedStore(inner, hook)), uuid=known)
        assert report.existed
        assert report.deleted_objects > 6
        assert shelf.contents("mydb") == PACKED
        begun.clear()
        (shelf.folder / "b.blt").unlink()
        (shelf.folder / "b.blt.journal").unlink()


def test_a_commit_that_comes_first_is_deleted_as_well(shelf: Shelf) -> None:
    make(shelf)
    pushes = iter(range(100))
    ends = 1

    def hook(kind: str, key: str, after: bool) -> None:
        # The note of the names is there, the root itself is about to be looked at once more.
        if after and kind == "put" and "/snapshot/" in key and (number := next(pushes)) < ends:
            shelf.push("mydb", "b", {f"late{number}": PACKED["k001"]})

    ends = 100
    with pytest.raises(OfflineError, match="nothing is missing"):
        erase(shelf.remote("mydb", lambda inner: HookedStore(inner, hook)))
    found = shelf.contents("mydb")
    assert {key: found[key] for key in ALL} == ALL
    assert len(found) == len(ALL) + 20
    pushes, ends = iter(range(100, 200)), 101
    assert erase(shelf.remote("mydb", lambda inner: HookedStore(inner, hook)))
    assert own_keys(shelf) == set()


# -- the lock ------------------------------------------------------------------------------------


def test_it_waits_for_another_writer(shelf: Shelf) -> None:
    make(shelf)
    with shelf.open("mydb", "a", "w", lock="exclusive"):
        before = own_keys(shelf)
        with pytest.raises(LockTimeoutError, match="locked by"):
            erase(shelf.remote("mydb"), lock_timeout_seconds=0)
        with shelf.open("mydb", "b", "c") as other:
            other._session.locks.timeout_seconds = 0
            with pytest.raises(LockTimeoutError, match="locked by"):
                delete_remote(other._session)
            assert dict(other.items()) == {key: ALL[key] for key in ALL if key}
        assert own_keys(shelf) == before


def test_a_session_keeps_its_own_lock_and_pushes_under_it(shelf: Shelf) -> None:
    make(shelf)
    with shelf.open("mydb", "a", "w", lock="exclusive") as db:
        assert delete_remote(db._session).pending_keys == len(ALL) - 1
        assert own_keys(shelf) == set()
        with pytest.raises(LockTimeoutError):
            shelf.open("mydb", "b", "c", lock="exclusive", lock_timeout=0)
        assert db.changes().push().seq == 1
        assert not delete_remote(db._session).lost_keys
        assert db.changes().push(force_push=True).seq == 1
    assert shelf.contents("mydb") == ALL


@pytest.mark.parametrize("conditional", [True, False])
def test_a_lock_that_was_lost_deletes_nothing(tmp_path: Path, conditional: bool) -> None:
    shelf = Shelf(tmp_path, MemoryStore("work" if conditional else "ignored"), conditional)
    make(shelf)
    taken: list[str] = []

    def hook(kind: str, key: str, after: bool) -> None:
        if after and kind == "put" and "/snapshot/" in key and not taken:
            taken.append(key)
            shelf.unlock("mydb")
            lock = db._session.locks.held
            if conditional and lock is not None:
                with pytest.raises(LockLostError):
                    lock.renew()

    db = shelf.open("mydb", "a", "w", lock="exclusive", wrap=lambda inner: HookedStore(inner, hook))
    with db, pytest.raises(LockLostError):
        delete_remote(db._session)
    assert taken
    assert shelf.contents("mydb") == ALL


def test_a_lock_that_goes_to_another_at_the_very_end_is_left_to_it(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    make(shelf)

    def hook(kind: str, key: str, after: bool) -> None:
        if after and kind == "delete" and "/snapshot/" in key:
            shelf.unlock("mydb")

    with caplog.at_level(logging.WARNING, "ebooklet_tx"):
        assert erase(shelf.remote("mydb", lambda inner: HookedStore(inner, hook)))
    assert "left to its holder" in caplog.text
    assert shelf.keys() == {"mydb.lock"}


def test_a_lock_that_can_not_be_deleted_is_no_failure(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    make(shelf)

    def hook(kind: str, key: str, after: bool) -> None:
        if (kind, key) == ("delete", "mydb.lock"):
            raise TransientStoreError("the store fails")

    with caplog.at_level(logging.WARNING, "ebooklet_tx"):
        assert erase(shelf.remote("mydb", lambda inner: HookedStore(inner, hook)))
    assert "will run out" in caplog.text
    assert shelf.keys() == {"mydb.lock"}


def test_the_history_goes_too(shelf: Shelf) -> None:
    make(shelf)
    with shelf.open("mydb", "a") as db:
        for number in range(KEEP_RECENT):
            db["counter"] = b"%d" % number
            db.changes().push()
    assert shelf.keys("mydb.d/history/")
    erase(shelf.remote("mydb"))
    assert own_keys(shelf) == set()


@pytest.mark.parametrize("unit", [b"\n", b"x", b"pack/" + b"0" * 32 + b"\n"], ids=["empty", "one line", "names"])
def test_a_note_that_unfolds_without_end_costs_little(shelf: Shelf, unit: bytes) -> None:
    make(shelf)
    bomb = zlib.compressobj()
    data = b"".join([*(bomb.compress(unit * (2**20 // len(unit))) for _ in range(16)), bomb.flush()])
    shelf.store.put("mydb.d/snapshot/deleted-" + "3" * 32, data)
    remote = shelf.remote("mydb")
    tracemalloc.start()
    try:
        erase(remote)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert own_keys(shelf) == set()
    assert peak_bytes < 8 * 2**20


# -- the local side ------------------------------------------------------------------------------


def test_what_is_local_is_the_content_of_the_next_push(shelf: Shelf) -> None:
    make(shelf)
    shelf.push("mydb", "a", {"empty": b"", "gone": b"1"})
    with shelf.open("mydb", "b") as db:
        # In a pack and read, in the index and read, set here, deleted here, never read.
        assert (db["k001"], db["small2"]) == (PACKED["k001"], SMALL["small2"])
        db["written"] = b"but not committed"
        db["small1"] = b"changed here"
        del db["gone"]
        report = delete_remote(db._session)
        expected = {"k001": PACKED["k001"], "written": b"but not committed"}
        expected |= {"small1": b"changed here", "small2": SMALL["small2"]}
        lost = len(PACKED) - 1 + len(SMALL) - 2 + len({"empty"})
        assert (report.existed, report.pending_keys, report.lost_keys) == (True, len(expected), lost)
        assert dict(db.items()) == expected
        assert len(db) == len(expected)
        assert db.get_metadata() == {"about": "weather"}
        assert {c["key"]: c["operation"] for c in db.changes().iter_changes()} == dict.fromkeys(expected, "set")
        assert all(change["remote_timestamp"] is None for change in db.changes().iter_changes())
        assert db.changes().conflicts() == []
    # Nothing is pushed by closing, and nothing is forgotten by opening.
    assert own_keys(shelf) == set()
    with shelf.open("mydb", "b", "w") as db:
        result = db.changes().push()
        assert (result.seq, result.set_count) == (1, len(expected) + 1)
        assert not db.changes().push()
    assert shelf.contents("mydb") == expected | {"": {"about": "weather"}}


def test_others_who_have_a_copy_find_the_remote_missing(shelf: Shelf) -> None:
    make(shelf)
    with shelf.open("mydb", "b") as other:
        with shelf.open("mydb", "a") as db:
            delete_remote(db._session)
        other["k"] = b"1"
        with pytest.raises(RemoteMissingError, match="force_push"):
            other.changes().push()


def test_a_second_session_may_finish_what_another_machine_began(shelf: Shelf) -> None:
    make(shelf)
    with shelf.open("mydb", "b") as other:
        other["mine"] = b"1"
        assert (other["small1"], other.get_metadata()) == (SMALL["small1"], {"about": "weather"})
        with shelf.open("mydb", "a") as db:
            delete_remote(db._session)
        report = delete_remote(other._session)
        assert (report.existed, bool(report)) == (False, False)
        assert other.changes().push()
    assert shelf.contents("mydb") == {"small1": SMALL["small1"], "mine": b"1", "": {"about": "weather"}}


# -- deaths --------------------------------------------------------------------------------------


def all_requests(shelf: Shelf, work: Callable[[Remote], object]) -> int:
    """How many requests a piece of work makes when nobody dies; it is done to a copy of the store."""
    store = DyingStore(_copy_of(shelf.store))
    work(Shelf(shelf.folder, store, shelf.conditional).remote("mydb"))
    return store.requests


def _copy_of(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore(store.conditions)
    copy.objects = dict(store.objects)
    return copy


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("step", amounts(3, 1))
def test_a_death_at_any_request(tmp_path: Path, conditional: bool, after: bool, step: int) -> None:
    shelf = Shelf(tmp_path, MemoryStore("work" if conditional else "ignored"), conditional)
    make(shelf)
    for key in STRANGERS:
        shelf.store.put(key, b"a stranger's")
    made = shelf.store
    count = all_requests(shelf, erase)
    assert count > 15
    ends: dict[str, int] = {"whole": 0, "gone": 0}
    numbers = range(1 + (conditional + after) % step, count + 1, step)
    for number in numbers:
        shelf.store = _copy_of(made)
        with pytest.raises(Killed):
            erase(shelf.remote("mydb", lambda inner, n=number: DyingStore(inner, n, after=after)))
        if "mydb" in shelf.store.objects:
            assert shelf.contents("mydb") == ALL
            ends["whole"] += 1
        else:
            ends["gone"] += 1
        shelf.unlock("mydb")
        erase(shelf.remote("mydb"))
        assert shelf.keys() == set(STRANGERS)
    assert sum(ends.values()) == len(numbers)
    assert ends["whole"] > 5 // step
    assert ends["gone"] > 10 // step


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", [TransientStoreError, OfflineError])
@pytest.mark.parametrize("step", amounts(3, 1))
def test_a_failure_at_any_request(shelf: Shelf, kind: type[Exception], after: bool, step: int) -> None:
    """What can be tried again is tried again; what can't leaves a state that the next call finishes."""
    make(shelf)
    made = shelf.store
    count = all_requests(shelf, erase)
    raised = 0
    for number in range(1 + after % step, count + 1, step):
        shelf.store = _copy_of(made)
        fault = Fault(number, kind("the store fails"), after=after)
        try:
            erase(shelf.remote("mydb", faulty(fault)))
        except OfflineError:
            raised += 1
            if "mydb" in shelf.store.objects:
                assert shelf.contents("mydb") == ALL
            shelf.unlock("mydb")
            erase(shelf.remote("mydb"))
        assert own_keys(shelf) == set()
    assert (raised > 15 // step) == (kind is OfflineError)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", amounts(3, 1))
def test_a_session_that_dies_at_any_request(tmp_path: Path, after: bool, step: int) -> None:
    """The next open finds out; whichever it is, the local content is what the next push brings there."""
    shelf = Shelf(tmp_path, MemoryStore())
    make(shelf)
    with shelf.open("mydb", "part") as db:
        assert (db["k003"], db["small1"]) == (PACKED["k003"], SMALL["small1"])
    local = {"small1": SMALL["small1"], "k003": PACKED["k003"]}
    made = shelf.store
    files = {path.name: path.read_bytes() for path in tmp_path.glob("part.blt*")}
    forgotten = kept = 0
    number = 1 + after % step - step
    finished = False
    while not finished:
        number += step
        shelf.store = _copy_of(made)
        for path in tmp_path.glob("part.blt*"):
            path.unlink()
        for file_name, data in files.items():
            (tmp_path / file_name).write_bytes(data)
        db = shelf.open("mydb", "part", "w")
        db["written"] = b"now"
        db._session.remote.store.inner = DyingStore(shelf.store, number, after=after)  # type: ignore[attr-defined]
        db._session.remote.threads = 1
        try:
            delete_remote(db._session)
        except Killed:
            db._session.local.abandon()
            db._closed = True
            db._ending = Ending()
        else:
            db.close()
            finished = True
        shelf.unlock("mydb")
        there = "mydb" in shelf.store.objects
        with shelf.open("mydb", "part", "w") as db:
            expected = (ALL if there else local | {"": ALL[""]}) | {"written": b"now"}
            assert {*db, ""} == set(expected)
            assert db.changes().push()
        assert shelf.contents("mydb") == expected
        forgotten += not there
        kept += there
    assert kept > 5 // step
    assert forgotten > 10 // step


def test_a_death_with_the_session_open_is_made_good_by_a_pull(shelf: Shelf) -> None:
    make(shelf)
    db = shelf.open("mydb", "a", "w")
    store = DyingStore(shelf.store)
    db._session.remote.store.inner = store  # type: ignore[attr-defined]

    def fail(kind: str, key: str, after: bool) -> None:
        if after and (kind, key) == ("delete", "mydb"):
            raise OfflineError("the network is gone")

    db._session.remote.store.inner = HookedStore(shelf.store, fail)  # type: ignore[attr-defined]
    with pytest.raises(OfflineError, match="network"):
        delete_remote(db._session)
    db._session.remote.store.inner = shelf.store  # type: ignore[attr-defined]
    with db.transaction(), pytest.raises(RemoteMissingError):
        # Not under what a transaction has read.
        pull(db._session)
    assert len(db) == len(ALL) - 1
    assert pull(db._session).missing
    assert {**dict(db.items()), "": db.get_metadata()} == ALL
    # The word was good for that deletion alone.
    db.changes().push()
    del shelf.store.objects["mydb"]
    with pytest.raises(RemoteMissingError):
        pull(db._session)
    db.close()


def test_the_word_of_a_deletion_is_no_good_for_a_later_commit(shelf: Shelf) -> None:
    make(shelf)

    def fail(kind: str, key: str, after: bool) -> None:
        if (kind, key) == ("delete", "mydb"):
            raise OfflineError("the network is gone")

    db = shelf.open("mydb", "a", "w")
    db._session.remote.store.inner = HookedStore(shelf.store, fail)  # type: ignore[attr-defined]
    with pytest.raises(OfflineError, match="network"):
        delete_remote(db._session)
    db.close()
    shelf.push("mydb", "b", {"theirs": b"1"})
    with shelf.open("mydb", "a", "w") as db:
        assert db["theirs"] == b"1"
        erase(shelf.remote("mydb"))
        with pytest.raises(RemoteMissingError):
            pull(db._session)
    # Somebody who only reads leaves the journal alone.
    with pytest.raises(RemoteMissingError):
        shelf.open("mydb", "a", "r")


def test_a_session_with_a_lock_that_dies(shelf: Shelf) -> None:
    make(shelf)
    db = shelf.open("mydb", "a", "w", lock="exclusive")
    db._session.remote.store.inner = DyingStore(shelf.store, 8)  # type: ignore[attr-defined]
    with dying(db):
        delete_remote(db._session)
    shelf.unlock("mydb")
    with shelf.open("mydb", "a", "w", lock="exclusive") as db:
        delete_remote(db._session)
        assert own_keys(shelf) == set()
        assert db.changes().push()
    assert shelf.contents("mydb") == ALL
