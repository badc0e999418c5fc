"""Index objects that an interrupted push has sent: used again while nobody may delete them, then sent again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebooklet_tx.errors import OfflineError
from ebooklet_tx.sync.commit import packing, publish
from ebooklet_tx.timestamps import now_us
from tests.pairs import Bench, limit_tails

VALUES = {f"k{number:02}": b"value of %d" % number for number in range(30)}


def interrupted(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """Pushes up to the swap of the root."""

    def swap(*_arguments: object) -> None:
        raise OfflineError("interrupted")

    with patch.context() as short, bench.open("a", "c") as db:
        short.setattr(publish, "swap_in", swap)
        db.update(VALUES)
        with pytest.raises(OfflineError):
            db.changes().push()


@pytest.mark.parametrize(("hours", "sent_again"), [(0, 0), (5, 0), (7, 1), (-7, 1)])
def test_an_index_object_that_collect_may_delete_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, sent_again: int
) -> None:
    limit_tails(monkeypatch, 100)
    bench = Bench(tmp_path)
    interrupted(bench, monkeypatch)
    old = bench.objects("index")
    assert len(old) == 1
    for module in (packing, publish):
        monkeypatch.setattr(module, "now_us", lambda: now_us() + hours * 3600 * 10**6)
    with bench.open("a", "w") as db:
        db.changes().push()
    assert len(bench.objects("index")) == 1 + sent_again
    if sent_again:
        old[0].unlink()
    with bench.open("fresh", "r") as db:
        assert dict(db.items()) == VALUES
