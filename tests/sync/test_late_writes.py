"""Blind writes of another thread while a pull finds out what its move takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.sync.pull import pull
from tests.pairs import LARGE, Bench, make


@pytest.mark.parametrize("writes", [1, 10])
def test_what_a_compaction_has_moved_meanwhile_is_no_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    bench = Bench(tmp_path)
    make(bench, {"k": LARGE, "old": LARGE})
    genuine, written = pull.plan_move, []

    def beside_a_writer(*arguments: Any) -> Any:
        move = genuine(*arguments)
        if len(written) < writes:
            written.append(len(written))
            db["k" if len(written) == 1 else f"more {len(written)}"] = b"%d" % len(written)
            db.sync()
        return move

    with bench.open("b", "w") as db:
        with bench.open() as other:
            other["old"] = b"new"
            other.changes().push()
            packs = [f"pack/{path.name}" for path in bench.objects("pack")]
            assert other.compact(packs=packs)
        monkeypatch.setattr(pull, "plan_move", beside_a_writer)
        assert db.changes().pull()
        assert written
        monkeypatch.undo()
        assert db.changes().push()
    assert bench.fresh_contents()["k"] == b"1"
