"""A process with little memory that decodes objects of format 2 made to cost much.

Run by tests/formats/test_bombs.py. Each bomb is below 1 MiB. Prints a JSON object of names and what came
of it.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from ebooklet_tx import limits
from ebooklet_tx.errors import Error
from ebooklet_tx.formats.block import decode_block, encode_block
from ebooklet_tx.formats.columns import FrameKind, FrameWriter
from ebooklet_tx.formats.history import decode_history, write_facts, write_histories
from ebooklet_tx.formats.index_object import decode_directory, decode_pack_list
from ebooklet_tx.formats.index_records import Directory, HistoryRef, RunPage
from ebooklet_tx.formats.manifest import dump, plain_record
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.formats.run_list import decode_run_page, write_bounds, write_entries, write_pages
from ebooklet_tx.records import IndexRow, digest_of
from tests.formats.samples import ENTRIES, FRAME_HEADER, LIST, hex_id, manifest_of, records, sealed_root

ROOM_BYTES = 64 * 2**20
MOST_BYTES = 2**20

MAGICS = {
    "block": b"EBTXblk\n",
    "directory": b"EBTXdir\n",
    "packs": b"EBTXpks\n",
    "page": b"EBTXlst\n",
    "history": b"EBTXhis\n",
    "body": b"EBTXbdy\n",
}


def writer(what: str) -> FrameWriter:
    """A writer without limits."""
    return FrameWriter(FrameKind(MAGICS[what], "a bomb", 2**40, 2**40, 2**40))


def inflating(what: str, announced: int, rows: int) -> bytes:
    """A frame whose columns are hundreds of megabytes of nothing, whatever it announces."""
    # A root's binary part is refused by its length alone past 128 KiB.
    pieces = 100 if what == "body" else 900
    packer = zlib.compressobj(9)
    begin = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush nothing refers back, so that the same piece may come again and again.
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = begin + piece * pieces + b"\x03\x00" + struct.pack(">HH", pieces * 2**20 % 65_521, 1)
    return FRAME_HEADER.pack(MAGICS[what], 2, 0, rows, len(packed), announced) + packed


def prefixed(frame: FrameWriter, rows: int, ending: str = "\U0001f511") -> None:
    """A column of texts that all begin with the same long text, of characters that take four bytes each."""
    frame.texts([ending + "k" * 60_000 + f"{number:06d}" for number in range(rows)])


def read_block(data: bytes) -> object:
    """Decodes and lists a block."""
    return len(list(decode_block(data, name="x").rows()))


def read_directory(data: bytes) -> object:
    """Decodes a directory whose object is as large as one can be."""
    entry = ENTRIES[0]._replace(
        size_bytes=limits.MAX_OBJECT_BYTES,
        directory_length_bytes=len(data),
        directory_digest=digest_of(data),
        greatest_seq=limits.MAX_COUNT,
    )
    return len(decode_directory(data, entry=entry, name="x").blocks)


def read_packs(data: bytes) -> object:
    """Decodes a list of packs."""
    directory = Directory((), 0, len(data), digest_of(data), limits.MAX_OBJECT_PACKS)
    return len(decode_pack_list(data, directory=directory, name="x"))


def read_page(data: bytes) -> object:
    """Decodes a page of a run's list."""
    return len(decode_run_page(data, RunPage("", None, 0, len(data), digest_of(data), 1, 1, 1, 1), name="x"))


def read_history(data: bytes) -> object:
    """Decodes a history object."""
    ref = HistoryRef(
        f"history/{hex_id(1)}", "e", len(data), digest_of(data), 1, 10_000, limits.MAX_HISTORY_RECORDS
    )
    return len(decode_history(data, ref=ref))


def read_body(data: bytes) -> object:
    """Decodes a root around a binary part."""
    return len(decode_root(sealed_root(dump(plain_record(manifest_of())), data), name="x").manifest.runs)


def read_root(data: bytes) -> object:
    """Decodes a root and its tail."""
    return len(decode_root(data, name="x").tail_block())


def bombs() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """All bombs and how to read them."""
    found: dict[str, tuple[bytes, Callable[[bytes], object]]] = {}
    readers = {
        "block": (read_block, limits.MAX_BLOCK_ROWS, limits.MAX_BLOCK_BYTES),
        "directory": (read_directory, limits.MAX_OBJECT_BLOCKS, limits.MAX_LIST_BYTES),
        "packs": (read_packs, limits.MAX_OBJECT_PACKS, limits.MAX_PACK_LIST_BYTES),
        "page": (read_page, limits.MAX_PAGE_ENTRIES, limits.MAX_LIST_BYTES),
        "history": (read_history, limits.MAX_HISTORY_RECORDS, limits.MAX_HISTORY_BYTES),
        "body": (read_body, limits.MAX_BODY_ENTRIES, limits.MAX_BODY_RAW_BYTES),
    }
    for what, (read, rows, raw_bytes) in readers.items():
        for announced in (1000, raw_bytes, 900 * 2**20, 2**32 - 1):
            found[f"{what} that announces {announced}"] = inflating(what, announced, rows), read
        # A column of numbers that takes no room, for as many rows as can be said.
        nothing = struct.pack("<QQ", 0, 0) + struct.pack("<Bq", 0, 1) * 20
        packed = zlib.compress(nothing)
        found[f"{what} of four billion rows"] = (
            FRAME_HEADER.pack(MAGICS[what], 2, 0, 2**32 - 1, len(packed), len(nothing)) + packed,
            read,
        )

    frame = writer("block")
    frame.number(0)
    prefixed(frame, 1000)
    found["block of long keys"] = frame.finish(1000), read_block
    value = bytes(limits.MAX_INLINE_BYTES)
    rows = [
        IndexRow(f"\U0001f511{number:06d}" + "k" * 60_000, 1, 0, digest_of(value), None, None, len(value), value)
        for number in range(14)
    ]
    found["block as full as can be"] = encode_block(rows, {}), read_block

    frame = writer("directory")
    frame.number(0)
    frame.number(0)
    prefixed(frame, 256)
    found["directory of long fences"] = frame.finish(256), read_directory

    frame = writer("packs")
    frame.texts(["\U0001f511" + "e" * 1000 + f"{number:06d}" for number in range(4096)])
    found["list of long ETags"] = frame.finish(4096), read_packs

    frame = writer("page")
    write_bounds(frame, [(f"\U0001f511{n:06d}" + "k" * 3_000, f"{n:06d}" + "l" * 60_000) for n in range(15)])
    found["page of long bounds"] = frame.finish(15), read_page

    for name, message in (("long", "\U0001f511" + "m" * 4_000), ("too long", "m" * 60_000)):
        log = records(1000 if name == "long" else 4000, 5_000, message)[::-1]
        frame = writer("history")
        frame.integers([record.seq for record in log])
        write_facts(frame, log)
        frame.plain(bytes(16 * len(log)))
        found[f"history of {name} messages"] = frame.finish(len(log)), read_history

    frame = writer("body")
    for number in (1, 0, 0, 16, 0, 0):
        frame.number(number)
    frame.integers([9])
    frame.plain(bytes.fromhex(hex_id(9)))
    write_facts(frame, [])
    write_histories(frame, [])
    frame.integers([0] * 16)
    write_entries(frame, [])
    pages = tuple(
        LIST.pages[0]._replace(
            lo="\U0001f511" + "k" * 60_000 + f"{n:06d}", hi="\U0001f511" + "k" * 60_000 + f"{n:06d}x"
        )
        for n in range(60)
    )
    for _ in range(16):
        write_pages(frame, LIST._replace(pages=pages))
    found["root of many long bounds"] = frame.finish(0), read_body

    nested = b'{"a":' + b"[" * 60_000 + b"]" * 4_000
    found["manifest of brackets"] = sealed_root(nested, b""), read_root
    pairs = b"{" + b",".join(b'"%d":{}' % number for number in range(5_000)) + b"}"
    found["manifest of many names"] = sealed_root(pairs, b""), read_root
    found["manifest of a long number"] = sealed_root(b'{"a":' + b"9" * 60_000 + b"}", b""), read_root
    return found


def limit_memory() -> None:
    """Leaves this process little more memory than it has."""
    # What is started lazily is no part of the cost.
    encoded = encode_block([IndexRow("k", 1, 1, None)], {})
    read_block(encoded)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit_bytes = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def main() -> None:
    """Reads every bomb under a limit of address space."""
    cases = bombs()
    outcomes = {name: "too large for a bomb" for name, (data, _) in cases.items() if len(data) > MOST_BYTES}
    limit_memory()
    for name, (data, read) in cases.items():
        try:
            outcomes.setdefault(name, f"read {read(data)}")
        except (Error, MemoryError) as error:
            outcomes.setdefault(name, f"{type(error).__name__}: {error}")
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
