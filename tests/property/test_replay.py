"""Random operations on a database and on a dict, for each kind of serializer, with pushes and new openings.

The dict maps a key to its timestamp and encoded value, the metadata under "". Beside it stands what was last
pushed, so that it can also be told what is pending, what discarding brings back, and what another copy sees.
Packs, segments, pages and buffers are so small here that a few hundred bytes fill them.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ebooklet_tx.database import Database
from ebooklet_tx.values.serializers import decode_metadata, resolve
from tests.pairs import Bench
from tests.property.machine import SMALL_LIMITS

EXAMPLES = 10
SLOW_FACTOR = 50
LEAST_OPERATIONS = 15
MOST_OPERATIONS = 60
METADATA = ""
YEAR_2200_US = 7_258_118_400_000_000


class ReversedJson:
    """A serializer of a user's own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)[::-1]

    @staticmethod
    def loads(encoded: bytes) -> Any:
        return orjson.loads(encoded[::-1])


json_values = st.one_of(
    st.sampled_from([None, 0, "", False, [], {}, "x" * 150, "ж" * 700, {"a": [1, {"b": None}]}]),
    st.integers(-(2**53), 2**53),
    st.text(max_size=30),
    st.lists(st.integers(0, 9), max_size=40),
)
SERIALIZERS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "pickle": ("pickle", st.one_of(json_values, st.sampled_from([b"", (1, (2,)), {3}, 2**100, 1.5, "\ud800"]))),
    "orjson": ("orjson", json_values),
    "bytes": (None, st.one_of(st.binary(max_size=60), st.sampled_from([b"", b"0", bytes(200), b"y" * 1500]))),
    "class": (ReversedJson, json_values),
}
KEYS = [f"k{number:02}" for number in range(9)] + ["a/b", "a", "p%41", "q?z=1#f", "ключ", " ", "\n", "k" * 300]
keys = st.sampled_from(KEYS)
some_keys = st.lists(keys, max_size=6)
YEAR_1991_US = 662_688_000_000_000
stamps = st.sampled_from([0, YEAR_1991_US, 1_700_000_000_000_000, YEAR_2200_US])
Operation = tuple[Any, ...]
State = dict[str, tuple[int, bytes]]


def operations(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Operation]]:
    pairs = st.dictionaries(keys, values, max_size=6)
    writes = st.one_of(
        st.tuples(st.just("set"), keys, values),
        st.tuples(st.just("set"), keys, values),
        st.tuples(st.just("set at"), keys, values, stamps),
        st.tuples(st.just("set timestamp"), keys, stamps),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("pop"), keys),
        st.tuples(st.just("popitem")),
        st.tuples(st.just("setdefault"), keys, values),
        st.tuples(st.just("update"), pairs),
        st.tuples(st.just("update"), pairs),
        st.tuples(st.just("metadata"), st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2)),
        st.tuples(st.just("clear")),
    )
    reads = st.one_of(
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("get items"), some_keys),
        st.tuples(st.just("load items"), st.none() | some_keys),
    )
    others = st.one_of(
        st.tuples(st.just("transaction"), st.lists(writes | reads, max_size=5), st.booleans()),
        st.tuples(st.just("transaction"), st.lists(writes | reads, max_size=5), st.booleans()),
        st.tuples(st.just("prune"), st.sampled_from([None, YEAR_1991_US, YEAR_2200_US + 1, YEAR_2200_US + 1])),
        st.tuples(st.just("discard"), st.none() | some_keys),
        st.tuples(st.just("sync")),
        st.tuples(st.just("push")),
        st.tuples(st.just("push")),
        st.tuples(st.just("pull")),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("look elsewhere")),
    )
    return st.lists(st.one_of(writes, writes, reads, others), min_size=LEAST_OPERATIONS, max_size=MOST_OPERATIONS)


class RollBackError(Exception):
    """Ends a transaction that is to be rolled back."""


class Replay:
    """A database, the dict that it should equal, and what was last pushed of it."""

    def __init__(self, folder: Path, serializer: Any) -> None:
        self.bench = Bench(folder)
        self.options = {"value_serializer": serializer, "n_buckets": 5, "buffer_size": 600}
        self.serializer = resolve(serializer)
        self.db = self.bench.open(**self.options)
        self.state: State = {}
        self.pushed: State = {}
        self.was_pushed = False

    # -- one operation ---------------------------------------------------------------------

    def apply(self, operation: Operation) -> None:
        """Does an operation on both sides and compares what it returns."""
        kind, *given = operation
        getattr(self, "do_" + kind.replace(" ", "_"))(*given)

    def _value(self, key: str) -> Any:
        return self.serializer.loads(key, self.state[key][1])

    def _user_keys(self) -> list[str]:
        return sorted(key for key in self.state if key != METADATA)

    def _write(self, content: dict[str, Any], write: Callable[[], Any], at: int | None = None) -> None:
        """Writes on both sides; the time is the one given, or lies between before and after."""
        before = time.time_ns() // 1000
        write()
        after = time.time_ns() // 1000
        for key, value in content.items():
            stamp, encoded = self.db.get_timestamp(key, include_value=True, decode_value=False)
            assert stamp == at if at is not None else before <= stamp <= after
            assert self.serializer.loads(key, encoded) == value
            self.state[key] = stamp, encoded

    def do_set(self, key: str, value: Any) -> None:
        self._write({key: value}, lambda: self.db.__setitem__(key, value))

    def do_set_at(self, key: str, value: Any, stamp: int) -> None:
        self._write({key: value}, lambda: self.db.set(key, value, timestamp=stamp), at=stamp)

    def do_set_timestamp(self, key: str, stamp: int) -> None:
        if key in self.state:
            self.db.set_timestamp(key, stamp)
            self.state[key] = stamp, self.state[key][1]
        else:
            with pytest.raises(KeyError):
                self.db.set_timestamp(key, stamp)

    def do_delete(self, key: str) -> None:
        if key in self.state:
            del self.db[key]
            del self.state[key]
        else:
            with pytest.raises(KeyError):
                del self.db[key]

    def do_pop(self, key: str) -> None:
        if key in self.state:
            assert self.db.pop(key, "missing") == self._value(key)
            del self.state[key]
        else:
            assert self.db.pop(key, "missing") == "missing"

    def do_popitem(self) -> None:
        if self._user_keys():
            key, value = self.db.popitem()
            assert value == self._value(key)
            del self.state[key]
        else:
            with pytest.raises(KeyError):
                self.db.popitem()

    def do_setdefault(self, key: str, value: Any) -> None:
        if key in self.state:
            assert self.db.setdefault(key, value) == self._value(key)
        else:
            self._write({key: value}, lambda: self.db.setdefault(key, value))

    def do_update(self, pairs: dict[str, Any]) -> None:
        self._write(pairs, lambda: self.db.update(pairs))

    def do_metadata(self, data: dict[str, int]) -> None:
        before = time.time_ns() // 1000
        self.db.set_metadata(data)
        found, stamp = self.db.get_metadata(include_timestamp=True)
        assert found == data
        assert before <= stamp <= time.time_ns() // 1000
        self.state[METADATA] = stamp, orjson.dumps(data)

    def do_clear(self) -> None:
        self.db.clear()
        self.state = {key: pair for key, pair in self.state.items() if key == METADATA}

    def do_get(self, key: str) -> None:
        there = key in self.state
        assert (key in self.db) == there
        assert self.db.get(key, "missing") == (self._value(key) if there else "missing")
        assert self.db.get_timestamp(key, default=-1) == self.state.get(key, (-1,))[0]

    def do_get_items(self, wanted: list[str]) -> None:
        expected = [(key, self._value(key) if key in self.state else "missing") for key in wanted]
        assert list(self.db.get_items(wanted, default="missing")) == expected

    def do_load_items(self, wanted: list[str] | None) -> None:
        assert self.db.load_items(wanted) == {}

    def do_transaction(self, inner: list[Operation], rolls_back: bool) -> None:
        before = dict(self.state)
        with contextlib.suppress(RollBackError), self.db.transaction():
            for operation in inner:
                self.apply(operation)
            assert self.seen(self.db) == self.state
            if rolls_back:
                raise RollBackError
        if rolls_back:
            self.state = before

    def do_prune(self, stamp: int | None) -> None:
        assert self.db.prune(timestamp=stamp) >= 0
        assert self.db.prune(timestamp=stamp) == 0

    def do_discard(self, wanted: list[str] | None) -> None:
        pending = self.pending()
        chosen = pending if wanted is None else pending & set(wanted)
        told = {change["key"] for change in self.db.changes().iter_changes()} | pending
        assert self.db.changes().discard(wanted) == len(told if wanted is None else told & set(wanted))
        for key in chosen:
            self.state.pop(key, None)
            if key in self.pushed:
                self.state[key] = self.pushed[key]

    def do_sync(self) -> None:
        self.db.sync()

    def do_push(self) -> None:
        pending = self.pending()
        result = self.db.changes().push()
        assert bool(result) == bool(pending or not self.was_pushed)
        assert result.set_count == len(pending & set(self.state))
        assert result.deleted_count == len(pending - set(self.state))
        self.pushed, self.was_pushed = dict(self.state), True
        assert not self.db.changes().push()

    def do_pull(self) -> None:
        assert not self.db.changes().pull().changed

    def do_reopen(self) -> None:
        self.db.close()
        with contextlib.ExitStack() as stack:
            if self.was_pushed:
                reader = stack.enter_context(
                    self.bench.open(flag="r", value_serializer=self.options["value_serializer"])
                )
                assert self.seen(reader) == self.state
        self.db = self.bench.open(**self.options)

    def do_look_elsewhere(self) -> None:
        """A second copy, which stays, sees what was pushed, and fetches some of it."""
        if self.was_pushed:
            with self.bench.open("b", "r", value_serializer=self.options["value_serializer"]) as reader:
                assert self.seen(reader) == self.pushed

    # -- comparing -------------------------------------------------------------------------

    def pending(self) -> set[str]:
        """What differs from the remote, the metadata included."""
        return {key for key in {*self.state, *self.pushed} if self.state.get(key) != self.pushed.get(key)}

    def seen(self, db: Database) -> State:
        """All that a session shows, told in more than one way."""
        stamped = {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)}
        assert dict(db.items()) == {key: value for key, (_, value) in stamped.items()}
        assert list(db) == sorted(stamped)
        assert len(db) == len(stamped)
        found: State = {}
        for key in stamped:
            found[key] = db.get_timestamp(key, include_value=True, decode_value=False)
        metadata = db.get_metadata(include_timestamp=True)
        if metadata is not None:
            assert METADATA not in db
            found[METADATA] = metadata[1], orjson.dumps(metadata[0])
            assert decode_metadata(found[METADATA][1]) == metadata[0]
        return found

    def check(self) -> None:
        assert len(self.db) == len(self._user_keys())
        assert list(self.db) == self._user_keys()

    def check_all(self) -> None:
        """The whole content, and the account of what is pending."""
        assert self.seen(self.db) == self.state
        told = {change["key"]: change for change in self.db.changes().iter_changes()}
        # A blind write that changes nothing is listed until it is looked up, without what the remote has of it.
        assert told.keys() >= self.pending() - {METADATA}
        for key, change in told.items():
            assert change["operation"] == ("set" if key in self.state else "delete")
            assert change["remote_timestamp"] is None or key in self.pushed

    def finish(self) -> None:
        """Ends on all sides alike: the writer, its file opened anew, and copies from the remote alone."""
        self.check_all()
        self.do_reopen()
        self.check_all()
        self.do_push()
        self.check_all()
        self.db.close()
        reading = functools.partial(self.bench.open, flag="r", value_serializer=self.options["value_serializer"])
        for copied in ("fresh", "b"):
            with reading(copied) as reader:
                assert reader.load_items() == {}
                assert self.seen(reader) == self.state
        self.bench.path().unlink()
        self.bench.journal().unlink()
        # Loaded means here: what has to be asked of the remote now is its root alone.
        shutil.rmtree(self.bench.root.parent / f"{self.bench.name}.d", ignore_errors=True)
        with reading("fresh") as reader:
            assert self.seen(reader) == self.state


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for target, value in SMALL_LIMITS.items():
            stack.enter_context(mock.patch(target, value))
        yield


def replay(serializer: Any, script: list[Operation]) -> None:
    with tempfile.TemporaryDirectory(prefix="ebooklet-replay-") as folder, small_limits():
        run = Replay(Path(folder), serializer)
        try:
            for number, operation in enumerate(script):
                run.apply(operation)
                run.check()
                if number % 8 == 7:
                    run.check_all()
            run.finish()
        finally:
            run.db.close()


def run_many(kind: str, examples: int, *, derandomize: bool) -> None:
    serializer, values = SERIALIZERS[kind]
    phases = tuple(phase for phase in Phase if phase is not Phase.shrink or not derandomize)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        print_blob=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(script=operations(values))
    def compare(script: list[Operation]) -> None:
        replay(serializer, script)

    compare()


@pytest.mark.parametrize("kind", SERIALIZERS)
def test_a_database_replays_as_a_dict(kind: str) -> None:
    run_many(kind, EXAMPLES, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SERIALIZERS)
def test_many_replays_as_a_dict(kind: str) -> None:
    run_many(kind, EXAMPLES * SLOW_FACTOR, derandomize=False)
