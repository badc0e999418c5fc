"""The page of the format has a reader and a table of limits: both are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.formats.samples import ROWS, TAIL, objects_of, placed_rows

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "FORMAT.md").read_text(encoding="utf-8")


def reader() -> dict[str, Any]:
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class Frame" in code)
    names: dict[str, Any] = {}
    exec(code.replace("len(sys.argv) > 2", "False"), names)
    return names


def test_the_reader_of_the_page_reads_what_we_write() -> None:
    names = reader()
    assert [row[:2] for row in names["block"](TAIL)] == [(row.key, row.seq) for row in ROWS]
    assert [row[2] for row in names["block"](TAIL)] == [
        "inline",
        "deleted",
        ROWS[2].object_name,
        "inline",
        ROWS[4].object_name,
    ]
    rows = placed_rows(40, packs=3)
    for data, entry in objects_of(rows):
        found = list(names["index_object"](data, entry.directory_length_bytes))
        rows_here, rows = rows[: len(found)], rows[len(found) :]
        assert found == [(r.key, r.seq, r.object_name, r.offset_bytes, r.length_bytes) for r in rows_here]
    assert not rows
