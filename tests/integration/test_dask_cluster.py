"""Workers on a cluster of Dask, in processes of their own: one of them killed, and a dataset of xarray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx

ROOT = Path(__file__).resolve().parents[2]
distributed: Any = pytest.importorskip("distributed")
xarray: Any = pytest.importorskip("xarray")
zarr: Any = pytest.importorskip("zarr")


def test_a_worker_that_is_killed_changes_nothing_in_the_result(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "dask_fleet.py"), "--kill", "--keys", "2000"]
    done = subprocess.run(
        [*command, "--workers", "2", "--folder", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "one killed: 2000 keys, 1 commit of 2000;" in done.stdout
    assert done.stdout.endswith("read by another: all equal\n")


def write_region(fork: Any, part_of: Any, start: int) -> Any:
    """Runs in a worker: writes four days."""
    from ebooklet_tx.zarr import Store

    with fork.open() as part:
        part_of.to_zarr(Store(part), region={"time": slice(start, start + 4)}, consolidated=False)
    return part.receipt


def made(days: int = 16) -> Any:
    import numpy as np

    heights = np.arange(days * 60.0).reshape(days, 6, 10)
    coordinates = {"time": np.arange(days), "lat": np.linspace(-5, 5, 6), "lon": np.linspace(0, 9, 10)}
    return xarray.Dataset({"height": (("time", "lat", "lon"), heights)}, coords=coordinates)


@pytest.mark.filterwarnings("default")
def test_four_workers_write_a_dataset_of_xarray_in_one_commit(tmp_path: Path) -> None:
    from ebooklet_tx.zarr import Store

    url = f"file://{tmp_path / 'remote' / 'ocean'}"
    dataset = made()
    cluster = distributed.LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None)
    with (
        cluster,
        distributed.Client(cluster) as client,
        ebooklet_tx.open(url, tmp_path / "a.blt", "c", value_serializer="bytes") as db,
    ):
        chunks = {"height": {"chunks": (4, 6, 10)}}
        dataset.chunk().to_zarr(Store(db), compute=False, encoding=chunks, consolidated=False)
        db.changes().push(message="layout")
        fork = db.fork()
        starts = range(0, 16, 4)
        parts = [dataset.isel(time=slice(start, start + 4)).drop_vars(["lat", "lon", "time"]) for start in starts]
        receipts = client.gather(client.map(write_region, [fork] * 4, parts, starts, pure=False))
        db.merge(*receipts)
        assert db.changes().push(message="four workers").set_count == 4
        assert [record.message for record in db.history()] == ["four workers", "layout"]
    with ebooklet_tx.open(url, tmp_path / "b.blt", "r") as other:
        read = xarray.open_zarr(Store(other), consolidated=False).load()
    assert read.identical(dataset)
