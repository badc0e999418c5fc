"""What was fetched stays on this machine when the base moves, although it was not written to the file yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pairs import LARGE, Bench, make, push


@pytest.mark.parametrize("flag", ["r", "w"])
@pytest.mark.parametrize("moves", ["pull", "push"])
@pytest.mark.parametrize("value", [b"inline", LARGE])
def test_loaded_values_are_there_offline(tmp_path: Path, value: bytes, moves: str, flag: str) -> None:
    bench = Bench(tmp_path)
    make(bench, {"k": value, "far": value})
    with bench.open("b", flag) as db:
        assert db.load_items(["k"]) == {}
        if moves == "pull" or flag == "r":
            push(bench, "a", {"other": b"1"})
            assert db.changes().pull()
        else:
            db["other"] = b"1"
            assert db.changes().push()
    with bench.open("b", "r", offline=True) as db:
        assert db["k"] == value
