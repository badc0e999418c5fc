"""What a push says of its commit, and how the history shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx import InvalidArgumentError
from ebooklet_tx.index import history as histories
from ebooklet_tx.maintenance import status
from tests.pairs import commits_of, index_of
from tests.store_wrappers import Fault, faulty
from tests.yard import Yard


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_a_message_is_kept_and_seen_by_another_machine(yard: Yard) -> None:
    said = "gauge 7 recalibrated\n\tby Ánna"
    with yard.open() as db:
        db["a"] = b"1"
        db.changes().push(message=said)
        db["a"] = b"2"
        db.changes().push()
        assert [commit.message for commit in db.history()] == ["", said]
    with yard.open("other", "r") as other:
        assert [(commit.seq, commit.message) for commit in other.history()] == [(2, ""), (1, said)]
        assert other.history(1)[0].seq == 2
        assert isinstance(other.history(1)[0], ebooklet_tx.CommitRecord)


def test_a_message_that_cannot_be_kept_is_refused_before_anything_is_pushed(yard: Yard) -> None:
    with yard.open() as db:
        db["a"] = b"1"
        for message in ("m" * 4097, "é" * 2049, "\x1b[2J", "\ud800", b"bytes", None):
            with pytest.raises(InvalidArgumentError, match="a message must be a str of at most 4096 bytes"):
                db.changes().push(message=message)  # type: ignore[arg-type]
        assert [change["key"] for change in db.changes().iter_changes()] == ["a"]
        assert db.changes().push(message="é" * 2048)


def test_a_history_has_a_positive_length(yard: Yard) -> None:
    with yard.open() as db:
        for limit in (0, -1, True, 1.5, "3"):
            with pytest.raises(InvalidArgumentError, match="limit must be an int from 1 on"):
                db.history(limit)  # type: ignore[arg-type]


def test_a_message_survives_rounds_and_a_push_that_succeeded_unseen(yard: Yard) -> None:
    with yard.open() as db:
        db["a"] = b"1"
        db.changes().push(message="first")
        yard.push({"b": b"other"}, copy="other")
        db["a"] = b"2"
        db.changes().push(message="on top of another writer")
        assert [commit.message for commit in db.history()] == ["on top of another writer", "", "first"]
    lost = faulty(Fault(1, ebooklet_tx.OfflineError("gone"), after=True, kind="put"))
    with yard.open(wrap=lost) as db:
        db["a"] = b"3"
        with pytest.raises(ebooklet_tx.OfflineError):
            db.changes().push(message="the answer is lost")
        db.changes().push(message="nothing is left to say it of")
        assert db.history(1)[0].message == "the answer is lost"


def test_older_commits_are_read_from_the_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "KEEP_RECENT", 3)
    url, path = f"file://{tmp_path}/remote/db", tmp_path / "a.blt"
    with ebooklet_tx.open(url, path, "c") as db:
        assert db.history() == []
        for number in range(8):
            db["a"] = b"%d" % number
            db.changes().push(message=f"push {number}")
        assert index_of(db).manifest.histories
        told = [commit.message for commit in db.history()]
        assert told == [f"push {number}" for number in range(7, -1, -1)]
        assert commits_of(db)[::-1] == db.history()
    assert [record.message for record in status.history(path)] == told
    assert [record.message for record in status.history(path, 1)] == told[:1]


def test_the_log_shows_what_is_here_where_the_remote_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(histories, "KEEP_RECENT", 3)
    url, path = f"file://{tmp_path}/remote/db", tmp_path / "a.blt"
    with ebooklet_tx.open(url, path, "c") as db:
        for number in range(5):
            db["a"] = b"%d" % number
            db.changes().push()
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    assert status.history(path)[0].seq == 5
    assert "can't be" in caplog.text
