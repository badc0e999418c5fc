"""What must not be lost: a damaged file's bytes, and a transaction's wholeness beside fetched values."""

from __future__ import annotations

from pathlib import Path

import booklet
import pytest

from tests.pairs import Bench

GOLDEN = Path(__file__).parent.parent / "golden" / "ebooklet_0_11_1_none.blt"


def test_a_damaged_file_without_a_journal_is_kept_beside(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    damaged = bytearray(GOLDEN.read_bytes())
    damaged[65:71] = b"\x11" * 6
    bench.path().write_bytes(damaged)
    for _ in range(2):
        with bench.open():
            pass
        kept = list(tmp_path.glob("a.blt.damaged-*"))
        assert [file.read_bytes() for file in kept] == [bytes(damaged)]


def test_fetched_values_commit_nothing_of_a_transaction(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", "c") as db:
        db.update({f"k{number}": bytes(5000) + bytes([number]) for number in range(20)})
        db.changes().push()

    def write_read_and_fail() -> None:
        with bench.open("b", "w", buffer_size=4096) as db, db.transaction():
            db["mine"] = b"half"
            assert len(dict(db.items())) == 21
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        write_read_and_fail()
    with bench.open("b", "r") as db:
        assert "mine" not in db
        assert len(db) == 20


def test_values_that_ride_in_the_index_reach_a_plain_booklet_when_they_were_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer="orjson") as db:
        db["small"] = 1
        db.set_metadata({"owner": "me"})
        db.changes().push()
    with bench.open("b", "r") as db:
        assert db.load_items() == {}
    with booklet.open(bench.path("b")) as plain:
        assert plain["small"] == 1
        assert plain.get_metadata() == {"owner": "me"}
