"""Ray: the tasks of a dataset write into forks, and one push commits all of them. Runs where Ray is installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.errors import MissingPackageError
from tests.fleets import pushed_database

HERE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HERE, reason="Ray is not installed")
# Ray and what it stands on warn of their own.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.skipif(HERE, reason="Ray is installed")
def test_without_ray_the_extra_is_named() -> None:
    with pytest.raises(MissingPackageError, match=r'pip install "ebooklet-tx\[ray\]"'):
        importlib.import_module("ebooklet_tx.ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module: Any = importlib.import_module("ray")
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[ebooklet_tx.Database]:
    with pushed_database(tmp_path) as made:
        yield made


@needs_ray
def test_a_dataset_becomes_one_commit(ray: Any, db: ebooklet_tx.Database, tmp_path: Path) -> None:
    rows = ray.data.range(1000, override_num_blocks=4).map(
        lambda row: {"key": f"square {row['id']:04}", "value": int(row["id"]) ** 2}
    )
    sink = importlib.import_module("ebooklet_tx.ray").Datasink(db)
    rows.write_datasink(sink)
    assert (sink.result.set_count, len(db)) == (1000, 1001)
    assert db.changes().push().seq == 2
    with ebooklet_tx.open(f"file://{tmp_path / 'remote' / 'db'}", None) as reader:
        assert dict(reader) == {"there": 0} | {f"square {n:04}": n * n for n in range(1000)}


@needs_ray
def test_a_worker_that_is_killed_changes_nothing_in_the_result(
    ray: Any, db: ebooklet_tx.Database, tmp_path: Path
) -> None:
    died = tmp_path / "died"

    def once_deadly(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 150 and not died.exists():
            died.touch()
            os._exit(9)
        return {"name": f"k{row['id']:03}", "number": int(row["id"])}

    rows = ray.data.range(300, override_num_blocks=3).map(once_deadly)
    rows.write_datasink(importlib.import_module("ebooklet_tx.ray").Datasink(db, key="name", value="number"))
    db.changes().push()
    assert died.exists()
    assert dict(db) == {"there": 0} | {f"k{n:03}": n for n in range(300)}


@needs_ray
def test_what_fails_leaves_the_database_as_it_was(ray: Any, db: ebooklet_tx.Database) -> None:
    sink = importlib.import_module("ebooklet_tx.ray").Datasink
    with pytest.raises(Exception, match="'key' and 'value' are wanted"):
        ray.data.from_items([{"name": "a", "value": 1}]).write_datasink(sink(db))
    same = ray.data.range(2, override_num_blocks=2).map(lambda row: {"key": "k", "value": int(row["id"])})
    with pytest.raises(Exception, match="changed twice"):
        same.write_datasink(sink(db))
    assert dict(db) == {"there": 0}
    assert not list(db.changes().iter_changes())
    same.write_datasink(sink(db, on_conflict=lambda each: each.ours + each.theirs))
    assert db["k"] == 1
