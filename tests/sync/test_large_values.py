"""Values too large to hold: loaded, rebuilt and pushed a piece at a time, and right or not there at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx.errors import LocalIntegrityError
from ebooklet_tx.formats import pack
from ebooklet_tx.local import rebuild
from ebooklet_tx.local.files import file_region
from ebooklet_tx.local.files.file_region import FileRegion
from ebooklet_tx.sync.commit import packing
from ebooklet_tx.sync.read import load, ranges
from tests.pairs import Bench, make, many_large

VALUES = many_large(3) | {"small": b"s", "middle": b"m" * 2_000}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LARGE_VALUE_BYTES", 10_000)
    monkeypatch.setattr(ranges, "MAX_RANGE_BYTES", 7_000)
    monkeypatch.setattr(rebuild, "LARGE_VALUE_BYTES", 10_000)
    monkeypatch.setattr(file_region, "CHUNK_BYTES", 3_000)
    monkeypatch.setattr(pack, "PACK_BYTES", 10_000)
    monkeypatch.setattr(packing, "PACK_BYTES", 10_000)
    monkeypatch.setattr(packing, "PART_BYTES", 8_000)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    make(bench, VALUES)
    yield bench
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


def plain(bench: Bench, copy: str) -> dict[str, bytes]:
    with booklet.open(bench.path(copy)) as blt:
        return dict(blt.items())


@pytest.mark.parametrize("flag", ["r", "w"])
def test_loading_brings_them_without_holding_them(
    bench: Bench, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.open("b", "c"):
        pass
    with bench.open("b", flag) as db:
        lengths: list[int] = []
        store = db._session.remote.store
        real = store.get_range

        def watched(name: str, offset: int, length: int, **options: Any) -> bytes:
            lengths.append(length)
            return real(name, offset, length, **options)

        monkeypatch.setattr(store, "get_range", watched)
        assert db.load_items() == {}
        assert max(lengths) <= 7_000
        assert sum(lengths) >= 120_000
        lengths.clear()
        assert db.load_items() == db.load_items(["k00", "small", "not there"]) == {}
        assert lengths == []
        assert dict(db.items()) == VALUES
    assert plain(bench, "b") == VALUES


def test_a_rebuild_copies_them(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["k00"] = b"short now"
        assert db.prune() == 1
        assert dict(db.items()) == VALUES | {"k00": b"short now"}
    assert plain(bench, "a") == VALUES | {"k00": b"short now"}


def damage(path: Path, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(value)
    data[at + 20_000] ^= 1
    path.write_bytes(data)


def test_a_damaged_local_copy_is_fetched_again(bench: Bench) -> None:
    stat = bench.path().stat()
    damage(bench.path(), VALUES["k01"])
    os.utime(bench.path(), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with bench.open("a", "w") as db:
        assert db.load_items() == {}
        assert dict(db.items()) == VALUES
    assert plain(bench, "a") == VALUES


def test_damage_that_nobody_can_heal_is_told(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["new"] = b"n" * 30_000
        db.sync()
    damage(bench.path(), b"n" * 30_000)
    with bench.open("a", "w") as db:
        failures = db.load_items()
        assert list(failures) == ["new"]
        assert "the remote does not have it" in failures["new"]
        with pytest.raises(LocalIntegrityError, match="can't be pushed"):
            db.changes().push()


def test_a_damaged_remote_copy_is_not_kept(bench: Bench) -> None:
    (found,) = [path for path in bench.objects("pack") if VALUES["k02"] in path.read_bytes()]
    damage(found, VALUES["k02"])
    with bench.open("b") as db:
        failures = db.load_items()
        assert list(failures) == ["k02"]
        assert f"compact(packs=['pack/{found.name}'])" in failures["k02"]
    assert plain(bench, "b") == {key: value for key, value in VALUES.items() if key != "k02"}


def test_an_object_that_is_gone(bench: Bench) -> None:
    (found,) = [path for path in bench.objects("pack") if VALUES["k02"] in path.read_bytes()]
    with bench.open("b") as db:
        found.unlink()
        failures = db.load_items(["k02", "k01"])
        assert list(failures) == ["k02"]
        assert "still names its object" in failures["k02"]


def test_a_pack_that_was_written_anew_meanwhile_is_found(bench: Bench) -> None:
    (found,) = [path for path in bench.objects("pack") if VALUES["k02"] in path.read_bytes()]
    with bench.open("b") as reader:
        with bench.open("a", "w") as db:
            db.compact(packs=[f"pack/{found.name}"])
        found.unlink()
        assert reader.load_items() == {}
        assert dict(reader.items()) == VALUES


def test_beside_a_writer_it_says_that_nothing_was_kept(bench: Bench) -> None:
    with bench.open("b", "c"):
        pass
    with bench.open("b", "r") as reader, bench.open("b", "w"):
        failures = reader.load_items(["k00"])
        assert "another session writes" in failures["k00"]
        assert reader["k00"] == VALUES["k00"]


def test_a_full_disk_leaves_the_file_as_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench.open("b", "w") as db:
        db["mine"] = b"1"
        db.sync()
        real = os.pwrite

        def full(fd: int, data: Any, offset: int) -> int:
            if len(data) == 3_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data, offset)

        with monkeypatch.context() as patches:
            patches.setattr(os, "pwrite", full)
            assert "the disk is full" in db.load_items(["k00"])["k00"]
        assert db["mine"] == b"1"
        assert db.load_items() == {}
        assert dict(db.items()) == VALUES | {"mine": b"1"}
    assert plain(bench, "b") == VALUES | {"mine": b"1"}


def test_a_region_that_ends_early_is_no_value(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"12345")
    with (tmp_path / "short").open("rb") as raw:
        region = FileRegion(raw.fileno(), 2, 10, tmp_path / "short")
        assert len(region) == 10
        assert b"".join(region.chunks()) == b"345"
