"""cfdb-ingest 0.8.0: a forecast archive is made, marked, pruned, taken up anew, and freed of locks."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import ebooklet
import numpy as np
import urllib3
from cfdb import dtypes
from cfdb_ingest import forecast, forecast_archive
from steps import Program, raises, same, same_array, true

VARIABLE = "air_temperature_2m"
LEADS = np.array([0, 3, 6], dtype="int32")
INITS = [np.datetime64(text, "m") for text in ("2026-09-13T00:00", "2026-09-13T12:00", "2026-09-14T12:00")]
SHAPE = (3, 3, 4)
OLD = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def write(dataset: Any, number: int) -> None:
    """Writes the forecast that was begun at one time, every value the number of it."""
    init = INITS[number]
    if number:
        place = forecast.place_init(dataset, init, step_minutes=360)["index"]
    else:
        forecast.create_forecast_coords(dataset, init, LEADS, step_minutes=360)
        dataset.create.coord.generic("longitude", data=np.arange(4.0), axis="x", step=True)
        dataset.create.coord.generic("latitude", data=np.arange(3.0), axis="y", step=True)
        dataset.create.coord.generic("height_2m", data=np.array([2.0]), axis=None)
        dataset.create.data_var.generic(
            VARIABLE,
            (forecast.FRT, forecast.LEAD, "height_2m", "latitude", "longitude"),
            dtype=dtypes.dtype("float32"),
            chunk_shape=(1, 3, 1, 3, 4),
        )
        place = 0
    values = np.full(SHAPE, number + 1, "float32")
    dataset[VARIABLE][(place, slice(0, 3), 0, slice(None), slice(None))] = values


def seen(remote: dict[str, Any], path: Path) -> dict[str, float]:
    """Returns the forecasts that a machine sees as complete, each with its first value."""
    with forecast_archive.open_target(remote, path, "r") as dataset:
        times = [str(time) for time in dataset[forecast.FRT].data]
        found = {}
        for init in forecast_archive.done_inits(dataset):
            value = dataset[VARIABLE][times.index(init), 0, 0, 0, 0].data
            found[init] = float(np.squeeze(value))
        return found


def main() -> None:
    program = Program()
    remote = {
        "access_key_id": "client-key",
        "access_key": "client-secret",
        "db_key": "archive",
        "bucket": program.bucket,
        "endpoint_url": program.endpoint,
    }
    names = [str(init) for init in INITS]
    path = program.machine("archive") / "archive.cfdb"

    with program.step("the module that is imported is the shim"):
        program.check_modules()

    with (
        program.step("reading an archive that is not there gives None"),
        forecast_archive.open_target(remote, program.machine() / "a.cfdb", "r") as dataset,
    ):
        same(dataset, None)

    with program.step("flag c refuses to make one unless that is allowed"):
        new = program.machine() / "a.cfdb"
        with forecast_archive.open_target(remote, new, "c") as dataset:
            raises(forecast_archive.WouldCreate, forecast_archive.refuse_create, dataset, allow_create=False)
            true(forecast_archive.refuse_create(dataset, allow_create=True), "it is not taken for a new one")

    with program.step("two forecasts are written, pushed and marked"):
        with forecast_archive.open_target(remote, path, "c") as dataset:
            for number in (0, 1):
                write(dataset, number)
            forecast_archive.push_and_mark(dataset, INITS[:2])
        same(seen(remote, program.machine() / "b.cfdb"), {names[0]: 1.0, names[1]: 2.0})

    with program.step("the local file is opened again, extended and pushed"):
        with forecast_archive.open_target(remote, path, "w") as dataset:
            same(forecast_archive.refuse_create(dataset, allow_create=False), False)
            write(dataset, 2)
            forecast_archive.push_and_mark(dataset, INITS[2:])
        same(seen(remote, program.machine() / "b.cfdb"), dict(zip(names, (1.0, 2.0, 3.0), strict=True)))

    with program.step("remove_local: the file goes, and the next opening takes the archive from the remote"):
        forecast_archive.remove_local(path)
        true(not path.exists(), "the file is still there")
        forecast_archive.remove_local(path)
        with forecast_archive.open_target(remote, path, "c") as dataset:
            same(forecast_archive.done_inits(dataset), names)
            same_array(
                np.squeeze(dataset[VARIABLE][0, 0, 0, slice(None), slice(None)].data),
                np.full((3, 4), 1, "float32"),
            )
        forecast_archive.remove_local(path)
        same(seen(remote, path), dict(zip(names, (1.0, 2.0, 3.0), strict=True)))

    with program.step("retention: chunks that were never here are deleted, and the push tells others"):
        forecast_archive.remove_local(path)
        with forecast_archive.open_target(remote, path, "c") as dataset:
            cutoff, dropped = forecast_archive.apply_retention(dataset, keep_days=1, min_keep=1)
            same((str(cutoff), dropped), (names[1], names[:1]))
            forecast_archive.push_twice(dataset)
        same(seen(remote, program.machine() / "b.cfdb"), {names[1]: 2.0, names[2]: 3.0})

    with program.step("break_locks: a writer's lock is broken, and it finds out at its push"):
        same(forecast_archive.break_locks(remote), [])
        with forecast_archive.open_target(remote, program.machine() / "c.cfdb", "w") as dataset:
            same(forecast_archive.break_locks(remote, older_than=OLD), [], "locks that are not that old")
            (broken,) = forecast_archive.break_locks(remote)
            same(sorted(broken), ["host", "owner", "pid", "timestamp"])
            with forecast_archive.open_target(remote, path, "w", lock_timeout=0) as other:
                other.attrs["title"] = "by the other"
                forecast_archive.push_twice(other)
            dataset.attrs["title"] = "by the one that lost its lock"
            raises(ebooklet.LockLostError, dataset.push)
        with forecast_archive.open_target(remote, program.machine() / "d.cfdb", "r") as dataset:
            same(dataset.attrs["title"], "by the other")

    with program.step("a lock that nobody gives back keeps others out until it is broken"):
        lost = forecast_archive.open_handle(
            remote,
            program.machine() / "e.cfdb",
            "w",
            dataset_type=forecast_archive.DATASET_TYPE,
            lock_timeout=10,
            force_lock=False,
        )
        raises(TimeoutError, _open_and_close, remote, path)
        same(len(forecast_archive.break_locks(remote)), 1)
        _open_and_close(remote, path)
        lost.close()

    with program.step("an address can only be read"):
        url = program.url("archive")
        raises(ValueError, _open_and_close, url, program.machine() / "f.cfdb", "c")
        same(seen(url, program.machine() / "g.cfdb"), {names[1]: 2.0, names[2]: 3.0})

    with program.step("a store that nobody serves is an error of urllib3's"):
        nobody = remote | {"endpoint_url": "http://127.0.0.1:9", "retries": 0}
        raises(urllib3.exceptions.HTTPError, _open_and_close, nobody, program.machine() / "h.cfdb")

    program.end()


def _open_and_close(remote: Any, path: Path, flag: str = "w") -> None:
    with forecast_archive.open_target(remote, path, flag, lock_timeout=0):
        pass


if __name__ == "__main__":
    main()
