"""Remotes of ebooklet for tests: golden ones, which ebooklet made, and ones that are written here by its layouts.

`scripts/ebooklet_remotes` makes the golden ones anew. What is written here may be damaged on purpose.
"""

from __future__ import annotations

import base64
import contextlib
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2s, md5
from pathlib import Path
from typing import Any

import orjson
from booklet import serializers

from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.connecting import wrapped_stores
from tests.memory_store import MemoryStore

GOLDEN = Path(__file__).parent / "golden"
LAYOUTS = ("one", "per_key", "grouped")
"""Of 0.5.4, and the two of 0.11.1, as the golden files are named."""
NAMES = {"one": "per_key_0_5", "per_key": "per_key", "grouped": "grouped"}
"""What reports call them."""
FIRST_US = 1_700_000_000_000_000
KEY = "old"
"""Of each remote of ebooklet's here."""
METADATA = {"owner": "hydrology", "n": 1}

_FIRST: dict[str, Any] = {f"k{number:02}": {"n": number, "name": "ключ" * number} for number in range(36)}
_FIRST |= {"a/b": [1, None, 2.5], "ключ": "", "p%41 q?z=1#f": 0, "none": None}
_SECOND = {"k03": (1003, "changed"), "k20": (1020, ["longer"] * 30), "new": (1004, True)}

Contents = dict[str, tuple[int, Any]]
Objects = dict[str, tuple[bytes, dict[str, str]]]


def golden_contents(layout: str) -> Contents:
    """What a golden remote holds: timestamps and values. 0.5.4 did not get the deletions through."""
    found = {key: (FIRST_US + number, value) for number, (key, value) in enumerate(_FIRST.items())}
    found |= {key: (FIRST_US + number, value) for key, (number, value) in _SECOND.items()}
    return {key: pair for key, pair in found.items() if layout == "one" or key not in ("k05", "k06")}


def golden_objects(layout: str) -> Objects:
    """Returns the objects of a golden remote with their metadata, by name below `KEY`."""
    with zipfile.ZipFile(GOLDEN / f"ebooklet_remote_{layout}.zip") as archive:
        names: dict[str, dict[str, str]] = json.loads(archive.read("metadata.json"))
        return {
            name.replace(f"old/db_{layout}", KEY, 1): (archive.read(str(number)), metadata)
            for number, (name, metadata) in enumerate(names.items())
        }


def made_objects(
    layout: str,
    values: Mapping[str, tuple[int, bytes]],
    *,
    serializer: str | None = "orjson",
    group_bytes: int = 4096,
    metadata: tuple[Any, int] | None = (METADATA, FIRST_US + 100),
    **described: str,
) -> Objects:
    """Returns the objects of a remote with some encoded values, as ebooklet would have left them.

    Args:
        layout: One of `LAYOUTS`.
        values: Timestamps and encoded values.
        serializer: Booklet's name of the serializer.
        group_bytes: When a group is full.
        metadata: The user's, with its timestamp.
        **described: What S3 is to keep with the root instead.
    """
    objects: Objects = {}
    rows: dict[str, bytes] = {}
    groups: list[list[bytes]] = []
    sizes: list[int] = []
    for key, (stamp, value) in values.items():
        raw = key.encode()
        row = stamp.to_bytes(7, "little")
        if layout == "grouped":
            if not groups or sizes[-1] >= group_bytes:
                groups.append([])
                sizes.append(4)
            head = len(raw).to_bytes(2, "big") + raw + row + len(value).to_bytes(4, "big")
            row += b"".join(
                number.to_bytes(4, "little") for number in (len(groups) - 1, sizes[-1] + len(head), len(value))
            )
            groups[-1].append(head + value)
            sizes[-1] += len(head) + len(value)
        else:
            kept = {"timestamp": str(stamp)}
            if layout == "one":
                kept["content-md5"] = md5(value, usedforsecurity=False).hexdigest()
            else:
                row += bytes(8)
            objects[f"{KEY}/{key}"] = value, kept
        rows[key] = row
    names = {str(number): f"{number + 0xABC:013x}" for number in range(len(groups))}
    for number, members in enumerate(groups):
        body = len(members).to_bytes(4, "big") + b"".join(members)
        objects[f"{KEY}/{number}.{names[str(number)]}"] = body, {}
    index = index_of(rows, {"one": 7, "per_key": 15, "grouped": 19}[layout])
    root = index if layout == "one" else root_of(names, metadata, index)
    init = bytearray(200)
    init[:16] = bytes.fromhex("4f7e8a3fe75c4750ad430a728fe31cfe")
    init[16:18] = (5).to_bytes(2, "little")
    init[29:31] = serializers.serial_name_dict[serializer].to_bytes(2, "little")
    kept = {
        "timestamp": str(FIRST_US),
        "uuid": uuid.uuid4().hex,
        "type": "EVariableLengthValue",
        "init_bytes": base64.urlsafe_b64encode(init).decode(),
    }
    return {KEY: (root, kept | described), **objects}


def root_of(groups: Mapping[str, str], metadata: tuple[Any, int] | None, index: bytes) -> bytes:
    """Returns a root of 0.11.1."""
    listed = orjson.dumps(groups)
    described = b"" if metadata is None else orjson.dumps({"timestamp": metadata[1], "data": metadata[0]})
    lengths = b"".join(len(part).to_bytes(8, "big") for part in (listed, described, index))
    return b"ebooklet-db\0" + (2).to_bytes(2, "big") + bytes(2) + lengths + listed + described + index


def index_of(rows: Mapping[str, bytes], value_bytes: int, *, count: int | None = None) -> bytes:
    """Returns a Booklet with values of one length, chains aside, which nobody follows."""
    header = bytearray(200)
    header[:16] = bytes.fromhex("04d3b294f2104162958d0400738c9e0a")
    header[16:18] = (5).to_bytes(2, "little")
    header[21:25] = (13).to_bytes(4, "little")
    header[33:37] = (len(rows) if count is None else count).to_bytes(4, "little")
    header[37:41] = value_bytes.to_bytes(4, "little")
    blocks = []
    for key, value in rows.items():
        raw = key.encode()
        head = blake2s(raw, digest_size=13).digest() + (1).to_bytes(6, "little") + len(raw).to_bytes(2, "little")
        blocks.append(head + raw + value)
    return bytes(header) + (1).to_bytes(6, "little") * 13 + b"".join(blocks)


def shelved(objects: Objects) -> MemoryStore:
    """Returns a store that holds the objects."""
    store = MemoryStore()
    for name, (data, metadata) in objects.items():
        store.put(name, data, metadata=metadata)
    return store


PLACE = "http://127.0.0.1:9/old"
"""The place that `bucket_in_memory` puts a store in."""


@contextlib.contextmanager
def bucket_in_memory(
    store: ObjectStore, wrap_target: Callable[[ObjectStore], ObjectStore] = lambda inner: inner
) -> Iterator[None]:
    """Puts a store in the place of every web server in the block; others are wrapped as is said."""
    with wrapped_stores(lambda inner: store if isinstance(inner, HTTPStore) else wrap_target(inner)):
        yield
