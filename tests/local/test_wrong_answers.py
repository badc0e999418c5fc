"""What looked right and gave a wrong answer without a word: a str for several keys, seconds ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, InvalidTypeError
from ebooklet_tx.timestamps import timestamp_us
from tests.pairs import Bench, make


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, {"a": b"1", "b": b"2", "ab": b"3"})
    return bench


@pytest.fixture
def db(bench: Bench) -> Iterator[Database]:
    with bench.open() as db:
        db.update({"a": b"changed", "b": b"changed", "ab": b"changed"})
        yield db


TAKING_SEVERAL: dict[str, Callable[[Database, Any], Any]] = {
    "discard": lambda db, keys: db.changes().discard(keys),
    "get_items": lambda db, keys: db.get_items(keys),
    "load_items": lambda db, keys: db.load_items(keys),
    "map": lambda db, keys: db.map(len, keys=keys),  # type: ignore[arg-type]
    "compact": lambda db, keys: db.compact(packs=keys),
}


@pytest.mark.parametrize("keys", ["ab", b"ab"])
@pytest.mark.parametrize("method", TAKING_SEVERAL)
def test_one_str_is_not_several_keys(db: Database, method: str, keys: Any) -> None:
    with pytest.raises(InvalidTypeError, match=r"not the letters of b?'ab'; give \[b?'ab'\]") as refused:
        TAKING_SEVERAL[method](db, keys)
    assert isinstance(refused.value, TypeError)
    assert isinstance(refused.value, InvalidArgumentError)


@pytest.mark.parametrize("method", TAKING_SEVERAL)
def test_what_is_no_collection_is_refused(db: Database, method: str) -> None:
    with pytest.raises(InvalidTypeError, match="several keys, such as a list of them, not int"):
        TAKING_SEVERAL[method](db, 5)


def test_several_keys_are_taken_in_any_shape(db: Database) -> None:
    assert [key for key, _ in db.get_items(iter(["ab"]))] == ["ab"]
    assert db.changes().discard({"ab"}) == 1
    assert db.changes().discard(("a",)) == 1
    assert db.load_items(["a"]) == {}


@pytest.mark.parametrize("stamp", [1, 1_700_000_000, 631_151_999_999_999, 631_152_000_000_000])
def test_a_number_that_was_meant_as_seconds_is_refused(db: Database, stamp: int) -> None:
    writes: list[Callable[[], Any]] = [
        lambda: db.set("a", b"new", stamp),
        lambda: db.set_timestamp("a", stamp),
        lambda: db.set_metadata({}, stamp),
        lambda: db.prune(stamp),
    ]
    for write in writes:
        with pytest.raises(InvalidArgumentError, match="meant as seconds or milliseconds"):
            write()
    assert db["a"] == b"changed"


@pytest.mark.parametrize(
    "stamp", [0, 631_152_000_000_001, "1970-01-01T00:00:01+00:00", datetime(1985, 1, 1, tzinfo=UTC)]
)
def test_other_timestamps_are_taken(stamp: Any) -> None:
    assert timestamp_us(stamp) >= 0


def test_what_a_plain_booklet_wrote_is_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with booklet.open(bench.path(), "n", key_serializer="str", n_buckets=17) as plain:
        plain.set("k", b"v", timestamp=1000)
    with bench.open() as db:
        assert db.get_timestamp("k") == 1000
        assert db.changes().push()
    with bench.open("b") as db:
        assert db.get_timestamp("k") == 1000


def test_a_pull_is_true_when_something_changed(bench: Bench) -> None:
    with bench.open("b") as db:
        make(bench, {"new": b"1"})
        assert db.changes().pull()
        assert not db.changes().pull()


class Shout:
    """A serializer whose instances differ."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark

    def dumps(self, value: str) -> bytes:
        return value.encode() + self._mark

    def loads(self, encoded: bytes) -> str:
        return encoded.removesuffix(self._mark).decode()


def test_an_instance_serializes(tmp_path: Path) -> None:
    bench, serializer = Bench(tmp_path), Shout(b"!")
    with bench.open("s", value_serializer=serializer) as db:
        db["k"] = "word"
    with bench.open("s", value_serializer=serializer) as db:
        assert db["k"] == "word"
        assert db.get_timestamp("k", include_value=True, decode_value=False)[1] == b"word!"
