"""Rows by the column are the rows of a scan, whether they come from blocks as they are or are merged."""

from __future__ import annotations

from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.index.lookup import RowColumns, put_together
from ebooklet_tx.local.journal.base import read_base


def _columns_and_rows(db: ebooklet_tx.Database, after: str) -> tuple[RowColumns, RowColumns]:
    view = db._session.index.of_base(read_base(db._session.journal))
    assert view is not None
    rows = list(view.scan(after))
    fields = [(*item.row[:4], item.ref, *item.row[5:7]) for item in rows]
    expected = RowColumns(*map(list, zip(*fields, strict=True))) if rows else put_together(())
    return put_together(view.scan_columns(after)), expected


@pytest.mark.parametrize("pushes", [1, 2, 5])
@pytest.mark.parametrize("after", ["", "key 0500", "z"])
def test_columns_are_rows(tmp_path: Path, pushes: int, after: str) -> None:
    keys = [f"key {number:04}" for number in range(1200)]
    with ebooklet_tx.open(f"memory://columns-{pushes}-{after[-1:]}", tmp_path / "a.blt", "n") as db:
        db.update(dict.fromkeys(keys, b"value"))
        db.changes().push()
        for number in range(1, pushes):
            db.update(dict.fromkeys(keys[number * 7 :: 13], bytes([number])))
            for key in keys[number::29]:
                db.pop(key, None)
            db.changes().push()
        columns, expected = _columns_and_rows(db, after)
        assert columns == expected
        live = columns.without_tombstones()
        assert set(live.keys) == {key for key in db if key >= after} | ({""} & set(columns.keys))
        assert (len(live.keys) < len(columns.keys)) == (pushes > 1 and after != "z")
        assert live.picked([]) == put_together(())
