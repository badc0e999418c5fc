"""Forks, and readers without a file, on every store that can write."""

from __future__ import annotations

from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.maintenance import checking
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import wrapped_stores
from tests.contract.conftest import ROOT, Subject
from tests.fleets import open_part, work
from tests.store_wrappers import PassingStore
from tests.yard import value

BASE = {f"k{number}": value(number, 900) for number in range(20)}


class Kept(PassingStore):
    """Stays open for the next session."""

    def close(self) -> None:
        pass


def test_one_commit_of_two_workers(subject: Subject, tmp_path: Path) -> None:
    retry = RetryPolicy.without_backoff(3)
    url, store = f"file://{tmp_path}/unused/{ROOT}", Kept(subject.store)
    with wrapped_stores(lambda _inner: store):
        with ebooklet_tx.open(url, tmp_path / "a.blt", "c", lock=None, retry=retry) as db:
            db.update(BASE)
            db.changes().push()
            fork = db.fork()
            one = work(fork, store, {"k0": b"one", "k1": None, "both": b"1"}, worker="one")
            other = work(fork, store, {"k2": value("other"), "both": b"2"}, worker="other")
            with pytest.raises(ebooklet_tx.ConflictError, match="'both' by one and by other"):
                db.merge(one, other)
            db.merge(one, other, on_conflict="theirs")
            assert (db["k2"], db["both"], len(db)) == (value("other"), b"2", 20)
            assert db.changes().push().set_count == 3
        report = checking.collect(url, grace_seconds=0, retry=retry)
        assert not any("fork/" in name for name in report.deleted_names)
        with open_part(fork, store) as part:
            assert dict(part) == BASE
        with ebooklet_tx.open(url, None) as reader:
            expected = BASE | {"k0": b"one", "k2": value("other"), "both": b"2"}
            del expected["k1"]
            assert dict(reader) == expected
        assert checking.verify(url, read_values=True).sound
