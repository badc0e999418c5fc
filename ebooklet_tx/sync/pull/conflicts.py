"""Conflicts: keys that were changed here and by somebody else since their common base.

Owns no state. The invariant: a key is a conflict exactly while it has a pending operation and its
remote digest differs both from the base of that operation and from the operation's own outcome.
A delete against a change is one. Equal content is none, and yet it may be one change more of its kind
(two writers who both counted from 5 to 6), so a function that merges gets to see it.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, final

from ebooklet_tx.errors import (
    Error,
    LocalIntegrityError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
)
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.local.journal.index_rows import object_ref
from ebooklet_tx.local.journal.integrity.row_checks import location_of, misplaced
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.schema import SOUND_ROW
from ebooklet_tx.local.journal.staged import held_value
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.sync.commit.packing import read_pending
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.fetch import fetch_place
from ebooklet_tx.sync.session import Session

CONFLICTING = (
    "pending != 0 AND remote_digest IS NOT base_digest "
    "AND remote_digest IS NOT CASE pending WHEN 1 THEN pending_digest END"
)
"""SQL that is true of an entry in conflict."""

AGREEING = "pending != 0 AND pending = 1 AND remote_digest IS NOT base_digest AND remote_digest IS pending_digest"
"""SQL that is true of an entry to which another writer gave the same value."""


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
    where there is none. What is known without fetching is in `base_version` and its like.
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
        count = f"{len(conflicts)} keys" if complete else f"at least {len(conflicts)} keys"
        if not complete:
            more += " (as of the last pull; there may be more, as the remote can't be reached now)"
        super().__init__(
            f"{count} were changed here and by another writer of {place}: {shown}{more}; "
            "nothing was pushed. Look at changes().conflicts(), settle them with changes().resolve(), or push "
            "with on_conflict='ours', 'theirs', 'newest' or a function",
            key=conflicts[0].key if len(conflicts) == 1 else None,
            operation="push",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Values are read through the session, which does not travel: keys and versions do.
        conflicts = [dataclasses.replace(conflict, _load=_no_values) for conflict in self.conflicts]
        return type(self), (conflicts, self._root_place, self.complete)


def find_conflicts(session: Session, *, agreeing: bool = False) -> list[Conflict]:
    """Returns the conflicts in order of key, with keys of equal content if asked; needs the mutex."""

    def load(key: str, side: str) -> Any:
        return load_side(session, key, side)

    with session.journal.reading() as raw:
        return conflicts_in(raw, load, agreeing=agreeing)


def _no_values(key: str, _side: str) -> Any:
    raise LocalIntegrityError(f"the values of key {key!r} can't be had without opening the database; open it")


def conflicts_in(
    raw: sqlite3.Connection, load: Callable[[str, str], Any] = _no_values, *, agreeing: bool = False
) -> list[Conflict]:
    """Returns the conflicts that a journal's database holds, in order of key.

    Raises:
        JournalDamagedError: A row of them is not as it was written.
    """
    where = f"pending != 0 AND (({CONFLICTING}) OR ({AGREEING}))" if agreeing else CONFLICTING
    rows = raw.execute(
        "SELECT e.key, e.base_digest, e.base_timestamp_us, "
        "CASE e.pending WHEN 1 THEN e.pending_digest END, e.pending_timestamp_us, "
        f"e.remote_digest, e.remote_timestamp_us, c.writer, {SOUND_ROW} "
        "FROM entry AS e LEFT JOIN commit_log AS c ON c.seq = e.remote_seq "
        f"WHERE {where} ORDER BY e.key"
    ).fetchall()
    for row in rows:
        if not row[8]:
            raise misplaced(location_of(raw), f"the row of {row[0]!r} is not as it was written")
    return [
        Conflict(
            key=row[0],
            base_version=Version(row[1], row[2]),
            ours_version=Version(row[3], row[4]),
            theirs_version=Version(row[5], row[6], row[7]),
            _load=load,
        )
        for row in rows
    ]


def load_side(session: Session, key: str, side: str, *, looked_again: bool = False) -> Any:
    """Returns the decoded value of one side, wherever its bytes are, or MISSING.

    Args:
        session: The session.
        key: The key.
        side: `base`, `pending` or `remote`, as the journal's columns are called.
        looked_again: Whether a pull was already made because the value's object had gone.

    Raises:
        RemoteIntegrityError: The bytes are not what the index says.
        LocalIntegrityError: They are nowhere to be found.
    """
    with session.mutex:
        entry = session.local.entry(key)
        if entry is None or (side == "pending" and entry.digest is None):
            return MISSING
        if side == "pending":
            return session.decode(key, read_pending(session.local, entry))
        digest, place = _place(session.journal, key, side)
        if digest is None:
            return MISSING
        value = _local_bytes(session, entry, digest)
    if value is None and place is None:
        raise LocalIntegrityError(
            f"the {side} value of key {key!r} is neither here nor in the remote any more; choose a side, or "
            "give a value"
        )
    if value is None and place is not None:
        try:
            value = fetch_place(session, RemoteValue(key, digest, 0, *place))
        except (ObjectMissingError, PreconditionFailedError, NotFoundInRangeError) as error:
            if looked_again or side == "base":
                raise RemoteIntegrityError(
                    f"the {side} value of key {key!r} can't be fetched any more: {error}; choose a side, or "
                    "give a value"
                ) from error
            pull(session)
            return load_side(session, key, side, looked_again=True)
    return session.decode(key, value or b"")


def _place(journal: Journal, key: str, side: str) -> tuple[bytes | None, tuple[ObjectRef, int, int] | None]:
    with journal.reading() as raw:
        digest, number, offset, length = raw.execute(
            f"SELECT {side}_digest, {side}_object, {side}_offset_bytes, {side}_length_bytes "
            "FROM entry WHERE key = ?",
            (key,),
        ).fetchone()
    if digest is None or number is None:
        return digest, None
    return digest, (object_ref(journal, number), offset, length)


def _local_bytes(session: Session, entry: Entry, digest: bytes) -> bytes | None:
    """Finds an intact copy of a digest on this machine."""
    if entry.local_digest == digest:
        value = session.local.file.read(entry.local_offset_bytes or 0, entry.local_length_bytes or 0)
        if digest_of(value) == digest:
            return value
    held = held_value(session.journal, entry.key, digest)
    return held if held is not None and digest_of(held) == digest else None
