"""Reading and writing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone

import booklet
from readme_examples.place import Place, example, expect, hold, refused

import ebooklet_tx as ebooklet

FIRST = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
FIRST_US = 1_769_860_800_250_000


@example("mapping: set, get, in, len, iterate, delete")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "c", "orjson") as db:
        db["key1"] = ["one", 2, "three", 4]
        db["key2"] = {"a": None}
        db["key3"] = 3.5
        expect((db["key1"], db["key2"]), (["one", 2, "three", 4], {"a": None}), "the values")
        expect(("key1" in db, "nothing" in db, len(db)), (True, False, 3), "in and len")
        del db["key3"]
        expect((sorted(db), "key3" in db), (["key1", "key2"], False), "the keys")
        refused(KeyError, db.__getitem__, "key3")
        db.changes().push()
    expect(place.seen(), {"key1": ["one", 2, "three", 4], "key2": {"a": None}}, "what another machine sees")


@example("mapping: get() with a default")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "c", "str") as db:
        db["a"] = "1"
        expect((db.get("a"), db.get("b"), db.get("b", "else")), ("1", None, "else"), "get()")


@example("mapping: None and what counts as false are values")
def _(place: Place) -> None:
    values = {"none": None, "zero": 0, "text": "", "list": [], "false": False}
    path = place.pushed(values)
    with ebooklet.open(place.connection(), path) as db:
        expect({key: db[key] for key in values}, values, "the values here")
        hold(all(key in db for key in values), "a key is missing")
        expect(db.get("none", "else"), None, "get() of None")
    expect(place.seen(), values, "what another machine sees")


@example("mapping: set() with a timestamp as int, ISO 8601 str and datetime")
def _(place: Place) -> None:
    path = place.file("here")
    zone = timezone(timedelta(hours=13))
    with ebooklet.open(place.connection(), path, "n", "str") as db:
        db.set("int", "v", FIRST_US)
        db.set("iso", "v", timestamp="2026-02-01T01:00:00.250+13:00")
        db.set("datetime", "v", timestamp=FIRST.astimezone(zone))
        db.changes().push()
    for where in (path, place.file()):
        with ebooklet.open(place.connection(), where) as db:
            expect({key: db.get_timestamp(key) for key in db}, dict.fromkeys(db, FIRST_US), "the timestamps")


@example("mapping: without a timestamp it is the time of writing, in microseconds")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "n", "str") as db:
        before = time.time_ns() // 1000
        db["a"] = "v"
        hold(before <= db.get_timestamp("a") <= time.time_ns() // 1000, "the timestamp is not now")


@example("mapping: set() with encode_value=False")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "n", "orjson") as db:
        db.set("a", b'{"b":1}', encode_value=False)
        expect(db["a"], {"b": 1}, "the value")
        db.changes().push()
    expect(place.seen(), {"a": {"b": 1}}, "what another machine sees")


@example("mapping: update() with a mapping, with pairs and with names")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "n", "orjson") as db:
        db.update({"a": 1, "b": 2})
        db.update([("b", 3), ("c", 4)], d=5)
        db.changes().push()
    expect(place.seen(), {"a": 1, "b": 3, "c": 4, "d": 5}, "what another machine sees")


@example("mapping: keys(), items() and values(), also where nothing was fetched yet")
def _(place: Place) -> None:
    values = {f"key{number}": number for number in range(50)}
    place.pushed(values)
    with ebooklet.open(place.connection(), place.file()) as db:
        for _attempt in range(2):
            expect(set(db.keys()), set(values), "keys()")
            expect(dict(db.items()), values, "items()")
            expect(sorted(db.values()), list(range(50)), "values()")
        expect(len(db.keys()), 50, "len(keys())")


@example("mapping: what MutableMapping gives besides")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "n", "orjson") as db:
        db["a"] = 1
        expect((db.pop("a"), db.pop("a", 7), db.setdefault("b", 2)), (1, 7, 2), "pop and setdefault")
        expect(db.popitem(), ("b", 2), "popitem()")
        expect((dict(db), db == {}), ({}, True), "what is left")


@example("get_items(): the values of many keys, with a default for missing ones")
def _(place: Place) -> None:
    place.pushed({f"key{number}": number for number in range(20)})
    with ebooklet.open(place.connection(), place.file()) as db:
        pairs = db.get_items(["key3", "nothing", "key7"])
        expect(list(pairs), [("key3", 3), ("nothing", None), ("key7", 7)], "get_items()")
        expect(dict(db.get_items(("nothing",), default="else")), {"nothing": "else"}, "the default")
        expect(dict(db.get_items({"key1"})), {"key1": 1}, "get_items() of a set")


@example("load_items(): everything is in the local file then")
def _(place: Place) -> None:
    place.pushed({f"key{number}": "x" * 6000 for number in range(20)})
    path = place.file()
    with ebooklet.open(place.connection(), path) as db:
        expect(db.load_items(), {}, "the failures")
    with booklet.open(path) as plain:
        expect(len(plain), 20, "the number of keys for plain booklet")
        expect(plain["key7"], "x" * 6000, "a value for plain booklet")


@example("load_items(keys): these alone")
def _(place: Place) -> None:
    place.pushed({f"key{number}": "x" * 6000 for number in range(20)})
    path = place.file()
    with ebooklet.open(place.connection(), path) as db:
        expect(db.load_items(key for key in ("key1", "key2")), {}, "the failures")
    with booklet.open(path) as plain:
        expect(sorted(plain), ["key1", "key2"], "the keys for plain booklet")


@example("timestamps(): pairs, or triples with the value")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "n", "orjson") as db:
        db.set("a", 1, FIRST_US)
        db.set("b", 2, FIRST_US + 1)
        expect(dict(db.timestamps()), {"a": FIRST_US, "b": FIRST_US + 1}, "the pairs")
        db.changes().push()
    with ebooklet.open(place.connection(), place.file()) as db:
        wanted = [("a", FIRST_US, 1), ("b", FIRST_US + 1, 2)]
        expect(sorted(db.timestamps(include_value=True)), wanted, "the triples")


@example("get_timestamp(): alone, with the value, with the encoded value, with a default")
def _(place: Place) -> None:
    with ebooklet.open(place.connection(), place.file(), "n", "orjson") as db:
        db.set("a", {"b": 1}, FIRST_US)
        expect(db.get_timestamp("a"), FIRST_US, "get_timestamp()")
        expect(db.get_timestamp("a", include_value=True), (FIRST_US, {"b": 1}), "with the value")
        expect(db.get_timestamp("a", True, False), (FIRST_US, b'{"b":1}'), "with the encoded value")
        expect((db.get_timestamp("c"), db.get_timestamp("c", default=0)), (None, 0), "the default")


@example("set_timestamp(): int, str and datetime; the value stays")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2, "c": 3})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.set_timestamp("a", FIRST_US)
        db.set_timestamp("b", "2026-01-31T12:00:00.250Z")
        db.set_timestamp("c", FIRST)
        refused(KeyError, db.set_timestamp, "d", FIRST_US)
        hold(db.changes().push(), "nothing was pushed")
    with ebooklet.open(place.connection(), place.file()) as db:
        expect(sorted(db.timestamps(True)), [("a", FIRST_US, 1), ("b", FIRST_US, 2), ("c", FIRST_US, 3)], "them")


@example("metadata: set, get, with its timestamp; it is pushed and is no key")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path, "w") as db:
        expect(db.get_metadata(), None, "the metadata before")
        db.set_metadata({"owner": ["me", 1]}, timestamp=FIRST_US)
        expect(db.get_metadata(), {"owner": ["me", 1]}, "the metadata")
        expect(len(db), 1, "the number of keys")
        hold(db.changes().push(), "nothing was pushed")
    with ebooklet.open(place.connection(), place.file()) as db:
        expect(
            db.get_metadata(include_timestamp=True), ({"owner": ["me", 1]}, FIRST_US), "what another machine gets"
        )


@example("prune(): counts what it takes away, and the remote keeps it")
def _(place: Place) -> None:
    path = place.pushed({f"key{number}": "x" * 6000 for number in range(20)})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.prune()
        db.prune(reindex=True)
        db["pending"] = "mine"
        size = path.stat().st_size
        taken = db.prune(timestamp=datetime(2100, 1, 1, tzinfo=UTC))
        expect(taken, 20, "the count")
        hold(path.stat().st_size < size - 100_000, "the local file is not smaller")
        expect((len(db), db["key7"], db["pending"]), (21, "x" * 6000, "mine"), "what is read then")
        db.changes().push()
    expect(len(place.seen()), 21, "the number of keys that another machine sees")


@example("clear(): the push empties the remote")
def _(place: Place) -> None:
    path = place.pushed({"a": 1, "b": 2})
    with ebooklet.open(place.connection(), path, "w") as db:
        db.clear()
        expect((len(db), "a" in db), (0, False), "what is here")
        db["c"] = 3
        expect(place.seen(), {"a": 1, "b": 2}, "what another machine sees before the push")
        db.changes().push()
    expect(place.seen(), {"c": 3}, "what another machine sees after the push")


@example("sync(): a reader of the same file sees it, and others do not")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    with ebooklet.open(place.connection(), path, "w") as db:
        db["b"] = 2
        db.sync()
        with ebooklet.open(place.connection(), path) as reader:
            expect(dict(reader), {"a": 1, "b": 2}, "what a reader beside sees")
        expect(place.seen(), {"a": 1}, "what another machine sees")


@example("close(): keeps what was not pushed, may be called twice, and ends the session")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    db = ebooklet.open(place.connection(), path, "w")
    db["b"] = 2
    db.close()
    db.close()
    refused(ValueError, db.get, "a")
    with ebooklet.open(place.connection(), path, "w") as db:
        expect([change["key"] for change in db.changes().iter_changes()], ["b"], "what is still to be pushed")
        db.changes().push()
    expect(place.seen(), {"a": 1, "b": 2}, "what another machine sees")


@example("context manager: an error in the block passes, and the file and the lock are free")
def _(place: Place) -> None:
    path = place.pushed({"a": 1})
    try:
        with ebooklet.open(place.connection(), path, "w") as db:
            db["nothing"]
    except KeyError as error:
        expect(error.args, ("nothing",), "the error's arguments")
    with ebooklet.open(place.connection(), path, "w", lock_timeout=0) as db:
        expect(dict(db), {"a": 1}, "what is there")


@example("booklet: the local file may be edited with plain booklet, and pushed later")
def _(place: Place) -> None:
    path = place.file("here")
    with booklet.open(path, "n", key_serializer="str", value_serializer="orjson") as plain:
        plain["a"], plain["b"] = 1, 2
    with ebooklet.open(place.connection(), path, "c") as db:
        hold(db.changes().push(), "nothing was pushed")
    with booklet.open(path, "w") as plain:
        plain["b"] = 3
        plain["c"] = 4
        del plain["a"]
    with ebooklet.open(place.connection(), path, "w") as db:
        db.changes().push()
    expect(place.seen(), {"b": 3, "c": 4}, "what another machine sees")


def length_of(key: str, value: str) -> tuple[str, int] | None:
    """What the worker processes of `map` compute."""
    return None if key == "skip" else (f"{key}!", len(value))


@example("map(): a function over all items, in other processes")
def _(place: Place) -> None:
    place.pushed({"a": "x", "b": "xx", "c": "xxx", "skip": ""})
    with ebooklet.open(place.connection(), place.file()) as db:
        expect(dict(db.map(length_of, n_workers=2)), {"a!": 1, "b!": 2, "c!": 3}, "map()")
        expect(
            dict(db.map(length_of, keys=(key for key in ("b", "nothing")), n_workers=1)), {"b!": 2}, "map(keys)"
        )


@example("keys: any text, and reads of it by URL")
def _(place: Place) -> None:
    keys = ["p%41", "q?z=1#f", "a/b/../c", "ä ö", "/", "!'()*", "\U0001f30a", "x" * 2000]
    place.pushed({key: key for key in keys})
    for remote in (place.connection(), place.url()):
        expect(place.seen(remote), {key: key for key in keys}, "what another machine sees")
