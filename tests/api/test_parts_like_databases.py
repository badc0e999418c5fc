"""A worker's part behaves as the database that it is a part of: the same answers, errors and states."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.database.forking import Part
from tests.fleets import pushed_database

KEYS: list[Any] = [
    *("a", "nothing", "", "\ud800", "k" * 65_535, "k" * 65_536, "\0", "é"),
    *(None, b"a", [], {}),
]
VALUES: list[Any] = [None, 1, float("nan"), "\ud800", 2**70, b"x", {1, 2}, bytearray(b"x")]
STAMPS: list[Any] = [
    *(None, 0, -1, 2**55, 2**55 + 1, True, 1.5, "x", "2026", "2026-01-31T12:00:00", "2026-01-31T12:00:00Z"),
    *(datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), []),
]

Call = Callable[[Any], Any]
WITH_KEY: dict[str, Callable[[Any, Any], Any]] = {
    "[]": lambda db, key: db[key],
    "get": lambda db, key: db.get(key, "default"),
    "in": lambda db, key: key in db,
    "get_timestamp": lambda db, key: db.get_timestamp(key, default="default"),
    "get_timestamp with value": lambda db, key: db.get_timestamp(key, True, default="default"),
    "get_items": lambda db, key: list(db.get_items([key, "b"], "default")),
    "keys": lambda db, key: list(db.keys(key)),
    "in keys": lambda db, key: key in db.keys("a"),
    "set": lambda db, key: db.set(key, 1),
    "del": lambda db, key: db.__delitem__(key),
    "pop": lambda db, key: db.pop(key),
    "pop with default": lambda db, key: db.pop(key, "default"),
    "setdefault": lambda db, key: db.setdefault(key, "default"),
    "update": lambda db, key: db.update([("a", 2), (key, 1)]),
}
WITH_VALUE: dict[str, Callable[[Any, Any], Any]] = {
    "set": lambda db, value: db.set("a", value),
    "set encoded": lambda db, value: db.set("new", value, encode_value=False),
    "setdefault": lambda db, value: db.setdefault("new", value),
    "setdefault there": lambda db, value: db.setdefault("a", value),
    "update": lambda db, value: db.update({"a": 2}, new=value),
}
OTHERS: dict[str, Call] = {
    "len": len,
    "list": list,
    "items": lambda db: list(db.items()),
    "values": lambda db: list(db.values()),
    "==": lambda db: db == {"a": 0, "b": {"n": 1}},
    "metadata": lambda db: db.get_metadata(include_timestamp=True),
    "get_items of a str": lambda db: list(db.get_items("a")),
    "get_items of None": lambda db: list(db.get_items(None)),
    "get_items twice": lambda db: list(db.get_items(["a", "a", ""])),
    "update with None": lambda db: db.update(None),
    "update with a triple": lambda db: db.update([("a", 2), ("b", 3, 4)]),
    "update with self": lambda db: db.update({"a": 1}, self=2, other=3),
    "popitem": lambda db: db.popitem(),
    "clear": lambda db: db.clear(),
    "popitem of nothing": lambda db: (db.clear(), db.popitem()),
    "del twice": lambda db: (db.__delitem__("a"), db.__delitem__("a")),
    "after del": lambda db: (db.__delitem__("a"), db.get("a"), db.get_timestamp("a"), "a" in db, len(db)),
}


def calls() -> dict[str, Call]:
    """Every call by name."""
    found = dict(OTHERS)
    for name, call in WITH_KEY.items():
        found |= {f"{name}, key {key!r:.20}, {len(str(key))}": lambda db, f=call, k=key: f(db, k) for key in KEYS}
    for name, call in WITH_VALUE.items():
        found |= {f"{name}, value {value!r}": lambda db, f=call, v=value: f(db, v) for value in VALUES}
    for stamp in STAMPS:
        found[f"set at {stamp!r}"] = lambda db, stamp=stamp: db.set("new", 1, timestamp=stamp)
    return found


def outcome(database: Database | Part, call: Call) -> object:
    """What a call answers or raises, and what is there after it."""
    try:
        answer: object = call(database)
    except Exception as error:
        answer = type(error), str(error)
    values = {key: database.get_timestamp(key, True, decode_value=False)[1] for key in database}
    return repr(answer), values, len(database)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pushed_database(tmp_path_factory.mktemp("like")) as made:
        del made["there"]
        made.update(a=0, b={"n": 1})
        made.set_metadata({"owner": "hydrology"})
        made.changes().push()
        yield made


class RolledBackError(Exception):
    pass


def test_a_part_answers_as_its_database(db: Database) -> None:
    fork = db.fork()
    part, differing = fork.open(), {}
    for name, call in calls().items():
        found = outcome(part, call)
        if part._work._written:
            part.discard()
            part = fork.open()
        expected = rolled_back(db, call)
        if found != expected:
            differing[name] = found, expected
    part.discard()
    assert not differing


def rolled_back(db: Database, call: Call) -> object:
    found = None
    with contextlib.suppress(RolledBackError), db.transaction():
        found = outcome(db, call)
        raise RolledBackError
    return found
