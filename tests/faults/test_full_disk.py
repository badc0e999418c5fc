"""A full disk, and one that fails: told by name, nothing lost, and gone on with once it is mended.

Three ways to it: strace makes each kind of write fail from the n-th on, so SQLite's own are among them;
the write of the Booklet file is cut short in the middle; and the kernel's own limit on a file's size
(RLIMIT_FSIZE), which gives short writes and then errors, needs no strace and no root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import ebooklet_tx
from ebooklet_tx.errors import LocalStorageError
from tests.campaigns import amounts
from tests.faults import checks
from tests.faults.killing import KillServer, Point, counting_options, failing_options, points_of
from tests.faults.scenarios import (
    FILE,
    READER_FILE,
    SCENARIOS,
    Content,
    Template,
    content_of,
    make_base,
    plain_content_of,
    remote_of,
    value_of,
)

KIND = "full-disk points"
Counted = Callable[[str, int], None]
FAULTS = {
    "pwrite64": "ENOSPC",
    "write": "ENOSPC",
    "ftruncate": "EIO",
    "fsync": "EIO",
    "fdatasync": "EIO",
}
"""Which error each kind of call fails with."""

DEFAULT_POINTS, CI_POINTS = 15, 40


@pytest.fixture
def template(scratch: Path) -> Iterator[tuple[Path, Template]]:
    folder = scratch / "full-disk-template"
    folder.mkdir()
    yield folder, make_base(folder)
    shutil.rmtree(folder)


@pytest.fixture
def copied(scratch: Path, template: tuple[Path, Template]) -> Iterator[tuple[Path, Template]]:
    folder = scratch / "full-disk-copy"
    shutil.copytree(template[0], folder)
    yield folder, template[1]
    shutil.rmtree(folder)


# -- strace ------------------------------------------------------------------------------------


def _order(folder: Path) -> dict[str, Any]:
    return {"scenario": "full disk", "folder": str(folder), "remote": remote_of(folder), "survives": True}


def _fail_at_points(
    server: KillServer, scratch: Path, source: Path, template: Template, limit: int | None
) -> int:
    folder = scratch / "full-disk-000000"
    shutil.copytree(source, folder)
    log = scratch / "full-disk.log"
    server.run(_order(folder), strace=counting_options(log))
    points = [point for point in points_of(log, folder) if point.call in FAULTS]
    log.unlink()
    shutil.rmtree(folder)
    if limit is not None and len(points) > limit:
        points = [points[index * len(points) // limit] for index in range(limit)]
    failures = []
    stopped = 0
    for number, point in enumerate(points, start=1):
        folder = scratch / f"full-disk-{number:06}"
        shutil.copytree(source, folder)
        try:
            stopped += _fail_at(server, folder, template, point)
        except Exception as error:
            failures.append(f"{FAULTS[point.call]} from {point} on: {type(error).__name__}: {error}")
        shutil.rmtree(folder)
    assert not failures, "\n".join(failures)
    # Some calls may fail unseen: SQLite's checkpoints, and what only tidies up.
    assert stopped >= len(points) // 2, f"{len(points)} points, {stopped} of them were noticed"
    return len(points)


def _fail_at(server: KillServer, folder: Path, template: Template, point: Point) -> bool:
    outcome = server.run(_order(folder), strace=failing_options(point, FAULTS[point.call]))
    expected = SCENARIOS["full disk"].states(template.local)[-1]
    checks.one_of(checks.read_remote(remote_of(folder), folder / READER_FILE), [template.remote], "reader sees")
    checks.reopen_and_push(remote_of(folder), folder, [expected])
    checks.check_files(folder)
    return outcome.stopped > 0


@pytest.mark.parametrize("points", amounts(DEFAULT_POINTS, CI_POINTS))
def test_disk_full_at_calls(
    points: int,
    kill_server: KillServer,
    scratch: Path,
    template: tuple[Path, Template],
    strace_is_there: bool,
    counted: Counted,
) -> None:
    if not strace_is_there:
        pytest.skip("strace can't inject faults here; the other tests of this file need none")
    counted(KIND, _fail_at_points(kill_server, scratch, *template, points))


@pytest.mark.slow
def test_disk_full_at_every_call(
    kill_server: KillServer,
    scratch: Path,
    template: tuple[Path, Template],
    strace_is_there: bool,
    counted: Counted,
) -> None:
    if not strace_is_there:
        pytest.skip("strace can't inject faults here; the other tests of this file need none")
    counted(KIND, _fail_at_points(kill_server, scratch, *template, None))


# -- without strace ----------------------------------------------------------------------------


def _append_on_full_disk(folder: Path, template: Template, fault: Any) -> bool:
    """Makes a large commit under a fault, then without it; tells whether the fault was met."""
    before, after = template.local, template.local.copy()
    big = {f"big{number}": value_of(f"big{number}", "full", 100_000) for number in range(4)}
    after.update(big)
    path = folder / FILE
    with ebooklet_tx.open(remote_of(folder), path, "w") as database:
        database.update(big)
        met = False
        with fault:
            try:
                database.sync()
            except LocalStorageError as error:
                met = True
                _check_message(str(error))
                checks.one_of(content_of(database), [after], "the session holds")
        if met:
            _check_committed(folder, before)
        database.sync()
        checks.one_of(content_of(database), [after], "once there is room the session holds")
    checks.reopen_and_push(remote_of(folder), folder, [after])
    checks.check_files(folder)
    return met


def _check_message(message: str) -> None:
    assert FILE in message
    assert "last commit is intact" in message


def _check_committed(folder: Path, expected: Content) -> None:
    """Reads the file beside the session that could not write it."""
    with ebooklet_tx.open(remote_of(folder), folder / FILE) as reader:
        checks.one_of(content_of(reader), [expected], "another session sees")


@contextlib.contextmanager
def _disk_full_from(call_number: int) -> Iterator[None]:
    """Writes half of what the n-th call from Python is given, and nothing after that."""
    calls = 0

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls < call_number:
            return genuine(descriptor, data, offset)
        if calls == call_number and len(data) > 1:
            return genuine(descriptor, bytes(data)[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    genuine = os.pwrite
    with mock.patch.object(os, "pwrite", pwrite):
        yield


def test_append_cut_short_at_each_write(scratch: Path, template: tuple[Path, Template], counted: Counted) -> None:
    number = 0
    met = True
    while met:
        number += 1
        folder = scratch / f"cut-{number:06}"
        shutil.copytree(template[0], folder)
        met = _append_on_full_disk(folder, template[1], _disk_full_from(number))
        shutil.rmtree(folder)
    counted(KIND, number - 1)
    assert number > 3


@contextlib.contextmanager
def _file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond a size; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room_bytes", [-30_000, 0, 1, 100, 4096, 100_000, 250_000, 400_000])
def test_append_beyond_the_size_limit(copied: tuple[Path, Template], room_bytes: int, counted: Counted) -> None:
    folder, template = copied
    limit_bytes = (folder / FILE).stat().st_size + room_bytes
    assert _append_on_full_disk(folder, template, _file_size_limit(limit_bytes))
    counted(KIND, 1)


@pytest.mark.parametrize("limit_bytes", [0, 4096, 20_000, 60_000])
def test_staging_beyond_the_size_limit(copied: tuple[Path, Template], limit_bytes: int, counted: Counted) -> None:
    folder, template = copied
    after = template.local.copy()
    after["staged"] = value_of("staged", "full", 80_000)
    with ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None) as database:
        database["staged"] = after["staged"]
        with _file_size_limit(limit_bytes), pytest.raises(LocalStorageError, match="last commit is intact"):
            database.sync()
        checks.one_of(content_of(database), [after], "the session holds")
        _check_committed(folder, template.local)
        database.sync()
        _check_committed(folder, after)
    checks.reopen_and_push(remote_of(folder), folder, [after])
    counted(KIND, 1)


def test_transaction_on_a_full_disk(copied: tuple[Path, Template], counted: Counted) -> None:
    folder, template = copied
    with ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None) as database:
        with _file_size_limit(0), pytest.raises(LocalStorageError), database.transaction():
            database["staged"] = b"x" * 1000
        checks.one_of(content_of(database), [template.local], "after the failed transaction")
        with database.transaction():
            database["staged"] = b"y"
    assert plain_content_of(folder / FILE)["staged"] == b"y"
    counted(KIND, 1)


def test_prune_without_room_for_a_copy(copied: tuple[Path, Template], counted: Counted) -> None:
    folder, template = copied
    with ebooklet_tx.open(remote_of(folder), folder / FILE, "w", lock=None) as database:
        with _file_size_limit(20_000), pytest.raises(LocalStorageError, match=FILE):
            database.prune()
        checks.one_of(content_of(database), [template.local], "after the failed prune")
        database.prune()
        checks.one_of(content_of(database), [template.local], "after the prune")
    checks.reopen_and_push(remote_of(folder), folder, [template.local])
    checks.check_files(folder)
    counted(KIND, 1)
