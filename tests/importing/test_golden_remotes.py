"""Importing what ebooklet itself left in a bucket, in each of its layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import booklet
import orjson
import pytest

import ebooklet_tx
from tests.ebooklet_remotes import (
    KEY,
    LAYOUTS,
    METADATA,
    NAMES,
    PLACE,
    Contents,
    bucket_in_memory,
    golden_contents,
    golden_objects,
    made_objects,
    shelved,
)
from tests.pairs import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def contents(bench: Bench) -> tuple[Contents, Any]:
    """What a machine sees of the target that has never had a copy."""
    with bench.open("fresh", "r") as db:
        return {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)}, db.get_metadata()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_of_it_comes_over(bench: Bench, layout: str) -> None:
    store = shelved(golden_objects(layout))
    before = dict(store.objects)
    expected = golden_contents(layout)
    with bucket_in_memory(store):
        report = ebooklet_tx.import_ebooklet(PLACE, bench.url, bench.path(), verify=True)
    assert report
    assert report.layout == NAMES[layout]
    assert report.serializer == "orjson"
    assert report.key_count == report.imported_keys == report.verified_keys == len(expected)
    assert (report.pushes, report.other_keys, report.retimed_keys) == (1, 0, 0)
    # ebooklet 0.5.4 keeps the metadata in its local file alone.
    assert contents(bench) == (expected, None if layout == "one" else METADATA)
    assert store.objects == before
    with booklet.open(bench.path(), "r") as local:
        # Nothing of it stayed here.
        assert len(local) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_again_it_sends_and_fetches_nothing(bench: Bench, layout: str) -> None:
    store = shelved(golden_objects(layout))
    with bucket_in_memory(store):
        ebooklet_tx.import_ebooklet(PLACE, bench.url, bench.path())
        asked: list[tuple[str, str]] = []
        store.on_request = lambda kind, key: asked.append((kind, key))
        root = bench.root.read_bytes()
        for copy in ("a", "another machine"):
            again = ebooklet_tx.import_ebooklet(PLACE, bench.url, bench.path(copy))
            assert again.present_keys == again.key_count == len(golden_contents(layout))
            assert (again.imported_keys, again.pushes) == (0, 0)
    assert {key for _, key in asked} == {KEY}
    assert bench.root.read_bytes() == root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_here_has_the_layouts(layout: str) -> None:
    """The remotes that other tests damage are as ebooklet's: the same rows of the index, and the same objects."""
    golden = golden_objects(layout)
    values = {key: (stamp, orjson.dumps(value)) for key, (stamp, value) in golden_contents(layout).items()}
    made = made_objects(layout, values, group_bytes=1500)
    assert made.keys() == golden.keys() or layout == "grouped"
    if layout != "grouped":
        for key in values:
            assert made[f"{KEY}/{key}"] == golden[f"{KEY}/{key}"]
    kept = ("type", "timestamp", "uuid", "init_bytes")
    assert set(kept) <= golden[KEY][1].keys()
    assert set(kept) <= made[KEY][1].keys()
