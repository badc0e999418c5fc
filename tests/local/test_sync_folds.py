"""After sync() and push() the Booklet file alone is a complete, plain booklet, while the session is open."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import booklet
import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.local.booklet.layout import MAGIC, parse_header
from tests.pairs import LARGE, Bench

VALUES = {f"k{number:02}": b"value %d" % number for number in range(20)} | {"large": LARGE, "empty": b""}


def copied(bench: Bench, copy: str = "a") -> dict[str, Any]:
    """What plain booklet shows of a copy of the file that is taken now."""
    target = Path(shutil.copy(bench.path(copy), bench.folder / "copied.blt"))
    raw = target.read_bytes()
    header = parse_header(raw)
    assert raw[:16] == MAGIC
    assert header is not None
    with booklet.open(target) as blt:
        found = {key: blt[key] for key in blt}
        assert len(blt) == header.n_keys == len(found)
        # By iteration and by index alike.
        assert dict(blt.items()) == found
        metadata = blt.get_metadata()
    return found if metadata is None else found | {"": metadata}


@pytest.fixture
def db(tmp_path: Path) -> Any:
    with Bench(tmp_path).open("a") as db:
        yield db


def bench_of(db: Database) -> Bench:
    return Bench(db._session.local.path.parent)


def test_a_copy_taken_after_sync_has_every_key(db: Database) -> None:
    db.update(VALUES)
    db.set_metadata({"m": 1})
    db.sync()
    assert copied(bench_of(db)) == VALUES | {"": {"m": 1}}
    db["k01"] = b"overwritten"
    db.set_timestamp("k02", 1_700_000_000_000_000)
    del db["k03"]
    db["new"] = b"1"
    db.sync()
    expected = VALUES | {"k01": b"overwritten", "new": b"1", "": {"m": 1}}
    del expected["k03"]
    assert copied(bench_of(db)) == expected
    db.clear()
    db["only"] = b"1"
    db.sync()
    assert copied(bench_of(db)) == {"only": b"1", "": {"m": 1}}


def test_what_was_committed_before_is_in_the_copy_too(db: Database) -> None:
    with db.transaction():
        db.update(VALUES)
    with db.transaction():
        del db["k04"]
    assert copied(bench_of(db)) == {}, "a transaction may stage"
    db.sync()
    assert copied(bench_of(db)) == {key: value for key, value in VALUES.items() if key != "k04"}


def test_a_copy_taken_after_push_has_every_key(db: Database) -> None:
    db.update(VALUES)
    db.changes().push()
    assert copied(bench_of(db)) == VALUES
    del db["k05"]
    db.changes().push()
    assert copied(bench_of(db)) == {key: value for key, value in VALUES.items() if key != "k05"}


def test_what_a_push_gave_up_is_not_in_the_copy(db: Database) -> None:
    db.update(VALUES)
    db.changes().push()
    bench = bench_of(db)
    with bench.open("b") as other:
        other.update({"k06": b"theirs", "k07": b"theirs"})
        other.changes().push()
    db["k06"] = b"ours"
    db.changes().push(on_conflict="theirs")
    kept = {key: value for key, value in VALUES.items() if key not in ("k06", "k07")}
    assert copied(bench) == kept
    db.load_items()
    db.sync()
    assert copied(bench) == dict(db.items()) == kept | {"k06": b"theirs", "k07": b"theirs"}


def test_what_a_push_settled_by_a_value_is_in_the_copy(db: Database) -> None:
    db.update(VALUES)
    db.changes().push()
    bench = bench_of(db)
    with bench.open("b") as other:
        other["k06"] = b"theirs"
        other.changes().push()
    db["k06"] = b"ours"
    db.changes().push(on_conflict=lambda conflict: b"both")
    assert copied(bench) == dict(db.items()) == VALUES | {"k06": b"both"}


def test_the_index_of_a_copy_grows_with_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", n_buckets=17) as db:
        for start in range(0, 600, 100):
            values = {f"n{number}": b"%d" % number for number in range(start, start + 100)}
            db.update(values)
            db.sync()
        assert copied(bench) == {f"n{number}": b"%d" % number for number in range(600)}


def test_a_sync_of_nothing_writes_nothing(db: Database) -> None:
    db.update(VALUES)
    db.sync()
    path = db._session.local.path
    before = (path.stat().st_mtime_ns, path.read_bytes())
    db.sync()
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


# -- what waits in memory -------------------------------------------------------------------------


@pytest.mark.parametrize("values", [True, False])
def test_empty_values_and_deletes_do_not_wait_without_a_bound(tmp_path: Path, values: bool) -> None:
    keys = [f"key {number:04}" for number in range(400)]
    with Bench(tmp_path).open("a", buffer_size=800) as db:
        if not values:
            db.update(dict.fromkeys(keys, b"1"))
            db.sync()
        waiting = []
        for key in keys:
            if values:
                db[key] = b""
            else:
                del db[key]
            waiting.append(len(db._session.local.overlay.operations))
        assert max(waiting) == 100
        with db.transaction():
            db.update(dict.fromkeys(keys, b""))
            assert len(db._session.local.overlay.operations) == 400
