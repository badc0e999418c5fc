"""Eviction: `prune(timestamp=...)` drops local copies that the remote has as well, and never another.

Values lie in packs here, so that what was evicted has to be fetched again; what the journal holds of the index
(small values) needs no fetching.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import LockLostError, OfflineError, TransientStoreError
from ebooklet_tx.sync.pull.conflicts import MISSING, ConflictError
from tests.pairs import Bench
from tests.store_wrappers import CountingStore, Fault, PassingStore, faulty

FIRST_US = 1_600_000_000_000_000
ALL_US = 2**55
BIG = 6000


def big(seed: str) -> bytes:
    return random.Random(seed).randbytes(BIG)


PUSHED = {f"k{number:02}": big(f"pushed {number}") for number in range(10)}


class CutOffStore(PassingStore):
    """Loses the request that replaces the root, or the answer to it; nothing gets through after that."""

    def __init__(self, inner: Any, root: str, *, applied: bool) -> None:
        super().__init__(inner)
        self._root = root
        self._applied = applied
        self._down = False

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        if (kind, key) == ("put", self._root) and not self._down:
            self._down = True
            if self._applied:
                send()
        if self._down:
            raise TransientStoreError("the line is cut")
        return send()


class Watch:
    """Opens databases whose fetches of values are counted."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.stores: list[CountingStore] = []

    def open(self, copy: str = "a", flag: str = "w", **options: Any) -> Database:
        def wrap(inner: Any) -> CountingStore:
            self.stores.append(CountingStore(inner))
            return self.stores[-1]

        return self.bench.open(copy, flag, wrap_store=wrap, **options)

    def fetches(self) -> int:
        """How many fetches there were since this was last asked."""
        count = sum(store.requests["get_range"] for store in self.stores)
        for store in self.stores:
            store.reset()
        return count


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A pushed database; each key is one microsecond older than the next."""
    bench = Bench(tmp_path)
    with bench.open() as db:
        for number, (key, value) in enumerate(PUSHED.items()):
            db.set(key, value, timestamp=FIRST_US + number)
        db.changes().push()
    return bench


@pytest.fixture
def watch(bench: Bench) -> Watch:
    return Watch(bench)


def held(bench: Bench, copy: str = "a") -> set[str]:
    """The keys of the local file, as booklet alone finds them."""
    with booklet.open(bench.path(copy), "r") as blt:
        return set(blt)


def evict(db: Database) -> int:
    """Drops every copy that may be dropped and counts them, what is dead being gone already."""
    db.prune()
    return db.prune(ALL_US)


# -- what is dropped, and what is counted --------------------------------------------------------


@pytest.mark.parametrize(
    ("before_us", "dropped"),
    [
        (None, 0),
        (0, 0),
        *((FIRST_US + dropped, dropped) for dropped in (0, 1, 5, 9, 10)),
        (ALL_US, 10),
    ],
)
def test_copies_older_than_the_time_are_dropped_and_counted(
    bench: Bench, watch: Watch, before_us: int | None, dropped: int
) -> None:
    with watch.open() as db:
        assert db.prune(timestamp=before_us) == dropped
        assert db.prune(timestamp=before_us) == 0
        assert len(db) == len(PUSHED)
        assert list(db.changes().iter_changes()) == []
        assert not db.changes().push()
    assert held(bench) == set(list(PUSHED)[dropped:])
    assert watch.fetches() == 0
    with watch.open() as db:
        assert {key: db[key] for key in PUSHED} == PUSHED
        assert watch.fetches() == dropped
        assert {key: db[key] for key in PUSHED} == PUSHED
        assert [stamp for _, stamp in db.timestamps()] == list(range(FIRST_US, FIRST_US + 10))
    assert watch.fetches() == 0
    assert held(bench) == set(PUSHED)


def test_times_are_taken_in_all_their_forms(watch: Watch) -> None:
    with watch.open() as db:
        assert db.prune("2020-09-13T12:26:40.000005+00:00") == 5
        assert db.prune(timestamp="2020-09-13T17:56:40.000007+05:30") == 2


def test_the_file_gets_smaller_and_grows_again(bench: Bench, watch: Watch) -> None:
    full = bench.path().stat().st_size
    with watch.open() as db:
        db.prune(ALL_US)
        assert bench.path().stat().st_size < full - 9 * BIG
        assert db.load_items() == {}
    assert watch.fetches() > 0
    assert bench.path().stat().st_size == full
    with watch.open() as db:
        assert dict(db.items()) == PUSHED
    assert watch.fetches() == 0


def test_prune_alone_drops_dead_bytes_and_no_copy(bench: Bench, watch: Watch) -> None:
    with watch.open() as db:
        for _ in range(5):
            db.update(PUSHED)
            db.changes().push()
        del db["k00"]
        db.sync()
    grown = bench.path().stat().st_size
    with watch.open() as db:
        # Each push had brought its blocks into the file.
        assert db.prune() == 5 * len(PUSHED) + 1
        assert db.prune() == 0
        assert bench.path().stat().st_size < grown - 5 * BIG
        assert dict(db.items()) == {key: value for key, value in PUSHED.items() if key != "k00"}
    assert watch.fetches() == 0


def test_prune_counts_what_booklet_counts(bench: Bench) -> None:
    """As many items as plain booklet finds to remove in the same file, whatever grew or moved in it."""
    source = random.Random(1)
    with bench.open() as db:
        for _ in range(30):
            for _ in range(source.randrange(1, 60)):
                db[f"k{source.randrange(40)}"] = source.randbytes(source.randrange(3000))
            for key in source.sample(sorted(db), 3):
                del db[key]
            db._session.local.commit(fold=True)
    twin = bench.folder / "twin.blt"
    shutil.copy(bench.path(), twin)
    with booklet.open(twin, "w") as plain:
        expected = plain.prune()
    with bench.open() as db:
        assert db.prune() == expected > 100


def test_what_the_index_brought_needs_no_copy(watch: Watch) -> None:
    """Small values ride in the root, and the journal holds them: they are counted, and read without fetching."""
    with watch.open() as db:
        db["small"] = b"small"
        db["none"] = b""
        db.set_metadata({"m": 1})
        db.changes().push()
        assert db.prune(ALL_US) == len(PUSHED) + 3
        assert (db["small"], db["none"], db.get_metadata()) == (b"small", b"", {"m": 1})
    assert watch.fetches() == 0


def test_a_copy_that_was_never_here_is_not_counted(bench: Bench, watch: Watch) -> None:
    with watch.open("b") as db:
        assert db.prune(ALL_US) == 0
        assert db["k03"] == PUSHED["k03"]
        assert db.prune(ALL_US) == 1
        assert db.prune(ALL_US) == 0
    assert watch.fetches() == 1


# -- what is pending stays -------------------------------------------------------------------------

NEW = big("new")
CHANGED = big("changed")


def _set(db: Database) -> None:
    db.set("new", NEW, timestamp=FIRST_US - 2)
    db.set("k01", CHANGED, timestamp=FIRST_US - 1)


def _staged(db: Database) -> None:
    _set(db)
    db.sync()


def _folded(db: Database) -> None:
    _set(db)
    db._session.local.commit(fold=True)


def _transacted(db: Database) -> None:
    with db.transaction():
        _set(db)


def _offline(db: Database) -> None:
    _set(db)
    with pytest.raises(OfflineError):
        db.changes().push()


WRITES: dict[str, Callable[[Database], None]] = {
    "set": _set,
    "committed": _staged,
    "folded": _folded,
    "transaction": _transacted,
    "failed push": _offline,
}
EXPECTED = PUSHED | {"new": NEW, "k01": CHANGED}


def failing_puts() -> Callable[[Any], PassingStore]:
    """A store that takes nothing, however often it is asked."""
    return faulty(*(Fault(at, TransientStoreError("no answer"), kind="put") for at in range(1, 100)))


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("again", [False, True])
def test_a_pending_value_is_never_dropped(bench: Bench, how: str, again: bool) -> None:
    """Its timestamp may be older than any that was asked for; nobody else has it."""
    options: dict[str, Any] = {"wrap_store": failing_puts()} if how == "failed push" else {}
    with bench.open(flag="w", **options) as db:
        WRITES[how](db)
        # The pushed value under k01 is not what shows, and has lost its copy already.
        assert evict(db) == len(PUSHED) - 1
        assert evict(db) == 0
        assert {change["key"] for change in db.changes().iter_changes()} == {"new", "k01"}
        if not again:
            assert dict(db.items()) == EXPECTED
    with bench.open(flag="w") as db:
        if again:
            db.prune(ALL_US)
        assert (db["new"], db["k01"]) == (NEW, CHANGED)
        assert db.get_timestamp("new") == FIRST_US - 2
        assert db.changes().push().set_count == 2
        # Only now is it in the remote too.
        assert evict(db) >= 2
        assert dict(db.items()) == EXPECTED
    assert bench.fresh_contents() == EXPECTED


@pytest.mark.parametrize("applied", [False, True])
def test_values_of_a_push_whose_answer_was_lost_stay(bench: Bench, applied: bool) -> None:
    """It may have taken place or not: until that is known, the values are taken for ours alone."""
    with bench.open(flag="w", wrap_store=lambda inner: CutOffStore(inner, bench.name, applied=applied)) as db:
        _set(db)
        with pytest.raises(OfflineError):
            db.changes().push()
        assert evict(db) == len(PUSHED) - 1
        assert (db["new"], db["k01"]) == (NEW, CHANGED)
    assert {"new", "k01"} <= held(bench)
    # Pulled at the opening, the first of the two outcomes is known; the other is pushed again.
    with bench.open(flag="w") as db:
        assert len(list(db.changes().iter_changes())) == (0 if applied else 2)
        db.changes().push()
        assert evict(db) == 2
        assert dict(db.items()) == EXPECTED
    assert bench.fresh_contents() == EXPECTED


def test_values_never_pushed_stay(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as db:
        db.update(PUSHED)
        assert evict(db) == 0
    assert held(bench) == set(PUSHED)
    with bench.open() as db:
        assert dict(db.items()) == PUSHED
        db.changes().push()
        assert evict(db) == len(PUSHED)


def test_values_that_are_to_replace_the_remote_stay(bench: Bench) -> None:
    with bench.open("mine", "n") as db:
        db.update(EXPECTED)
        db.sync()
        assert evict(db) == 0
        assert dict(db.items()) == EXPECTED
        db.changes().push()
    assert bench.fresh_contents() == EXPECTED


def test_an_adopted_booklet_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with booklet.open(bench.path(), "n", key_serializer="str", value_serializer=None) as blt:
        for key, value in PUSHED.items():
            blt.set(key, value, timestamp=1)
    with bench.open() as db:
        assert evict(db) == 0
        assert dict(db.items()) == PUSHED


def test_a_mere_change_of_timestamp_is_pending_too(bench: Bench, watch: Watch) -> None:
    with watch.open() as db:
        db.set_timestamp("k04", FIRST_US - 4)
        assert evict(db) == len(PUSHED) - 1
        assert db["k04"] == PUSHED["k04"]
        assert watch.fetches() == 0
        assert db.changes().push().set_count == 1
    assert bench.fresh_contents() == PUSHED


def test_a_pending_delete_can_be_discarded_after_its_value_was_evicted(bench: Bench, watch: Watch) -> None:
    with watch.open() as db:
        del db["k02"]
        db.prune(ALL_US)
        assert "k02" not in db
        assert db.changes().discard(["k02"]) == 1
        assert db["k02"] == PUSHED["k02"]
        assert watch.fetches() == 1


def test_a_pending_change_can_be_discarded_after_the_eviction(bench: Bench, watch: Watch) -> None:
    with watch.open() as db:
        db["k02"] = CHANGED
        db["new"] = NEW
        db.prune(ALL_US)
        assert db.changes().discard() == 2
        assert db["k02"] == PUSHED["k02"]
        assert "new" not in db
        assert evict(db) == 1


# -- conflicts -----------------------------------------------------------------------------------

THEIRS = big("theirs")
OURS = big("ours")


@pytest.fixture
def in_conflict(bench: Bench) -> Iterator[Database]:
    """A session whose push met another's: k01 was changed by both, k02 deleted here and changed there."""
    with bench.open(flag="w") as db:
        with bench.open("b", "w") as other:
            other["k01"] = THEIRS
            other["k02"] = THEIRS
            other.changes().push()
        db["k01"] = OURS
        del db["k02"]
        db["new"] = NEW
        with pytest.raises(ConflictError):
            db.changes().push()
        assert evict(db) == len(PUSHED) - 2
        yield db


def test_values_in_conflict_stay(in_conflict: Database) -> None:
    assert (in_conflict["k01"], in_conflict["new"]) == (OURS, NEW)
    one, two = in_conflict.changes().conflicts()
    assert (one.key, one.base, one.ours, one.theirs) == ("k01", PUSHED["k01"], OURS, THEIRS)
    assert (two.key, two.base, two.ours, two.theirs) == ("k02", PUSHED["k02"], MISSING, THEIRS)


@pytest.mark.parametrize("choice", ["ours", "theirs"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_conflicts_are_settled_after_an_eviction(
    bench: Bench, in_conflict: Database, choice: str, by_hand: bool
) -> None:
    changes = in_conflict.changes()
    if by_hand:
        assert changes.resolve(["k01", "k02"], choice) == 2
        in_conflict.prune(ALL_US)
        changes.push()
    else:
        changes.push(on_conflict=choice)
    in_conflict.prune(ALL_US)
    expected = PUSHED | {"new": NEW}
    if choice == "ours":
        expected["k01"] = OURS
        del expected["k02"]
    else:
        expected |= {"k01": THEIRS, "k02": THEIRS}
    assert dict(in_conflict.items()) == expected
    assert bench.fresh_contents() == expected


def test_values_stay_whose_writer_has_lost_the_lock(bench: Bench) -> None:
    with bench.open(flag="w", lock="exclusive") as db:
        db["new"] = NEW
        with bench.open("b", "w", lock="exclusive", force_lock=True) as other:
            other["theirs"] = THEIRS
            other.changes().push()
        with pytest.raises(LockLostError):
            db.changes().push()
        assert evict(db) == len(PUSHED)
        assert db["new"] == NEW
    with bench.open(flag="w") as db:
        db.changes().push()
    assert bench.fresh_contents() == PUSHED | {"new": NEW, "theirs": THEIRS}


# -- what was evicted comes again ----------------------------------------------------------------


def test_what_others_have_changed_since_is_what_comes(bench: Bench, watch: Watch) -> None:
    with watch.open() as db:
        db.prune(ALL_US)
        with bench.open("b", "w") as other:
            other["k05"] = THEIRS
            other.changes().push()
        assert db["k05"] == PUSHED["k05"]
        db.changes().pull()
        assert db["k05"] == THEIRS
        assert watch.fetches() == 2
        assert dict(db.items()) == PUSHED | {"k05": THEIRS}


def test_evicted_values_are_seen_by_a_reader_beside(bench: Bench, watch: Watch) -> None:
    with watch.open() as db, watch.open(flag="r") as reader:
        assert dict(reader.items()) == PUSHED
        assert watch.fetches() == 0
        db["k01"] = CHANGED
        db.prune(ALL_US)
        assert dict(reader.items()) == PUSHED | {"k01": CHANGED}
        assert watch.fetches() > 0


def test_an_evicted_value_that_the_remote_has_lost_is_said_so(bench: Bench) -> None:
    with bench.open(flag="w") as db:
        db["new"] = NEW
        db.prune(ALL_US)
        for pack in bench.objects("pack"):
            pack.unlink()
        failures = db.load_items()
        assert set(failures) == set(PUSHED)
        assert all("k0" in reason for reason in failures.values())
        assert db["new"] == NEW
