"""Single flipped bits in the Booklet file: no read ever gives a wrong value, and what can heals."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from pathlib import Path

import pytest

from ebooklet_tx.errors import Error, LocalIntegrityError
from ebooklet_tx.local.booklet.layout import BLOCK_HEAD_BYTES, Block, parse_header, scan_file
from ebooklet_tx.local.journal.entries import entries_where, pending_entries, visible_count
from ebooklet_tx.records import METADATA_KEY
from tests.campaigns import amounts
from tests.pairs import Bench, flip, mtime_kept, writer_store

RNG = random.Random(20_000)
VALUES = {f"key {number:03}": RNG.randbytes(RNG.choice([0, 10, 1000, 30_000])) for number in range(140)}
VALUES["zeros"] = bytes(20_000)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A pair of about 1 MB: most keys pushed, some pending, one deleted, and its remote."""
    bench = Bench(tmp_path_factory.mktemp("flips"))
    with bench.open("a", n_buckets=1000) as db:
        db.update(VALUES)
        db["deleted"] = b"deleted " * 100
        db["overwritten"] = b"old " * 100
        db._session.local.commit(fold=True)
        db.changes().push()
        del db["deleted"]
        db["overwritten"] = b"new " * 100
        db.set_metadata({"m": 1})
        db.changes().push()
    return bench


EXPECTED = VALUES | {"overwritten": b"new " * 100}
PENDING = {f"pending {number}": random.Random(number).randbytes(2000) for number in range(5)}


@pytest.fixture
def bench(pristine: Bench, tmp_path: Path) -> Bench:
    """The pair and its remote, copied; the copy counts as edited, so it is settled once."""
    for path in pristine.folder.rglob("*"):
        target = tmp_path / path.relative_to(pristine.folder)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif ".ebooklet_tx" not in path.name:
            target.write_bytes(path.read_bytes())
    bench = Bench(tmp_path)
    with bench.open("a", "w") as db:
        assert list(db.changes().iter_changes()) == []
    return bench


def live_blocks(path: Path) -> dict[bytes, Block]:
    with path.open("rb") as file:
        header = parse_header(file.read(200))
        assert header is not None
        scan = scan_file(file.fileno(), header)
    assert scan.damage == []
    return scan.live


def check(found: dict[str, bytes | None], expected: dict[str, bytes], *, may_miss: bool) -> int:
    """Fails on any wrong value; returns how many could not be had."""
    missing = 0
    for key, value in expected.items():
        if found.get(key) is None:
            missing += 1
        else:
            assert found[key] == value, f"a wrong value for {key!r}"
    assert may_miss or missing == 0
    extra = set(found) - set(expected)
    assert not extra, f"keys that were not there: {extra}"
    return missing


@pytest.mark.parametrize("flips", amounts(150, 2000))
def test_bits_in_an_open_file(bench: Bench, flips: int) -> None:
    with bench.open("a", "w") as db:
        db.update(PENDING)
        db._session.local.commit(fold=True)
        expected = EXPECTED | PENDING
        size = bench.path().stat().st_size
        assert 900_000 < size < 1_500_000
        store = db._session.local
        rng = random.Random(1)
        found_damaged = 0
        for _ in range(flips):
            byte, bit = rng.randrange(size), rng.randrange(8)
            with mtime_kept(bench.path()):
                flip(bench.path(), byte, bit)
            found = {key: store.read(entry) for key in expected if (entry := store.entry(key)) is not None}
            found_damaged += check(found, expected, may_miss=True)
            with mtime_kept(bench.path()):
                flip(bench.path(), byte, bit)
        # Nearly every bit of this file belongs to a value.
        assert flips * 3 // 4 < found_damaged < flips
        store._fetched._damaged.clear()
        assert dict(db.items()) == expected


@pytest.mark.parametrize("flips", amounts(8, 60))
def test_values_are_healed_from_the_remote(bench: Bench, flips: int) -> None:
    rng = random.Random(2)
    for _ in range(flips):
        size = bench.path().stat().st_size
        with mtime_kept(bench.path()):
            flip(bench.path(), rng.randrange(200, size), rng.randrange(8))
        with bench.open("a", "w") as db:
            assert dict(db.items()) == EXPECTED
            assert list(db.changes().iter_changes()) == []
        with writer_store(bench.path()) as store:
            # Closing has put the right bytes back, so no remote is needed any more.
            entries = {key: store.entry(key) for key in EXPECTED}
            assert {key: store.read(entry) for key, entry in entries.items() if entry} == EXPECTED


def test_a_reader_heals_too(bench: Bench) -> None:
    block = live_blocks(bench.path())[b"zeros"]
    with mtime_kept(bench.path()):
        flip(bench.path(), block.value_offset_bytes + 5000, 1)
    with bench.open("a", "r") as db:
        assert db["zeros"] == VALUES["zeros"]
    with writer_store(bench.path()) as store:
        entry = store.entry("zeros")
        assert entry is not None
        assert store.read(entry) == VALUES["zeros"]


def test_a_pending_value_that_is_damaged_raises(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db.update(PENDING)
    block = live_blocks(bench.path())[b"pending 3"]
    with mtime_kept(bench.path()):
        flip(bench.path(), block.value_offset_bytes + 77, 6)
    with bench.open("a", "w") as db:
        with pytest.raises(LocalIntegrityError, match="'pending 3'"):
            db["pending 3"]
        with pytest.raises(LocalIntegrityError, match="'pending 3'"):
            dict(db.items())
        assert list(db.load_items()) == ["pending 3"]
        with pytest.raises(LocalIntegrityError, match="'pending 3'"):
            db.changes().push()
        others = [key for key in db if key != "pending 3"]
        assert dict(db.get_items(others)) == {k: v for k, v in (EXPECTED | PENDING).items() if k in others}
        db["pending 3"] = b"set again"
        assert db.changes().push()
    assert bench.fresh_contents() == EXPECTED | PENDING | {"pending 3": b"set again", "": {"m": 1}}


# -- where a bit changes what Booklet makes of the file ------------------------------------------


TOUCHED = ("key 000", "key 070", "zeros", "overwritten", "pending 0", "new")


def read_local(path: Path) -> tuple[dict[str, bytes | None], dict[str, int]]:
    """What the local half gives without a remote, and its pending operations."""
    with writer_store(path) as store:
        entries = [entry for entry in entries_where(store.journal, "1") if entry.digest is not None]
        pending = {entry.key: entry.pending for entry in pending_entries(store.journal)}
        found = {entry.key: store.read(entry) for entry in entries if entry.key != METADATA_KEY}
        assert visible_count(store.journal) == len(found)
        # An append that follows whatever pointers are there now must neither hang nor harm.
        for key in TOUCHED:
            store.overlay.put(key, b"touched", 5)
        store.commit(fold=True)
        for entry in entries_where(store.journal, "key != ''"):
            if entry.digest is not None:
                assert store.read(entry) == (b"touched" if entry.key in TOUCHED else found[entry.key])
    return found, pending


class Restored:
    """Puts a pair back as it was after each flip, file identity and time included."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.names = [bench.path(), bench.journal()]
        self.saved = [path.read_bytes() for path in self.names]
        self.stat = bench.path().stat()
        self.inode = bench.folder / "the same inode"
        os.link(bench.path(), self.inode)

    @contextlib.contextmanager
    def flipped(self, byte: int, bit: int, *, noticed: bool):  # type: ignore[no-untyped-def]
        flip(self.bench.path(), byte, bit)
        if not noticed:
            os.utime(self.bench.path(), ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))
        try:
            yield
        finally:
            for path in self.bench.folder.glob("a.blt*"):
                if path not in self.names:
                    path.unlink()
            # A rebuild has put another file there.
            self.bench.path().unlink(missing_ok=True)
            os.link(self.inode, self.bench.path())
            for path, data in zip(self.names, self.saved, strict=True):
                with path.open("r+b") as file:
                    file.write(data)
                    file.truncate()
            os.utime(self.bench.path(), ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))


def interesting_bits(path: Path) -> list[tuple[int, int]]:
    """Bits of block heads, keys, the used part of the index and of the header."""
    raw = path.read_bytes()
    header = parse_header(raw)
    assert header is not None
    blocks = live_blocks(path)
    chosen = []
    for key in (b"key 000", b"key 070", b"zeros", b"overwritten", b"pending 0", b"pending 4"):
        block = blocks[key]
        chosen += range(block.position_bytes, block.position_bytes + BLOCK_HEAD_BYTES + len(key))
    # A dead block: only its pointer makes it dead.
    dead = raw.index(b"deleted deleted") - len(b"deleted") - BLOCK_HEAD_BYTES
    chosen += range(dead, dead + BLOCK_HEAD_BYTES + 7)
    index = range(header.index_offset_bytes, header.index_offset_bytes + header.n_buckets * 6)
    chosen += [at for at in index if raw[at]][:150]
    chosen += [*range(16, 77), 192, 199]
    return list(itertools.product(chosen, range(8)))


@pytest.mark.parametrize("flips", amounts(30, 240))
@pytest.mark.parametrize("noticed", [True, False], ids=["as an edit", "unnoticed"])
def test_structure_is_not_trusted(bench: Bench, noticed: bool, flips: int) -> None:
    with bench.open("a", "w") as db:
        db.update(PENDING)
        del db["key 001"]
    expected = EXPECTED | PENDING
    del expected["key 001"]
    operations = dict.fromkeys(PENDING, 1) | {"key 001": 2}
    bits = random.Random(3).sample(interesting_bits(bench.path()), k=flips)
    pair = Restored(bench)
    refused = 0
    for byte, bit in bits:
        with pair.flipped(byte, bit, noticed=noticed):
            try:
                found, pending = read_local(bench.path())
            except Error:
                refused += 1
                continue
            where = f"bit {bit} of byte {byte}"
            lost = check(found, expected, may_miss=True)
            assert lost == 0, f"{where}: {lost} values were lost with the structure"
            # A flipped timestamp can't be told from one that was set by hand.
            extra = set(pending) - set(operations)
            assert len(extra) <= 1, where
            assert {key: pending[key] for key in operations} == operations, where
    # Only a header that is no header of ours any more is refused.
    assert refused < flips // 8
