"""Conflicts: keys that were changed here and by another writer since their common base.

The invariant: a key is in conflict exactly while the journal tells so (`local/journal/pending/conflicts`). A
deletion that meets a change is a conflict. Equal values are none, but may be two changes of one kind (two writers
who both counted from 5 to 6), so a function that merges gets to see them.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, final

from ebooklet_tx.errors import (
    Error,
    LocalIntegrityError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.journal.base import base_root_in, read_base
from ebooklet_tx.local.journal.pending.conflicts import ConflictRow, conflict_rows
from ebooklet_tx.local.pending_values import read_local_side
from ebooklet_tx.sync.read.fetch import fetch_place
from ebooklet_tx.sync.read.reader import Reader

Decode: TypeAlias = Callable[[str, bytes], Any]
"""Makes a value of a key's encoded bytes."""

_GONE = (ObjectMissingError, PreconditionFailedError, NotFoundInRangeError)
"""What a store answers where an object is not what the index says."""


@final
class _Missing:
    """The value of a key that is not there, in a conflict."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Stands in a conflict for a value that is not there; a resolver returns it to delete the key."""


@dataclass(frozen=True, slots=True)
class Version:
    """One side of a conflict; `digest` None means that the key is not there."""

    digest: bytes | None
    timestamp_us: int | None
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key with its three versions.

    `base`, `ours` and `theirs` are the decoded values, fetched when they are asked for, `MISSING`
    where there is none. `base_version`, `ours_version` and `theirs_version` are known without fetching.
    """

    key: str
    base_version: Version
    ours_version: Version
    theirs_version: Version
    _load: Callable[[str, str], Any] = field(repr=False, compare=False)

    @property
    def base(self) -> Any:
        """The value that both sides began from."""
        return self._load(self.key, "base")

    @property
    def ours(self) -> Any:
        """The value that this session wants to push."""
        return self._load(self.key, "pending")

    @property
    def theirs(self) -> Any:
        """The value that the other writer pushed."""
        return self._load(self.key, "remote")


class ConflictError(Error):
    """Keys were changed here and by another writer; nothing was pushed and nothing is lost.

    Attributes:
        conflicts: One for each key, the metadata's being `""`.
        complete: Whether these are all, as the remote stood at the push; False where it could not be asked,
            and other writers may have changed more of the keys since the last pull.
    """

    kind = "conflict"

    def __init__(self, conflicts: list[Conflict], place: str, complete: bool = True) -> None:
        self.conflicts = conflicts
        self.complete = complete
        self._root_place = place
        shown = ", ".join(repr(conflict.key) if conflict.key else "the metadata" for conflict in conflicts[:5])
        more = f" and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
        count = ("" if complete else "at least ") + counted(len(conflicts), "key was", "keys were")
        if not complete:
            more += " (as of the last pull; there may be more, as the remote can't be reached now)"
        super().__init__(
            f"{count} changed here and by another writer of {place}: {shown}{more}; "
            "nothing was pushed. Look at changes().conflicts(), settle them with changes().resolve(), or push "
            "with on_conflict='ours', 'theirs', 'newest' or a function",
            key=conflicts[0].key if len(conflicts) == 1 else None,
            operation="push",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Values are read through the session, which does not travel: keys and versions do.
        conflicts = [dataclasses.replace(conflict, _load=_no_values) for conflict in self.conflicts]
        return type(self), (conflicts, self._root_place, self.complete)


def find_conflicts(reader: Reader, decode: Decode, *, agreeing: bool = False) -> list[Conflict]:
    """Returns the conflicts in order of key; with `agreeing` also the keys to which both sides gave one value."""

    def load(key: str, side: str) -> Any:
        value = read_side(reader, key, side)
        return MISSING if value is None else decode(key, value)

    journal = reader.local.journal
    with journal.reading() as raw:
        rows = conflict_rows(raw, agreeing=agreeing)
    if not rows:
        return []
    index = reader.base_index.of_base(read_base(journal))
    records = () if index is None else index.manifest.records
    writers = {record.seq: record.writer for record in records}
    return [_conflict(row, load, writers.get(row.theirs_seq or 0)) for row in rows]


def conflicts_in(raw: sqlite3.Connection) -> list[Conflict]:
    """Returns the conflicts that a journal's database holds, in order of key, without their values.

    Raises:
        JournalDamagedError: A row of them is not as it was written.
    """
    rows = conflict_rows(raw)
    writers = _writers_told(raw) if rows else {}
    return [_conflict(row, _no_values, writers.get(row.theirs_seq or 0)) for row in rows]


def _writers_told(raw: sqlite3.Connection) -> dict[int, str]:
    """Returns who wrote the commits that the base's root tells of; nothing where it can't be read."""
    root = base_root_in(raw)
    try:
        records = decode_root(root, name="the base").manifest.records if root else ()
    except (RemoteIntegrityError, UnsupportedFormatError):
        return {}
    return {record.seq: record.writer for record in records}


def _no_values(key: str, _side: str) -> Any:
    raise LocalIntegrityError(f"the values of key {key!r} can't be had without opening the database; open it")


def _conflict(row: ConflictRow, load: Callable[[str, str], Any], writer: str | None) -> Conflict:
    return Conflict(
        key=row.key,
        base_version=Version(row.base_digest, row.base_timestamp_us),
        ours_version=Version(row.ours_digest, row.ours_timestamp_us),
        theirs_version=Version(row.theirs_digest, row.theirs_timestamp_us, writer),
        _load=load,
    )


def read_side(reader: Reader, key: str, side: str) -> bytes | None:
    """Returns the encoded value of one side of a conflict, wherever its bytes are; None for a deletion.

    Args:
        reader: Where values are read from.
        key: The key.
        side: `base`, `pending` or `remote`, as the journal's columns are called.

    Raises:
        RemoteIntegrityError: The bytes are not what the index says.
        LocalIntegrityError: They are nowhere to be found.
    """
    try:
        return _value_of(reader, key, side)
    except _GONE as error:
        if side == "base":
            raise _not_fetched(key, side, error) from error
        # Compacted since: the remote's next commit has another place for it.
        reader.pull()
        try:
            return _value_of(reader, key, side)
        except _GONE as still:
            raise _not_fetched(key, side, still) from still


def _value_of(reader: Reader, key: str, side: str) -> bytes | None:
    """Reads one side as the journal has it now."""
    found = read_local_side(reader.local, key, side)
    if found.digest is None:
        return None
    value, place = found.value, found.place
    if value is None and place is None and side == "remote":
        item = reader.look_up([key]).rows.get(key)
        value = item.row.value if item is not None and item.row.digest == found.digest else None
    if value is not None:
        return value
    if place is None:
        raise LocalIntegrityError(
            f"the {side} value of key {key!r} is neither here nor in the remote any more; choose a side, or "
            "give a value"
        )
    return fetch_place(reader.remote, place)


def _not_fetched(key: str, side: str, error: Error) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"the {side} value of key {key!r} can't be fetched any more: {error}; choose a side, or give a value"
    )
