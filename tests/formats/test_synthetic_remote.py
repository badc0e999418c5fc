"""The remotes of the benchmark: each key is found as the page of the format says, in as many requests."""

from __future__ import annotations

import pytest

from ebooklet_tx.formats.block import decode_block
from ebooklet_tx.formats.index_object import decode_directory
from ebooklet_tx.formats.index_records import IndexEntry, RunList, Sizes
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.formats.run_list import decode_run_page
from ebooklet_tx.records import digest_of
from scripts.bench import data
from scripts.synthetic_remote import write_remote

NAMES = ObjectNames("db")


class Shelf(dict[str, bytes]):
    """A store that counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    def put(self, name: str, blob: bytes) -> str:
        self[name] = blob
        return digest_of(blob).hex()

    def read(self, name: str, offset_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        self.requests += 1
        end = None if length_bytes is None else offset_bytes + length_bytes
        return self[name][offset_bytes:end]

    def value(self, key: str) -> bytes | None:
        """The value of a key, found by the codec alone."""
        (run,) = decode_root(self.read("db"), name="db").manifest.runs
        if isinstance(run, RunList):
            pages = [page for page in run.pages if page.holds(key)]
            if not pages:
                return None
            (page,) = pages
            listed = self.read(NAMES.object(run.ref.name), page.offset_bytes, page.length_bytes)
            run = decode_run_page(listed, page, name="list")
        entries: list[IndexEntry] = [entry for entry in run if entry.holds(key)]
        if not entries:
            return None
        (entry,) = entries
        name = NAMES.object(entry.name)
        directory_data = self.read(name, entry.directory_offset_bytes, entry.directory_length_bytes)
        directory = decode_directory(directory_data, entry=entry, name=name)
        ref = directory.blocks[directory.find(key)]
        block = decode_block(self.read(name, ref.offset_bytes, ref.length_bytes), name=name, expect=ref)
        row = block.find(key)
        if row is None:
            return None
        assert row.object_name is not None
        value = self.read(NAMES.object(row.object_name), row.offset_bytes or 0, row.length_bytes)
        assert digest_of(value) == row.digest
        return value


@pytest.mark.parametrize(("object_blocks", "requests"), [(128, 4), (2, 5)])
@pytest.mark.parametrize("shared", [True, False])
def test_every_key_is_found_in_few_requests(object_blocks: int, requests: int, shared: bool) -> None:
    shelf = Shelf()
    sizes = Sizes(block_rows=4, object_blocks=object_blocks, page_entries=8)
    write_remote(shelf.put, NAMES, 600, value_bytes=20, shared=shared, sizes=sizes)
    for number in (0, 1, 255, 256, 598, 599):
        shelf.requests = 0
        assert shelf.value(data.key(number)) == data.value(number, 20)
        assert shelf.requests == requests
    for key in ("", "key-", data.key(600), "zz", data.key(5) + "x"):
        assert shelf.value(key) is None
