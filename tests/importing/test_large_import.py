"""Imports of a hundred megabytes with a bound of 32 MB on what lies here, killed in the middle and run again."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

import ebooklet_tx
from tests.ebooklet_remotes import FIRST_US, LAYOUTS, METADATA
from tests.import_processes import import_large, values_of
from tests.pairs import Bench
from tests.processes import Worker, workers

COUNT, SIZE_BYTES, LOCAL_BYTES = 20_000, 5_000, 32_000_000


def peak_bytes(worker: Worker, folder: Path) -> int:
    """Waits for the end of a process; returns the most that the files of a folder had meanwhile."""
    peak = 0
    while worker.is_alive():
        peak = max(peak, _bytes_in(folder))
        time.sleep(0.01)
    return peak


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            # The journal's own files come and go.
            continue
    return total


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hundred_megabytes_pass_through_thirty_two(tmp_path: Path, layout: str) -> None:
    bench = Bench(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    arguments = (layout, bench.url, here / "a.blt", (COUNT, SIZE_BYTES, LOCAL_BYTES))
    with workers() as start:
        killed = start(import_large, *arguments, 30)
        assert peak_bytes(killed, here) < LOCAL_BYTES
        assert killed.wait_until_gone() == -signal.SIGKILL
        again = start(import_large, *arguments, None)
        assert peak_bytes(again, here) < LOCAL_BYTES
        report = again.receive()
    assert report["sound"]
    assert 0 < report["present_keys"] < COUNT
    assert report["present_keys"] + report["imported_keys"] == report["verified_keys"] == COUNT
    with ebooklet_tx.open(bench.url, bench.path("fresh")) as db:
        found = {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)}
        metadata = db.get_metadata(include_timestamp=True)
    assert found == values_of(COUNT, SIZE_BYTES)
    assert metadata == (None if layout == "one" else (METADATA, FIRST_US + 100))
