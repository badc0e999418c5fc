"""The remote's index on this machine: what is at hand, all of it where that is asked for, and what is not."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.errors import TransientStoreError
from ebooklet_tx.local.piece_cache import HELD
from ebooklet_tx.stores.counting import CountingStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.read import whole_index
from tests.pairs import Bench
from tests.store_wrappers import PassingStore

COUNT = 4000
"""Keys of which the index has some blocks, and a directory that is read apart from them."""

KEYS = [f"k{number:05}" for number in range(COUNT)]
ABSENT = "k00000a"


@pytest.fixture(scope="module")
def remote_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A remote whose values lie in a pack, and whose index is more than a tail."""
    bench = Bench(tmp_path_factory.mktemp("remote"))
    with bench.open("maker", "c") as db:
        db.update({key: key.encode() for key in KEYS})
        db.changes().push()
    (index,) = bench.objects("index")
    assert index.stat().st_size > 64 * 2**10
    return bench.folder / "remote"


@pytest.fixture
def bench(tmp_path: Path, remote_folder: Path) -> Bench:
    shutil.copytree(remote_folder, tmp_path / "remote")
    return Bench(tmp_path)


class Counters:
    """Counts the requests of the sessions that are opened with it."""

    def __init__(self) -> None:
        self.stores: list[CountingStore] = []

    def __call__(self, inner: ObjectStore) -> ObjectStore:
        self.stores.append(CountingStore(inner))
        return self.stores[-1]

    @property
    def requests(self) -> int:
        return sum(store.requests for store in self.stores)

    @property
    def bytes_down(self) -> int:
        return sum(store.bytes_down for store in self.stores)


@contextmanager
def without_requests(counters: Counters) -> Iterator[None]:
    before = counters.requests
    yield
    assert counters.requests == before


def held(db: Database) -> int:
    """How many pieces the journal holds."""
    (row,) = db._session.journal.rows(f"SELECT count(*) FROM piece WHERE last_used = {HELD}")
    return int(row[0])


def check_offline(bench: Bench, copy: str, keys: list[str]) -> None:
    """Checks that an offline session knows every key, and the times of those whose values it lacks."""
    with bench.open(copy, "r", offline=True) as db:
        assert len(db) == len(keys)
        assert list(db) == keys
        assert all(key in db for key in keys[::97])
        assert ABSENT not in db
        assert db.get(ABSENT) is None
        assert db.get_timestamp(keys[-1]) is not None
        with pytest.raises(KeyError):
            db[ABSENT]


def commit(bench: Bench, values: dict[str, bytes | None], copy: str = "other") -> None:
    """Another writer's commit."""
    with bench.open(copy, "c") as db:
        for key, value in values.items():
            if value is None:
                del db[key]
            else:
                db[key] = value
        db.changes().push()


# -- what is not at hand ------------------------------------------------------------------------

QUESTIONS: dict[str, Callable[[Database], Any]] = {
    "get": lambda db: db.get(ABSENT),
    "item": lambda db: db[ABSENT],
    "in": lambda db: ABSENT in db,
    "del": lambda db: db.__delitem__(ABSENT),
    "pop": lambda db: db.pop(ABSENT),
    "pop with a default": lambda db: db.pop(ABSENT, None),
    "popitem": lambda db: db.popitem(),
    "setdefault": lambda db: db.setdefault(ABSENT, b"v"),
    "keys": lambda db: list(db.keys()),
    "keys with a prefix": lambda db: list(db.keys(prefix="k01")),
    "get_items": lambda db: list(db.get_items([ABSENT])),
    "timestamp": lambda db: db.get_timestamp(ABSENT),
    "set_timestamp": lambda db: db.set_timestamp(ABSENT, "2026-01-31T12:00:00+00:00"),
    "clear": lambda db: db.clear(),
    "load_index": lambda db: db.load_index(),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_what_can_t_be_told_offline_is_no_missing_key(bench: Bench, question: Callable[[Database], Any]) -> None:
    bench.open("a", "w").close()
    with bench.open("a", "w", offline=True) as db:
        with pytest.raises(ebooklet_tx.OfflineError, match="opened offline"):
            question(db)
        assert not list(db.changes().iter_changes())


def test_a_blind_write_works_offline_and_what_it_decides_is_known(bench: Bench) -> None:
    bench.open("a", "w").close()
    with bench.open("a", "w", offline=True) as db:
        # The root that is here has the count.
        assert len(db) == COUNT
        db["new"] = b"1"
        db[KEYS[7]] = b"2"
        assert "new" in db
        assert db[KEYS[7]] == b"2"
        with pytest.raises(ebooklet_tx.OfflineError):
            len(db)
        db.sync()
        with pytest.raises(ebooklet_tx.OfflineError):
            len(db)
        del db["new"]
        assert "new" not in db
        assert db.pop(KEYS[7]) == b"2"
        with pytest.raises(KeyError):
            db["new"]
    with bench.open("a", "w") as db:
        assert len(db) == COUNT - 1
        assert db.changes().push()
    assert set(bench.fresh_contents()) == {*KEYS} - {KEYS[7]}


def test_what_was_asked_for_online_is_known_offline(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert ABSENT not in db
        assert db[KEYS[3]] == KEYS[3].encode()
    with bench.open("a", "r", offline=True) as db:
        assert ABSENT not in db
        assert db[KEYS[3]] == KEYS[3].encode()
        with pytest.raises(ebooklet_tx.OfflineError):
            db[KEYS[4]]
        with pytest.raises(ebooklet_tx.OfflineError):
            db[KEYS[-1]]


# -- all of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["r", "w"])
def test_the_whole_index_is_at_hand(bench: Bench, flag: str) -> None:
    counters = Counters()
    with bench.open("a", flag, wrap_store=counters) as db:
        db.load_index()
        assert counters.requests <= 8
        assert counters.bytes_down < 200_000
        with without_requests(counters):
            assert list(db.keys()) == KEYS
            assert ABSENT not in db
            assert len(db) == COUNT
            db.load_index()
    check_offline(bench, "a", KEYS)


def test_what_is_here_is_not_fetched_again(bench: Bench) -> None:
    counters = Counters()
    with bench.open("a", "r", wrap_store=counters) as db:
        assert KEYS[0] in db
        before = counters.bytes_down
        db.load_index()
        first = counters.bytes_down - before
    commit(bench, {KEYS[0]: b"new", "z": b"new"})
    with bench.open("a", "r", wrap_store=counters) as db:
        before = counters.bytes_down
        db.load_index()
        assert counters.bytes_down - before < first / 2
    check_offline(bench, "a", [*KEYS, "z"])


def test_it_comes_at_opening_and_after_each_pull_and_push(bench: Bench) -> None:
    many = {f"m{number:05}": b"v" for number in range(1500)}
    counters = Counters()
    with bench.open("a", "w", index="full", wrap_store=counters) as db:
        with without_requests(counters):
            assert list(db) == KEYS
        commit(bench, dict(many))
        db.changes().pull()
        with without_requests(counters):
            assert list(db) == KEYS + sorted(many)
        db.update({f"n{number:05}": b"v" for number in range(1500)})
        db.changes().push()
        with without_requests(counters):
            assert len(list(db)) == COUNT + 3000
            assert ABSENT not in db
    check_offline(bench, "a", [*KEYS, *sorted(many), *(f"n{number:05}" for number in range(1500))])
    counters = Counters()
    with bench.open("a", "r", index="full", wrap_store=counters) as db:
        assert len(list(db)) == COUNT + 3000
    assert counters.requests == 1


def test_no_bound_drops_it_and_that_is_remembered(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db._session.local.pieces.most_bytes = 0
        db.load_index()
        there = held(db)
        assert there > COUNT // 512
    commit(bench, {f"m{number:05}": b"v" for number in range(3000)})
    with bench.open("a", "w") as db:
        db._session.local.pieces.most_bytes = 0
        assert len(list(db)) == COUNT + 3000
        db["x"] = b"y"
        db.sync()
        assert held(db) == there
        db.load_index()
        assert held(db) > there
        db.changes().discard()
    check_offline(bench, "a", [*KEYS, *(f"m{number:05}" for number in range(3000))])


def test_pieces_of_an_earlier_commit_are_let_go(bench: Bench) -> None:
    with bench.open("a", "w", index="full") as db:
        first = held(db)
        for turn in range(4):
            commit(bench, dict.fromkeys(KEYS, b"%d" % turn))
            db.changes().pull()
            assert held(db) <= 2 * first
        db._session.local.pieces.most_bytes = 0
        commit(bench, dict.fromkeys(KEYS, b"last"))
        db.changes().pull()
        (row,) = db._session.journal.rows("SELECT count(*) FROM piece")
        assert row[0] == held(db)


def test_load_items_leaves_nothing_to_ask_for(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert db.load_items() == {}
    check_offline(bench, "a", KEYS)
    with bench.open("a", "w", offline=True) as db:
        assert dict(db) == {key: key.encode() for key in KEYS}
        del db[KEYS[0]]
        assert db.setdefault(KEYS[1]) == KEYS[1].encode()
        assert len(db) == COUNT - 1


def test_a_session_that_may_have_to_work_offline_has_it_while_it_is_online(bench: Bench) -> None:
    with bench.open("a", "w", offline="auto") as db:
        commit(bench, {"z": b"new"})
        db.changes().pull()
    check_offline(bench, "a", [*KEYS, "z"])


class NoIndex(PassingStore):
    """Lets no request for the index through."""

    def _pass(self, kind: str, key: str, send: Any) -> Any:
        if "/index/" in key:
            raise TransientStoreError(f"{kind} {key!r}: no route to the host", may_have_applied=False)
        return super()._pass(kind, key, send)


def test_where_it_can_t_be_had_one_that_may_do_without_opens(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="ebooklet_tx"),
        bench.open("a", "r", offline="auto", wrap_store=NoIndex) as db,
    ):
        assert not db.offline
        assert len(db) == COUNT
    assert "not all of the index" in caplog.text
    with pytest.raises(ebooklet_tx.OfflineError):
        bench.open("b", "r", index="full", wrap_store=NoIndex)
    assert not bench.path("b").exists()


def test_a_damaged_piece_is_fetched_again_and_replaced(bench: Bench) -> None:
    with bench.open("a", "w", index="full") as db, db._session.journal.transaction():
        db._session.journal.raw.execute("UPDATE piece SET bytes = zeroblob(length(bytes))")
    with bench.open("a", "r", offline=True) as db, pytest.raises(ebooklet_tx.OfflineError):
        db[KEYS[0]]
    with bench.open("a", "w") as db:
        assert list(db) == KEYS
    check_offline(bench, "a", KEYS)


def test_a_reader_beside_a_writer_says_that_it_can_t_keep_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_index, "WAIT_SECONDS", 0.0)
    with bench.open("a", "w") as writer, bench.open("a", "r") as reader:
        with pytest.raises(ebooklet_tx.LockTimeoutError, match="keep the index"):
            reader.load_index()
        writer.load_index()
        # Nothing is left to be kept.
        reader.load_index()
    check_offline(bench, "a", KEYS)


@pytest.mark.parametrize("wrong", ["all", None, True])
def test_a_wrong_word_is_refused(bench: Bench, wrong: Any) -> None:
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="index must be"):
        bench.open("a", "r", index=wrong)
    assert not bench.path("a").exists()


def test_an_empty_database_has_nothing_to_bring(tmp_path: Path) -> None:
    with Bench(tmp_path).open("a", "c", index="full") as db:
        db.load_index()
        db["k"] = b"v"
        db.changes().push()
        assert list(db) == ["k"]


# -- streams ------------------------------------------------------------------------------------


def test_the_first_key_costs_few_requests(bench: Bench) -> None:
    counters = Counters()
    with bench.open("a", "r", wrap_store=counters) as db:
        before = counters.requests, counters.bytes_down
        assert next(iter(db.keys(prefix="k02"))) == "k02000"
        # A directory and a few blocks, of which a page takes as many as it needs.
        assert counters.requests - before[0] <= 4
        assert counters.bytes_down - before[1] < 64 * 2**10
        before = counters.requests, counters.bytes_down
        assert next(iter(db)) == KEYS[0]
        assert counters.requests - before[0] <= 3
        assert counters.bytes_down - before[1] < 64 * 2**10


def test_an_iteration_goes_on_whatever_others_do_meanwhile(bench: Bench) -> None:
    """A reader that stands on a base never sees a key vanish."""
    with bench.open("reader", "r") as db:
        keys = iter(db.keys(prefix="k"))
        seen = [next(keys) for _ in range(10)]
        with bench.open("other", "w") as other:
            for turn in range(3):
                other.update(dict.fromkeys(KEYS[turn::2], b"%d" % turn))
                del other[KEYS[5 + turn]]
                other[f"k{turn:05}b"] = b"new"
                other.changes().push()
            other.compact(live_share=1.0)
        ebooklet_tx.collect(bench.url, grace_seconds=0)
        ebooklet_tx.collect(bench.url, grace_seconds=0)
        seen += keys
        # Those that were read before the deletion, and the rest on the newest base.
        assert seen == sorted(set(seen))
        assert {*KEYS} - {*KEYS[5:8]} <= {*seen}
        assert {*seen} - {*KEYS} <= {f"k{turn:05}b" for turn in range(3)}
        assert dict(db)[KEYS[9]] == b"1"
