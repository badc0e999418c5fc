"""What a pull makes of a journal: known keys corrected, bases moved, own commits applied, adoption."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import OfflineError, TransientStoreError
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.commit import builder, publish
from tests.pairs import Bench, make, pending, push
from tests.store_wrappers import PassingStore

VALUES = {f"k{number:02}": b"%d" % number for number in range(40)}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A remote in tiny blocks, pushed by copy "a"."""
    tiny = functools.partial(RunWriter, sizes=Sizes(block_rows=4, object_blocks=4, page_entries=4))
    monkeypatch.setattr(publish, "RunWriter", tiny)
    monkeypatch.setattr(builder, "IndexLimits", functools.partial(IndexLimits, tail_rows=3))
    bench = Bench(tmp_path)
    make(bench, VALUES)
    return bench


def columns(db: Database, names: str) -> dict[str, tuple[Any, ...]]:
    with db._session.journal.reading() as raw:
        return {key: row for key, *row in raw.execute(f"SELECT key, {names} FROM entry ORDER BY key")}


def known(db: Database) -> dict[str, tuple[int, bytes | None]]:
    """What the journal holds to be in the remote, of the keys that it knows."""
    rows = columns(db, "known, remote_seq, remote_digest")
    return {key: (seq, digest) for key, (is_known, seq, digest) in rows.items() if is_known}


def test_only_keys_that_are_held_have_entries_and_only_those_are_corrected(bench: Bench) -> None:
    with bench.open("b") as db:
        assert (db["k01"], db["k02"], db.get("k99")) == (b"1", b"2", None)
        db.sync()
        push(bench, "a", {"k01": b"new", "k30": b"new", "k99": b"new"})
        assert db.changes().pull()
        assert known(db) == {"k01": (2, digest_of(b"new")), "k02": (1, digest_of(b"2"))}
        assert (db["k01"], db["k02"], db["k30"], db["k99"]) == (b"new", b"2", b"new", b"new")
        push(bench, "a", {"k02": None})
        db.changes().pull()
        assert known(db)["k02"] == (3, None)
        assert "k02" not in db


def test_the_base_of_an_operation_moves_with_commits_that_do_not_change_its_key(bench: Bench) -> None:
    with bench.open("b") as db:
        db["k05"] = b"blind"
        assert db["k06"] == b"6"
        db.sync()
        db["k06"] = b"seen"
        db.sync()
        first = db._session.journal.get_meta("base_commit_id")
        assert columns(db, "base_kind, base_at") == {"k05": [1, first], "k06": [0, first]}
        push(bench, "a", {"k30": b"elsewhere"})
        db.changes().pull()
        second = db._session.journal.get_meta("base_commit_id")
        assert second != first
        assert columns(db, "base_kind, base_at") == {"k05": [1, second], "k06": [0, second]}
        push(bench, "a", {"k05": b"theirs"})
        db.changes().pull()
        third = db._session.journal.get_meta("base_commit_id")
        found = columns(db, "known != 0, base_kind, base_at, base_digest, remote_digest")
        assert found["k05"] == [1, 0, second, digest_of(b"5"), digest_of(b"theirs")]
        assert found["k06"][1:3] == [0, third]
        assert [conflict.key for conflict in db.changes().conflicts()] == ["k05"]


class LosingStore(PassingStore):
    """Loses the answer to the replacement of the root, and lets nothing through after that."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.down = False

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        if (kind, key) == ("put", "db") and not self.down:
            self.down = True
            send()
        if self.down:
            raise TransientStoreError("the line is cut")
        return send()


def test_a_commit_whose_answer_was_lost_is_applied_and_what_came_after_stays(bench: Bench) -> None:
    with bench.open("b", wrap_store=LosingStore) as db:
        db.update({"k01": b"pushed", "k02": b"pushed", "k03": b"pushed"})
        del db["k04"]
        with pytest.raises(OfflineError):
            db.changes().push()
        db["k02"] = b"later"
        del db["k03"]
        db["k05"] = b"later"
        db.sync()
    with bench.open("b") as db:
        assert db._session.journal.rows("SELECT * FROM intent") == []
        assert pending(db) == {"k02": "set", "k03": "delete", "k05": "set"}
        sides = columns(db, "remote_digest, base_kind, base_digest")
        pushed = digest_of(b"pushed")
        assert [sides[key] for key in ("k01", "k02", "k03")] == [
            [pushed, 0, None],
            [pushed, 0, pushed],
            [pushed, 0, pushed],
        ]
        assert len(db) == len(VALUES) - 2
        push(bench, "a", {"k06": b"theirs"})
        assert db.changes().push()
    expected = VALUES | {"k01": b"pushed", "k02": b"later", "k05": b"later", "k06": b"theirs"}
    del expected["k03"], expected["k04"]
    assert bench.fresh_contents() == bench.contents("b") == expected


def test_a_file_without_its_journal_is_decided_by_timestamps_at_the_first_pull(bench: Bench) -> None:
    with bench.open("b") as db:
        assert len(dict(db.items())) == len(VALUES)
        db.set("k10", b"newer here", timestamp=2**51)
        db.set("k11", b"older here", timestamp=1_600_000_000_000_000)
        db["here"] = b"here alone"
    push(bench, "a", {"k11": b"theirs", "k12": b"theirs", "k13": None})
    for part in bench.folder.glob("b.blt.journal*"):
        part.unlink()
    with bench.open("b") as db:
        assert pending(db) == {"here": "set", "k10": "set"}
        assert db.changes().conflicts() == []
        expected = VALUES | {"k10": b"newer here", "k11": b"theirs", "k12": b"theirs", "here": b"here alone"}
        del expected["k13"]
        assert dict(db.items()) == dict(sorted(expected.items()))
        assert len(db) == len(expected)
        assert db.changes().push().set_count == 2
    assert bench.fresh_contents() == expected


def test_a_remote_that_was_replaced_makes_every_key_unknown(bench: Bench) -> None:
    with bench.open("b") as db:
        assert (db["k01"], db["k02"]) == (b"1", b"2")
        db.sync()
        with bench.open("c", "n") as other:
            other.update({"k02": b"2", "k03": b"anew"})
            other.changes().push()
        db.changes().pull()
        assert known(db) == {}
        assert dict(db.items()) == {"k02": b"2", "k03": b"anew"}
        assert db.get("k01") is None
        assert known(db)["k02"] == (2, digest_of(b"2"))
