"""Creators and replacements at random: whoever has pulled and has nothing pending has what the remote has."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.pairs import pending
from tests.yard import Yard, value

COPIES = "abc"


def _change(source: random.Random, yard: Yard, copy: str) -> None:
    with yard.open(copy) as db:
        for _ in range(source.randrange(1, 5)):
            key = f"k{source.randrange(8)}"
            if key in db and source.random() < 0.3:
                del db[key]
            else:
                db[key] = value(source.randrange(5), source.choice([0, 20, 5000]))
        if source.random() < 0.2:
            db.set_metadata({"by": copy})


def _push(source: random.Random, yard: Yard, copy: str) -> None:
    with yard.open(copy, on_conflict=source.choice(["ours", "theirs", "newest"])) as db:
        db.changes().push()
        assert pending(db) == {}
        found = dict(db.items())
    assert found == yard.fresh_contents()


def _replace(source: random.Random, yard: Yard, copy: str) -> None:
    with yard.open(copy, "n") as db:
        uuid = db.uuid
        db.update({f"k{number}": value(source.randrange(5)) for number in range(source.randrange(4))})
    if source.random() < 0.5:
        other = source.choice([name for name in COPIES if name != copy])
        _push(source, yard, other)
    with yard.open(copy) as db:
        assert db.changes().push(force_push=source.random() < 0.3)
        assert db.uuid == uuid
        found = dict(db.items())
    assert found == yard.fresh_contents()


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 60))])
def test_copies_follow_whatever_is_done(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    yard = Yard(tmp_path)
    # Copies of one another, or made by three who had not heard of each other.
    together = [yard.open(name) for name in COPIES] if seed % 2 else []
    for number, db in enumerate(together):
        db.update({"k0": value(0), f"k{number}": b"1"})
        db.close()
    yard.push({"k0": value(0), "k1": b"1"}, "a")
    for name in COPIES:
        with yard.open(name):
            pass
    for _ in range(12):
        step = source.choice([_change, _change, _change, _push, _push, _replace])
        step(source, yard, source.choice(COPIES))
        if source.random() < 0.1:
            yard.compact(source.choice(COPIES), live_share=1.0)
    assert yard.verify(read_values=True).sound
    yard.collect(at_hours=100)
    for name in COPIES:
        _push(source, yard, name)
    expected = yard.fresh_contents()
    for name in COPIES:
        assert yard.contents(name) == expected
    assert yard.verify(read_values=True).sound
