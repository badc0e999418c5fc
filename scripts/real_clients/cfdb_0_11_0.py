"""cfdb 0.11.0: a gridded dataset is made, linked, shared, changed, extended, copied and removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cfdb
import ebooklet
import numpy as np
from steps import Program, raises, same, same_array, true

VARIABLE = "temperature"
CHUNK = (8, 21, 31)
LATITUDE = np.arange(42) * 0.25 - 45
LONGITUDE = np.arange(62) * 0.25 + 165
TIME = np.arange("2026-01-01", "2026-02-10", dtype="datetime64[D]")
LATER = np.arange("2026-02-10", "2026-02-26", dtype="datetime64[D]")
RANDOM = np.random.default_rng(20260101)
VALUES = RANDOM.normal(10, 5, (len(TIME), len(LATITUDE), len(LONGITUDE))).astype("float32")
MORE = RANDOM.normal(20, 5, (len(LATER), len(LATITUDE), len(LONGITUDE))).astype("float32")


def fill(dataset: Any) -> None:
    """Gives an empty dataset its coordinates, a variable, attributes and a reference system."""
    dataset.create.coord.time(data=TIME, dtype=TIME.dtype)
    dataset.create.coord.lat(data=LATITUDE)
    dataset.create.coord.lon(data=LONGITUDE)
    variable = dataset.create.data_var.generic(
        VARIABLE, ("time", "latitude", "longitude"), dtype="float32", chunk_shape=CHUNK
    )
    variable[:] = VALUES
    variable.attrs["units"] = "degC"
    dataset.attrs.update({"title": "a test of everything", "history": ["made", "linked"]})
    dataset.create.crs.from_user_input(4326, x_coord="longitude", y_coord="latitude")


def compare(dataset: Any, values: np.ndarray = VALUES, time: np.ndarray = TIME) -> None:
    """Demands that a dataset is what was written, coordinate by coordinate."""
    same_array(dataset["time"].data, time, "time")
    same_array(dataset["latitude"].data, LATITUDE, "latitude")
    same_array(dataset["longitude"].data, LONGITUDE, "longitude")
    same_array(dataset[VARIABLE].data, values, VARIABLE)
    same(dataset[VARIABLE].attrs["units"], "degC")
    same(dataset.attrs["title"], "a test of everything")
    same(dataset.attrs["history"], ["made", "linked"])
    same(dataset.crs.to_epsg(), 4326)


def mean_of_chunk(target: tuple[slice, ...], data: np.ndarray) -> float:
    """What the worker processes compute."""
    return float(data.astype("float64").mean())


def read_everywhere(program: Program, key: str, values: np.ndarray, time: np.ndarray) -> None:
    """Reads a remote from empty folders by every kind of connection."""
    connection = program.connection(key)
    kinds: list[Any] = [
        connection,
        program.url(key),
        {**connection.to_dict(), "access_key_id": "k", "access_key": "s"},
    ]
    for remote in kinds:
        with cfdb.open_edataset(remote, program.machine() / "copy.cfdb") as dataset:
            true(not dataset.writable, "a reader is writable")
            compare(dataset, values, time)


def share(program: Program) -> None:
    """From a plain file to a dataset that others read."""
    plain = program.machine("producer") / "grid.cfdb"
    with program.step("create a dataset with plain booklet"):
        with cfdb.open_dataset(plain, "n") as dataset:
            fill(dataset)
        with cfdb.open_dataset(plain) as dataset:
            compare(dataset)
        true(plain.stat().st_size > 300_000, "the dataset is small")
    with (
        program.step("link it to a remote with flag 'w', and push"),
        cfdb.open_edataset(program.connection("grid"), plain, "w") as dataset,
    ):
        changes = list(dataset.changes().iter_changes())
        true(len(changes) > 20, f"only {len(changes)} changes are pending")
        result = dataset.push()
        same((bool(result), result.updated, result.failures), (True, True, {}))
        result = dataset.push()
        same((bool(result), result.updated, result.failures), (False, False, {}), "a second push")
    with program.step("read it by S3Connection, URL and dict from empty folders"):
        read_everywhere(program, "grid", VALUES, TIME)
    with program.step("load() makes the file whole for plain booklet"):
        path = program.machine() / "copy.cfdb"
        with cfdb.open_edataset(program.connection("grid"), path) as dataset:
            dataset.load()
        with cfdb.open_dataset(path, allow_partial=True) as dataset:
            compare(dataset)
    with program.step("a selection is loaded alone"):
        path = program.machine() / "copy.cfdb"
        with cfdb.open_edataset(program.url("grid"), path) as dataset:
            part = dataset[VARIABLE][:8, :21, :31]
            part.load()
            same_array(part.data, VALUES[:8, :21, :31], "the selection")
            same_array(dataset.select({"time": slice(8, 16)})[VARIABLE].data, VALUES[8:16], "select()")


def change(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Edits and appends on two machines, and returns what the dataset holds then."""
    plain = program.machine("producer") / "grid.cfdb"
    values, time = VALUES.copy(), TIME
    with program.step("edit values and attributes, and push"):
        values[5:7, 10:12, :31] = 99.5
        with cfdb.open_edataset(program.connection("grid"), plain, "w") as dataset:
            dataset[VARIABLE][5:7, 10:12, :31] = values[5:7, 10:12, :31]
            touched = [change["key"] for change in dataset.changes().iter_changes()]
            same(len(touched), 1, f"the chunks that were touched, {touched}")
            true(dataset.push(), "nothing was pushed")
        read_everywhere(program, "grid", values, time)
    with program.step("append along time on another machine, and push"):
        values, time = np.concatenate([values, MORE]), np.concatenate([TIME, LATER])
        other = program.machine("other") / "grid.cfdb"
        with cfdb.open_edataset(program.connection("grid"), other, "w") as dataset:
            dataset["time"].append(LATER)
            dataset[VARIABLE][len(TIME) :, :, :] = MORE
            true(dataset.changes().push(), "nothing was pushed")
        read_everywhere(program, "grid", values, time)
    with (
        program.step("the first machine sees the append in its old file"),
        cfdb.open_edataset(program.connection("grid"), plain) as dataset,
    ):
        compare(dataset, values, time)
    with program.step("a small edit that others load() reaches plain booklet"):
        with cfdb.open_edataset(program.connection("grid"), plain, "w") as dataset:
            dataset.attrs["comment"] = "short"
            true(dataset.push(), "nothing was pushed")
        path = program.machine() / "copy.cfdb"
        with cfdb.open_edataset(program.connection("grid"), path) as dataset:
            dataset.load()
            same(dataset.attrs["comment"], "short")
        with cfdb.open_dataset(path, allow_partial=True) as dataset:
            same(dataset.attrs["comment"], "short")
            compare(dataset, values, time)
    with program.step("edit with plain booklet, and push through ebooklet"):
        values[0, 0, 0] = -1.25
        with cfdb.open_edataset(program.connection("grid"), plain) as dataset:
            dataset.load()
        with cfdb.open_dataset(plain, "w", allow_partial=True) as dataset:
            dataset[VARIABLE][0, 0, 0] = values[0, 0, 0]
        with cfdb.open_edataset(program.connection("grid"), plain, "w") as dataset:
            true(dataset.push(), "nothing was pushed")
        read_everywhere(program, "grid", values, time)
    with (
        program.step("discard() takes an edit back"),
        cfdb.open_edataset(program.connection("grid"), plain, "w") as dataset,
    ):
        dataset[VARIABLE][1, 1, 1] = 1234.0
        changes = dataset.changes()
        changes.discard()
        same(list(changes.iter_changes()), [])
        same_array(dataset[VARIABLE].data, values, VARIABLE)
    return values, time


def compute(program: Program, values: np.ndarray, time: np.ndarray) -> None:
    """Maps over chunks, copies to a plain file, and prunes."""
    with program.step("map() over the chunks with 2 workers"):
        with cfdb.open_edataset(program.connection("grid"), program.machine() / "copy.cfdb") as dataset:
            means = dict_of(dataset[VARIABLE].map(mean_of_chunk, n_workers=2))
        same(len(means), -(-len(time) // CHUNK[0]) * 4)
        for target, mean in means.items():
            part = values[tuple(slice(*bounds) for bounds in target)].astype("float64")
            true(abs(mean - part.mean()) < 1e-9, f"the mean of {target} is {mean}, not {part.mean()}")
    with (
        program.step("map() in a session that writes"),
        cfdb.open_edataset(program.connection("grid"), program.machine("producer") / "grid.cfdb", "w") as dataset,
    ):
        same(dict_of(dataset[VARIABLE].map(mean_of_chunk, n_workers=2)), means)
    with program.step("copy() to a new plain file"):
        path = program.machine() / "plain.cfdb"
        with (
            cfdb.open_edataset(program.url("grid"), program.machine() / "copy.cfdb") as dataset,
            dataset.copy(path) as copied,
        ):
            compare(copied, values, time)
        with cfdb.open_dataset(path) as dataset:
            compare(dataset, values, time)
    with (
        program.step("prune() takes local copies away, and the remote gives them back"),
        cfdb.open_edataset(program.connection("grid"), program.machine("producer") / "grid.cfdb", "w") as dataset,
    ):
        dataset.prune()
        compare(dataset, values, time)
        true(dataset.prune(timestamp="2100-01-01T00:00:00+00:00") > 20, "nothing was taken away")
        compare(dataset, values, time)
        same(list(dataset.changes().iter_changes()), [])


def dict_of(results: Any) -> dict[Any, float]:
    """Collects what `map` yields, by the bounds of the chunk."""
    return {tuple((part.start, part.stop) for part in target): value for target, value in results}


def finish(program: Program, values: np.ndarray, time: np.ndarray) -> None:
    """Copies the remote and deletes it, leaving its neighbours."""
    producer = program.machine("producer") / "grid.cfdb"
    with program.step("copy_remote() to another key"):
        with cfdb.open_edataset(program.connection("grid"), producer, "w") as dataset:
            dataset.copy_remote(program.connection("grid2"))
        read_everywhere(program, "grid2", values, time)
    with program.step("delete_remote() keeps the local file and the neighbour"):
        with cfdb.open_edataset(program.connection("grid"), producer, "w") as dataset:
            dataset.load()
            dataset.delete_remote()
        raises(
            ebooklet.RemoteMissingError, cfdb.open_edataset, program.connection("grid"), program.machine() / "a"
        )
        read_everywhere(program, "grid2", values, time)
        with cfdb.open_dataset(producer, allow_partial=True) as dataset:
            compare(dataset, values, time)
    with program.step("the file is pushed anew after delete_remote()"):
        with cfdb.open_edataset(program.connection("grid"), producer, "w") as dataset:
            true(dataset.push(), "nothing was pushed")
        read_everywhere(program, "grid", values, time)


def start_remote(program: Program) -> None:
    """Datasets that are remote from the beginning."""
    for flag, options in (("n", {}), ("c", {"group_bytes": 1 << 20}), ("n", {"num_groups": None})):
        key = f"born-remote-{flag}{len(options)}"
        with program.step(f"create a dataset through open_edataset, flag {flag!r}, {options}"):
            path = program.machine() / "grid.cfdb"
            with cfdb.open_edataset(program.connection(key), path, flag, lock_timeout=30, **options) as dataset:
                fill(dataset)
                true(dataset.push(), "nothing was pushed")
                compare(dataset)
            read_everywhere(program, key, VALUES, TIME)
    with program.step("flag 'n' over an existing remote replaces it"):
        path = program.machine() / "grid.cfdb"
        with cfdb.open_edataset(program.connection("born-remote-n0"), path, "n", force_lock=True) as dataset:
            dataset.create.coord.lat(data=LATITUDE)
            true(dataset.push(), "nothing was pushed")
        with cfdb.open_edataset(program.connection("born-remote-n0"), program.machine() / "copy.cfdb") as dataset:
            same(dataset.var_names, ("latitude",))
    with program.step("a variable is deleted, and others lose it"):
        path = Path(program.machine() / "grid.cfdb")
        with cfdb.open_edataset(program.connection("born-remote-c1"), path, "w") as dataset:
            del dataset[VARIABLE]
            true(dataset.push(), "nothing was pushed")
        with cfdb.open_edataset(program.connection("born-remote-c1"), program.machine() / "copy.cfdb") as dataset:
            same(dataset.var_names, ("time", "latitude", "longitude"))
    with program.step("a remote that is not there is refused"):
        for flag in "rw":
            raises(ValueError, cfdb.open_edataset, program.connection("nowhere"), program.machine() / "a", flag)


def main() -> None:
    """Performs everything in order."""
    program = Program()
    with program.step(f"cfdb {cfdb.__version__} knows ebooklet_tx as ebooklet"):
        program.check_modules()
        same(cfdb.__version__, "0.11.0")
    share(program)
    values, time = change(program)
    compute(program, values, time)
    finish(program, values, time)
    start_remote(program)
    program.end()


if __name__ == "__main__":
    main()
