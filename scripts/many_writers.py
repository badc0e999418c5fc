"""Measures optimistic writers that push at once: `python scripts/many_writers.py [--help]`.

Each writer is a process that adds one to a shared counter and to one of its own, and pushes; conflicts on the
shared counter are added up. So many run at a time, until all have made their pushes. The same is measured before
with one at a time, four writers one after another, for the ratio: so the opening of new copies counts in both.
Writers of one machine queue; `--apart` measures them as if each had a machine of its own, though they share the
processors of this one.

The last line is a row of a table: rate of all over the rate of one, and the slowest push over the median of one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.stores.wrapper import PassingStore
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, ministack_server

T = TypeVar("T")
SHARED = "shared"


class SlowStore(PassingStore):
    """Lets each request take so many seconds more."""

    seconds = 0.0

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if self.seconds:
            time.sleep(self.seconds)
        return send()


@dataclass(frozen=True)
class Work:
    """What one writer does."""

    remote: str
    endpoint_url: str | None
    folder: Path
    pushes: int
    delay_seconds: float


def connection(work: Work) -> ebooklet_tx.S3Connection | str:
    """Returns where the remote is."""
    if work.endpoint_url is None:
        return work.remote
    bucket, key = work.remote.split("/", 1)
    return ebooklet_tx.S3Connection(bucket=bucket, db_key=key, endpoint_url=work.endpoint_url)


def added_up(conflict: ebooklet_tx.Conflict) -> int:
    """Merges two counts."""
    values = (conflict.base, conflict.ours, conflict.theirs)
    base, ours, theirs = (0 if value is ebooklet_tx.MISSING else value for value in values)
    return int(ours + theirs - base)


def write(work: Work, number: int) -> list[tuple[float, float]]:
    """Makes the pushes of one writer; returns when each began and how long it took."""
    SlowStore.seconds = work.delay_seconds
    taken = []
    with testing.wrapped_stores(SlowStore):
        path = work.folder / f"{number}.blt"
        with ebooklet_tx.open(connection(work), path, "c", value_serializer="orjson", lock=None) as db:
            for _ in range(work.pushes):
                for key in (SHARED, f"own/{number}"):
                    db[key] = db.get(key, 0) + 1
                began = time.monotonic()
                db.changes().push(on_conflict=added_up)
                taken.append((began, time.monotonic() - began))
    return taken


@contextlib.contextmanager
def store(kind: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Yields an address and, for a server, its endpoint."""
    if kind == "directory":
        (folder / "remote").mkdir()
        yield f"file://{folder}/remote/counters", None
        return
    with ministack_server() as endpoint:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        import boto3

        name = f"writers-{uuid.uuid4().hex[:8]}"
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
        yield f"{name}/counters", endpoint


def begin(work: Work, apart: bool, ready: Barrier) -> None:
    """Prepares a process: all have imported everything, and collected what that left, before a push is measured.

    The first full collection of garbage takes 45 ms here, and would come in the first push of each at once.
    """
    folder = work.folder / f"process-{os.getpid()}"
    folder.mkdir(mode=0o700)
    if apart:
        os.environ["XDG_RUNTIME_DIR"] = str(folder)
    write(replace(work, remote=f"{work.remote}-{os.getpid()}", folder=folder, pushes=1, delay_seconds=0.0), 0)
    gc.collect()
    ready.wait()


def run(work: Work, numbers: range, at_once: int, *, apart: bool = False) -> tuple[list[float], float]:
    """Lets writers work, so many at a time; returns what each push took, and from first to last."""
    context = multiprocessing.get_context("spawn")
    prepared = (work, apart, context.Barrier(at_once))
    with ProcessPoolExecutor(at_once, mp_context=context, initializer=begin, initargs=prepared) as pool:
        spans = [span for spans in pool.map(write, [work] * len(numbers), numbers) for span in spans]
    first, last = min(begun for begun, _ in spans), max(begun + took for begun, took in spans)
    return [took for _, took in spans], last - first


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("directory", "ministack"), default="directory")
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--pushes", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="what each request takes more")
    parser.add_argument(
        "--apart", action="store_true", help="as on a machine each: no queue of the machine's own"
    )
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        with store(asked.store, folder) as (remote, endpoint_url):
            alone = Work(f"{remote}-alone", endpoint_url, folder / "alone", asked.pushes, asked.delay_ms / 1e3)
            many = Work(remote, endpoint_url, folder / "many", asked.pushes, asked.delay_ms / 1e3)
            for work in (alone, many):
                work.folder.mkdir()
            # The databases exist before they begin.
            for work in (alone, many):
                write(replace(work, pushes=1, delay_seconds=0.0), asked.writers)
            one, one_seconds = run(alone, range(4), 1)
            took, seconds = run(many, range(asked.writers), asked.at_once, apart=asked.apart)
            with ebooklet_tx.open(connection(many), folder / "last.blt", "r") as db:
                total = db[SHARED]
    wanted = asked.writers * asked.pushes + 1
    rate, median = len(one) / one_seconds, statistics.median(one)
    took.sort()
    print(f"sum {total}, wanted {wanted}")
    together, slowest = len(took) / seconds, took[-1]
    store_name = f"{asked.store}, apart" if asked.apart else asked.store
    print(
        f"{store_name}, {asked.writers} writers x {asked.pushes} pushes, {asked.at_once} at a time, "
        f"{asked.delay_ms:g} ms a request: alone {rate:.1f}/s, median {median * 1e3:.0f} ms; together "
        f"{together:.1f}/s = {together / rate:.2f} x, median {statistics.median(took) * 1e3:.0f}, 99 % "
        f"{took[int(len(took) * 0.99)] * 1e3:.0f}, slowest {slowest * 1e3:.0f} ms = {slowest / median:.0f} x the "
        f"median alone (bar {4 * asked.at_once})"
    )
    return 0 if total == wanted else 1


if __name__ == "__main__":
    raise SystemExit(main())
