"""A damaged remote: every read gives the right value or raises an error of ours, and nothing local is lost."""

from __future__ import annotations

import ast
import random
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx.errors import (
    Error,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.formats.index_object import read_whole
from ebooklet_tx.formats.index_records import RunList
from ebooklet_tx.formats.root import decode_root, encode_root
from ebooklet_tx.index.building import TAIL_BYTES
from tests.campaigns import amounts
from tests.pairs import Bench, limit_tails, local_state, root_of

VALUES = {f"packed {number}": random.Random(number).randbytes(1500 + number) for number in range(3)}
VALUES["inline"] = b"rides in the root"
EXPECTED = VALUES | {"": {"m": 1}}
RIGHT = {"root": 0, "index": 2}
"""How many of them are served where that is damaged: those in the tail do not need the index object."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A remote of a root with a tail, one index object and one pack; copy "a" wrote it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebooklet_tx.sync.commit.push.INLINE_TOTAL_BYTES", 1000)
        limit_tails(patch, 0)
        bench = Bench(tmp_path_factory.mktemp("sound"))
        with bench.open("a") as db:
            for key, value in VALUES.items():
                if key != "inline":
                    db[key] = value
            db.changes().push()
            limit_tails(patch, TAIL_BYTES)
            db["inline"] = VALUES["inline"]
            db.set_metadata({"m": 1})
            db.changes().push()
    assert len(bench.objects("pack")) == len(bench.objects("index")) == 1
    assert decode_root(bench.root.read_bytes(), name="root").tail
    return bench


@pytest.fixture
def bench(sound: Bench, tmp_path: Path) -> Bench:
    """The remote alone, copied."""
    shutil.copytree(sound.folder / "remote", tmp_path / "remote")
    return Bench(tmp_path)


def target_of(bench: Bench, kind: str) -> Path:
    return bench.root if kind == "root" else bench.objects(kind)[0]


def read_all(bench: Bench, copy: str) -> tuple[int, int]:
    """Reads every key by a fresh copy; returns how many were right, and how many raised."""
    right = raised = 0
    try:
        db = bench.open(copy, "r")
    except Error:
        return 0, len(EXPECTED)
    with db:
        for key, value in EXPECTED.items():
            try:
                found = db.get_metadata() if key == "" else db[key]
            except Error:
                raised += 1
            else:
                assert found == value, f"a wrong value for {key!r}"
                right += 1
        try:
            assert dict(db.items()) == VALUES
        except Error:
            assert raised
        try:
            assert set(db) == set(VALUES)
        except Error:
            assert raised
    return right, raised


def looked_at(bench: Bench, index_object: bytes) -> set[int]:
    """Which bytes of the index object a reader needs: its blocks and its directory."""
    (run,) = root_of(bench).manifest.runs
    assert not isinstance(run, RunList)
    directory = read_whole(index_object, entry=run[0], name="the index object")
    parts = [(ref.offset_bytes, ref.length_bytes) for ref in directory.blocks]
    parts.append((run[0].directory_offset_bytes, run[0].directory_length_bytes))
    return {at for offset, length in parts for at in range(offset, offset + length)}


def forget(bench: Bench, copy: str) -> None:
    for path in (bench.path(copy), bench.journal(copy)):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("step", amounts(4, 1))
@pytest.mark.parametrize("kind", ["root", "index"])
def test_bytes_of_the_index_in_turn(bench: Bench, kind: str, step: int) -> None:
    target = target_of(bench, kind)
    original = target.read_bytes()
    rng = random.Random(kind)
    lookups = set() if kind == "root" else looked_at(bench, original)
    for position in range(0, len(original), step):
        damaged = bytearray(original)
        damaged[position] ^= 1 << rng.randrange(8)
        target.write_bytes(damaged)
        # Nothing of it is believed, so nothing is taken in, and the same copy can try again.
        needed = kind == "root" or position in lookups
        right = RIGHT[kind] if needed else len(EXPECTED)
        assert read_all(bench, "reader") == (right, len(EXPECTED) - right)
        if not needed:
            forget(bench, "reader")
    target.write_bytes(original)
    assert read_all(bench, "reader") == (len(EXPECTED), 0)


@pytest.mark.parametrize("step", amounts(4, 1))
def test_bytes_of_a_pack_in_turn(bench: Bench, step: int) -> None:
    target = target_of(bench, "pack")
    original = target.read_bytes()
    assert bench.contents("reader").keys() == EXPECTED.keys()
    forget(bench, "reader")
    with bench.open("reader", "r"):
        pass
    blank = bench.path("reader").read_bytes(), bench.journal("reader").read_bytes()
    raised_at = []
    # Every byte of what is no value, and some of each value.
    values = [(at, at + len(value)) for value in VALUES.values() if (at := original.find(value)) >= 0]
    assert len(values) == 3
    plain = [p for p in range(len(original)) if not any(a <= p < b for a, b in values)]
    for position in sorted([*plain, *(p for a, b in values for p in range(a, b, 97))])[::step]:
        damaged = bytearray(original)
        damaged[position] ^= 1 << (position % 8)
        target.write_bytes(damaged)
        # Put back as it was before anything was fetched; the file is another one, and settled as such.
        bench.path("reader").write_bytes(blank[0])
        bench.journal("reader").write_bytes(blank[1])
        _, raised = read_all(bench, "reader")
        # What is no value is not needed to read one; the values next to a damaged one are served.
        assert raised == (position not in plain)
        raised_at.append(position)
    assert raised_at


@pytest.mark.parametrize("kind", ["root", "index", "pack"])
def test_every_truncation(bench: Bench, kind: str) -> None:
    target = target_of(bench, kind)
    data = target.read_bytes()
    for length in sorted({0, 1, 7, 8, 15, 16, 35, 36, 100, len(data) // 2, len(data) - 1}):
        target.write_bytes(data[:length])
        forget(bench, "reader")
        right, raised = read_all(bench, "reader")
        assert raised >= 1
        if kind != "pack":
            assert right == RIGHT[kind]


@pytest.mark.parametrize("kind", ["index", "pack"])
def test_a_missing_object(bench: Bench, kind: str) -> None:
    target_of(bench, kind).unlink()
    right, raised = read_all(bench, "reader")
    assert (right, raised) == (2, 3)


def test_a_missing_root(bench: Bench) -> None:
    bench.root.unlink()
    with pytest.raises(RemoteMissingError, match="flag 'c'"):
        bench.open("reader", "r")
    assert not bench.path("reader").exists()


# -- what lies at the place is something else ----------------------------------------------------


def newer_root(data: bytes) -> bytes:
    return data[:8] + struct.pack("<H", 3) + data[10:]


def newer_flags(data: bytes) -> bytes:
    root = decode_root(data, name="root")
    encoded = bytearray(encode_root(root.manifest, root.tail))
    encoded[8:10] = struct.pack("<H", 9)
    return bytes(encoded)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: b"ebooklet-db\x00" + bytes(100), "ebooklet"),
        (lambda _: bytes.fromhex("04d3b294f2104162958d0400738c9e0a") + bytes(200), "ebooklet"),
        (lambda _: b"somebody's picture", "foreign object"),
        (lambda _: b"\xff" * 1000, "foreign object"),
        (newer_root, "Upgrade"),
        (newer_flags, "Upgrade"),
    ],
)
@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_foreign_objects_are_refused_and_left_alone(
    bench: Bench, make: Callable[[bytes], bytes], words: str, flag: str
) -> None:
    foreign = make(bench.root.read_bytes())
    bench.root.write_bytes(foreign)
    with pytest.raises(UnsupportedFormatError, match=words):
        bench.open("reader", flag)
    assert bench.root.read_bytes() == foreign
    assert not bench.path("reader").exists()


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_another_database_in_its_place(bench: Bench, flag: str) -> None:
    assert bench.contents("reader") == EXPECTED
    other = Bench(bench.folder, "other")
    with other.open("other") as db:
        db["k"] = b"1"
        db.changes().push()
    before = bench.path("reader").read_bytes(), local_state(bench.path("reader"))
    bench.root.write_bytes(other.root.read_bytes())
    with pytest.raises(UUIDMismatchError, match="flag 'n'"):
        bench.open("reader", flag)
    assert (bench.path("reader").read_bytes(), local_state(bench.path("reader"))) == before


# -- the local side stays as it was --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["root", "pack"])
def test_a_writer_loses_nothing_to_a_damaged_remote(sound: Bench, tmp_path: Path, kind: str) -> None:
    shutil.copytree(sound.folder, tmp_path, dirs_exist_ok=True)
    bench = Bench(tmp_path)
    # A machine that has not fetched everything, with a change of its own.
    with bench.open("b", "w") as db:
        assert db["packed 1"] == VALUES["packed 1"]
        db["mine"] = b"pending"
    before = local_state(bench.path("b"))
    data = bytearray(target_of(bench, kind).read_bytes())
    data[-5] ^= 16
    target_of(bench, kind).write_bytes(data)
    if kind == "root":
        for flag in ("r", "w", "c"):
            with pytest.raises(RemoteIntegrityError, match="not a sound root"):
                bench.open("b", flag)
    else:
        with bench.open("b", "w") as db:
            assert db["mine"] == b"pending"
            assert db["packed 1"] == VALUES["packed 1"]
            # One byte is wrong, and one value is refused for it.
            assert list(db.load_items()) == ["packed 2"]
    after = local_state(bench.path("b"))
    # More was fetched, and nothing else has changed.
    assert {key: after[key] for key in before} == before
    assert kind == "pack" or after == before


def test_a_pull_of_a_damaged_index_object_changes_nothing(sound: Bench, tmp_path: Path) -> None:
    shutil.copytree(sound.folder, tmp_path, dirs_exist_ok=True)
    bench = Bench(tmp_path)
    with bench.open("b", "w") as db:
        assert dict(db.items()) == VALUES
    with pytest.MonkeyPatch.context() as patch:
        limit_tails(patch, 0)
        with bench.open("a", "w") as db:
            db["later"] = b"1" * 500
            db.changes().push()
    index_object = bench.objects("index")[-1]
    data = index_object.read_bytes()
    before = local_state(bench.path("b"))
    for damaged in (data[:-1], data[:50] + b"X" + data[51:], b""):
        index_object.write_bytes(damaged)
        with pytest.raises(RemoteIntegrityError, match="index object"):
            bench.open("b", "w")
        assert local_state(bench.path("b")) == before
    index_object.write_bytes(data)
    assert bench.contents("b") == EXPECTED | {"later": b"1" * 500}


def test_a_damaged_pack_is_served_by_a_machine_that_has_the_values(sound: Bench, tmp_path: Path) -> None:
    shutil.copytree(sound.folder, tmp_path, dirs_exist_ok=True)
    bench = Bench(tmp_path)
    pack = bench.objects("pack")[0]
    data = bytearray(pack.read_bytes())
    at = data.index(VALUES["packed 2"])
    for position in range(at, at + 1000, 100):
        data[position] ^= 255
    pack.write_bytes(data)
    with bench.open("b", "r") as db:
        with pytest.raises(RemoteIntegrityError, match="writes it anew on a machine") as raised:
            db["packed 2"]
        assert db["packed 1"] == VALUES["packed 1"]
    (named,) = re.findall(r"compact\(packs=\[('.*?')\]\)", str(raised.value))
    # The writer has them.
    with bench.open("a", "w") as db:
        assert dict(db.items()) == VALUES
        db.compact(packs=[ast.literal_eval(named)])
    assert bench.fresh_contents() == EXPECTED
    assert bench.contents("b") == EXPECTED


def test_a_vanished_store_folder(bench: Bench) -> None:
    assert bench.contents("reader") == EXPECTED
    shutil.rmtree(bench.folder / "remote")
    with pytest.raises((RemoteMissingError, ObjectMissingError)):
        bench.open("reader", "r")
