"""Writes a remote of any number of keys with the codec of format 2 alone, as a first push would leave it.

    python scripts/synthetic_remote.py file:///tmp/shared/db 1000000
    python scripts/synthetic_remote.py file:///tmp/shared/db 10000000 --shared

Keys are written in order, and memory does not follow their number. With `--shared` all keys point into one pack
of 16 MiB, so that ten million keys take the room of their index: values are then those of the first keys again.
"""

from __future__ import annotations

import argparse
import resource
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ebooklet_tx.connection.parsing import connect
from ebooklet_tx.formats.block import AnyRow
from ebooklet_tx.formats.history import check_records
from ebooklet_tx.formats.index_object import cut_columns, join_blocks
from ebooklet_tx.formats.index_records import IndexEntry, Run, Sizes
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.pack import PACK_BYTES, PackBuilder
from ebooklet_tx.formats.root import RUN_LIST_BYTES, Manifest, encode_root
from ebooklet_tx.formats.root_body import entries_bytes
from ebooklet_tx.formats.run_list import encode_run_list
from ebooklet_tx.records import CommitRecord, CommitWay, ObjectRef, digest_of
from ebooklet_tx.stores.factory import open_store
from scripts.bench import data

NOW_US = 1_764_000_000_000_000
_ROWS_AT_ONCE = 1024

Put = Callable[[str, bytes], str]
"""Stores an object under its name in the store and returns its ETag."""


def write_remote(
    put: Put,
    names: ObjectNames,
    count: int,
    *,
    value_bytes: int = 100,
    shared: bool = False,
    commits: CommitWay | None = None,
    sizes: Sizes | None = None,
) -> tuple[Manifest, bytes]:
    """Writes packs, index objects and root of a database of `count` keys; returns manifest and bytes of the root.

    Args:
        put: How objects are stored.
        names: The database's.
        count: How many keys: those of `scripts.bench.data`, of which number `i` has value `i`.
        value_bytes: The size of each value.
        shared: Whether values repeat once a pack is full.
        commits: How commits are made, as the root is to say.
        sizes: Where blocks and index objects close.
    """
    sizes = sizes or Sizes()
    refs: dict[str, ObjectRef] = {}
    rows = (
        _shared_rows(put, names, refs, count, value_bytes)
        if shared
        else _rows(put, names, refs, count, value_bytes)
    )
    entries: list[IndexEntry] = []
    batches = iter(lambda: list(islice(rows, _ROWS_AT_ONCE)), [])
    blocks = cut_columns((list(zip(*batch, strict=True)) for batch in batches), refs, sizes)
    for blob, entry in join_blocks(blocks, names.new_index_object, sizes):
        entries.append(entry._replace(etag=put(names.object(entry.name), blob)))
    runs: tuple[Run, ...] = (tuple(entries),) if entries else ()
    if entries and entries_bytes(tuple(entries[:4096])) > RUN_LIST_BYTES:
        blob, run = encode_run_list(entries, names.new_index_object(), sizes)
        runs = (run._replace(ref=ObjectRef(run.ref.name, put(names.object(run.ref.name), blob), len(blob))),)
    record = CommitRecord(1, secrets.token_hex(16), NOW_US, "synthetic", count, 0, count * value_bytes)
    check_records([record])
    manifest = Manifest(
        uuid=secrets.token_hex(16),
        type="booklet",
        seq=1,
        commit_id=record.commit_id,
        parent=None,
        committed_at_us=NOW_US,
        writer=record.writer,
        fence=0,
        value_serializer=None,
        key_count=count,
        tombstone_floor=0,
        n_buckets=12_007,
        recent=((1, record.commit_id),),
        records=(record,),
        runs=runs,
        commits=commits,
    )
    root = encode_root(manifest, b"")
    put(names.root, root)
    return manifest, root


def _rows(
    put: Put, names: ObjectNames, refs: dict[str, ObjectRef], count: int, value_bytes: int
) -> Iterator[AnyRow]:
    """Yields a row for each key; each pack is stored, and named, before the first row that names it."""
    number = 0
    while number < count:
        pack, name = PackBuilder(), names.new_pack()
        rows: list[AnyRow] = []
        while number < count and (not rows or pack.size_bytes + value_bytes + 64 < PACK_BYTES):
            key, value = data.key(number), data.value(number, value_bytes)
            offset = pack.add(key, NOW_US + number, value)
            rows.append((key, 1, NOW_US + number, digest_of(value), name, offset, value_bytes, None))
            number += 1
        blob = pack.finish()
        refs[name] = ObjectRef(name, put(names.object(name), blob), len(blob))
        yield from rows


def _shared_rows(
    put: Put, names: ObjectNames, refs: dict[str, ObjectRef], count: int, value_bytes: int
) -> Iterator[AnyRow]:
    places = [
        row[3:] for row in _rows(put, names, refs, min(count, PACK_BYTES // (value_bytes + 64)), value_bytes)
    ]
    for number in range(count):
        yield (data.key(number), 1, NOW_US + number, *places[number % len(places)])


def main(words: list[str]) -> int:
    """Writes a remote and prints what it cost; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("url", help="where: file:///folder/db, s3://bucket/db")
    parser.add_argument("count", type=int, help="how many keys")
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--shared", action="store_true", help="let all keys share the values of one pack")
    options = parser.parse_args(words)
    connection = connect(options.url)
    store = open_store(connection, for_writing=True)
    started, cpu = time.monotonic(), time.process_time()

    def put(name: str, blob: bytes) -> str:
        return store.put(name, blob)

    commits = CommitWay("quoted", "file", "") if options.url.startswith("file:") else None
    names = ObjectNames(connection.key)
    manifest, root = write_remote(
        put, names, options.count, value_bytes=options.value_bytes, shared=options.shared, commits=commits
    )
    store.close()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (run,) = manifest.runs
    print(
        f"{options.count} keys, root {len(root)} bytes, run {type(run).__name__}, "
        f"{time.process_time() - cpu:.2f} CPU s, {time.monotonic() - started:.2f} s, {peak_bytes / 2**20:.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
