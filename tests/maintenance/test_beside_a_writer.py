"""What looks after a remote, or only reads it, while another writer commits between any two of its requests.

None of it changes what a database holds. So afterwards every copy shows what that writer left: values, timestamps
and metadata.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.maintenance import compact as compacting
from ebooklet_tx.maintenance.compact import compact
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.commit import packing, push
from tests.campaigns import amounts
from tests.fleets import work
from tests.store_wrappers import PassingStore
from tests.yard import Wrap, Yard, value

T = TypeVar("T")
OLD_STAMP = 1_700_000_000_000_123
QUICK_CASES, CI_CASES = 3, 40


class InterposedStore(PassingStore):
    """Calls something once, before or after a request of a number.

    Attributes:
        request_count: How many requests it was given.
        is_called: Whether the call was made; behind a request that fails it is not.
    """

    def __init__(self, inner: ObjectStore, number: int, call: Callable[[], None], *, after: bool) -> None:
        super().__init__(inner)
        self.request_count = 0
        self.is_called = False
        self._number = number
        self._call = call
        self._after = after

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        self.request_count += 1
        is_meant = self.request_count == self._number
        if is_meant and not self._after:
            self.is_called = True
            self._call()
        answer = send()
        if is_meant and self._after:
            self.is_called = True
            self._call()
        return answer


def small(seed: object) -> bytes:
    return value(seed, 150)


# -- what the other writer does ----------------------------------------------------------------


def set_values(db: Database) -> None:
    db.update({"k8": small("his"), "p3": small("his too"), "new": b"n"})


def set_timestamps(db: Database) -> None:
    db.set_timestamp("k8", OLD_STAMP)
    db.set_timestamp("p3", OLD_STAMP + 1)


def set_the_same(db: Database) -> None:
    db.update({"k8": db["k8"], "p3": db["p3"]})


def delete(db: Database) -> None:
    del db["k8"], db["p3"]


def delete_and_set_the_same(db: Database) -> None:
    values = {"k8": db["k8"], "p3": db["p3"]}
    delete(db)
    db.changes().push()
    db.update(values)


def push_often(db: Database) -> None:
    for number in range(12):
        db.update({f"m{number % 4}": small(number), "k8": small(f"k8 {number}")})
        db.changes().push()


def compact_too(db: Database) -> None:
    compact(db._session)


def merge(db: Database) -> None:
    store = db._session.remote.store
    assert isinstance(store, PassingStore)
    db.merge(work(db.fork(), store.inner, {"k8": small("fork"), "f1": small("f1")}))


def set_metadata(db: Database) -> None:
    db.set_metadata({"x": 2})


WRITES = [
    *(set_values, set_timestamps, set_the_same, delete, delete_and_set_the_same),
    *(push_often, compact_too, merge, set_metadata),
]


# -- what takes place meanwhile ----------------------------------------------------------------


def compacting_hollow(yard: Yard, wrap: Wrap) -> None:
    with yard.open("a", "w", wrap=wrap) as db:
        compact(db._session)


def compacting_all(yard: Yard, wrap: Wrap) -> None:
    with yard.open("a", "w", wrap=wrap) as db:
        compact(db._session, live_share=1.0)


def collecting(yard: Yard, wrap: Wrap) -> None:
    yard.collect(wrap=wrap)


def verifying(yard: Yard, wrap: Wrap) -> None:
    yard.verify(read_values=True, wrap=wrap)


def keeping_a_snapshot(yard: Yard, wrap: Wrap) -> None:
    with yard.open("a", "w", wrap=wrap) as db:
        db.snapshot("now")


def pulling(yard: Yard, wrap: Wrap) -> None:
    with yard.open("a", "w", wrap=wrap) as db:
        db.changes().pull()


def loading(yard: Yard, wrap: Wrap) -> None:
    with yard.open("loading", "w", wrap=wrap) as db:
        db.load_index()
        db.load_items()


def reading(yard: Yard, wrap: Wrap) -> None:
    with yard.open("reading", "r", wrap=wrap) as db:
        assert dict(db.get_items(list(db.keys())))


OPERATIONS = [
    *(compacting_hollow, compacting_all, collecting, verifying, keeping_a_snapshot, pulling, loading, reading),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A remote with a hollow pack, many small ones, a deleted key and metadata; copies "a" and "b"."""
    with pytest.MonkeyPatch.context() as patch:
        limit(patch)
        yard = Yard(tmp_path_factory.mktemp("prepared"))
        yard.push({f"k{number}": small(number) for number in range(10)})
        yard.push({f"k{number}": small(f"newer {number}") for number in range(6)})
        yard.push({"k0": None, "s1": b"s"})
        with yard.open() as db:
            db.set_metadata({"x": 1})
            db.changes().push()
        for number in range(18):
            yard.push({f"p{number % 9}": small(f"p{number}")})
        yard.contents("b")
    return yard


def limit(patch: pytest.MonkeyPatch) -> None:
    """Makes packs, and what is due for compaction, small."""
    patch.setattr(push, "INLINE_TOTAL_BYTES", 300)
    patch.setattr(push, "INLINE_VALUE_BYTES", 100)
    patch.setattr(packing, "PACK_BYTES", 500)
    patch.setattr(compacting, "PACK_BYTES", 500)
    patch.setattr(compacting, "MANY_SMALL_PACKS", 3)
    patch.setattr(compacting, "KEYS_PER_COMMIT", 6)


def copy_of(prepared: Yard, folder: Path) -> Yard:
    shutil.copytree(prepared.folder, folder, dirs_exist_ok=True)
    yard = Yard(folder)
    yard.store.objects = dict(prepared.store.objects)
    return yard


def seen(yard: Yard, copy: str) -> dict[str, Any]:
    with yard.open(copy, "w") as db:
        db.changes().pull()
        stamps = dict(db.timestamps())
        return {"values": dict(db.items()), "stamps": stamps, "metadata": db.get_metadata(), "count": len(db)}


def cases(
    generator: random.Random, request_count: int, most: int
) -> Iterator[tuple[int, Callable[..., None], bool]]:
    every = [
        (number, write, after)
        for number in range(1, request_count + 1)
        for write in WRITES
        for after in (False, True)
    ]
    yield from generator.sample(every, min(most, len(every)))


@pytest.mark.parametrize("most", amounts(QUICK_CASES, CI_CASES))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_another_writer_commits_meanwhile_stays(
    prepared: Yard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: Callable[[Yard, Wrap], None],
    most: int,
) -> None:
    limit(monkeypatch)
    alone = copy_of(prepared, tmp_path / "alone")
    counting = InterposedStore(alone.store, 0, lambda: None, after=False)
    operation(alone, lambda _: counting)
    generator = random.Random(f"{operation.__name__} {most}")
    for number, write, after in cases(generator, counting.request_count, most):
        yard = copy_of(prepared, tmp_path / f"{number} {write.__name__} {after}")
        left: dict[str, Any] = {}

        def interpose(yard: Yard = yard, write: Callable[[Database], None] = write, left: Any = left) -> None:
            with yard.open("b", "w") as db:
                write(db)
                db.changes().push()
            left.update(seen(yard, "looker"))

        store = InterposedStore(yard.store, number, interpose, after=after)
        operation(yard, lambda _, store=store: store)  # type: ignore[misc]
        if not store.is_called:
            continue
        where = f"{write.__name__} at request {number}"
        for copy in ("fresh", "a", "b"):
            assert seen(yard, copy) == left, where
        assert yard.verify(read_values=True).sound, where
