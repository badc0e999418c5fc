"""The mapping protocol, for each kind of serializer: what is done to a dict has the same outcome here.

Where the rules of a database differ from a dict's (keys are str and in order, values are copies, iteration
goes on while there are changes, bytes are what a database without serializer takes), a test of its own says
so.
"""

from __future__ import annotations

import collections
import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidKeyError, InvalidValueError
from tests.pairs import Bench
from tests.property.mapping_kinds import KINDS, SERIALIZERS, HexJson, content_of, valued
from tests.property.mapping_uses import CHANGING, NO_VALUE, USES, outcome

FALSY: dict[str, list[Any]] = {
    "pickle": [None, 0, "", b"", False, 0.0, (), [], {}, frozenset()],
    "orjson": [None, 0, "", False, 0.0, [], {}],
    "bytes": [b"", b"\x00", b"0"],
    "class": [None, 0, "", False, 0.0, [], {}],
}
NESTED: dict[str, list[Any]] = {
    "pickle": [{"a": [1, {"b": (None, {1, 2})}]}, 2**100, "\ud800", float("inf")],
    "orjson": [{"a": [1, {"b": [None, -1.5]}]}, [[[[]]]], {"": ""}, 2**63, "\x00ключ"],
    "bytes": [bytes(range(256)), b"x" * 100_000],
    "class": [{"a": [1, {"b": [None, -1.5]}]}, [[[[]]]], 2**100],
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def empty(bench: Bench, kind: str) -> Iterator[Database]:
    with bench.open(value_serializer=SERIALIZERS[kind]) as db:
        yield db


@pytest.fixture
def filled(bench: Bench, kind: str) -> Iterator[tuple[Database, dict[str, Any]]]:
    """A database with four keys, two of them pushed and two not yet committed, and the dict beside it."""
    with bench.open(value_serializer=SERIALIZERS[kind]) as db:
        content = content_of(kind)
        pairs = list(content.items())
        db.update(pairs[:2])
        db.changes().push()
        db.update(pairs[2:])
        yield db, content


@pytest.fixture(params=["committed", "pushed", "fetched"])
def placed(bench: Bench, kind: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the same four keys, whose values lie at each of the places in turn."""
    options = {"value_serializer": SERIALIZERS[kind]}
    db = bench.open(**options)
    db.update(content_of(kind))
    if request.param == "committed":
        db.sync()
    else:
        db.changes().push()
    if request.param == "fetched":
        db.close()
        db = bench.open("other", "w", **options)
    with db:
        yield db


# -- the same outcome as on a dict ---------------------------------------------------------------


def same_outcome(db: Database, expected: dict[str, Any], kind: str, name: str) -> None:
    there = outcome(expected, USES[name], lambda number: valued(kind, number))
    here = outcome(db, USES[name], lambda number: valued(kind, number))
    if name == "popitem of nothing":
        # A dict says in words what is missing; the abstract mapping says nothing.
        assert here[0] is there[0] is KeyError
    else:
        assert here == there, name
    assert dict(db.items()) == expected, name
    assert list(db) == sorted(expected), name
    assert len(db) == len(expected), name


class RollBackError(Exception):
    """Ends a transaction whose writes are not wanted."""


def test_every_use_has_the_outcome_that_it_has_on_a_dict(placed: Database, kind: str) -> None:
    """In transactions that are rolled back, so that each use finds the values at the same place."""
    stamps = list(placed.timestamps())
    for name in USES:
        expected = content_of(kind)
        with contextlib.suppress(RollBackError), placed.transaction():
            same_outcome(placed, expected, kind, name)
            raise RollBackError
        assert dict(placed.items()) == content_of(kind), name
        assert list(placed.timestamps()) == stamps, name


@pytest.mark.parametrize("name", CHANGING)
def test_a_use_that_changes_has_the_outcome_that_it_has_on_a_dict(
    filled: tuple[Database, dict[str, Any]], kind: str, name: str
) -> None:
    db, expected = filled
    same_outcome(db, expected, kind, name)
    db.sync()
    assert list(db.items()) == sorted(expected.items())
    assert len(db) == len(expected)


# -- construction, equality, order ---------------------------------------------------------------


def test_it_is_a_mutable_mapping(empty: Database) -> None:
    assert isinstance(empty, MutableMapping)
    assert isinstance(empty, Mapping)
    assert isinstance(empty.keys(), collections.abc.KeysView)
    assert isinstance(empty.items(), collections.abc.ItemsView)
    assert isinstance(empty.values(), collections.abc.ValuesView)
    assert not isinstance(empty, dict)


@pytest.mark.parametrize("make", [dict, collections.OrderedDict, lambda db: {**db}, lambda db: dict(db.items())])
def test_other_mappings_are_made_of_it(
    filled: tuple[Database, dict[str, Any]], make: Callable[[Any], Any]
) -> None:
    db, expected = filled
    made = make(db)
    assert made == expected
    assert list(made) == sorted(expected)


def test_databases_with_the_same_content_are_equal(tmp_path: Path) -> None:
    """Whatever their serializers, identities and histories: equality is that of the contents as dicts."""
    with Bench(tmp_path, "one").open("one", value_serializer="orjson") as one:
        with Bench(tmp_path, "two").open("two", value_serializer=HexJson) as two:
            assert one == two
            one.update(a=1, b=[1, None])
            assert one != two
            two.update(b=[1, None], a=2)
            assert one != two
            two["a"] = 1
            two.set_metadata({"m": 1})
            assert one == two
            assert two == one
            one.sync()
            one.changes().push()
            assert one == two
            del two["b"]
            assert one != two
        assert one != [("a", 1), ("b", [1, None])]


def test_order_is_that_of_the_keys(empty: Database, kind: str) -> None:
    """A dict goes by insertion; a database goes by code point, and backwards not at all."""
    for number, key in enumerate("cab"):
        empty[key] = valued(kind, number)
    assert list(empty) == list(empty.keys()) == ["a", "b", "c"]
    assert list(empty.values()) == [valued(kind, number) for number in (1, 2, 0)]
    assert [key for key, _ in empty.items()] == ["a", "b", "c"]
    empty["a"] = valued(kind, 9)
    assert list(empty) == ["a", "b", "c"]
    for backwards in (empty, empty.keys(), empty.items(), empty.values()):
        with pytest.raises(TypeError, match="not reversible"):
            reversed(backwards)  # type: ignore[call-overload]


def test_popitem_takes_each_pair_once(empty: Database, kind: str) -> None:
    expected = {f"k{number}": valued(kind, number) for number in range(50)}
    empty.update(expected)
    empty.sync()
    found = {}
    while empty:
        before = len(empty)
        key, value = empty.popitem()
        assert key not in found
        assert key not in empty
        assert len(empty) == before - 1
        found[key] = value
    assert found == expected


def test_repr_says_what_it_is_and_shows_no_value(filled: tuple[Database, dict[str, Any]]) -> None:
    db, expected = filled
    assert repr(db) == str(db)
    assert not any(repr(value) in repr(db) for value in expected.values() if len(repr(value)) > 6)
    assert repr(db).startswith("<ebooklet_tx database '")
    assert repr(db).endswith(", writable: 2 keys, nothing to push, 2 writes not committed>")


# -- values ---------------------------------------------------------------------------------------


def test_every_value_comes_back_from_everywhere(bench: Bench, kind: str) -> None:
    options = {"value_serializer": SERIALIZERS[kind]}
    values = [*FALSY[kind], *NESTED[kind]]
    expected = {f"k{number:02}": value for number, value in enumerate(values)}

    def check(db: Database) -> None:
        assert db == expected
        for key, value in expected.items():
            for found in (db[key], db.get(key, NO_VALUE), dict(db.get_items([key]))[key]):
                assert found == value
                assert type(found) is type(value)
            assert key in db
            assert (key, value) in db.items()
            assert value in db.values()
        assert list(map(repr, db.values())) == [repr(expected[key]) for key in sorted(expected)]

    with bench.open(**options) as db:
        for key, value in expected.items():
            db[key] = value
        check(db)
        db.sync()
        check(db)
        db.changes().push()
    for copied, flag in (("a", "w"), ("b", "r")):
        with bench.open(copied, flag, **options) as db:
            check(db)


def test_a_falsy_value_is_there(empty: Database, kind: str) -> None:
    for number, value in enumerate(FALSY[kind]):
        key = f"k{number}"
        empty[key] = value
        for _ in range(2):
            assert key in empty
            assert empty.get(key, NO_VALUE) == value
            assert empty.setdefault(key, valued(kind, 5)) == value
            assert empty[key] == value
            empty.sync()
        assert empty.pop(key, NO_VALUE) == value
        assert key not in empty
        with pytest.raises(KeyError):
            empty.pop(key)
    assert not empty


def test_values_are_copies(empty: Database, kind: str) -> None:
    """What was set, and what was read, may be changed; only setting again changes the database."""
    value: Any = bytearray(b"before") if kind == "bytes" else ["before"]
    empty["k"] = value
    kept = bytes(value) if kind == "bytes" else copy.deepcopy(value)
    value.extend(b"after" if kind == "bytes" else ["after"])
    assert empty["k"] == kept
    if kind != "bytes":
        empty["k"].append("after")
        empty.setdefault("k", []).append("after")
        empty.setdefault("new", []).append("after")
        assert empty["k"] == ["before"]
        assert empty["new"] == []
        empty.sync()
        assert empty["k"] == ["before"]


def test_setdefault_without_default_sets_none(empty: Database, kind: str) -> None:
    if kind == "bytes":
        with pytest.raises(InvalidValueError):
            empty.setdefault("k")
        assert "k" not in empty
        return
    assert empty.setdefault("k") is None
    assert "k" in empty
    assert empty.setdefault("k", 5) is None
    assert dict(empty) == {"k": None}


# -- keys ----------------------------------------------------------------------------------------

ODD_KEYS = [
    "p%41",
    "pA",
    "q?z=1#f",
    "a/b",
    "a//b",
    "a/../b",
    "/a",
    "a/",
    "..",
    ".",
    " ",
    "  ",
    "a ",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x7f",
    "+",
    "&amp;",
    "'\"\\",
    "%",
    "%00",
    "%_",
    "*?[a]",
    "ключ",
    "é",
    "e\u0301",
    "İ",
    "ß",
    "SS",
    "\u200b",
    "\ufeff",
    "\ufffd",
    "\U0001f600",
    "\U0010ffff",
    "\ud7ff",
    "__len__",
    "None",
    "k" * 1025,
    "k" * 65_535,
    "ж" * 32_767,
    "db.lock",
    "db.d/pack/00000000000000000000000000000000",
]


def test_every_key_is_one_of_its_own(bench: Bench, kind: str) -> None:
    options = {"value_serializer": SERIALIZERS[kind]}
    expected = {key: valued(kind, number) for number, key in enumerate(ODD_KEYS)}
    assert len(expected) == len(ODD_KEYS)

    def check(db: Database) -> None:
        assert list(db) == sorted(expected)
        assert db == expected
        for key, value in expected.items():
            assert db[key] == value
            assert key in db
            assert key in db.keys(prefix=key[:3])

    with bench.open(**options) as db:
        for key, value in expected.items():
            db[key] = value
        check(db)
        db.changes().push()
        check(db)
        for number, key in enumerate(ODD_KEYS[::2]):
            assert db.pop(key) == expected.pop(key)
            if number % 3 == 0:
                db[key] = expected[key] = valued(kind, 100 + number)
        check(db)
        db.changes().push()
    for copied, flag in (("a", "r"), ("b", "r")):
        with bench.open(copied, flag, **options) as db:
            check(db)


@pytest.mark.parametrize("key", [1, None, b"k", ("k",), 1.5, "\ud800", object()])
def test_what_is_no_key_is_no_key(filled: tuple[Database, dict[str, Any]], kind: str, key: Any) -> None:
    """Reading says so by TypeError, as a dict does about what can't be hashed; `in` just says no."""
    db, expected = filled
    value = valued(kind, 1)
    uses: list[Callable[[], Any]] = [
        lambda: db[key],
        lambda: db.get(key),
        lambda: db.pop(key),
        lambda: db.pop(key, None),
        lambda: db.setdefault(key, value),
        lambda: db.__setitem__(key, value),
        lambda: db.__delitem__(key),
        lambda: db.update([("x", value), (key, value)]),
        lambda: list(db.get_items(["a", key])),
    ]
    for use in uses:
        with pytest.raises(TypeError) as caught:
            use()
        assert isinstance(caught.value, InvalidKeyError)
    assert key not in db
    assert key not in db.keys()  # noqa: SIM118
    assert (key, value) not in db.items()
    assert db == expected


# -- updates that fail ---------------------------------------------------------------------------


class GaveUpError(Exception):
    """What the iterables of a test raise in their middle."""


class FailingItems:
    """A mapping-like that fails at a given point."""

    def __init__(self, at: str, value: Any) -> None:
        self._at = at
        self._value = value

    def keys(self) -> Iterator[str]:
        if self._at == "keys":
            raise GaveUpError
        yield "a"
        if self._at == "between":
            raise GaveUpError
        yield "x"

    def __getitem__(self, key: str) -> Any:
        if self._at == "values" and key == "x":
            raise GaveUpError
        return self._value


def _failing_pairs(value: Any) -> Iterator[tuple[str, Any]]:
    yield "a", value
    yield "x", value
    raise GaveUpError


class FailingMapping(dict[str, Any]):
    """A mapping whose items fail in their middle."""

    def items(self) -> Any:
        yield "a", self["a"]
        raise GaveUpError


UPDATES: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    "keys fail": (lambda value: FailingItems("keys", value), GaveUpError),
    "keys fail later": (lambda value: FailingItems("between", value), GaveUpError),
    "values fail": (lambda value: FailingItems("values", value), GaveUpError),
    "pairs fail": (_failing_pairs, GaveUpError),
    "items fail": (lambda value: FailingMapping(a=value), GaveUpError),
    "one key is bad": (lambda value: {"a": value, "": value}, InvalidKeyError),
    "one key is too long": (lambda value: {"a": value, "k" * 65_536: value}, InvalidKeyError),
    "one key is no str": (lambda value: {"a": value, 5: value}, InvalidKeyError),
    "one value is bad": (lambda value: {"a": value, "x": lambda: 0}, InvalidValueError),
    "one pair is short": (lambda value: [("a", value), ("x",)], ValueError),
    "one pair is a number": (lambda value: [("a", value), 5], TypeError),
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("inside", [False, True])
def test_an_update_that_fails_applies_nothing(
    filled: tuple[Database, dict[str, Any]], kind: str, name: str, inside: bool
) -> None:
    """Where a dict keeps the half that came before, nothing is applied here."""
    db, expected = filled
    make, error = UPDATES[name]
    stamps = list(db.timestamps())

    def fail() -> None:
        with pytest.raises(error):
            db.update(make(valued(kind, 99)))
        with pytest.raises(error):
            db.update(make(valued(kind, 99)), y=valued(kind, 98))

    if inside:
        with db.transaction():
            fail()
    else:
        fail()
    db.sync()
    assert db == expected
    assert list(db.timestamps()) == stamps


def test_a_keyword_that_fails_applies_nothing(filled: tuple[Database, dict[str, Any]], kind: str) -> None:
    db, expected = filled
    with pytest.raises(InvalidValueError):
        db.update({"a": valued(kind, 99)}, x=lambda: 0)
    assert db == expected


# -- changes while iterating -----------------------------------------------------------------------


@pytest.mark.parametrize("view", ["keys", "items", "values"])
def test_iteration_goes_on_while_there_are_changes(bench: Bench, kind: str, view: str) -> None:
    """A dict refuses; here a key that is there all the while comes exactly once, in order."""
    content = {f"k{number:04}": valued(kind, number) for number in range(1500)}
    with bench.open(value_serializer=SERIALIZERS[kind]) as db:
        db.update(content)
        db.sync()
        seen = []
        for number, found in enumerate(getattr(db, view)()):
            seen.append(found)
            if number == 10:
                del db["k1400"]
                del db["k0003"]
                db["k1200a"] = valued(kind, 5000)
                db["a"] = valued(kind, 6000)
                db.sync()
            if number == 1100:
                db["k1300"] = valued(kind, 7000)
        came: list[Any] = [item[0] for item in seen] if view == "items" else seen
        if view == "values":
            assert len(set(came)) == len(came)
            assert valued(kind, 1400) not in came
            assert valued(kind, 5000) in came
            assert valued(kind, 6000) not in came
            assert set(content.values()) - set(came) <= {valued(kind, number) for number in (1300, 1400)}
        else:
            assert came == sorted(set(came))
            assert came == sorted({*content, "k1200a"} - {"k1400"})


def test_iterators_stand_for_themselves(filled: tuple[Database, dict[str, Any]]) -> None:
    db, expected = filled
    one, two = iter(db), iter(db)
    assert next(one) == next(two) == "a"
    assert iter(one) is one
    assert list(one) == list(two) == sorted(expected)[1:]
    with pytest.raises(StopIteration):
        next(one)
    assert [(a, b) for a in db for b in db] == [(a, b) for a in sorted(expected) for b in sorted(expected)]
