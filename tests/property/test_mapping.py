"""A database is a mapping: what a dict of str keys does, it does as well, whatever is committed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    InvalidValueError,
    ReadOnlyError,
    SessionClosedError,
)
from tests.pairs import Bench


class ReversedJson:
    """A serializer of a user's own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value).encode()[::-1]

    @staticmethod
    def loads(value: bytes) -> Any:
        return json.loads(value[::-1])


BYTES = [b"", b"0", b"\x00" * 300, bytes(range(256))]
JSON = [None, 0, "", False, [], {}, 1.5, "текст", {"a": [1, {"b": None}]}]
SERIALIZERS = {
    "bytes": (None, BYTES),
    "pickle": ("pickle", [*JSON, b"", (1, 2), {3, 4}]),
    "orjson": ("orjson", JSON),
    "class": (ReversedJson, JSON),
}
ODD_KEYS = [
    "a/b",
    "/",
    "..",
    "%41",
    "q?z=1#f",
    "ключ",
    "\x00x",
    "x\x00",
    " ",
    "\U0010ffff",
    "\ud7ff",
    "k" * 65_535,
]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def db(bench: Bench) -> Iterator[Database]:
    with bench.open(value_serializer="orjson") as db:
        yield db


@pytest.fixture(params=["overlay", "staged", "file", "remote"])
def filled(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the keys a, b and c, whose values lie at each of the places in turn."""
    db = bench.open(value_serializer="orjson")
    db.update({"b": 2, "a": 1, "c": None})
    if request.param == "staged":
        db.sync()
    elif request.param == "file":
        db.close()
        db = bench.open(value_serializer="orjson")
    elif request.param == "remote":
        db.changes().push()
        db.close()
        db = bench.open("other", "w")
    with db:
        yield db


FILLED = {"a": 1, "b": 2, "c": None}


@pytest.mark.parametrize("kind", SERIALIZERS)
def test_values_come_back_as_they_were(bench: Bench, kind: str) -> None:
    serializer, values = SERIALIZERS[kind]
    expected = {f"k{number:02}": value for number, value in enumerate(values)}

    def check(db: Database) -> None:
        assert db == expected
        assert list(db.values()) == list(expected.values())
        for key, value in expected.items():
            assert key in db
            assert db[key] == value
            assert type(db[key]) is type(value)
            assert db.get(key, "missing") == value
            assert db.get_timestamp(key, include_value=True)[1] == value

    with bench.open(value_serializer=serializer) as db:
        db.update(expected)
        check(db)
        db.sync()
        check(db)
        assert db.changes().push()
    with bench.open(value_serializer=serializer) as db:
        check(db)
    with bench.open("other", "r", value_serializer=serializer) as db:
        check(db)


def test_an_empty_mapping(db: Database) -> None:
    assert not db
    assert len(db) == 0
    assert list(db) == []
    assert db == {}
    assert db.get("a") is None
    assert db.get("a", 3) == 3
    with pytest.raises(KeyError):
        db.popitem()
    with pytest.raises(KeyError):
        db["a"]


def test_reading(filled: Database) -> None:
    assert isinstance(filled, MutableMapping)
    assert filled
    assert len(filled) == 3
    assert list(filled) == ["a", "b", "c"]
    assert filled == FILLED
    assert filled == FILLED
    assert filled != {**FILLED, "c": 0}
    assert filled["c"] is None
    assert filled.get("c", "default") is None
    assert "c" in filled
    assert "d" not in filled
    assert 1 not in filled
    assert filled.get("d", "default") == "default"
    with pytest.raises(KeyError) as caught:
        filled["d"]
    assert caught.value.args == ("d",)
    with pytest.raises(TypeError):
        hash(filled)


def test_missing_keys_can_not_be_deleted(filled: Database) -> None:
    with pytest.raises(KeyError):
        del filled["d"]
    with pytest.raises(KeyError):
        filled.pop("d")
    with pytest.raises(KeyError):
        filled.set_timestamp("d", 0)
    del filled["a"]
    with pytest.raises(KeyError):
        del filled["a"]
    assert filled == {"b": 2, "c": None}


def test_pop_popitem_setdefault(filled: Database) -> None:
    assert filled.pop("d", "default") == "default"
    assert filled.pop("c", "default") is None
    assert filled.setdefault("a", 5) == 1
    assert filled.setdefault("n") is None
    assert filled.setdefault("d", 5) == 5
    left = {"a": 1, "b": 2, "d": 5, "n": None}
    assert filled == left
    while filled:
        key, value = filled.popitem()
        assert left.pop(key) == value
    assert left == {}
    assert len(filled) == 0


class KeysOnly:
    """A mapping as far as dict.update asks for one."""

    def keys(self) -> list[str]:
        return ["x", "y"]

    def __getitem__(self, key: str) -> str:
        return key * 2


@pytest.mark.parametrize(
    ("arguments", "more", "added"),
    [
        ((), {}, {}),
        (({"a": 9},), {}, {"a": 9}),
        (([("a", 8), ("a", 9)],), {}, {"a": 9}),
        ((iter([("x", 1)]),), {"x": 2, "y": 3}, {"x": 2, "y": 3}),
        ((KeysOnly(),), {}, {"x": "xx", "y": "yy"}),
        ((), {"self": 1, "other": 2}, {"self": 1, "other": 2}),
    ],
)
def test_update(
    filled: Database, arguments: tuple[Any, ...], more: dict[str, Any], added: dict[str, Any]
) -> None:
    filled.update(*arguments, **more)
    assert filled == FILLED | added


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        ([("x", 1), ("", 2)], InvalidKeyError),
        ([("x", 1), ("y", object())], InvalidValueError),
        ([("x", 1), (3, 4)], InvalidKeyError),
        (42, TypeError),
        ([("x", 1), ("too", "many", "items")], ValueError),
    ],
)
def test_an_update_that_fails_changes_nothing(filled: Database, pairs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        filled.update(pairs)
    assert filled == FILLED


def test_clear_keeps_the_metadata(filled: Database) -> None:
    filled.set_metadata({"m": 1})
    filled.clear()
    assert filled == {}
    assert len(filled) == 0
    assert filled.get_metadata() == {"m": 1}
    filled["b"] = "new"
    assert filled == {"b": "new"}
    filled.sync()
    assert filled == {"b": "new"}
    assert filled.get_metadata() == {"m": 1}


def test_keys_are_a_view(filled: Database) -> None:
    keys = filled.keys()
    assert list(keys) == list(keys) == ["a", "b", "c"]
    assert len(keys) == 3
    assert "a" in keys
    assert "d" not in keys
    assert 1 not in keys
    assert keys == {"a", "b", "c"}
    assert keys & {"a", "x"} == {"a"}
    assert keys | {"x"} == {"a", "b", "c", "x"}
    assert keys - {"a"} == {"b", "c"}
    assert keys ^ {"a", "x"} == {"b", "c", "x"}
    assert keys <= {"a", "b", "c", "d"}
    assert keys.isdisjoint({"x"})
    filled["d"] = 4
    del filled["a"]
    assert list(keys) == ["b", "c", "d"]
    assert len(keys) == 3


def test_items_and_values_are_views(filled: Database) -> None:
    items, values = filled.items(), filled.values()
    assert list(items) == list(items) == list(FILLED.items())
    assert list(values) == list(values) == [1, 2, None]
    assert len(items) == len(values) == 3
    assert ("c", None) in items
    assert ("a", 2) not in items
    assert ("d", None) not in items
    assert (1, 1) not in items
    assert ("\ud800", 1) not in items
    assert "ab" not in items
    assert ("a", 1, 1) not in items
    assert items & {("a", 1), ("b", 1)} == {("a", 1)}
    assert None in values
    assert 3 not in values
    filled["a"] = 3
    assert ("a", 3) in items
    assert 3 in values


def test_keys_with_a_prefix(db: Database) -> None:
    names = ["a", "a/1", "a/2", "a0", "b", "\ud7ff1", "\ue0001", "\U0010ffff", "\U0010ffff1"]
    db.update(dict.fromkeys(names, 1))
    for commit in (False, True):
        if commit:
            db.sync()
        for prefix in ["", "a", "a/", "\ud7ff", "\ue000", "\U0010ffff", "x"]:
            view = db.keys(prefix)
            expected = sorted(name for name in names if name.startswith(prefix))
            assert list(view) == expected
            assert len(view) == len(expected)
            assert view == set(expected)
    assert "b" not in db.keys("a")
    for bad in (None, 1, "\ud800"):
        with pytest.raises(InvalidKeyError):
            db.keys(bad)  # type: ignore[arg-type]


def test_order_is_by_code_point(db: Database) -> None:
    names = ["\U0001f600", "\uffff", "é", "z", "Z", "10", "9", "\x00", "\x00\x00", "a\x00b", "a"]
    db.update(dict.fromkeys(names[:6], 1))
    db.sync()
    db.update(dict.fromkeys(names[6:], 1))
    assert list(db) == sorted(names)


def test_writing_while_iterating(db: Database) -> None:
    """A key that is there all the while comes exactly once, over page after page."""
    names = [f"k{number:05}" for number in range(2_500)]
    db.update(dict.fromkeys(names, 1))
    db.sync()
    seen = []
    for number, key in enumerate(db):
        seen.append(key)
        db[key] = 2
        if number % 500 == 0:
            db["k00000a"] = 3
            db["zz"] = 3
            db.sync()
    assert [key for key in seen if key in set(names)] == names
    assert seen.count("zz") == 1
    assert len(db) == len(names) + 2
    for key in db:
        del db[key]
    assert len(db) == 0


def test_clearing_while_iterating(db: Database) -> None:
    db.update(dict.fromkeys((f"k{number:05}" for number in range(2_500)), 1))
    db.sync()
    iteration = iter(db)
    first = next(iteration)
    db.clear()
    db["z"] = 1
    assert first == "k00000"
    assert [key for key in iteration if not key.startswith("k")] == ["z"]


def test_get_items_and_load_items(filled: Database) -> None:
    assert list(filled.get_items(["c", "x", "a", "c"], default=0)) == [
        ("c", None),
        ("x", 0),
        ("a", 1),
        ("c", None),
    ]
    assert list(filled.get_items([])) == []
    assert dict(filled.get_items(iter("ax"))) == {"a": 1, "x": None}
    assert filled.load_items(["a", "x"]) == {}
    assert filled.load_items() == {}
    with pytest.raises(InvalidKeyError):
        list(filled.get_items(["a", 1]))  # type: ignore[list-item]
    with pytest.raises(InvalidKeyError):
        filled.load_items(["\ud800"])


def test_timestamps(db: Database) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    zone = timezone(timedelta(hours=5, minutes=30))
    forms = {
        "datetime": moment,
        "elsewhere": moment.astimezone(zone),
        "int": microseconds,
        "iso": moment.isoformat(),
        "zulu": "2026-01-31T12:00:00.123456Z",
    }
    for key, form in forms.items():
        db.set(key, 0, timestamp=form)
        db[key + "2"] = 0
        db.set_timestamp(key + "2", form)
    for _ in range(2):
        assert {db.get_timestamp(key) for key in db} == {microseconds}
        assert list(db.timestamps()) == [(key, microseconds) for key in db]
        assert list(db.timestamps(include_value=True)) == [(key, microseconds, 0) for key in db]
        assert db.get_timestamp("int", include_value=True) == (microseconds, 0)
        assert db.get_timestamp("int", include_value=True, decode_value=False) == (microseconds, b"0")
        assert db.get_timestamp("none", default="x") == "x"
        assert db.get_timestamp("none", include_value=True, default="x") == "x"
        db.sync()
    for edge in (0, 2**55):
        db.set("edge", 1, timestamp=edge)
        db.sync()
        assert db.get_timestamp("edge") == edge


def test_what_is_updated_from_a_generator_is_no_older_than_what_the_generator_wrote(db: Database) -> None:
    def pairs() -> Iterator[tuple[str, int]]:
        yield "a", 1
        db["written"] = 2

    db.update(pairs())
    assert db.get_timestamp("a") >= db.get_timestamp("written")


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_value_comes_with_its_own_timestamp_whatever_is_written_meanwhile(
    db: Database, is_committed: bool
) -> None:
    older, newer = 1_700_000_000_000_000, 1_800_000_000_000_000
    for key in "abcd":
        db.set(key, 1, older)
    if is_committed:
        db.sync()
    found = []
    for key, stamp, value in db.timestamps(include_value=True):
        found.append((key, stamp, value))
        if key == "a":
            db.set("b", 2, newer)
            del db["c"]
            db.set_timestamp("d", newer)
            db.sync()
    assert found == [("a", older, 1), ("b", newer, 2), ("d", newer, 1)]


@pytest.mark.parametrize(
    "bad",
    [
        -1,
        2**55 + 1,
        1.5,
        True,
        "yesterday",
        "2026-01-31T12:00:00",
        datetime(2026, 1, 31),
        datetime(1969, 1, 1, tzinfo=UTC),
        b"2026",
    ],
)
def test_bad_timestamps_change_nothing(filled: Database, bad: Any) -> None:
    before = list(filled.timestamps(include_value=True))
    for write in (
        lambda: filled.set("a", 9, timestamp=bad),
        lambda: filled.set("n", 9, timestamp=bad),
        lambda: filled.set_timestamp("a", bad),
        lambda: filled.set_metadata({}, bad),
    ):
        with pytest.raises(InvalidArgumentError):
            write()
    assert list(filled.timestamps(include_value=True)) == before
    assert filled.get_metadata() is None


def test_encoded_values(db: Database) -> None:
    for key, raw in {"bytes": b"[1]", "bytearray": bytearray(b"[1]"), "view": memoryview(b"[1]")}.items():
        db.set(key, raw, encode_value=False)
        assert db[key] == [1]
    with pytest.raises(InvalidValueError, match="text"):
        db.set("text", "[1]", encode_value=False)
    assert len(db) == 3


def test_a_changed_buffer_does_not_change_the_value(bench: Bench) -> None:
    with bench.open() as db:
        buffer = bytearray(b"before")
        db["k"] = buffer
        buffer[:] = b"after!"
        assert db["k"] == b"before"


@pytest.mark.parametrize(
    ("serializer", "bad"),
    [(None, "text"), (None, None), (None, 1), ("orjson", object()), ("pickle", lambda: 0), (ReversedJson, {1})],
)
def test_bad_values_change_nothing(bench: Bench, serializer: Any, bad: Any) -> None:
    with bench.open(value_serializer=serializer) as db:
        with pytest.raises(InvalidValueError, match="'k'"):
            db["k"] = bad
        assert len(db) == 0


def test_metadata(db: Database, bench: Bench) -> None:
    stamp = 1_600_000_000_000_000
    assert db.get_metadata() is None
    assert db.get_metadata(include_timestamp=True) is None
    for data in ({"a": [1, None]}, [], 0, "", False, None):
        db.set_metadata(data, timestamp=stamp)
        assert db.get_metadata(include_timestamp=True) == (data, stamp)
    db.set_metadata({"kept": 1}, timestamp=stamp + 1)
    with pytest.raises(InvalidValueError):
        db.set_metadata(object())
    assert db == {}
    assert len(db) == 0
    assert "" not in db
    db.changes().push()
    with bench.open("other", "r") as other:
        assert other.get_metadata(include_timestamp=True) == ({"kept": 1}, stamp + 1)


def test_the_metadata_is_no_key(db: Database) -> None:
    db.set_metadata({"m": 1})
    for _ in range(2):
        assert db.get("", 5) == 5
        assert db.get_timestamp("", default=5) == 5
        assert db.get_timestamp("", include_value=True, default=5) == 5
        assert list(db.get_items([""], default=5)) == [("", 5)]
        for read in (lambda: db[""], lambda: db.pop(""), lambda: db.__delitem__("")):
            with pytest.raises(KeyError):
                read()
        with pytest.raises(KeyError):
            db.set_timestamp("", 0)
        db.sync()
    assert db.get_metadata() == {"m": 1}


BAD_KEYS = ["", "k" * 65_536, "к" * 32_768, "\ud800", "a\udfffb", 1, None, b"k", ("k",), 1.5]
RESERVED = ["adb01ebc1ba3433eb043527", "7c40d2ea915b4f3a8e6d201", "f19a5c3d7e2b48069ab34c5"]


@pytest.mark.parametrize("key", [*BAD_KEYS, *RESERVED])
def test_bad_keys_are_refused(filled: Database, key: Any) -> None:
    for write in (
        lambda: filled.__setitem__(key, 1),
        lambda: filled.set(key, 1),
        lambda: filled.setdefault(key, 1),
        lambda: filled.update({key: 1}),
    ):
        with pytest.raises(InvalidKeyError) as caught:
            write()
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, TypeError)
        assert len(str(caught.value)) < 300
    assert key not in filled
    assert key not in filled.keys()  # noqa: SIM118
    assert filled == FILLED


def test_odd_keys_reach_another_copy(bench: Bench) -> None:
    expected = {key: key[:20].encode("utf-8", "replace") for key in ODD_KEYS}
    with bench.open() as db:
        db.update(expected)
        assert db == expected
        db.changes().push()
        db["a/b"] = expected["a/b"] = b"second"
        db.changes().push()
    with bench.open() as db:
        assert db == expected
    with bench.open("other", "w") as db:
        for key, value in expected.items():
            assert db[key] == value
        assert list(db) == sorted(expected)
        del db["\x00x"]
        del expected["\x00x"]
        db.changes().push()
    assert bench.contents("a") == expected
    assert bench.fresh_contents() == expected


READS = {
    "len": len,
    "iter": list,
    "contains": lambda db: "a" in db,
    "get": lambda db: db.get("a"),
    "item": lambda db: db["a"],
    "keys": lambda db: db.keys(),
    "values": lambda db: db.values(),
    "items": lambda db: db.items(),
    "get_items": lambda db: list(db.get_items(["a"])),
    "load_items": lambda db: db.load_items(),
    "timestamps": lambda db: list(db.timestamps()),
    "get_timestamp": lambda db: db.get_timestamp("a"),
    "get_metadata": lambda db: db.get_metadata(),
    "changes": lambda db: db.changes(),
    "uuid": lambda db: db.uuid,
    "sync": lambda db: db.sync(),
    "enter": lambda db: db.__enter__(),
}
WRITES = {
    "set": lambda db: db.set("a", 1),
    "setitem": lambda db: db.__setitem__("a", 1),
    "delitem": lambda db: db.__delitem__("a"),
    "missing": lambda db: db.__delitem__("none"),
    "pop": lambda db: db.pop("a"),
    "popitem": lambda db: db.popitem(),
    "setdefault": lambda db: db.setdefault("n", 1),
    "update": lambda db: db.update(a=1),
    "clear": lambda db: db.clear(),
    "set_timestamp": lambda db: db.set_timestamp("a", 0),
    "set_metadata": lambda db: db.set_metadata({}),
    "prune": lambda db: db.prune(),
    "transaction": lambda db: db.transaction().__enter__(),
    "push": lambda db: db.changes().push(),
    "discard": lambda db: db.changes().discard(),
}


@pytest.mark.parametrize("use", [*READS, *WRITES])
def test_a_closed_session_does_nothing(bench: Bench, use: str) -> None:
    db = bench.open(value_serializer="orjson")
    db["a"] = 1
    db.close()
    db.close()
    assert db.closed
    assert "closed" in repr(db)
    with pytest.raises(SessionClosedError, match="open it again"):
        (READS | WRITES)[use](db)


def test_a_view_of_a_closed_session_does_nothing(bench: Bench) -> None:
    db = bench.open(value_serializer="orjson")
    db.update(a=1, b=2)
    keys, iteration = db.keys(), iter(db.items())
    next(iteration)
    db.close()
    for use in (lambda: len(keys), lambda: list(keys), lambda: "a" in keys):
        with pytest.raises(SessionClosedError):
            use()


@pytest.mark.parametrize("use", WRITES)
def test_a_reading_session_changes_nothing(bench: Bench, use: str) -> None:
    with bench.open(value_serializer="orjson") as db:
        db.update(a=1)
        db.changes().push()
    with bench.open(flag="r") as db:
        assert not db.writable
        assert "read-only" in repr(db)
        with pytest.raises(ReadOnlyError) as caught:
            WRITES[use](db)
        assert isinstance(caught.value, ValueError)
        assert db == {"a": 1}
        for name in READS:
            READS[name](db)


# -- random operations beside a dict -------------------------------------------------------------

names = st.text(st.sampled_from("ab/%\x00ж\U0010ffff"), min_size=1, max_size=3)
contents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
operations = st.one_of(
    st.tuples(st.just("set"), names, contents),
    st.tuples(st.just("set"), names, contents),
    st.tuples(st.sampled_from(["delete", "pop", "setdefault", "get"]), names, contents),
    st.tuples(st.just("update"), st.dictionaries(names, contents, max_size=4), st.none()),
    st.tuples(st.sampled_from(["popitem", "clear", "sync", "reopen", "push"]), st.none(), st.none()),
)


def outcome(mapping: Any, operation: tuple[Any, ...]) -> Any:
    """What an operation on a mapping returns or raises."""
    kind, key, value = operation
    try:
        if kind == "set":
            mapping[key] = value
        elif kind == "delete":
            del mapping[key]
        elif kind == "update":
            mapping.update(key)
        elif kind == "clear":
            mapping.clear()
        else:
            return getattr(mapping, kind)(key, value)
    except KeyError as error:
        return KeyError, error.args
    return None


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(script=st.lists(operations, max_size=40))
def test_random_operations_as_on_a_dict(tmp_path_factory: pytest.TempPathFactory, script: list[Any]) -> None:
    bench = Bench(tmp_path_factory.mktemp("mapping"))
    expected: dict[str, Any] = {}
    db = bench.open(value_serializer="orjson", n_buckets=3, buffer_size=30)
    pushed: dict[str, Any] | None = None
    try:
        for operation in script:
            if operation[0] == "reopen":
                db.close()
                db = bench.open(value_serializer="orjson")
            elif operation[0] == "sync":
                db.sync()
            elif operation[0] == "push":
                db.changes().push()
                pushed = dict(expected)
            elif operation[0] == "popitem":
                if expected:
                    key, value = db.popitem()
                    assert expected.pop(key) == value
            else:
                assert outcome(db, operation) == outcome(expected, operation)
            assert len(db) == len(expected)
            assert list(db.items()) == sorted(expected.items(), key=lambda pair: pair[0])
    finally:
        db.close()
    if pushed is not None:
        assert bench.fresh_contents() == pushed


def test_the_documented_name_for_the_mapping() -> None:
    assert ebooklet_tx.EVariableLengthValue is Database
