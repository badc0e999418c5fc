"""A part of the remote's history that is gone or damaged: copies that lag behind by more than the root tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx import ConflictError
from tests.yard import Yard

COMMITS = 6


def lose(yard: Yard, key: str) -> None:
    yard.store.delete(key)


def cut(yard: Yard, key: str) -> None:
    yard.store.put(key, yard.store.objects[key].data[:20])


def alter(yard: Yard, key: str) -> None:
    data = bytearray(yard.store.objects[key].data)
    data[-1] ^= 1
    yard.store.put(key, bytes(data))


def empty(yard: Yard, key: str) -> None:
    yard.store.put(key, b"")


def put_a_longer_one(yard: Yard, key: str) -> None:
    yard.store.put(key, b"\0" * (2 * 2**20))


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    """A remote whose root tells of two commits; the copy "b" lags behind them, with a change and a deletion."""
    monkeypatch.setattr("ebooklet_tx.index.history.KEEP_RECENT", 2)
    yard = Yard(tmp_path)
    yard.push({"k": b"first", "gone": b"1", "kept": b"2", "mine": b"3"})
    with yard.open("b", "w") as db:
        assert db["k"] == b"first"
        db["k"] = b"ours"
        del db["mine"]
    for number in range(COMMITS):
        yard.push({"k": b"theirs %d" % number})
    yard.push({"gone": None})
    return yard


@pytest.mark.parametrize("damage", [lose, cut, alter, empty, put_a_longer_one])
def test_a_copy_that_lags_reads_on_and_overwrites_nothing(
    yard: Yard, caplog: pytest.LogCaptureFixture, damage: Callable[[Yard, str], None]
) -> None:
    objects = yard.keys("history")
    for key in objects:
        damage(yard, key)
    with yard.open("b", "r") as db:
        db.changes().pull()
        assert {key: db[key] for key in db} == {"k": b"ours", "kept": b"2"}
    with yard.open("b", "w") as db:
        with pytest.raises(ConflictError, match="'k'"):
            db.changes().push()
        db.changes().resolve("k", "theirs")
        db["new"] = b"4"
        assert db.changes().push()
        assert db["k"] == b"theirs %d" % (COMMITS - 1)
    assert yard.fresh_contents()["k"] == b"theirs %d" % (COMMITS - 1)
    assert any(key in caplog.text or key.removeprefix("db.d/") in caplog.text for key in objects)
    assert "verify --repair" in caplog.text
