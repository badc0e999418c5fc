"""Imports from ebooklet in processes of their own, which kill themselves in the middle."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import TypeVar

import ebooklet_tx
from ebooklet_tx.importing import importing, source_file, source_root
from ebooklet_tx.local import bounded_copies
from ebooklet_tx.stores.object_store import ObjectStore
from tests.ebooklet_remotes import FIRST_US, PLACE, bucket_in_memory, made_objects, shelved
from tests.memory_store import MemoryStore
from tests.processes import say
from tests.store_wrappers import PassingStore

T = TypeVar("T")

SMALL_BYTES = 100_000
"""What an import with small batches may have here; a quarter of it is a batch."""


def values_of(count: int = 100, size: int = 1000) -> dict[str, tuple[int, bytes]]:
    """Timestamps and values, in an order that is not the keys'."""
    source = random.Random(count)
    numbers = list(range(count))
    source.shuffle(numbers)
    return {f"k{number:03}": (FIRST_US + number, source.randbytes(size)) for number in numbers}


def source_of(layout: str, count: int = 100, size: int = 1000) -> MemoryStore:
    """The source of imports that are killed."""
    group_bytes = max(20_000, count * size // 3)
    return shelved(made_objects(layout, values_of(count, size), serializer=None, group_bytes=group_bytes))


def make_small(set_attribute: Callable[[object, str, object], None] = setattr) -> None:
    """Lets small bounds be given, reads windows of 40 keys, and the index by ranges."""
    set_attribute(importing, "LEAST_LOCAL_BYTES", 1)
    set_attribute(bounded_copies, "LEAST_LOCAL_BYTES", 1)
    set_attribute(source_root.SourceRoot.windows, "__defaults__", (40,))
    set_attribute(source_file, "IN_MEMORY_BYTES", 1000)
    set_attribute(source_file, "RANGE_BYTES", 700)


class _KillingStore(PassingStore):
    """Kills its process at the n-th request, before or after that takes effect."""

    def __init__(self, inner: ObjectStore, at: int, *, after: bool) -> None:
        super().__init__(inner)
        self._left = at
        self._after = after

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        with self._mutex:
            self._left -= 1
            is_last = self._left == 0
        if is_last and self._after:
            send()
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return send()


def import_and_die(pipe: Pipe, layout: str, url: str, path: Path, at: int, after: bool) -> None:
    """Imports in small batches until the n-th request to the target."""
    make_small()
    with bucket_in_memory(source_of(layout), lambda inner: _KillingStore(inner, at, after=after)):
        ebooklet_tx.import_ebooklet(PLACE, url, path, max_local_bytes=SMALL_BYTES)


def import_large(
    pipe: Pipe, layout: str, url: str, path: Path, amounts: tuple[int, int, int], at: int | None
) -> None:
    """Imports so many values of so many bytes within a bound, and says the report.

    Where a number is given, it dies at that request to the target.
    """
    count, size, local_bytes = amounts
    store = source_of(layout, count, size)

    def wrap(inner: ObjectStore) -> ObjectStore:
        return inner if at is None else _KillingStore(inner, at, after=False)

    with bucket_in_memory(store, wrap):
        report = ebooklet_tx.import_ebooklet(PLACE, url, path, max_local_bytes=local_bytes, verify=True)
    say(pipe, report.to_dict())
