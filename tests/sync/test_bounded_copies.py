"""A bound on the local file: what was read longest ago goes, what is pending stays, and every value is right."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, LocalStorageError
from ebooklet_tx.local import bounded_copies, open_pair
from ebooklet_tx.local.bounded_copies import BoundedCopies
from ebooklet_tx.local.journal.entries import entries_where
from tests.campaigns import amounts
from tests.pairs import Bench, pending
from tests.store_wrappers import CountingStore

BOUND = 2**20
VALUE_BYTES = 20_000
FITTING = BOUND * 3 // 4 // (VALUE_BYTES + 60)
"""About how many values are left after a trim."""


def value(seed: object, size_bytes: int = VALUE_BYTES) -> bytes:
    return random.Random(str(seed)).randbytes(size_bytes)


PUSHED = {f"k{number:03}": value(number) for number in range(120)}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a remote with more than twice as much as the bound."""
    bench = Bench(tmp_path_factory.mktemp("pushed"))
    with bench.open() as db:
        db.update(PUSHED)
        db.changes().push()
    return bench.root.parent


@pytest.fixture
def bench(pushed: Path, tmp_path: Path) -> Bench:
    """The same remote once more, without a copy of it."""
    shutil.copytree(pushed, tmp_path / "remote")
    return Bench(tmp_path)


class Copy:
    """A bounded copy, whose fetches are counted."""

    def __init__(self, bench: Bench, name: str = "b") -> None:
        self.bench = bench
        self.name = name
        self.stores: list[CountingStore] = []

    def open(self, flag: str = "w", **options: Any) -> Database:
        def wrap(inner: Any) -> CountingStore:
            self.stores.append(CountingStore(inner))
            return self.stores[-1]

        options.setdefault("max_local_bytes", BOUND)
        return self.bench.open(self.name, flag, wrap_store=wrap, **options)

    def fetched(self) -> int:
        count = sum(store.requests["get_range"] for store in self.stores)
        for store in self.stores:
            store.reset()
        return count

    @property
    def size(self) -> int:
        return self.bench.path(self.name).stat().st_size


@pytest.fixture
def copy(bench: Bench) -> Copy:
    return Copy(bench)


def held(db: Database) -> set[str]:
    """The keys whose copies lie in the file."""
    return {entry.key for entry in entries_where(db._session.journal, "local_digest IS NOT NULL")}


# -- the bound ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "way"), [("r", "get"), ("w", "get"), ("r", "get_items"), ("w", "items"), ("r", "load_items")]
)
def test_however_values_are_read_the_file_stays_within_the_bound(copy: Copy, flag: str, way: str) -> None:
    with copy.open(flag) as db:
        if way == "get":
            for key, expected in PUSHED.items():
                assert db[key] == expected
                assert copy.size <= BOUND
        elif way == "get_items":
            assert dict(db.get_items(list(PUSHED))) == PUSHED
        elif way == "items":
            for key, found in db.items():
                assert found == PUSHED[key]
                assert copy.size <= BOUND
        else:
            assert db.load_items() == {}
        assert copy.size <= BOUND
    assert copy.size <= BOUND
    assert copy.size > BOUND // 2
    with copy.open("r") as db:
        assert dict(db.items()) == PUSHED
    assert copy.size <= BOUND


def test_a_file_that_is_larger_already_is_trimmed_when_it_is_opened(copy: Copy) -> None:
    with copy.open(max_local_bytes=None) as db:
        db.load_items()
    assert copy.size > 2 * BOUND
    with copy.open("r"):
        assert copy.size <= BOUND


def test_what_is_pending_stays_and_goes_once_it_is_pushed(copy: Copy) -> None:
    written = {f"new{number:03}": value(f"new {number}") for number in range(80)}
    with copy.open() as db:
        for key in list(PUSHED)[:30]:
            db[key]
        db.update(written)
        db.sync()
        assert held(db) >= set(written)
        # All of it is pending, and larger than the bound: what is fetched is read, and not kept.
        assert copy.size > BOUND
        grown = copy.size
        for key in list(PUSHED)[40:60]:
            assert db[key] == PUSHED[key]
        db.sync()
        assert copy.size == grown
        assert len(pending(db)) == len(written)
        db.changes().push()
        assert db["k000"] == PUSHED["k000"]
    assert copy.size <= BOUND
    assert copy.bench.fresh_contents() == PUSHED | written


def test_a_bound_that_can_t_be_kept_costs_no_rewrite_for_each_append(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []
    plan = BoundedCopies.plan
    monkeypatch.setattr(BoundedCopies, "plan", lambda self, *sizes: planned.append(sizes) or plan(self, *sizes))
    with copy.open() as db:
        for number in range(60):
            db[f"new{number:03}"] = value(number)
            db.sync()
        before = len(planned)
        for number in range(60, 66):
            db[f"new{number:03}"] = value(number)
            db.sync()
        assert len(planned) <= before + 1


def test_a_conflict_keeps_both_of_its_sides(copy: Copy) -> None:
    with copy.open(lock=None) as db:
        db["k001"] = b"ours"
        with copy.bench.open("a") as other:
            other["k001"] = value("theirs")
            other.changes().push()
        db.changes().pull()
        dict(db.get_items(list(PUSHED)))
        (conflict,) = db.changes().conflicts()
        assert conflict.ours == b"ours"
        assert conflict.theirs == value("theirs")
        assert db["k001"] == b"ours"


# -- the order ---------------------------------------------------------------------------------


def test_what_was_read_longest_ago_goes_first(copy: Copy) -> None:
    hot = ["k005", "k011", "k017"]
    keys = [key for key in PUSHED if key not in hot]
    with copy.open() as db:
        for key in hot:
            db[key]
        for number, key in enumerate(keys):
            db[key]
            if number % 10 == 9:
                copy.fetched()
                for one in hot:
                    assert db[one] == PUSHED[one]
                assert copy.fetched() == 0, number
        db.sync()
        left = held(db)
        assert left >= set(hot)
        # The others are those that came last.
        assert left - set(hot) == set(keys[-(len(left) - len(hot)) :])


def test_small_values_and_the_index_that_grows_with_them_count(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    values = {f"k{number:05}": b"v%09d" % number * 30 for number in range(4000)}
    with bench.open() as db:
        db.update(values)
        db.changes().push()
    copy = Copy(bench)
    keys = list(values)
    with copy.open() as db:
        for start in range(0, len(keys), 1000):
            some = keys[start : start + 1000]
            assert dict(db.get_items(some)) == {key: values[key] for key in some}
            assert copy.size <= BOUND
        db.sync()
        assert copy.size <= BOUND
        assert len(held(db)) > 2000
    assert copy.size <= BOUND


@pytest.mark.parametrize("flag", ["r", "w"])
def test_what_an_earlier_session_has_read_counts(copy: Copy, flag: str) -> None:
    keys = list(PUSHED)
    with copy.open() as db:
        for key in keys[:40]:
            db[key]
    with copy.open(flag) as db:
        # The oldest copies of all; this session fetches nothing.
        copy.fetched()
        for key in keys[:5]:
            db[key]
        assert copy.fetched() == 0
    with copy.open(flag) as db:
        for key in keys[60 : 60 + FITTING - 10]:
            db[key]
        copy.fetched()
        for key in keys[:5]:
            assert db[key] == PUSHED[key]
        assert copy.fetched() == 0
        assert db[keys[6]] == PUSHED[keys[6]]
        assert copy.fetched() == 1


def test_a_read_writes_nothing_to_the_journal(copy: Copy) -> None:
    with copy.open() as db:
        for key in list(PUSHED)[:20]:
            db[key]
        db.sync()
        version = db._session.journal.version()
        for key in list(PUSHED)[:20]:
            db[key]
        assert db._session.journal.version() == version


def test_reads_that_are_noted_are_bounded_in_memory_and_in_the_journal(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_copies, "MOST_NOTED", 8)
    monkeypatch.setattr(bounded_copies, "MOST_SAVED", 5)
    for _ in range(2):
        with copy.open() as db:
            for key in list(PUSHED)[:20]:
                db[key]
            bound = db._session.local._fetched.bound
            assert bound is not None
            assert len(bound._reads) <= 8
    with copy.open() as db:
        noted = db._session.journal.get_meta(bounded_copies.READ_TIMES)
        assert len(noted) == 8 + 5 * 14


# -- a model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", amounts(range(1), range(30)))
def test_random_uses_agree_with_a_dict_and_keep_the_bound(copy: Copy, seeds: range) -> None:
    for seed in seeds:
        one_program(Copy(copy.bench, f"copy{seed}"), random.Random(seed))


def one_program(copy: Copy, source: random.Random) -> None:
    model = dict(copy.bench.fresh_contents())
    unpushed: dict[str, bytes] = {}
    flag = "w"
    db = copy.open(flag)
    try:
        for step in range(100):
            keys = list(PUSHED) + [f"own{number}" for number in range(10)]
            match source.choice(["get"] * 12 + ["many", "set", "set", "push", "sync", "delete", "open"]):
                case "get":
                    key = source.choice(keys)
                    assert db.get(key) == model.get(key), step
                case "many":
                    some = source.sample(keys, 12)
                    found = {key: found for key, found in db.get_items(some) if found is not None}
                    assert found == {key: model[key] for key in some if key in model}
                case "set" if flag == "w":
                    key = source.choice(keys)
                    model[key] = unpushed[key] = db[key] = value(step, source.choice([10, 5000, 60_000]))
                case "delete" if flag == "w":
                    key = source.choice(keys)
                    db.pop(key, None)
                    unpushed.pop(key, None)
                    model.pop(key, None)
                case "push" if flag == "w":
                    db.changes().push()
                    unpushed.clear()
                case "sync" if flag == "w":
                    db.sync()
                case "open":
                    db.close()
                    flag = source.choice(["r", "w"])
                    db = copy.open(flag)
                case _:
                    continue
            assert copy.size <= max(BOUND, 20_000 + sum(len(one) + 100 for one in unpushed.values())), step
        db.close()
        assert copy.bench.contents(copy.name) == model
    finally:
        db.close()
    with copy.open() as db:
        db.changes().push()
    assert copy.bench.fresh_contents() == model


# -- beside others -----------------------------------------------------------------------------


def test_threads_read_right_values_while_copies_go(copy: Copy) -> None:
    with copy.open() as db:

        def read(seed: int) -> bool:
            source = random.Random(seed)
            some = [source.choice(list(PUSHED)) for _ in range(60)]
            return all(db[key] == PUSHED[key] for key in some)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(4)))
        db.sync()
        assert copy.size <= BOUND


def test_a_reader_beside_a_writer_or_another_reader_follows_the_file_that_was_rewritten(copy: Copy) -> None:
    keys = list(PUSHED)
    with copy.open("r", max_local_bytes=None) as other:
        assert other[keys[0]] == PUSHED[keys[0]]
        with copy.open("r") as db:
            assert dict(db.get_items(keys)) == PUSHED
        for key in (keys[0], keys[-1]):
            assert other[key] == PUSHED[key]
    with copy.open("w", offline=True), copy.open("r") as db:
        size = copy.size
        # The writer has the lock: nothing is kept, and nothing dropped.
        assert dict(db.get_items(keys)) == PUSHED
        assert copy.size == size <= BOUND


# -- prune -------------------------------------------------------------------------------------


def test_prune_to_a_size_drops_what_was_read_longest_ago(copy: Copy) -> None:
    with copy.open(max_local_bytes=None) as db:
        db.load_items()
        db["own"] = value("own")
        del db["k119"]
        db.sync()
        before = len(held(db))
        dropped = db.prune(max_bytes=500_000)
        left = held(db)
        # The deleted value's block is dead.
        assert dropped == before - len(left) + 1
        assert copy.size <= 500_000
        assert copy.size > 450_000
        assert "own" in left
        assert db.prune(max_bytes=500_000) == 0
        assert db.prune(max_bytes=0) == len(left) - 1
        assert held(db) == {"own"}
        assert sorted(pending(db)) == ["k119", "own"]
        assert db["k003"] == PUSHED["k003"]


def test_prune_takes_a_time_and_a_size(copy: Copy) -> None:
    with copy.open(max_local_bytes=None) as db:
        db.load_items()
        assert db.prune(0, max_bytes=BOUND) == db_count(BOUND)
        assert db.prune(2**55, max_bytes=BOUND) == len(PUSHED) - db_count(BOUND)


def db_count(size_bytes: int) -> int:
    """How many copies do not fit into a file of a size."""
    return len(PUSHED) - (size_bytes - 200 - 6 * 1009) // (VALUE_BYTES + 32 + 4)


@pytest.mark.parametrize("wrong", [0, 2**20 - 1, True, "1 MiB", 2.0**21])
def test_a_bound_that_is_none_is_refused_before_anything_is_made(bench: Bench, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_local_bytes must be an int of at least"):
        bench.open("new", max_local_bytes=wrong)
    assert not bench.path("new").exists()
    with bench.open("a") as db, pytest.raises(InvalidArgumentError, match="max_bytes must be an int"):
        db.prune(max_bytes=-1)


# -- failures ----------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is dead."""


@pytest.mark.parametrize("at", ["before the journal", "before the rename", "after the rename"])
def test_being_killed_in_a_trim_loses_nothing(copy: Copy, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    keys = list(PUSHED)
    db = copy.open()
    db["own"] = value("own")
    for key in keys[:30]:
        db[key]
    db.sync()
    rebuild, put_in_place = open_pair.rebuild, open_pair.put_in_place

    def die(*arguments: Any, **options: Any) -> Any:
        if at == "before the rename":
            rebuild(*arguments, **options)
        raise Killed

    def die_after(*arguments: Any) -> None:
        put_in_place(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        if at == "after the rename":
            patch.setattr(open_pair, "put_in_place", die_after)
        else:
            patch.setattr(open_pair, "rebuild", die)
        with pytest.raises(Killed):
            dict(db.get_items(keys[30:]))
    db._session.local.abandon()
    db._session.locks.release()
    db._ending.finish()
    with copy.open() as db:
        assert pending(db) == {"own": "set"}
        assert dict(db.items()) == PUSHED | {"own": value("own")}
    assert copy.size <= BOUND


def test_a_disk_that_is_full_for_the_rewrite_costs_only_what_would_be_kept(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> Any:
        raise LocalStorageError(28, "no space left")

    with copy.open() as db:
        for key in list(PUSHED)[:30]:
            db[key]
        db.sync()
        with monkeypatch.context() as patch:
            patch.setattr(open_pair, "rebuild", full)
            for key, expected in PUSHED.items():
                assert db[key] == expected
            assert copy.size <= BOUND
        assert dict(db.items()) == PUSHED
    assert copy.size <= BOUND
