"""Empty values: no bytes of them are ever fetched, and they are on this machine once they were read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import booklet
import pytest

from ebooklet_tx.database import Database
from tests.pairs import Bench, make, push

VALUES = {"empty": b"", "full": b"value", "none": b""}

READS: dict[str, Callable[[Database], object]] = {
    "load_items": Database.load_items,
    "load_items by key": lambda db: db.load_items(list(VALUES)),
    "get": lambda db: [db.get(key) for key in VALUES],
    "get_items": lambda db: list(db.get_items(VALUES)),
    "items": lambda db: list(db.items()),
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A remote with empty values, pushed by copy "a"."""
    bench = Bench(tmp_path)
    make(bench, VALUES)
    return bench


@pytest.mark.parametrize("how", READS)
def test_a_plain_booklet_sees_the_empty_values_that_were_read(how: str, bench: Bench) -> None:
    with bench.open("b") as db:
        READS[how](db)
    with booklet.open(bench.path("b")) as plain:
        assert dict(plain.items()) == VALUES


def test_an_empty_value_takes_the_place_of_an_older_copy(bench: Bench) -> None:
    with bench.open("b") as db:
        db.load_items()
    push(bench, "a", {"full": b""})
    with bench.open("b") as db:
        db.changes().pull()
        assert db["full"] == b""
    with booklet.open(bench.path("b")) as plain:
        assert dict(plain.items()) == VALUES | {"full": b""}


def test_a_vanished_remote_is_written_anew_with_the_empty_values(bench: Bench) -> None:
    with bench.open("b") as db:
        assert db.load_items() == {}
        bench.root.unlink()
        assert db.changes().push(force_push=True)
    assert bench.fresh_contents() == VALUES
