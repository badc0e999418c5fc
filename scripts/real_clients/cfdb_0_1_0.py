"""cfdb 0.1.0: what `cfdb_0_11_0.py` does, as far as the first release has it.

Its `open_edataset` begins a new dataset whenever the local file is missing, whatever the remote holds, so a
second machine opens for reading once before it opens for writing. Its files are given by Path.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import cfdb
import numpy as np
from steps import Program, raises, same, same_array, true

VARIABLE = "temperature"
CHUNK = (8, 21, 31)
LATITUDE = np.arange(42) * 0.25 - 45
LONGITUDE = np.arange(62) * 0.25 + 165
TIME = np.arange("2026-01-01", "2026-02-10", dtype="datetime64[D]")
LATER = np.arange("2026-02-10", "2026-02-26", dtype="datetime64[D]")
RANDOM = np.random.default_rng(20260102)
VALUES = RANDOM.normal(10, 5, (len(TIME), len(LATITUDE), len(LONGITUDE))).astype("float32")
MORE = RANDOM.normal(20, 5, (len(LATER), len(LATITUDE), len(LONGITUDE))).astype("float32")


def fill(dataset: Any) -> None:
    """Gives an empty dataset its coordinates, a variable and attributes."""
    dataset.create.coord.time(data=TIME)
    dataset.create.coord.latitude(data=LATITUDE)
    dataset.create.coord.longitude(data=LONGITUDE)
    variable = dataset.create.data_var.generic(
        VARIABLE, ("time", "latitude", "longitude"), "float32", chunk_shape=CHUNK
    )
    variable[:] = VALUES
    variable.attrs["units"] = "degC"
    dataset.attrs["title"] = "a test of everything"


def compare(dataset: Any, values: np.ndarray = VALUES, time: np.ndarray = TIME) -> None:
    """Demands that a dataset is what was written, coordinate by coordinate."""
    same(dataset.var_names, ("time", "latitude", "longitude", VARIABLE))
    same_array(dataset["time"].data, time, "time")
    same_array(dataset["latitude"].data, LATITUDE, "latitude")
    same_array(dataset["longitude"].data, LONGITUDE, "longitude")
    same_array(dataset[VARIABLE].data, values, VARIABLE)
    same(dataset[VARIABLE].attrs["units"], "degC")
    same(dataset.attrs["title"], "a test of everything")


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
    with (
        program.step("link it to a remote with flag 'c', and push"),
        cfdb.open_edataset(program.connection("old-grid"), plain, "c") as dataset,
    ):
        changes = dataset.changes()
        true(len(list(changes.iter_changes())) > 20, "nothing is pending")
        true(changes.push(), "nothing was pushed")
        true(not changes.push(), "a second push changed the remote")
    with program.step("read it by S3Connection, URL and dict from empty folders"):
        read_everywhere(program, "old-grid", VALUES, TIME)
    with program.step("load() makes the file whole for plain booklet"):
        path = program.machine() / "copy.cfdb"
        with cfdb.open_edataset(program.connection("old-grid"), path) as dataset:
            for variable in dataset.variables:
                variable.load()
        with cfdb.open_dataset(path) as dataset:
            compare(dataset)


def change(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Edits and appends on two machines, and returns what the dataset holds then."""
    plain = program.machine("producer") / "grid.cfdb"
    values, time = VALUES.copy(), TIME
    with program.step("edit values, and push"):
        values[5:7, 10:12, :31] = 99.5
        with cfdb.open_edataset(program.connection("old-grid"), plain, "w") as dataset:
            dataset[VARIABLE][5:7, 10:12, :31] = values[5:7, 10:12, :31]
            same(len(list(dataset.changes().iter_changes())), 1, "the chunks that were touched")
            true(dataset.changes().push(), "nothing was pushed")
        read_everywhere(program, "old-grid", values, time)
    with program.step("append along time on another machine, and push"):
        values, time = np.concatenate([values, MORE]), np.concatenate([TIME, LATER])
        other = program.machine("other") / "grid.cfdb"
        cfdb.open_edataset(program.connection("old-grid"), other).close()
        with cfdb.open_edataset(program.connection("old-grid"), other, "w") as dataset:
            dataset["time"].append(LATER)
            dataset[VARIABLE][len(TIME) :, :, :] = MORE
        # This release writes its own metadata when it closes, so a push takes another session.
        with cfdb.open_edataset(program.connection("old-grid"), other, "w") as dataset:
            true(dataset.changes().push(), "nothing was pushed")
        read_everywhere(program, "old-grid", values, time)
    with (
        program.step("the first machine sees the append in its old file"),
        cfdb.open_edataset(program.connection("old-grid"), plain) as dataset,
    ):
        compare(dataset, values, time)
    with (
        program.step("discard() takes an edit back"),
        cfdb.open_edataset(program.connection("old-grid"), plain, "w") as dataset,
    ):
        dataset[VARIABLE][1:2, 1:2, 1:2] = np.full((1, 1, 1), 1234, "float32")
        dataset.changes().discard()
        same(list(dataset.changes().iter_changes()), [])
        same_array(dataset[VARIABLE].data, values, VARIABLE)
    return values, time


def finish(program: Program, values: np.ndarray, time: np.ndarray) -> None:
    """Copies, prunes, copies the remote and deletes it."""
    producer = program.machine("producer") / "grid.cfdb"
    with program.step("copy() to a new plain file"):
        path = program.machine() / "plain.cfdb"
        with (
            cfdb.open_edataset(program.url("old-grid"), program.machine() / "copy.cfdb") as dataset,
            dataset.copy(path) as copied,
        ):
            compare(copied, values, time)
        with cfdb.open_dataset(path) as dataset:
            compare(dataset, values, time)
    with (
        program.step("prune(timestamp, reindex), and the remote gives the values back"),
        cfdb.open_edataset(program.connection("old-grid"), producer, "w") as dataset,
    ):
        dataset.prune(reindex=True)
        true(dataset.prune("2100-01-01T00:00:00+00:00") > 20, "nothing was taken away")
        compare(dataset, values, time)
    with program.step("copy_remote() to another key"):
        with cfdb.open_edataset(program.connection("old-grid"), producer, "w") as dataset:
            dataset.copy_remote(program.connection("old-grid2"))
        read_everywhere(program, "old-grid2", values, time)
    with program.step("delete_remote() keeps the local file and the neighbour"):
        with cfdb.open_edataset(program.connection("old-grid"), producer, "w") as dataset:
            for variable in dataset.variables:
                variable.load()
            dataset.delete_remote()
        raises(ValueError, cfdb.open_edataset, program.connection("old-grid"), program.machine() / "a.cfdb")
        read_everywhere(program, "old-grid2", values, time)
        with cfdb.open_dataset(producer) as dataset:
            compare(dataset, values, time)


def start_remote(program: Program) -> None:
    """A dataset that is remote from the beginning."""
    with program.step("create a dataset through open_edataset, flag 'n'"):
        path = program.machine() / "grid.cfdb"
        with cfdb.open_edataset(program.connection("old-born-remote"), path, "n") as dataset:
            fill(dataset)
        with cfdb.open_edataset(program.connection("old-born-remote"), path, "c") as dataset:
            true(dataset.changes().push(), "nothing was pushed")
            compare(dataset)
        read_everywhere(program, "old-born-remote", VALUES, TIME)


def main() -> None:
    """Performs everything in order."""
    program = Program()
    with program.step("cfdb 0.1.0 knows ebooklet_tx as ebooklet"):
        program.check_modules()
        same(version("cfdb"), "0.1.0")
    share(program)
    values, time = change(program)
    finish(program, values, time)
    start_remote(program)
    program.end()


if __name__ == "__main__":
    main()
