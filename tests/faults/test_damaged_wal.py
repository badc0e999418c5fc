"""Bits and sectors that change in the WAL after a commit was acknowledged: set right, or told."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.local.journal.integrity.wal import read_wal
from tests.pairs import Bench, flip, push

BASE = {f"k{number:03}": b"value %d" % number for number in range(60)}
FLIPS = 40
SOME_FLIPS = 5
PARTS = ("", ".journal", ".journal-wal", ".journal-mark")


class Killed:
    """A pair as a killed writer leaves it: what it acknowledged lies in the WAL."""

    def __init__(self, folder: Path) -> None:
        self._made = Bench(folder / "made")
        self._made.folder.mkdir()
        push(self._made, "a", BASE)
        self.commits: list[dict[str, bytes]] = [dict(BASE)]
        with self._made.open("a", "w") as db:
            for number in range(12):
                # Not by sync(), which leaves the values in the Booklet file.
                with db.transaction():
                    for key in (f"k{number:03}", f"new {number}"):
                        db[key] = random.Random(f"{number}{key}").randbytes(300)
                    if number == 8:
                        db["large"] = random.Random(8).randbytes(20_000)
                    del db[f"k{number + 30:03}"]
                self.commits.append(dict(db.items()))
            for part in PARTS:
                self._copy(self._made.path(), folder / "killed.blt", part)
        self._folder = folder
        self._copies = 0

    @staticmethod
    def _copy(source: Path, target: Path, part: str) -> None:
        there = source.with_name(source.name + part)
        if there.exists():
            shutil.copy(there, target.with_name(target.name + part))

    @property
    def expected(self) -> dict[str, bytes]:
        return self.commits[-1]

    def leave(self, *, without: tuple[str, ...] = ()) -> Bench:
        """Makes the pair anew, with its remote."""
        self._copies += 1
        bench = Bench(self._folder / f"copy{self._copies}")
        shutil.copytree(self._made.folder / "remote", bench.folder / "remote")
        for part in PARTS:
            if part not in without:
                self._copy(self._folder / "killed.blt", bench.path(), part)
        return bench


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return Killed(tmp_path_factory.mktemp("wal"))


def wal(bench: Bench) -> Path:
    return bench.folder / "a.blt.journal-wal"


def look(bench: Bench, flag: str = "w") -> tuple[dict[str, bytes], str]:
    """Opens a pair; returns what it holds, and what it says about that."""
    with bench.open("a", flag) as db:
        return dict(db.items()), "; ".join(db._session.local.report.actions)


def test_what_a_killed_writer_acknowledged_is_there_without_a_word(killed: Killed) -> None:
    found, told = look(killed.leave())
    assert found == killed.expected
    assert "acknowledged" not in told
    for path in killed.leave().folder.iterdir():
        assert ".aside" not in path.name


UNMARKED = (".journal-mark",)


@pytest.mark.parametrize(
    ("flag", "without", "flips"),
    [
        ("w", (), FLIPS),
        ("r", (), SOME_FLIPS),
        ("w", UNMARKED, SOME_FLIPS),
        ("r", UNMARKED, SOME_FLIPS),
        pytest.param("r", (), 10 * FLIPS, marks=pytest.mark.slow),
        pytest.param("w", UNMARKED, 10 * FLIPS, marks=pytest.mark.slow),
    ],
)
def test_bits_of_the_wal(killed: Killed, flag: str, without: tuple[str, ...], flips: int) -> None:
    rng = random.Random(9)
    healed = 0
    silent = []
    for number in range(flips):
        bench = killed.leave(without=without)
        size = wal(bench).stat().st_size
        byte, bit = rng.randrange(size), rng.randrange(8)
        flip(wal(bench), byte, bit)
        found, told = look(bench, flag)
        healed += found == killed.expected
        if found != killed.expected and "acknowledged" not in told:
            silent.append((number, byte, bit))
        assert found in killed.commits or found == killed.expected
        shutil.rmtree(bench.folder)
    assert silent == []
    # The upper bits of a word are all alike to SQLite's checksum; what it can tell is set right.
    assert healed >= flips * 5 // 8


def test_no_bit_of_header_and_first_frame_is_set_wrong(killed: Killed) -> None:
    whole = wal(killed.leave()).read_bytes()[: 32 + 12 * (24 + 4096)]
    rng = random.Random(10)
    for byte in [*range(16, 56), *(rng.randrange(56, 56 + 4096) for _ in range(6))]:
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << rng.randrange(8)
        reading = read_wal(bytes(damaged))
        for offset, right in reading.fixes:
            damaged[offset : offset + len(right)] = right
        assert bytes(damaged) == whole or (reading.damaged and not reading.fixes), byte
        assert not reading.damaged or byte % 4 == 3


def test_a_sector_of_the_wal_is_told_and_all_before_it_is_there(killed: Killed) -> None:
    rng = random.Random(11)
    for _ in range(5):
        bench = killed.leave()
        content = bytearray(wal(bench).read_bytes())
        start = rng.randrange(len(content) // 512) * 512
        content[start : start + 512] = rng.randbytes(512)
        wal(bench).write_bytes(content)
        kept = wal(bench).read_bytes()
        found, told = look(bench)
        assert found == killed.expected or "acknowledged commits" in told
        for key, value in found.items():
            assert value in [commit.get(key) for commit in killed.commits]
        asides = [
            path for path in bench.folder.iterdir() if ".aside-" in path.name and path.name.endswith("-wal")
        ]
        assert [path.read_bytes() for path in asides] == [kept]
        assert look(bench)[1] == ""


@pytest.mark.parametrize("damage", ["removed", "emptied", "cut"])
def test_a_wal_that_is_missing_is_told(killed: Killed, damage: str) -> None:
    bench = killed.leave()
    if damage == "removed":
        wal(bench).unlink()
    else:
        content = wal(bench).read_bytes()
        wal(bench).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    found, told = look(bench)
    assert found in killed.commits
    assert "acknowledged commits" in told
    assert look(bench) == (found, "")


def test_a_torn_end_of_what_was_never_acknowledged_is_no_damage(killed: Killed) -> None:
    bench = killed.leave()
    whole = wal(bench).read_bytes()
    frame = 24 + 4096
    # A transaction that power loss tore: its first frame is missing, its last, committing one is there.
    torn = bytearray(whole + whole[-frame:] + whole[-frame:])
    torn[-2 * frame : -frame] = bytes(frame)
    for without in ((), (".journal-mark",)):
        bench = killed.leave(without=without)
        wal(bench).write_bytes(torn)
        found, told = look(bench)
        assert found == killed.expected
        assert "acknowledged" not in told


def test_a_mark_that_lags_or_is_garbage_is_no_damage(killed: Killed) -> None:
    bench = killed.leave()
    mark = bench.folder / "a.blt.journal-mark"
    for content in (b"", bytes(40), random.Random(1).randbytes(40), mark.read_bytes()[:-1]):
        bench = killed.leave()
        (bench.folder / "a.blt.journal-mark").write_bytes(content)
        found, told = look(bench)
        assert found == killed.expected
        assert "acknowledged" not in told


def test_status_tells_before_anything_is_done(killed: Killed) -> None:
    bench = killed.leave()
    content = wal(bench).read_bytes()
    wal(bench).write_bytes(content[: len(content) // 2])
    found = ebooklet_tx.status(bench.path())
    assert any("acknowledged commits" in repair for repair in found.repairs)
    assert wal(bench).read_bytes() == content[: len(content) // 2]


def test_a_clean_close_leaves_no_mark(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    push(bench, "a", BASE)
    with bench.open("a", "w") as db:
        db["k"] = b"1"
        db.sync()
        assert (tmp_path / "a.blt.journal-mark").exists()
    assert not (tmp_path / "a.blt.journal-mark").exists()
