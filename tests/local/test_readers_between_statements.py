"""A reader whose every step is met by a writer's: each call shows, key by key, what was or what is committed.

The writer acts just before one statement that the reader sends to the journal, or before one read of the value
file; then, beginning anew, before the next one, until the call has no further step.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.pair_files import open_unlocked
from tests.campaigns import amounts
from tests.pairs import Bench

ALL_US = 2**55
MOST_STEPS = 200
Content = dict[str, bytes]


def big(seed: str) -> bytes:
    return random.Random(seed).randbytes(6000)


PUSHED = {"k0": b"small", "k1": big("pushed"), "k2": big("pushed too"), "k3": b"also small"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def writer(bench: Bench) -> Iterator[Database]:
    with bench.open(n_buckets=11) as db:
        db.changes().push()
        yield db


@pytest.fixture
def reader(bench: Bench, writer: Database) -> Iterator[Database]:
    with bench.open(flag="r") as db:
        yield db


def fill(writer: Database, round_number: int) -> Content:
    """Leaves some keys pushed, others pending on top: set anew, added, emptied, deleted."""
    writer.clear()
    writer.update(PUSHED)
    writer.changes().push()
    writer["k1"] = big(f"pending {round_number}")
    writer["p1"] = big(f"added {round_number}")
    writer["p2"] = b"added too"
    writer["k0"] = b""
    del writer["k2"]
    writer.sync()
    return dict(writer.items())


# -- what the writer does --------------------------------------------------------------------------


def _push_and_evict(db: Database) -> None:
    db.changes().push()
    db.prune(ALL_US)


def _change_and_prune(db: Database) -> None:
    with db.transaction():
        db["k1"] = big("changed")
        del db["p1"]
        db["k2"] = big("back again")
        db["new"] = b"new"
    db.prune()


def _change_push_and_evict(db: Database) -> None:
    _change_and_prune(db)
    _push_and_evict(db)


def _clear(db: Database) -> None:
    db.clear()
    db.sync()


STEPS: dict[str, Callable[[Database], object]] = {
    "evict": lambda db: db.prune(ALL_US),
    "push and evict": _push_and_evict,
    "discard": lambda db: db.changes().discard(),
    "change and prune": _change_and_prune,
    "change, push and evict": _change_push_and_evict,
    "clear": _clear,
}


# -- what the reader does ----------------------------------------------------------------------------

ASKED = ["k0", "k1", "k2", "p1", "new"]


def check_all(pairs: list[tuple[str, Any]], before: Content, after: Content) -> None:
    keys = [key for key, _ in pairs]
    assert keys == sorted(set(keys))
    assert before.keys() & after.keys() <= set(keys) <= before.keys() | after.keys()
    check_each(pairs, before, after)


def check_each(pairs: list[tuple[str, Any]], before: Content, after: Content) -> None:
    for key, value in pairs:
        assert value in (before.get(key), after.get(key)), key


def check_keys(keys: list[str], before: Content, after: Content) -> None:
    assert keys == sorted(set(keys))
    assert before.keys() & after.keys() <= set(keys) <= before.keys() | after.keys()


def check_length(length: int, before: Content, after: Content) -> None:
    assert length in (len(before), len(after))


def check_there(there: bool, before: Content, after: Content) -> None:
    assert there in ("p1" in before, "p1" in after)


Check = Callable[[Any, Content, Content], None]
CALLS: dict[str, tuple[Callable[[Database], Any], Check]] = {
    "len": (len, check_length),
    "contains": (lambda db: "p1" in db, check_there),
    "keys": (list, check_keys),
    "items": (lambda db: list(db.items()), check_all),
    "get_items": (lambda db: list(db.get_items(ASKED)), check_each),
    "get": (lambda db: [("k1", db.get("k1"))], check_each),
    "get of an added key": (lambda db: [("p1", db.get("p1"))], check_each),
    "get of a deleted key": (lambda db: [("k2", db.get("k2"))], check_each),
}


class Interrupted:
    """While it lasts, the writer acts before one step of the reader, given by its number from 1."""

    def __init__(self, reader: Database, act: Callable[[], object], at: int, patch: pytest.MonkeyPatch) -> None:
        self.fired = False
        self._reader = reader
        self._act = act
        self._left = at
        self._patch = patch

    def __enter__(self) -> Interrupted:
        genuine = ValueFile.read

        def read(file: ValueFile, offset_bytes: int, length_bytes: int) -> bytes:
            # Asked without a step: the writer reads its own file within a step of the reader's.
            if file is self._reader._session.local._pair.open_file:
                self._step()
            return genuine(file, offset_bytes, length_bytes)

        self._patch.setattr(ValueFile, "read", read)
        self._raw = self._reader._session.journal.raw
        self._raw.set_trace_callback(lambda _statement: self._step())
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.set_trace_callback(None)
        self._patch.undo()

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.fired = True
            self._act()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("stride", amounts(2, 1))
def test_a_call_that_is_met_by_a_writer_shows_what_was_or_what_is(
    writer: Database, reader: Database, call: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use, check = CALLS[call]
    met = 0
    for number, (name, act) in enumerate(STEPS.items()):
        for at in range(1 + number % stride, MOST_STEPS, stride):
            before = fill(writer, at)
            with Interrupted(reader, lambda act=act: act(writer), at, monkeypatch) as meeting:  # type: ignore[misc]
                found = use(reader)
            if not meeting.fired:
                check(found, before, before)
                break
            after = dict(writer.items())
            try:
                check(found, before, after)
            except AssertionError as error:
                raise AssertionError(f"{name} before step {at} of {call}: {error}") from error
            check(use(reader), after, after)
            met += 1
        else:
            pytest.fail(f"{call} went on for {MOST_STEPS} steps")
    assert met >= len(STEPS) // stride


def test_a_file_that_is_replaced_while_a_reader_opens_it(
    writer: Database, reader: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(writer, 1)
    path, genuine, replaced = writer._session.local.path, ValueFile.open, []

    def open_late(candidate: Path, *, writable: bool) -> ValueFile:
        if not replaced:
            replaced.append(candidate)
            writer.prune(ALL_US)
        return genuine(candidate, writable=writable)

    monkeypatch.setattr(ValueFile, "open", open_late)
    with contextlib.closing(open_unlocked(path, reader._session.journal)) as file:
        assert file.is_current()
        assert file.generation == reader._session.journal.get_meta("file_generation")
