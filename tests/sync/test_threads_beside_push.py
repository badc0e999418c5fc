"""Other threads write and prune beside a push, and each step of theirs is one for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.local.pending_values import LargeValue
from ebooklet_tx.sync.commit import packing, push
from tests.pairs import LARGE, Bench, many_large


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def db(bench: Bench) -> Iterator[Database]:
    with bench.open() as db:
        db["dead"] = LARGE
        db.update(many_large(4))
        db["small"] = b"s" * 100
        db.prune()
        yield db


def between(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Has another thread work, once, between a push's look at the journal and its look for the values."""
    found, pending = push.send_values, [work]

    def send_values(*arguments: Any) -> Any:
        while pending:
            thread = threading.Thread(target=pending.pop())
            thread.start()
            thread.join()
        return found(*arguments)

    monkeypatch.setattr(push, "send_values", send_values)


def prune(db: Database) -> Callable[[], None]:
    def work() -> None:
        del db["dead"]
        db.prune()

    return work


def test_values_that_a_prune_moves_are_no_damage(
    bench: Bench, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(monkeypatch, prune(db))
    assert db.changes().push()
    assert not db._session.local._fetched._damaged
    assert bench.fresh_contents() == dict(db)


def test_a_value_that_is_written_again_and_pruned_is_pushed_as_it_is_now(
    bench: Bench, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        db["k01"] = b"new" + LARGE
        db["small"] = b"new"
        db.prune()

    between(monkeypatch, work)
    assert db.changes().push()
    assert bench.fresh_contents() == dict(db)


def test_a_value_that_is_sent_in_parts_is_followed(
    bench: Bench, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 10_000)
    monkeypatch.setattr(packing, "PART_BYTES", 9_000)
    read_at, parts = LargeValue.read_at, []

    def moved(self: Any, offset: int, length: int) -> bytes:
        parts.append(offset)
        if len(parts) == 3:
            prune(db)()
        if len(parts) == 8:
            db["k01"] = b"new" + LARGE
            db.prune()
        return read_at(self, offset, length)

    monkeypatch.setattr(LargeValue, "read_at", moved)
    assert db.changes().push()
    assert bench.fresh_contents() == dict(db)


def test_values_that_are_read_in_pages_while_they_move(db: Database) -> None:
    found = {}
    for number, (key, value) in enumerate(db.items()):
        if number == 1:
            prune(db)()
        found[key] = value
    assert {key: found[key] for key in db} == dict(db)
    assert not db._session.local._fetched._damaged


def test_threads_that_set_prune_and_push_at_once(bench: Bench, db: Database) -> None:
    ended = threading.Event()

    def writing() -> None:
        for number in range(40):
            db[f"k{number % 4:02}"] = number.to_bytes(2, "big") * 20_000
            if number % 5 == 0:
                db.prune()

    def pushing() -> None:
        while not ended.is_set():
            db.changes().push()

    with ThreadPoolExecutor(max_workers=2) as pool:
        pushes = pool.submit(pushing)
        try:
            writing()
        finally:
            ended.set()
        pushes.result()
    db.changes().push()
    assert bench.fresh_contents() == dict(db)


# -- one step for all threads --------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, db: Database, work: Callable[[], object]) -> None:
    """Has another thread work, once, after the next read of this one."""
    read, pending = Database._read_user, [work]

    def reading(self: Database, key: object) -> Any:
        found = read(self, key)
        while pending:
            thread = threading.Thread(target=pending.pop())
            thread.start()
            thread.join()
        return found

    monkeypatch.setattr(Database, "_read_user", reading)


def test_setdefault_gives_every_thread_the_same(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    meanwhile(monkeypatch, db, lambda: answers.append(db.setdefault("new", b"theirs")))
    answers.append(db.setdefault("new", b"ours"))
    assert answers == [b"theirs", b"theirs"]
    assert db["new"] == b"theirs"
    assert db.setdefault("k00") == db["k00"]


def test_set_timestamp_keeps_a_set_in_between(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(monkeypatch, db, lambda: db.set("small", b"theirs"))
    db.set_timestamp("small", "2030-01-01T00:00:00+00:00")
    assert db["small"] == b"theirs"
    assert db.get_timestamp("small") == 1_893_456_000_000_000


def test_a_key_is_popped_by_one_thread(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    meanwhile(monkeypatch, db, lambda: answers.append(db.pop("small")))
    with pytest.raises(KeyError):
        db.pop("small")
    assert answers == [b"s" * 100]
    assert db.pop("small", "none") == "none"


def test_popitem_gives_each_item_once(bench: Bench) -> None:
    with bench.open("items") as db:
        db.update({f"{number:03}": b"v" for number in range(60)})

        def popping() -> list[str]:
            found = []
            while True:
                try:
                    found.append(db.popitem()[0])
                except KeyError:
                    return found

        with ThreadPoolExecutor(max_workers=3) as pool:
            taken = [pool.submit(popping) for _ in range(3)]
        keys = [key for future in taken for key in future.result()]
        assert sorted(keys) == [f"{number:03}" for number in range(60)]
        assert not db


def test_a_value_that_cannot_be_decoded_is_not_popped(bench: Bench) -> None:
    with bench.open("json", value_serializer="orjson") as db:
        db.set("k", b"{", encode_value=False)
        with pytest.raises(Exception, match="can't decode"):
            db.pop("k")
        assert "k" in db
