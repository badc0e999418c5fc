"""Measures workers on a cluster of Dask that write through a fork: `python scripts/dask_fleet.py [--help]`.

Each worker is a process that sets its share of the keys and hands back a receipt; the coordinator merges the
receipts and pushes once. With `--kill` one worker ends in the middle of its share, and Dask gives the share to
another. The same keys are then set and pushed by one process. Another copy reads all of them in the end.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.testing import CountingStore


def key_of(number: int) -> str:
    """Returns a key."""
    return f"station/{number:07}/temp"


def value_of(number: int) -> bytes:
    """Returns its value: 100 bytes that no codec makes shorter."""
    return hashlib.shake_128(b"%d" % number).digest(100)


def write(fork: ebooklet_tx.Fork, numbers: range, kill: Path | None) -> ebooklet_tx.Receipt:
    """Runs in a worker: writes a share of the keys."""
    with fork.open() as part:
        for number in numbers:
            part[key_of(number)] = value_of(number)
            if kill is not None and number == numbers[len(numbers) // 2] and not kill.exists():
                kill.touch()
                os._exit(9)
    return part.receipt


def by_workers(url: str, folder: Path, keys: int, workers: int, kill: Path | None) -> str:
    """Lets workers write; returns what it took."""
    from dask.distributed import Client, LocalCluster

    shares = [range(first, keys, workers) for first in range(workers)]
    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    with (
        cluster,
        Client(cluster) as client,
        testing.wrapped_stores(CountingStore) as stores,
        ebooklet_tx.open(url, folder / "coordinator.blt", "c", value_serializer="bytes") as db,
    ):
        db.changes().push(force_push=True)
        stores[0].reset()
        marks = [time.monotonic()]
        fork = db.fork()
        tasks = [client.submit(write, fork, share, kill, pure=False) for share in shares]
        receipts = client.gather(tasks)
        marks.append(time.monotonic())
        db.merge(*receipts)
        marks.append(time.monotonic())
        result = db.changes().push()
        marks.append(time.monotonic())
        commits = len(db.history()) - 1
    work, merge, push = (later - earlier for earlier, later in itertools.pairwise(marks))
    counted = stores[0]
    moved = counted.bytes_up + counted.bytes_down
    return (
        f"{workers} workers{', one killed' if kill else ''}: {keys} keys, {commits} commit of "
        f"{result.set_count}; work {work:.1f}, merge {merge:.1f}, push {push:.1f} s; coordinator "
        f"{counted.total} requests, {moved / keys:.1f} bytes a key"
    )


def by_one(url: str, folder: Path, keys: int) -> str:
    """Lets one process do the same; returns what it took."""
    with testing.wrapped_stores(CountingStore) as stores:
        began = time.monotonic()
        with ebooklet_tx.open(url, folder / "one.blt", "c", value_serializer="bytes") as db:
            db.update((key_of(number), value_of(number)) for number in range(keys))
            db.changes().push()
        took = time.monotonic() - began
    counted = stores[0]
    moved = counted.bytes_up + counted.bytes_down
    return f"one process: {took:.1f} s, {counted.total} requests, {moved / keys:.1f} bytes a key"


def is_whole(url: str, keys: int) -> bool:
    """Tells whether another reader finds every key with its value, and nothing else."""
    with ebooklet_tx.open(url, None) as reader:
        return dict(reader) == {key_of(number): value_of(number) for number in range(keys)}


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kill", action="store_true", help="end one worker in the middle of its share")
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        url, kill = f"file://{folder}/remote/fleet", folder / "killed" if asked.kill else None
        print(by_workers(url, folder, asked.keys, asked.workers, kill))
        print(by_one(f"{url}-one", folder, asked.keys))
        whole = is_whole(url, asked.keys)
        died = kill is None or kill.exists()
    print("read by another: all equal" if whole else "read by another: NOT EQUAL")
    return 0 if whole and died else 1


if __name__ == "__main__":
    raise SystemExit(main())
