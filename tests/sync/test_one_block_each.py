"""The Booklet file has one block of each key, whatever took the place of its value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx import Database
from tests.faults.scenarios import plain_content_of
from tests.pairs import Bench, make, push

FIRST = {f"k{number:02}": bytes([number]) * 900 for number in range(20)}
NEW: dict[str, bytes | None] = {f"k{number:02}": bytes([number]) * 3000 for number in range(4)}


def _write(db: Database) -> None:
    db["k01"] = b"ours"
    db["k09"] = b"ours"


def _write_twice(db: Database) -> None:
    _write(db)
    db.sync()
    db.changes().push()
    db["k01"] = bytes(200_000)


WAYS: dict[str, Callable[[Database], object]] = {
    "nothing": lambda db: None,
    "load": lambda db: db.load_items(),
    "reads": lambda db: [db[key] for key in NEW],
    "one read": lambda db: dict(db.get_items(NEW)),
    "all": lambda db: dict(db.items()),
    "writes": _write,
    "writes and a push": _write_twice,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_value_that_was_pulled_takes_the_place_of_the_earlier_one(tmp_path: Path, way: str) -> None:
    bench = Bench(tmp_path)
    make(bench, FIRST)
    push(bench, "elsewhere", NEW | {"k09": None})
    with bench.open("a", "w") as db:
        db.changes().pull()
        WAYS[way](db)
    plain_content_of(bench.path())
    with bench.open("a", "w") as db:
        assert not db.load_items()
        expected = dict(db.items())
    assert plain_content_of(bench.path()) == expected
