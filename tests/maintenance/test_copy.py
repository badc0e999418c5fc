"""Copying a database to another remote: what travels, what does not, and what a death in the middle leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx.errors import (
    InvalidArgumentError,
    LockTimeoutError,
    OfflineError,
    PreconditionFailedError,
    ReadOnlyError,
    RemoteAccessError,
    RemoteIntegrityError,
    RemoteMissingError,
    TransientStoreError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.root import KEEP_RECENT, decode_root
from ebooklet_tx.maintenance import copy
from ebooklet_tx.maintenance.copy import copy_remote
from ebooklet_tx.maintenance.inventory import objects_named
from ebooklet_tx.maintenance.verify import verify
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.commit import packing
from ebooklet_tx.sync.root_object import read_root_or_none
from tests.campaigns import amounts
from tests.memory_store import Conditions, MemoryStore
from tests.pairs import limit_tails
from tests.remotes import DyingStore, Killed, Shelf, values_of
from tests.store_wrappers import CountingStore, Fault, FaultyStore, PassingStore

T = TypeVar("T")

PACKED = values_of(12, 4000)
SMALL = {f"small{number}": b"%d" % number for number in range(5)}
ALL: dict[str, Any] = PACKED | SMALL | {"": {"about": "weather"}}
NAMES = ("ab", "abab", "a.d", "b")


class ElsewhereStore(MemoryStore):
    """Another store than the source's."""

    @property
    def location(self) -> str:
        return "memory elsewhere"


@pytest.fixture(autouse=True)
def _many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 300)
    monkeypatch.setattr("ebooklet_tx.sync.commit.push.INLINE_TOTAL_BYTES", 2000)
    monkeypatch.setattr(packing, "PACK_BYTES", 10_000)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Shelf:
    """Where to: a store of its own."""
    return other_shelf(tmp_path)


def other_shelf(folder: Path, conditions: Conditions = "work") -> Shelf:
    (folder / "other").mkdir(exist_ok=True)
    return Shelf(folder / "other", ElsewhereStore(conditions), conditions == "work")


def make(shelf: Shelf, name: str = "ab") -> None:
    """Makes a database of several packs, an index object and a tail, with objects that it needs no more."""
    shelf.push(name, "a", values_of(12, 3000, seed=9) | {"gone": b"y" * 3000})
    for half in (dict(list(PACKED.items())[:6]), dict(list(PACKED.items())[6:])):
        shelf.push(name, "a", half)
    shelf.push(name, "a", SMALL | {"gone": None}, {"about": "weather"})
    assert shelf.keys(f"{name}.d/index/")


def data_of(shelf: Shelf, name: str) -> dict[str, bytes]:
    """A database's objects by what comes behind its name, locks left out."""
    return {
        key[len(name) :]: shelf.store.get(key).data
        for key in shelf.keys()  # noqa: SIM118
        if key == name or key.startswith(f"{name}.d/")
    }


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


# -- what travels --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_apart_as_a_whole(shelf: Shelf, other: Shelf, name: str) -> None:
    make(shelf, name)
    copy_remote(shelf.remote(name), other.remote("ba"))
    source, target = data_of(shelf, name), data_of(other, "ba")
    assert set(target) < set(source)
    assert target == {key: source[key] for key in target}
    # The objects of before, of the deleted key and of the merged index are not needed any more.
    assert len(source) - len(target) >= 3
    assert other.contents("ba") == ALL


def test_the_history_travels(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    with shelf.open("ab", "a") as db:
        for number in range(KEEP_RECENT):
            db["counter"] = b"%d" % number
            db.changes().push()
    assert len(shelf.keys("ab.d/history/")) == 1
    copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert other.keys("ab.d/history/") == shelf.keys("ab.d/history/")
    assert verify(other.remote("ab")).sound
    shelf.store.delete(next(iter(shelf.keys("ab.d/history/"))))
    with pytest.raises(RemoteIntegrityError, match="restore the object"):
        copy_remote(shelf.remote("ab"), other.remote("b"))
    assert "b" not in other.store.objects


def test_only_what_the_root_needs_is_copied(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    strays = ["ab.d/pack/" + "0" * 32, "ab.d/notes", "ab.d/snapshot/monday", "ab.d2/pack/" + "0" * 32, "ab2"]
    for key in strays:
        shelf.store.put(key, shelf.store.get("ab").data)
    report = copy_remote(shelf.remote("ab"), other.remote("ab"))
    copied = data_of(other, "ab")
    assert not {f"ab{key}" for key in copied} & set(strays)
    root = decode_root(shelf.store.get("ab").data, name="root")
    assert (report.commit_id, report.seq) == (root.manifest.commit_id, 4)
    assert report.key_count == len(ALL) - 1
    assert (report.copied_objects, report.present_objects) == (len(copied), 0)
    assert report.copied_bytes == sum(len(data) for data in copied.values())
    assert other.store.get("ab").metadata == {"commit-id": root.manifest.commit_id}
    assert other.contents("ab") == ALL


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("to_folder", [True, False])
def test_a_copy_is_a_database_of_its_own(tmp_path: Path, threads: int, to_folder: bool) -> None:
    """Between a folder and memory, whose ETags differ; reading, pulling and pushing on top work."""
    folder = DirectoryStore(tmp_path / "folder")
    source = Shelf(tmp_path, MemoryStore() if to_folder else folder)
    make(source)
    (tmp_path / "other").mkdir()
    target = Shelf(tmp_path / "other", folder if to_folder else MemoryStore())
    assert copy_remote(source.remote("ab", threads=threads), target.remote("copy", threads=threads))
    with source.open("ab", "a", "r") as db:
        uuid = db.uuid
    with target.open("copy", "c") as db:
        assert db.uuid == uuid
        assert db["k001"] == PACKED["k001"]
        assert dict(db.get_items(PACKED)) == PACKED
        db["mine"] = b"here alone"
        db["k002"] = PACKED["k003"]
        assert db.changes().push().seq == 5
    expected = ALL | {"mine": b"here alone", "k002": PACKED["k003"]}
    assert target.contents("copy") == expected
    # A machine that had pulled before follows, and the source knows nothing of it.
    target.push("copy", "d", {"more": PACKED["k000"], "k001": None})
    del expected["k001"]
    assert target.contents("copy", "c") == expected | {"more": PACKED["k000"]}
    assert source.contents("ab") == ALL
    # A local file of the source's goes on at the copy, for it is the same history.
    with Shelf(source.folder, target.store).open("copy", "a", "w") as db:
        assert db["mine"] == b"here alone"
        db["from a"] = b"1"
        assert db.changes().push().seq == 7
    assert target.contents("copy")["from a"] == b"1"


def test_an_empty_database_travels(shelf: Shelf, other: Shelf) -> None:
    with shelf.open("ab", "a") as db:
        db.changes().push()
    report = copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert (report.copied_objects, report.key_count) == (1, 0)
    assert other.contents("ab") == {}


def test_a_large_object_goes_in_parts(shelf: Shelf, other: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "WHOLE_BYTES", 50_000)
    monkeypatch.setattr(copy, "PART_BYTES", 7_000)
    large = values_of(3, 60_000, seed=1)
    shelf.push("ab", "a", large | SMALL)
    reads: list[int] = []

    class Watched(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
            return send()

        def _received(self, byte_count: int) -> None:
            reads.append(byte_count)

    folder = DirectoryStore(other.folder / "folder")
    other.store = folder
    copy_remote(shelf.remote("ab", Watched, threads=4), other.remote("ab", threads=4))
    assert max(reads) <= 7_000
    assert sum(reads) > 180_000
    assert other.contents("ab") == large | SMALL


def test_no_more_than_a_few_objects_are_in_memory(
    shelf: Shelf, other: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(shelf)
    # Packs of two values have 8 kB each.
    monkeypatch.setattr(copy, "IN_FLIGHT_BYTES", 20_000)
    mutex = threading.Lock()
    here, most = 0, 0

    def hook(kind: str, key: str, after: bool) -> None:
        nonlocal here, most
        if "/pack/" in key:
            with mutex:
                here += (kind, after) == ("get", False)
                most = max(most, here)

    def arrived(kind: str, key: str, after: bool) -> None:
        nonlocal here
        if "/pack/" in key and kind == "put" and after:
            with mutex:
                here -= 1

    copy_remote(
        shelf.remote("ab", lambda inner: HookedStore(inner, hook), threads=8),
        other.remote("ab", lambda inner: HookedStore(inner, arrived), threads=8),
    )
    assert 1 <= most <= 2
    assert other.contents("ab") == ALL


# -- what is refused -----------------------------------------------------------------------------


def test_there_must_be_something_to_copy(shelf: Shelf, other: Shelf) -> None:
    with pytest.raises(RemoteMissingError, match="no database 'ab'"):
        copy_remote(shelf.remote("ab"), other.remote("ab"))
    shelf.store.put("ab", b"somebody's notes")
    with pytest.raises(UnsupportedFormatError):
        copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert other.keys() == set()


def test_the_target_must_hold_no_database(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    other.push("ab", "theirs", SMALL)
    before = data_of(other, "ab")
    with other.open("ab", "theirs", "r") as db:
        uuid = db.uuid
    with pytest.raises(InvalidArgumentError, match=f"another database: {uuid} at commit 1.*delete_remote"):
        copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert data_of(other, "ab") == before
    other.store.put("notes", b"somebody's notes")
    with pytest.raises(UnsupportedFormatError):
        copy_remote(shelf.remote("ab"), other.remote("notes"))
    with pytest.raises(InvalidArgumentError, match="onto itself"):
        copy_remote(shelf.remote("ab"), shelf.remote("ab"))
    assert other.keys() == {"ab", "notes", "notes.lock", "ab.lock"} | {f"ab{key}" for key in before}


def test_an_earlier_copy_is_not_overwritten(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    assert copy_remote(shelf.remote("ab"), other.remote("ab"))
    again = copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert (bool(again), again.copied_objects, again.seq) == (False, 0, 4)
    shelf.push("ab", "a", {"later": b"1"})
    with pytest.raises(InvalidArgumentError, match="an earlier or later state of this database"):
        copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert other.contents("ab") == ALL


def test_a_target_that_only_reads(shelf: Shelf, other: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    make(shelf)
    target = other.remote("ab")
    monkeypatch.setattr(MemoryStore, "writable", False)
    with pytest.raises(ReadOnlyError):
        copy_remote(shelf.remote("ab"), target)
    assert other.keys() == set()


def test_a_writer_at_the_target_is_waited_for(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    with other.open("ab", "theirs", "c", lock="exclusive"), pytest.raises(LockTimeoutError, match="locked by"):
        copy_remote(shelf.remote("ab"), other.remote("ab"), lock_timeout_seconds=0)
    assert data_of(other, "ab") == {}


# -- a source that moves on ----------------------------------------------------------------------


def test_a_source_that_is_compacted_meanwhile(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    old = shelf.keys("ab.d/")
    moved: list[str] = []

    def hook(kind: str, key: str, after: bool) -> None:
        if kind == "get" and "/pack/" in key and not after and not moved:
            moved.append(key)
            shelf.push("ab", "a", dict.fromkeys(PACKED, b"z" * 3000))
            plain = shelf.remote("ab")
            newer = read_root_or_none(plain)
            assert newer is not None
            for name in old - {f"ab.d/{kept}" for kept in objects_named(plain, newer.root)}:
                shelf.store.delete(name)

    report = copy_remote(shelf.remote("ab", lambda inner: HookedStore(inner, hook)), other.remote("ab"))
    assert moved
    assert report.seq == 5
    expected = SMALL | dict.fromkeys(PACKED, b"z" * 3000) | {"": {"about": "weather"}}
    assert other.contents("ab") == expected == shelf.contents("ab")


@pytest.mark.parametrize("kind", ["pack", "index"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_damaged_source_makes_no_copy(
    shelf: Shelf, other: Shelf, monkeypatch: pytest.MonkeyPatch, kind: str, damage: str, in_parts: bool
) -> None:
    if in_parts:
        monkeypatch.setattr(copy, "WHOLE_BYTES", 1)
    make(shelf)
    copy_remote(shelf.remote("ab"), other.remote("sound"))
    key = next(key for key in sorted(other.keys(f"sound.d/{kind}/"))).replace("sound.d", "ab.d")
    data = shelf.store.get(key).data
    if damage == "cut":
        shelf.store.put(key, data[:-1])
    else:
        shelf.store.delete(key)
    with pytest.raises(RemoteIntegrityError, match=f"ab.d/{kind}/"):
        copy_remote(shelf.remote("ab"), other.remote("ab"))
    with pytest.raises(RemoteMissingError):
        other.contents("ab")
    shelf.store.put(key, data)
    assert copy_remote(shelf.remote("ab"), other.remote("ab")).present_objects > 0 or kind == "index"
    assert other.contents("ab") == ALL


def test_a_source_that_never_stands_still(shelf: Shelf, other: Shelf) -> None:
    make(shelf)
    number = 0

    def hook(kind: str, key: str, after: bool) -> None:
        nonlocal number
        if kind == "get" and "/pack/" in key and not after:
            number += 1
            shelf.push("ab", "a", {"counter": b"%d" % number})
            raise RemoteIntegrityError("compacted")

    with pytest.raises(OfflineError, match="shows no database"):
        copy_remote(shelf.remote("ab", lambda inner: HookedStore(inner, hook)), other.remote("ab"))
    assert number >= copy.MAX_LOOKS
    assert "ab" not in other.keys()  # noqa: SIM118


# -- the root's put ------------------------------------------------------------------------------


def rooted(error: Exception, *, after: bool) -> Callable[[ObjectStore], HookedStore]:
    """Fails the first put of the target's root."""
    done: list[str] = []

    def hook(kind: str, key: str, is_after: bool) -> None:
        if (kind, key) == ("put", "ab") and is_after == after and not done:
            done.append(key)
            raise error

    return lambda inner: HookedStore(inner, hook)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [TransientStoreError("lost"), PreconditionFailedError("412")])
@pytest.mark.parametrize("conditions", ["work", "ignored"])
def test_an_answer_to_the_root_that_is_lost(
    shelf: Shelf, tmp_path: Path, conditions: Conditions, error: Exception, after: bool
) -> None:
    make(shelf)
    other = other_shelf(tmp_path, conditions)
    report = copy_remote(shelf.remote("ab"), other.remote("ab", rooted(error, after=after)))
    assert report.copied_objects == len(data_of(other, "ab"))
    assert other.contents("ab") == ALL


@pytest.mark.parametrize("conditions", ["work", "ignored"])
@pytest.mark.parametrize("after", [False, True])
def test_a_store_that_gives_up_at_the_root(
    shelf: Shelf, tmp_path: Path, conditions: Conditions, after: bool
) -> None:
    make(shelf)
    other = other_shelf(tmp_path, conditions)
    wrap = rooted(OfflineError("the network is gone"), after=after)
    if after:
        assert copy_remote(shelf.remote("ab"), other.remote("ab", wrap))
    else:
        with pytest.raises(OfflineError, match="network"):
            copy_remote(shelf.remote("ab"), other.remote("ab", wrap))
        report = copy_remote(shelf.remote("ab"), other.remote("ab"))
        assert (report.copied_objects, report.present_objects) == (1, len(data_of(other, "ab")) - 1)
    assert other.contents("ab") == ALL


@pytest.mark.parametrize("conditions", ["work", "ignored"])
def test_somebody_who_makes_a_database_meanwhile_keeps_it(
    shelf: Shelf, tmp_path: Path, conditions: Conditions
) -> None:
    make(shelf)
    other = other_shelf(tmp_path, conditions)
    begun: list[str] = []

    def hook(kind: str, key: str, after: bool) -> None:
        if after and kind == "put" and "/pack/" in key and not begun:
            begun.append(key)
            foreign = Shelf(other.folder)
            foreign.push("ab", "theirs", SMALL)
            other.store.put("ab", foreign.store.get("ab").data)

    with pytest.raises(InvalidArgumentError, match="another database"):
        copy_remote(shelf.remote("ab"), other.remote("ab", lambda inner: HookedStore(inner, hook)))
    assert other.contents("ab") == SMALL


# -- copies made by the store --------------------------------------------------------------------


class CopyingStore(MemoryStore):
    """A store that copies from another of its kind, unless it is told to refuse."""

    def __init__(self, location: str = "here", refusal: Exception | None = None) -> None:
        super().__init__()
        self.refusal = refusal
        self.asked = 0
        self._location = location

    @property
    def location(self) -> str:
        return self._location

    def copy_from(self, source: object, source_key: str, target_key: str) -> str | None:
        self.asked += 1
        if not isinstance(source, CopyingStore):
            return None
        if self.refusal is not None:
            raise self.refusal
        blob = source.get(source_key)
        assert blob is not None
        return self.put(target_key, blob.data)


@pytest.mark.parametrize(
    "refusal", [None, RemoteAccessError("501"), InvalidArgumentError("too large"), "another kind", "too large"]
)
def test_a_store_may_copy_by_itself(
    shelf: Shelf, other: Shelf, monkeypatch: pytest.MonkeyPatch, refusal: Exception | str | None
) -> None:
    if refusal == "too large":
        monkeypatch.setattr(copy, "MAX_SERVER_COPY_BYTES", 0)
    source = CopyingStore()
    shelf.store = MemoryStore() if refusal == "another kind" else source
    other.store = target = CopyingStore("there", refusal if isinstance(refusal, Exception) else None)
    make(shelf)
    reads: list[str] = []
    shelf.store.on_request = lambda kind, key: reads.append(kind)
    report = copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert target.asked == (0 if refusal == "too large" else report.copied_objects - 1)
    assert other.contents("ab") == ALL


def test_an_object_that_the_store_does_not_find_is_missing(shelf: Shelf, other: Shelf) -> None:
    shelf.store, other.store = CopyingStore(), CopyingStore("there")
    make(shelf)
    copy_remote(shelf.remote("ab"), other.remote("sound"))
    key = sorted(other.keys("sound.d/pack/"))[0].replace("sound", "ab")
    shelf.store.delete(key)
    with pytest.raises(RemoteIntegrityError, match=key):
        copy_remote(shelf.remote("ab"), other.remote("ab"))


def test_an_object_that_the_store_copies_is_as_long_as_the_index_says(shelf: Shelf, other: Shelf) -> None:
    shelf.store, other.store = CopyingStore(), CopyingStore("there")
    make(shelf)
    copy_remote(shelf.remote("ab"), other.remote("sound"))
    key = sorted(other.keys("sound.d/pack/"))[0].replace("sound", "ab")
    data = shelf.store.get(key).data
    for damaged in (data + b"!", data[:-1]):
        shelf.store.put(key, damaged)
        with pytest.raises(RemoteIntegrityError, match=f"{key}.*another size"):
            copy_remote(shelf.remote("ab"), other.remote("ab"))
        assert "ab" not in other.store.objects
    shelf.store.put(key, data)
    assert copy_remote(shelf.remote("ab"), other.remote("ab"))
    assert other.contents("ab") == ALL


# -- deaths and failures -------------------------------------------------------------------------


def requests_of(shelf: Shelf) -> tuple[int, int]:
    """How many requests of the source and of the target a whole copy makes."""
    source, target = DyingStore(shelf.store), DyingStore(ElsewhereStore())
    copy_remote(shelf.remote("ab", lambda _: source), Shelf(shelf.folder, target).remote("ab"))
    return source.requests, target.requests


def target_requests(shelf: Shelf, conditions: Conditions) -> int:
    target = DyingStore(ElsewhereStore(conditions))
    copy_remote(shelf.remote("ab"), Shelf(shelf.folder, target, conditions == "work").remote("ab"))
    return target.requests


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("conditions", ["work", "ignored"])
@pytest.mark.parametrize("step", amounts(3, 1))
def test_a_death_at_any_request_to_the_target(
    shelf: Shelf, tmp_path: Path, conditions: Conditions, after: bool, step: int
) -> None:
    make(shelf)
    count = target_requests(shelf, conditions)
    assert count > 12
    whole = {f"ab{key}" for key in data_of(shelf, "ab")}
    complete = resent = 0
    # Around the put of the root, which is among the last, each of them.
    for number in sorted({*range(1 + after % step, count + 1, step), *range(count - 2, count + 1)}):
        other = other_shelf(tmp_path, conditions)
        with pytest.raises(Killed):
            copy_remote(
                shelf.remote("ab"), other.remote("ab", lambda inner, n=number: DyingStore(inner, n, after=after))
            )
        arrived = other.keys("ab.d/")
        complete += "ab" in other.store.objects
        if "ab" in other.store.objects:
            assert other.contents("ab") == ALL
        else:
            with pytest.raises(RemoteMissingError):
                other.contents("ab")
        other.unlock("ab")
        counting: list[CountingStore] = []

        def wrap(inner: ObjectStore, counting: list[CountingStore] = counting) -> CountingStore:
            counting.append(CountingStore(inner))
            return counting[-1]

        report = copy_remote(shelf.remote("ab"), other.remote("ab", wrap))
        sent = {key for kind, key in counting[0].log if kind == "put" and not key.startswith("ab.lock")}
        resent += len(sent & arrived)
        assert len(sent) == report.copied_objects
        assert other.contents("ab") == ALL
        assert {key for key in other.store.objects if ".lock" not in key} <= whole
    assert resent == 0
    assert complete >= 1 + after


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", amounts(2, 1))
def test_a_death_at_any_request_to_the_source(shelf: Shelf, tmp_path: Path, after: bool, step: int) -> None:
    make(shelf)
    count, _ = requests_of(shelf)
    assert count > 8
    before = data_of(shelf, "ab")
    for number in range(1 + after % step, count + 1, step):
        other = other_shelf(tmp_path)
        with pytest.raises(Killed):
            copy_remote(
                shelf.remote("ab", lambda inner, n=number: DyingStore(inner, n, after=after)), other.remote("ab")
            )
        assert "ab" not in other.store.objects
        if "ab.lock" in other.store.objects:
            other.unlock("ab")
        copy_remote(shelf.remote("ab"), other.remote("ab"))
        assert other.contents("ab") == ALL
    assert data_of(shelf, "ab") == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at_source", [False, True])
@pytest.mark.parametrize("step", amounts(3, 1))
def test_a_failure_of_any_request_is_tried_again(
    shelf: Shelf, tmp_path: Path, at_source: bool, after: bool, step: int
) -> None:
    make(shelf)
    count = requests_of(shelf)[0 if at_source else 1]
    for number in range(1 + (at_source + after) % step, count + 1, step):
        other = other_shelf(tmp_path)
        fault = Fault(number, TransientStoreError("the store fails"), after=after)

        def wrap(inner: ObjectStore, fault: Fault = fault) -> FaultyStore:
            return FaultyStore(inner, [fault])

        plain = (lambda inner: inner, wrap)
        copy_remote(shelf.remote("ab", plain[at_source]), other.remote("ab", plain[not at_source]))
        assert other.contents("ab") == ALL
