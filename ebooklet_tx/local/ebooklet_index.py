"""What ebooklet left beside a local file that it used: the index of its remote, which lists every key there.

The invariant: ebooklet's files are read and never changed, and nothing of them is trusted: each
block carries its own key's hash and lies whole in the file, or the index is said to be unreadable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from ebooklet_tx.errors import PartialCopyError
from ebooklet_tx.limits import RESERVED_KEYS
from ebooklet_tx.local.booklet.fixed_length import live_blocks, read_fixed_header
from ebooklet_tx.local.booklet.layout import TIMESTAMP_BYTES, scan_file
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.files.file_calls import storage_errors
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.local.journal.journal import Journal

INDEX_SUFFIX = ".remote_index"
CHANGES_KEY_BYTES = b"7c40d2ea915b4f3a8e6d201"
"""Under this reserved key of the local file ebooklet keeps what is still to be pushed."""


@dataclass(frozen=True, slots=True)
class PartialCopy:
    """How much of ebooklet's remote a local file does not hold, or holds in an older version."""

    path: Path
    missing_keys: int
    listed_keys: int

    def __str__(self) -> str:
        return (
            f"{self.path} is a partial copy: {self.missing_keys} of the {self.listed_keys} keys that ebooklet's "
            f"remote has ({index_path(self.path).name} lists them) are not in it, or are older there"
        )


def find_partial_copy(file: ValueFile, journal: Journal) -> PartialCopy | None:
    """Finds what is missing from a Booklet of the remote with which ebooklet used it.

    Args:
        file: The Booklet.
        journal: Its journal, which knows the keys that it holds.

    Returns:
        The counts; None for a complete copy, and where ebooklet left no index.

    Raises:
        PartialCopyError: The index can't be read, so what is missing is not known.
    """
    listed = listed_keys(file.path)
    if not listed:
        return None
    here = {entry.key: entry.timestamp_us for entry in entries_where(journal, "1") if entry.digest is not None}
    absent = {key for key, stamp in listed.items() if here.get(key, -1) < stamp}
    if absent:
        absent -= _deleted_keys(file, absent)
    return PartialCopy(file.path, len(absent), len(listed)) if absent else None


def index_path(path: Path) -> Path:
    """Returns where ebooklet keeps the index of its remote for a local file."""
    return path.with_name(path.name + INDEX_SUFFIX)


def listed_keys(path: Path) -> dict[str, int] | None:
    """Returns the keys of ebooklet's remote with their timestamps in microseconds; None without an index.

    Raises:
        PartialCopyError: The index can't be read.
    """
    location = index_path(path)
    if not location.is_file():
        return None
    found: dict[str, int] = {}
    with storage_errors(location, "read"), location.open("rb") as file:
        try:
            index = read_fixed_header(file, TIMESTAMP_BYTES)
            for key, value in live_blocks(file, os.fstat(file.fileno()).st_size, index):
                if key not in RESERVED_KEYS:
                    found[key.decode()] = int.from_bytes(value[:TIMESTAMP_BYTES], "little")
        except ValueError as error:
            raise PartialCopyError(
                f"{location} should list the keys of ebooklet's remote and can't be read ({error}), so nobody "
                f"knows whether {path.name} is complete. Open it with ebooklet once more, or remove the index, "
                "or give accept_partial=True"
            ) from error
    return found


def _deleted_keys(file: ValueFile, absent: set[str]) -> set[str]:
    """Returns those of some keys whose deletion ebooklet had still to push, by its own account in the file."""
    block = scan_file(file.fd, file.header).live.get(CHANGES_KEY_BYTES)
    if block is None:
        return set()
    try:
        account = orjson.loads(file.read(block.value_offset_bytes, block.value_length_bytes))
    except orjson.JSONDecodeError:
        return set()
    if not isinstance(account, dict):
        return set()
    if account.get("replace_pending") is True:
        return absent
    deletes = account.get("deletes")
    return {key for key in deletes if isinstance(key, str)} & absent if isinstance(deletes, list) else set()
