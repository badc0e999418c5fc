"""A merge of runs: what it reads is held to its digests, and what it writes is read back before it counts."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from ebooklet_tx.errors import RemoteIntegrityError
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.index import writing
from ebooklet_tx.index.building import IndexLimits
from ebooklet_tx.sync.commit import builder, publish
from tests.pairs import Bench, make, pending, root_of


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Commits of two keys are runs of their own, and each merges with the one below it."""
    monkeypatch.setattr(builder, "IndexLimits", functools.partial(IndexLimits, tail_rows=0))
    tiny = functools.partial(writing.RunWriter, sizes=Sizes(block_rows=2, object_blocks=2))
    monkeypatch.setattr(publish, "RunWriter", tiny)
    bench = Bench(tmp_path)
    make(bench, {"a": b"1", "k": b"1"})
    return bench


def test_a_merge_that_no_reader_takes_is_not_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = root_of(bench)
    (path,) = bench.objects("index")
    genuine = writing.join_blocks

    def damaged(*arguments: object, **options: object) -> object:
        for data, entry in genuine(*arguments, **options):  # type: ignore[arg-type]
            yield data[:-1] + bytes([data[-1] ^ 1]), entry

    with bench.open() as db:
        db["k"] = b"2"
        with monkeypatch.context() as patch:
            patch.setattr(writing, "join_blocks", damaged)
            with pytest.raises(RemoteIntegrityError, match="does not match its digest"):
                db.changes().push()
        assert root_of(bench) == before
        assert bench.objects("index") == [path]
        assert pending(db) == {"k": "set"}
        assert db.changes().push()
    assert bench.fresh_contents() == {"a": b"1", "k": b"2"}


def test_a_damaged_run_is_not_merged_into_a_sound_one(bench: Bench) -> None:
    before = root_of(bench)
    (path,) = bench.objects("index")
    sound = path.read_bytes()
    # A copy that has nothing of the index: the lookup of the key that is pushed meets the damage, or the merge.
    path.write_bytes(sound[:5] + bytes([sound[5] ^ 1]) + sound[6:])
    with bench.open("b") as db:
        db["b"] = b"2"
        with pytest.raises(RemoteIntegrityError):
            db.changes().push()
        assert root_of(bench) == before
        assert pending(db) == {"b": "set"}
        path.write_bytes(sound)
        assert db.changes().push()
    assert bench.fresh_contents() == {"a": b"1", "b": b"2", "k": b"1"}
