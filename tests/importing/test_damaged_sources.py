"""Sources that are damaged, hostile, or something else: refused before anything is written, or key by key."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    OfflineError,
    RemoteAccessError,
    RemoteIntegrityError,
    RemoteMissingError,
    UnsupportedFormatError,
)
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from tests.ebooklet_remotes import (
    FIRST_US,
    KEY,
    LAYOUTS,
    METADATA,
    PLACE,
    Objects,
    bucket_in_memory,
    golden_contents,
    golden_objects,
    index_of,
    made_objects,
    root_of,
    shelved,
)
from tests.pairs import Bench

VALUES = {f"k{number}": (FIRST_US + number, b"value %d" % number) for number in range(5)}
STAMP = FIRST_US.to_bytes(7, "little")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def run(objects: Objects | ObjectStore, bench: Bench, **options: Any) -> ebooklet_tx.ImportReport:
    store = shelved(objects) if isinstance(objects, dict) else objects
    with bucket_in_memory(store):
        return ebooklet_tx.import_ebooklet(
            PLACE, bench.url, bench.path(), retry=RetryPolicy.without_backoff(), lock_timeout=5.0, **options
        )


def made(layout: str) -> Objects:
    return made_objects(layout, VALUES, serializer=None, group_bytes=30)


def with_root(root: bytes, **described: str) -> Objects:
    return {KEY: (root, described)}


def grouped(rows: dict[str, bytes], groups: dict[str, str] | None = None, **options: Any) -> Objects:
    return with_root(root_of(groups or {}, None, index_of(rows, 19, **options)))


ROW = STAMP + bytes(12)
DAMAGED: dict[str, tuple[Objects, str]] = {
    "a wrong count": (with_root(index_of({"k": STAMP}, 7, count=2)), "counts 2 keys, and it holds 1"),
    "a count in the billions": (with_root(index_of({"k": STAMP}, 7, count=2**32 - 2)), "counts 4294967294 keys"),
    "a cut index": (with_root(index_of({"k": STAMP}, 7)[:-3]), "cut off at byte"),
    "another key's hash": (with_root(index_of({"k": STAMP}, 7)[:-8] + b"x" + STAMP), "does not carry its key's"),
    "buckets in the billions": (
        with_root(index_of({"k": STAMP}, 7)[:21] + b"\xff" * 4 + index_of({"k": STAMP}, 7)[25:]),
        "counts 1 keys, and it holds 0",
    ),
    "an empty key": (with_root(index_of({"": STAMP}, 7)), "key must not be empty"),
    "a time in the year 4253": (with_root(index_of({"k": b"\xff" * 7}, 7)), "no time from 1970"),
    "a header alone": (with_root(index_of({}, 7)[:100]), "no Booklet with values of one length"),
    "nothing behind the magic": (with_root(b"ebooklet-db\0"), "cut off after 12 bytes"),
    "lengths past the end": (
        with_root(b"ebooklet-db\0\0\2\0\0" + b"\xff" * 24),
        "its header says otherwise",
    ),
    "groups that are no JSON": (with_root(root_of({}, None, b"").replace(b"{}", b"{!")), "list of groups"),
    "a group's name with a path": (grouped({"k": ROW}, {"0": "../../x"}), "list of groups"),
    "groups in a list": (with_root(root_of([], None, index_of({}, 19))), "list of groups"),  # type: ignore[arg-type]
    "metadata without a time": (
        with_root(root_of({}, ({"n": 1}, -1), index_of({}, 19))),
        "metadata can't be read",
    ),
    "serializer that is no base64": (with_root(index_of({}, 7), init_bytes="!"), "of the serializer"),
    "serializer of another file": (with_root(index_of({}, 7), init_bytes="AAAA" * 100), "of the serializer"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_root_is_refused_before_anything_is_written(bench: Bench, what: str) -> None:
    objects, words = DAMAGED[what]
    with pytest.raises(RemoteIntegrityError, match=f"damaged root of ebooklet.*{words}"):
        run(objects, bench)
    assert list(bench.folder.iterdir()) == []


def test_a_key_that_is_there_twice(bench: Bench) -> None:
    once = index_of({"k": ROW, "l": ROW}, 19, count=3)
    block = once[-len(index_of({"l": ROW}, 19)) + len(index_of({}, 19)) :]
    with pytest.raises(RemoteIntegrityError, match="has the key b'l' twice"):
        run(with_root(root_of({}, None, once + block)), bench)


OTHER: dict[str, tuple[Objects, str]] = {
    "a root of this package": (with_root(b"EBTXroot" + bytes(100)), "no database of ebooklet"),
    "a local file": (
        with_root(bytes.fromhex("4f7e8a3fe75c4750ad430a728fe31cfe") + bytes(200)),
        "is a local file",
    ),
    "nothing": (with_root(b""), "no database of ebooklet"),
    "a later version": (with_root(b"ebooklet-db\0\0\3\0\0" + bytes(24)), "a root of version 3"),
    "rows of a later version": (with_root(root_of({}, None, index_of({}, 23))), "rows have 23 bytes"),
    "old rows in a new root": (with_root(root_of({}, None, index_of({}, 7))), "rows have 7 bytes"),
    "groups by hash": (with_root(root_of({}, None, index_of({"k": STAMP + b"1" * 8}, 15))), "groups by hash"),
    "groups by hash, said so": (
        made("per_key") | {KEY: (made("per_key")[KEY][0], {"num_groups": "9"})},
        "by hash",
    ),
    "a group": (
        made_objects("per_key", VALUES, type="RemoteConnGroup"),
        "connection group of ebooklet.*Import each",
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_something_else_is_refused(bench: Bench, what: str) -> None:
    objects, words = OTHER[what]
    with pytest.raises(UnsupportedFormatError, match=words):
        run(objects, bench)
    assert list(bench.folder.iterdir()) == []


def test_there_is_nothing(bench: Bench) -> None:
    with pytest.raises(RemoteMissingError, match="no database of ebooklet 'old'"):
        run({}, bench)


@pytest.mark.parametrize("target", [KEY, f"{KEY}/k1", f"{KEY}/new"])
def test_the_target_is_not_where_the_values_lie(bench: Bench, target: str) -> None:
    source = S3Connection("id", "key", KEY, "bucket", "http://127.0.0.1:9")
    with pytest.raises(InvalidArgumentError, match="give it a key of its own, such as 'old_tx'"):
        ebooklet_tx.import_ebooklet(source, dataclasses.replace(source, db_key=target), bench.path())


def test_a_database_of_ebooklet_at_the_target_is_left_alone(bench: Bench) -> None:
    root = golden_objects("grouped")[KEY][0]
    bench.root.parent.mkdir()
    bench.root.write_bytes(root)
    with pytest.raises(UnsupportedFormatError, match="ebooklet wrote"):
        run(made("grouped"), bench)
    assert bench.root.read_bytes() == root


@pytest.mark.parametrize("bound", [0, 1000, 1.5, "1"])
def test_too_small_a_bound(bench: Bench, bound: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_local_bytes"):
        run(made("grouped"), bench, max_local_bytes=bound)


# -- single values ---------------------------------------------------------------------------------


def drop(objects: Objects, name: str) -> None:
    del objects[name]


def cut(objects: Objects, name: str) -> None:
    objects[name] = objects[name][0][:-1], objects[name][1]


def flip(objects: Objects, name: str) -> None:
    data = bytearray(objects[name][0])
    data[6] ^= 1
    objects[name] = bytes(data), objects[name][1]


@pytest.mark.parametrize(
    ("layout", "damage"),
    [("one", drop), ("one", cut), ("one", flip), ("per_key", drop)]
    + [("grouped", damage) for damage in (drop, cut, flip)],
)
def test_a_value_that_is_lost_is_named_and_all_others_come(
    bench: Bench, layout: str, damage: Callable[[Objects, str], None]
) -> None:
    objects = made(layout)
    name = next(name for name in objects if name.startswith(f"{KEY}/1." if layout == "grouped" else f"{KEY}/k2"))
    whole = objects[name]
    damage(objects, name)
    with pytest.raises(
        RemoteIntegrityError, match=r"of the 5 values .*missing or damaged.*accept_missing"
    ) as raised:
        run(objects, bench)
    lost = raised.value.key
    assert lost in VALUES
    there = bench.fresh_contents()
    assert there[""] == METADATA if layout != "one" else "" not in there
    assert lost not in there
    report = run(objects, bench, accept_missing=True, verify=True)
    assert not report
    assert lost in report.missing
    assert report.missing_keys == len(report.missing) == 5 - report.present_keys
    assert report.verified_keys == report.present_keys > 0
    objects[name] = whole
    assert run(objects, bench, verify=True).verified_keys == 5


def test_what_the_source_has_lost_since_can_not_be_verified(bench: Bench) -> None:
    """The target has it all; the comparison has not."""
    objects = made("per_key")
    assert run(objects, bench)
    del objects[f"{KEY}/k2"]
    assert run(objects, bench).present_keys == 5
    report = run(objects, bench, verify=True, accept_missing=True)
    assert (report.present_keys, report.verified_keys, set(report.missing)) == (5, 4, {"k2"})
    with pytest.raises(RemoteIntegrityError, match="1 of the 5 values"):
        run(objects, bench, verify=True)


def test_a_group_that_the_root_does_not_name(bench: Bench) -> None:
    report = run(grouped({"k": STAMP + b"\x09\0\0\0" + bytes(8)}), bench, accept_missing=True)
    assert "does not name its group 9" in report.missing["k"]


def test_lengths_that_no_object_has_cost_nothing(bench: Bench) -> None:
    """The index promises 4 GiB; the group has a few bytes."""
    row = STAMP + bytes(4) + b"\xff" * 8
    objects = grouped({"k": row, "l": STAMP + bytes(8) + b"\xff" * 4}, {"0": "abc"})
    objects[f"{KEY}/0.0000000000abc"] = b"short", {}
    report = run(objects, bench, accept_missing=True)
    assert set(report.missing) == {"k", "l"}


@pytest.mark.parametrize("key", ["../../escape", "a//b", "/a", ".", "a/"])
def test_odd_keys_are_names_as_any_other(bench: Bench, key: str) -> None:
    objects = made_objects("per_key", {key: (FIRST_US, b"v"), "k": (FIRST_US, b"v")}, serializer=None)
    assert run(objects, bench, verify=True).verified_keys == 2


def test_a_folder_is_no_source(bench: Bench) -> None:
    """It can't hold a root and, below the same name, the values."""
    with pytest.raises(InvalidArgumentError, match="a bucket, or a web server"):
        ebooklet_tx.import_ebooklet(f"file://{bench.folder}/old", bench.url, bench.path())


class Refusing:
    """A store that refuses some names, as S3 does to those who may read and not list."""

    def __init__(self, inner: Any, refused: Callable[[str], bool], error: type[Error]) -> None:
        self._inner = inner
        self._refused = refused
        self._error = error

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("get", "get_range", "head"):
            return found

        def ask(key: str, *arguments: Any, **options: Any) -> Any:
            if self._refused(key):
                raise self._error(f"403: {key}")
            return found(key, *arguments, **options)

        return ask


def test_a_value_that_is_refused_counts_as_missing_while_the_root_is_not(bench: Bench) -> None:
    store: Any = Refusing(shelved(made("per_key")), lambda key: key.endswith("/k1"), RemoteAccessError)
    report = run(store, bench, accept_missing=True)
    assert set(report.missing) == {"k1"}


def test_credentials_that_run_out_end_it(bench: Bench) -> None:
    asked: list[str] = []

    def refused(key: str) -> bool:
        asked.append(key)
        return len(asked) > 4

    store: Any = Refusing(shelved(made("per_key")), refused, RemoteAccessError)
    with pytest.raises(RemoteAccessError):
        run(store, bench, accept_missing=True)


def test_a_source_that_can_not_be_reached_ends_it(bench: Bench) -> None:
    store: Any = Refusing(shelved(made("grouped")), lambda key: "/1." in key, OfflineError)
    with pytest.raises(OfflineError):
        run(store, bench, accept_missing=True)
    store = shelved(made("grouped"))
    assert run(store, bench, verify=True).verified_keys == 5


def test_a_target_that_lost_a_value_is_found_by_verify(bench: Bench) -> None:
    values = {f"k{number}": (FIRST_US, bytes([number]) * 50_000) for number in range(3)}
    objects = made_objects("grouped", values, serializer=None)
    run(objects, bench)
    pack = bench.objects("pack")[0]
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    report = run(objects, bench, verify=True)
    assert (report.differing_keys, len(report.differing), report.verified_keys, bool(report)) == (1, 1, 2, False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_in_the_root_never_leads_to_another_value(bench: Bench, layout: str) -> None:
    """It is refused, or loses keys, or does no harm. A value itself has no digest in what 0.11 stores."""
    expected = golden_contents(layout)
    source = random.Random(layout)
    for number in range(4):
        objects = golden_objects(layout)
        root, described = objects[KEY]
        data = bytearray(root)
        # In a row of the index: the key's hash and length, the key, time and place.
        at = root.index(b"k1%d" % number) + source.randrange(-20, 10)
        data[at] ^= 1 << source.randrange(8)
        objects[KEY] = bytes(data), described
        other = Bench(bench.folder, f"db{number}")
        with bucket_in_memory(shelved(objects)):
            try:
                ebooklet_tx.import_ebooklet(PLACE, other.url, other.path(f"c{number}"), accept_missing=True)
            except Error:
                continue
        with other.open(f"c{number}", "r") as db:
            found = {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)}
        assert found.items() <= expected.items(), at
