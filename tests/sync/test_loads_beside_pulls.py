"""Loading all values while a pull in another thread moves the base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.sync.read import load
from tests.pairs import LARGE, Bench, make, push


@pytest.mark.parametrize("batch_keys", [1, 100])
def test_what_was_read_of_the_commit_before_is_not_kept_as_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_keys: int
) -> None:
    bench = Bench(tmp_path)
    make(bench, dict.fromkeys(("changed", "deleted", "same"), LARGE))
    monkeypatch.setattr(load, "BATCH_KEYS", batch_keys)
    genuine, pulls = load.live_batches, [1]

    def beside_a_pull(reader: Any) -> Iterator[Any]:
        for batch in genuine(reader):
            if pulls:
                pulls.pop()
                push(bench, "a", {"changed": LARGE[::-1], "deleted": None, "new": LARGE})
                db.changes().pull()
            yield batch

    monkeypatch.setattr(load, "live_batches", beside_a_pull)
    with bench.open("b", "w") as db:
        assert db.load_items() == {}
        assert not pulls
        assert db.get("deleted") is None
    expected = {"changed": LARGE[::-1], "same": LARGE, "new": LARGE}
    with bench.open("b", "r", offline=True) as db:
        assert dict(db.items()) == expected
