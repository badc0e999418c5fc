"""Workers of a fork on a store of the test's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ebooklet_tx
from ebooklet_tx import Database
from ebooklet_tx.database.forking import Fork, Part
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import wrapped_stores
from ebooklet_tx.sync.forks.receipt import Receipt

Changes = Mapping[str, bytes | None]


@contextlib.contextmanager
def pushed_database(folder: Path) -> Iterator[Database]:
    """Yields a database of JSON values in a folder, whose one key was pushed."""
    url = f"file://{folder / 'remote' / 'db'}"
    with ebooklet_tx.open(url, folder / "a.blt", "c", "orjson", lock=None) as made:
        made["there"] = 0
        made.changes().push()
        yield made


def open_part(fork: Fork, store: ObjectStore, **options: Any) -> Part:
    """A worker's part, on a store in the place of the one that the fork names."""
    options.setdefault("retry", RetryPolicy.without_backoff(2))
    with wrapped_stores(lambda _inner: store):
        return fork.open(**options)


def work(fork: Fork, store: ObjectStore, changes: Changes, **options: Any) -> Receipt:
    """What a worker does, and its receipt; None deletes a key."""
    with open_part(fork, store, **options) as part:
        for key, value in changes.items():
            if value is None:
                part.pop(key, None)
            else:
                part[key] = value
    return part.receipt


def divided(changes: Changes, count: int, seed: int = 0) -> list[dict[str, bytes | None]]:
    """Changes dealt out to workers, each key to one."""
    rng = random.Random(seed)
    parts: list[dict[str, bytes | None]] = [{} for _ in range(count)]
    for key, value in changes.items():
        parts[rng.randrange(count)][key] = value
    return parts


def in_order(state: dict[str, bytes], changes: Changes) -> dict[str, bytes]:
    """What one after another makes of a state."""
    left = {**state, **changes}
    return {key: value for key, value in sorted(left.items()) if value is not None}
