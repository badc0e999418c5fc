"""Threads share a worker's part, and a coordinator merges while other threads write: each call is one step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.database.forking import Part
from ebooklet_tx.errors import SessionClosedError
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.sync.forks import work as working
from ebooklet_tx.sync.read.commit_reader import CommitReader
from tests.fleets import open_part, work
from tests.yard import Yard, value

BASE = {f"k{number}": value(number, 300) for number in range(6)}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    made = Yard(tmp_path)
    made.push(dict(BASE))
    return made


@pytest.fixture
def db(yard: Yard) -> Iterator[Database]:
    with yard.open() as db:
        yield db


@pytest.fixture
def part(yard: Yard, db: Database) -> Part:
    return open_part(db.fork(), yard.store)


def in_another_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def once_before(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, work: Callable[[], object], *, call: int = 1
) -> None:
    """Has another thread work, once, right before one of the calls of a function."""
    found, left = getattr(owner, name), [call]

    def wait(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            in_another_thread(work)
        return found(*arguments, **options)

    monkeypatch.setattr(owner, name, wait)


@pytest.mark.parametrize("how", ["set", "update", "get"])
def test_what_comes_while_a_part_is_sent_is_told_that_it_is_too_late(
    part: Part, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "set": lambda: part.set("late", b"1"),
        "update": lambda: part.update(late=b"1"),
        "get": lambda: part["k0"],
    }
    begun = threading.Event()
    usable = Part._usable

    def begin(self: Part) -> Any:
        source = usable(self)
        begun.set()
        return source

    outcome: list[Any] = []
    send_values = working.PartWork._send_values
    with ThreadPoolExecutor(1) as other:

        def send(*arguments: Any) -> Any:
            begun.clear()
            outcome.append(other.submit(calls[how]))
            # It has seen that the part is open, and can do no more before the part is sent.
            assert begun.wait(30)
            return send_values(*arguments)

        monkeypatch.setattr(Part, "_usable", begin)
        monkeypatch.setattr(working.PartWork, "_send_values", send)
        with part:
            part["k0"] = b"written"
        with pytest.raises(SessionClosedError, match="is closed"):
            outcome[0].result()
    assert part.receipt.set_count == 1


def test_an_update_of_a_part_sets_all_or_nothing(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    part["k0"] = b"mine"
    for wrong in (
        [("new", b"1"), ("k0", b"2"), ("", b"3")],
        [("new", b"1"), ("k0", 5)],
        [("new", b"1"), ("k0",)],
    ):
        with pytest.raises((ValueError, TypeError)):
            part.update(wrong)
        assert dict(part) == BASE | {"k0": b"mine"}
    part.update([("new", b"1"), ("new", b"2")], k0=b"3")
    assert dict(part) == BASE | {"k0": b"3", "new": b"2"}
    part.discard()


def test_a_part_takes_pairs_that_are_made_from_itself(yard: Yard, db: Database) -> None:
    with open_part(db.fork(), yard.store, buffer_size=500) as part:
        part.update((key, part[key] + b"!") for key in list(part))
        part.update(part)
        assert part._work._spill._held_bytes <= 500
        assert dict(part) == {key: found + b"!" for key, found in BASE.items()}
        part.clear()
        assert part._work._spill._held_bytes == 0
        part.discard()


def test_a_part_is_cleared_in_one_step(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    del part["k1"]
    iter_keys = CommitReader.iter_keys

    def read(*arguments: Any) -> Iterator[str]:
        yield from iter_keys(*arguments)
        in_another_thread(lambda: part.update(k0=b"1", z=b"2"))

    with monkeypatch.context() as patch:
        patch.setattr(CommitReader, "iter_keys", read)
        part.clear()
    assert set(part) in ({"k0", "z"}, set())
    part.discard()


def test_a_part_sets_a_default_once(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    read_user, pending = Part._read_user, [lambda: part.set("new", b"theirs")]

    def read(self: Part, key: object) -> Any:
        found = read_user(self, key)
        while pending:
            in_another_thread(pending.pop())
        return found

    monkeypatch.setattr(Part, "_read_user", read)
    assert part.setdefault("new", b"mine") == part["new"] == b"theirs"
    part.discard()


def test_a_part_pops_each_item_once(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    popped: list[Any] = []
    once_before(monkeypatch, working.PartWork, "read", lambda: popped.append(part.popitem()))
    popped.append(part.popitem())
    assert sorted(key for key, _ in popped) == ["k0", "k1"]
    part.discard()


def test_a_key_that_another_thread_writes_in_the_moment_of_a_merge_is_not_lost(
    yard: Yard, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = work(db.fork(), yard.store, {"k0": b"worker"})
    db["other"] = b"1"

    def write() -> None:
        db.sync()
        db["k0"] = b"mine"

    with monkeypatch.context() as patch:
        # The first is the merge's own commit of what is pending, the second takes the receipt in.
        once_before(patch, Journal, "transaction", write, call=2)
        result = db.merge(receipt, on_conflict="theirs")
    assert result.decided_count == 1
    assert db["k0"] == b"worker"
