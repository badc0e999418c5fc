"""A merge of index segments is read back by a reader's own limits before a root names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.errors import RemoteIntegrityError
from ebooklet_tx.sync.commit import builder as building
from tests.pairs import Bench, make, pending, root_of


def test_a_merge_that_no_reader_takes_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(building, "ROOT_TAIL_LIMIT_BYTES", 100)
    make(bench, {"k": b"1"})
    before = root_of(bench)
    build = building.build_segment

    def damaged_merge(rows: Any, refs: Any, log: list[Any]) -> bytes:
        blob = build(rows, refs, log)
        return blob if len(log) == 1 else blob[:-1]

    with bench.open() as db:
        db["k"] = b"2"
        with monkeypatch.context() as patch:
            patch.setattr(building, "build_segment", damaged_merge)
            with pytest.raises(RemoteIntegrityError, match="a merge of index segments"):
                db.changes().push()
        assert root_of(bench) == before
        assert len(bench.objects("index")) == 1
        assert pending(db) == {"k": "set"}
        assert db.changes().push()
    assert bench.fresh_contents() == {"k": b"2"}
