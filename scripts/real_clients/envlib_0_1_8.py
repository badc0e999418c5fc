"""envlib 0.1.8: datasets are published in a catalogue, found, read, delisted, and found again without network.

With `--unreachable` the program performs its second half, for which nobody listens at the endpoint.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cfdb
import ebooklet
import envlib
import numpy as np
import shapely
from steps import Program, raises, same, same_array, true

LATITUDE = np.arange(30) * 0.25 - 47
LONGITUDE = np.arange(40) * 0.25 + 166
TIME = np.arange("2026-01-01", "2026-02-10", dtype="datetime64[D]")
LATER = np.arange("2026-02-10", "2026-02-20", dtype="datetime64[D]")
RANDOM = np.random.default_rng(20260103)
GRID = RANDOM.normal(285, 5, (len(TIME), len(LATITUDE), len(LONGITUDE))).astype("float32")
MORE = RANDOM.normal(290, 5, (len(LATER), len(LATITUDE), len(LONGITUDE))).astype("float32")
STATIONS = [envlib.canonical_station_point(shapely.Point(x, y)) for x, y in ((171.75, -43.9), (172.6, -43.5))]
FLOW_FIELDS = {
    "feature": "waterway",
    "variable": "streamflow",
    "method": "sensor_recording",
    "spatial_resolution": "point",
}
FLOW = RANDOM.gamma(2, 20, (len(STATIONS), len(TIME))).astype("float32")


def metadata(**changed: Any) -> envlib.Metadata:
    """Returns the description of the gridded dataset, or of one that differs."""
    fields = {
        "feature": "atmosphere",
        "variable": "temperature",
        "method": "simulation",
        "product_code": "era9",
        "processing_level": "quality_controlled",
        "owner": "ecan",
        "aggregation_statistic": "mean",
        "frequency_interval": "day",
        "utc_offset": "+00:00",
        "spatial_resolution": "0.25deg",
        "version": "1",
        "license": "CC-BY-4.0",
        "attribution": "made by a test",
    }
    return envlib.Metadata(**fields | changed)


def make_grid(path: Path, described: envlib.Metadata) -> None:
    """Makes a gridded dataset with cfdb alone, as envlib wants it."""
    with cfdb.open_dataset(path, "n") as dataset:
        dataset.create.coord.time(data=TIME, dtype=TIME.dtype)
        dataset.create.coord.lat(data=LATITUDE)
        dataset.create.coord.lon(data=LONGITUDE)
        dataset.create.crs.from_user_input(4326, x_coord="longitude", y_coord="latitude")
        variable = dataset.create.data_var.generic(
            "temperature", ("time", "latitude", "longitude"), dtype="float32", chunk_shape=(10, 30, 40)
        )
        variable[:] = GRID
        variable.attrs["units"] = "K"
        dataset.attrs.update(described.to_dict())


def make_stations(path: Path, described: envlib.Metadata) -> None:
    """Makes time series of stations with cfdb alone, as envlib wants them."""
    with cfdb.open_dataset(path, "n", dataset_type="ts_ortho") as dataset:
        dataset.create.coord.point(data=np.array(STATIONS))
        dataset.create.coord.time(data=TIME, dtype=TIME.dtype)
        dataset.create.crs.from_user_input(4326, xy_coord="point")
        station = dataset.create.data_var.generic("station_id", ("point",), dtype="str")
        station[:] = np.array([envlib.compute_station_id(point) for point in STATIONS])
        variable = dataset.create.data_var.generic("streamflow", ("point", "time"), dtype="float32")
        variable[:] = FLOW
        variable.attrs["units"] = "m3/s"
        dataset.attrs.update(described.to_dict())


def open_catalogue(program: Program, cache: str, **options: Any) -> envlib.Catalogue:
    """Opens the catalogue by its public URL, as readers do."""
    return envlib.Catalogue([program.url("catalogue.rcg")], cache=str(program.machine(cache)), **options)


def compare_grid(dataset: Any, values: np.ndarray = GRID) -> None:
    """Demands that the gridded dataset is what was written."""
    same_array(dataset["temperature"].data, values, "temperature")
    same_array(dataset["latitude"].data, LATITUDE, "latitude")
    same(dataset["temperature"].attrs["standard_name"], "air_temperature")


def publish(program: Program) -> envlib.Catalogue:
    """Publishes a dataset and finds it by everything that can be asked."""
    group = program.connection("catalogue.rcg", db_url=program.url("catalogue.rcg"))
    member = program.connection("grid-v1", db_url=program.url("grid-v1"))
    path = program.machine("producer") / "grid.cfdb"
    described = metadata()
    with program.step("a catalogue that is not there yet is empty, with a warning"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            catalogue = envlib.Catalogue([group], cache=str(program.machine("producer-cache")))
        true(any("treating as empty" in str(warning.message) for warning in caught), f"warned of {caught}")
        same(catalogue.datasets, [])
    with program.step("validate() takes the dataset"):
        make_grid(path, described)
        same(catalogue.validate(path)["dataset_version_id"], described.dataset_version_id)
    with program.step("publish() pushes it, verifies it and enters it"):
        result = catalogue.publish(path, member, group)
        same(result["dataset_version_id"], described.dataset_version_id)
        same([ref.version for ref in catalogue.datasets], ["1"])
    with program.step("publish() again changes nothing"):
        before = catalogue.datasets[0].entry
        catalogue.publish(path, member, group)
        same(catalogue.datasets[0].entry, before)
    with program.step("the entry has what envlib reads from it"):
        entry = catalogue.datasets[0].entry
        same(entry["remote_conn"], member.to_dict())
        same(entry["entry_version"], 1)
        same((entry["type"], type(entry["timestamp"])), ("EVariableLengthValue", int))
        same(entry["remote_meta"]["dataset_type"], "grid")
        same(entry["user_meta"]["dataset_id"], described.dataset_id)
        true("client-secret" not in str(entry), "the entry has a credential in it")
    return catalogue


def find(program: Program) -> None:
    """Finds and reads the dataset on a machine without credentials."""
    with program.step("a reader without credentials finds it by its properties"):
        catalogue = open_catalogue(program, "reader-cache")
        same((catalogue.variables, catalogue.owners), (["temperature"], ["ecan"]))
        same((catalogue.dataset_types, catalogue.licenses), (["grid"], ["CC-BY-4.0"]))
        for query in (
            {"variable": "temperature", "feature": "atmosphere"},
            {"bbox": [166, -47, 179, -34], "start_date": "2020-01-01"},
            {"within_radius": ((170.0, -43.0), 10.0)},
            {"geometry": shapely.box(167, -46, 168, -45), "end_date": "2026-01-02"},
        ):
            same(len(catalogue.query(**query)), 1, str(query))
        for query in ({"owner": "niwa"}, {"bbox": [0, 0, 1, 1]}, {"end_date": "2025-01-01"}):
            same(catalogue.query(**query), [], str(query))
    with program.step("and reads it by its public URL"):
        with catalogue.query(variable="temperature")[0].open() as dataset:
            compare_grid(dataset)
        with catalogue.datasets[0].open(program.machine() / "a.cfdb", "client-key", "client-secret") as dataset:
            compare_grid(dataset)


def revise(program: Program, catalogue: envlib.Catalogue) -> None:
    """Extends a dataset, adds a version, and registers what another program pushed."""
    group = program.connection("catalogue.rcg", db_url=program.url("catalogue.rcg"))
    path = program.machine("producer") / "grid.cfdb"
    values = np.concatenate([GRID, MORE])
    with program.step("an extended dataset is published anew, and the entry follows"):
        member = program.connection("grid-v1", db_url=program.url("grid-v1"))
        with cfdb.open_edataset(member, path, "w") as dataset:
            dataset["time"].append(LATER)
            dataset["temperature"][len(TIME) :, :, :] = MORE
        catalogue.publish(path, member, group)
        (ref,) = open_catalogue(program, "reader-cache").datasets
        same(ref.time_end, "2026-02-19T00:00:00Z")
        true(ref.modified_at >= ref.created_at, f"{ref.modified_at} is before {ref.created_at}")
        with ref.open() as dataset:
            compare_grid(dataset, values)
    with program.step("a second version is the one that a query finds"):
        second = program.machine("producer") / "grid-v2.cfdb"
        make_grid(second, metadata(version="2"))
        member = program.connection("grid-v2", db_url=program.url("grid-v2"))
        catalogue.publish(second, member, group, group_bytes=1 << 20)
        reader = open_catalogue(program, "reader-cache")
        same(reader.versions, ["1", "2"])
        same({ref.version for ref in reader.query(version=["1", "2"])}, {"1", "2"})
    with program.step("register() enters time series that are in their remote already"):
        path = program.machine("producer") / "flow.cfdb"
        described = metadata(**FLOW_FIELDS)
        make_stations(path, described)
        member = program.connection("flow", db_url=program.url("flow"))
        with cfdb.open_edataset(member, path, "w") as dataset:
            dataset.push()
        same(catalogue.register(member, group)["dataset_version_id"], described.dataset_version_id)
        (ref,) = open_catalogue(program, "reader-cache").query(variable="streamflow")
        with ref.open() as dataset:
            same_array(dataset["streamflow"].data, FLOW, "streamflow")
            same(
                [str(word) for word in dataset["station_id"].data],
                [envlib.compute_station_id(p) for p in STATIONS],
            )


def withdraw(program: Program, catalogue: envlib.Catalogue) -> None:
    """Delists one dataset, deletes another with its data, and meets a damaged one."""
    group = program.connection("catalogue.rcg", db_url=program.url("catalogue.rcg"))
    flow, second = metadata(**FLOW_FIELDS), metadata(version="2")
    with program.step("deregister() delists, and the data stay"):
        catalogue.deregister(flow.dataset_version_id, group)
        same(open_catalogue(program, "reader-cache").variables, ["temperature"])
        with cfdb.open_edataset(program.url("flow"), program.machine() / "flow.cfdb") as dataset:
            same_array(dataset["streamflow"].data, FLOW, "streamflow")
    with program.step("deregister(delete_data=True) removes the data as well"):
        raises(envlib.ValidationError, catalogue.deregister, second.dataset_version_id, group, delete_data=True)
        keys = {"access_key_id": "client-key", "access_key": "client-secret"}
        catalogue.deregister(second.dataset_version_id, group, delete_data=True, **keys)
        same([ref.version for ref in open_catalogue(program, "reader-cache").datasets], ["1"])
        raises(
            ebooklet.RemoteMissingError, cfdb.open_edataset, program.url("grid-v2"), program.machine() / "a.cfdb"
        )
        raises(envlib.ValidationError, catalogue.deregister, second.dataset_version_id, group)
    with (
        program.step("the other dataset is whole"),
        open_catalogue(program, "other-cache").datasets[0].open() as dataset,
    ):
        compare_grid(dataset, np.concatenate([GRID, MORE]))
    with program.step("fsck() finds the pushed remotes in order"):
        report = ebooklet.fsck(program.connection("grid-v1"), check_objects=True)
        same(
            (report.db_object_exists, list(report.claimed_but_missing), list(report.unmanifested_group_ids)),
            (True, [], []),
        )
        same(ebooklet.fsck(program.connection("grid-v2"), check_objects=True).db_object_exists, False)


def without_network(program: Program) -> None:
    """What a catalogue does when its remote can't be reached."""
    with program.step("a catalogue falls back to its cache, with a warning"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            catalogue = open_catalogue(program, "reader-cache")
        true(any(issubclass(warning.category, UserWarning) for warning in caught), "nothing was warned of")
        same([ref.version for ref in catalogue.query(variable="temperature")], ["1"])
    with program.step("refresh() keeps the cached entries"):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            catalogue.refresh()
        same(catalogue.owners, ["ecan"])
    with program.step("a machine that has no cache is told that it is offline"):
        raises(ebooklet.OfflineError, open_catalogue, program, "empty-cache")


def main() -> None:
    """Performs everything in order."""
    program = Program()
    with program.step(f"envlib {envlib.__version__} knows ebooklet_tx as ebooklet"):
        program.check_modules()
        same(envlib.__version__, "0.1.8")
    if program.unreachable:
        without_network(program)
    else:
        catalogue = publish(program)
        find(program)
        revise(program, catalogue)
        withdraw(program, catalogue)
    program.end()


if __name__ == "__main__":
    main()
