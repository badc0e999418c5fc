"""What differs between two states of a database: commits, snapshots, and what is pending here.

The invariant: a key is told as added, changed or removed only where both states are at hand. The remote keeps the
state of its newest commit and of snapshots; of any other commit it keeps which keys were written since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from ebooklet_tx.errors import (
    InvalidArgumentError,
    OfflineError,
    ReadOnlyError,
    RemoteAccessError,
    RemoteMissingError,
)
from ebooklet_tx.formats.checks import is_hex_128, short
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.index.comparison import changes_between
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import Entry, pending_entries
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.maintenance.snapshots import kept
from ebooklet_tx.records import METADATA_KEY, KeyChange
from ebooklet_tx.sync.read.reader import Reader

Which: TypeAlias = int | str
"""A commit by its seq or id, or a snapshot by its name."""

KEYS_AT_ONCE = 4000


class State(NamedTuple):
    """A state of the remote.

    Attributes:
        seq: The commit's number.
        commit_id: The commit's id.
        view: Its index; None where the remote does not keep its root.
    """

    seq: int
    commit_id: str
    view: CommitIndex | None


class _EveryKey:
    """Stands for a machine that holds something of every key."""

    def any_in(self, lo: str, hi: str | None) -> bool:
        return True

    def of(self, keys: Sequence[str]) -> set[str]:
        return set(keys)


# -- what is pending -----------------------------------------------------------------------------


def pending_changes(reader: Reader) -> Iterator[KeyChange]:
    """Yields what the next push would change, in order of key.

    Where it can't be told whether the remote has a key, a value that was set counts as "set".
    """
    journal = reader.local.journal
    entries = sorted(entry for entry in pending_entries(journal) if entry.key != METADATA_KEY)
    replacing = is_replacing(journal)
    for start in range(0, len(entries), KEYS_AT_ONCE):
        part = entries[start : start + KEYS_AT_ONCE]
        unknown = [] if replacing else [entry.key for entry in part if not entry.known]
        rows: dict[str, LocatedRow] | None = {}
        with contextlib.suppress(OfflineError):
            rows = None
            rows = reader.look_up(unknown).rows if unknown else {}
        for entry in part:
            change = _pending_change(entry, rows, replacing=replacing)
            if change is not None:
                yield change


def _pending_change(entry: Entry, rows: dict[str, LocatedRow] | None, *, replacing: bool) -> KeyChange | None:
    ours = entry.digest
    if replacing:
        theirs = None
    elif entry.known:
        theirs = entry.remote_digest
    elif rows is None:
        return KeyChange(entry.key, "removed" if ours is None else "set")
    else:
        theirs = rows[entry.key].row.digest if entry.key in rows else None
    if ours == theirs:
        return None
    return KeyChange(entry.key, "removed" if ours is None else "added" if theirs is None else "changed")


# -- commits and snapshots -----------------------------------------------------------------------


def state_of(reader: Reader, uuid: str, which: Which | None) -> State:
    """Finds a state.

    Args:
        reader: Reads the remote, and knows its newest commit that was pulled.
        uuid: The database's identity.
        which: A commit or a snapshot; None for the commit on which the local database stands.

    Raises:
        InvalidArgumentError: The history has no such commit.
        RemoteMissingError: There is no snapshot of that name, or nothing was ever pushed.
        OfflineError: It is not on this machine, and the remote can't be reached.
    """
    base = read_base(reader.local.journal)
    view = reader.base_index.of_base(base)
    if view is None:
        raise RemoteMissingError(f"{reader.local.path} stands on no commit yet: push or pull first")
    here = State(view.manifest.seq, view.manifest.commit_id, view)
    if which is None or which in (here.seq, here.commit_id):
        return here
    if isinstance(which, bool) or not isinstance(which, int | str):
        raise InvalidArgumentError(
            f"give the seq or id of a commit, or the name of a snapshot, not {short(which)}"
        )
    if isinstance(which, str) and not is_hex_128(which):
        return _of_snapshot(reader, uuid, which)
    commit = _commit(view, which)
    name = _snapshot_of(reader, uuid, commit.commit_id)
    return commit if name is None else _of_snapshot(reader, uuid, name)


def _commit(view: CommitIndex, which: Which) -> State:
    if isinstance(which, int):
        found = view.commit_at(which) if which > 0 else None
        if found is not None:
            return State(which, found, None)
    else:
        for record in view.remote.history.records(view.manifest):
            if record.commit_id == which:
                return State(record.seq, record.commit_id, None)
    raise InvalidArgumentError(
        f"the history up to commit {view.manifest.seq}, on which this machine stands, has no commit {which}; "
        "history() lists them, and a newer one has to be pulled first"
    )


def _of_snapshot(reader: Reader, uuid: str, name: str) -> State:
    fetched = kept.read(reader.remote, name, uuid=uuid)
    return State(fetched.manifest.seq, fetched.manifest.commit_id, reader.base_index.of_root(fetched))


def _snapshot_of(reader: Reader, uuid: str, commit_id: str) -> str | None:
    """Returns the name of a snapshot of a commit; None where there is none, or none can be listed."""
    with contextlib.suppress(ReadOnlyError, RemoteAccessError, OfflineError):
        for each in kept.listed(reader.remote, uuid=uuid):
            if each.commit_id == commit_id:
                return each.name
    return None


def check_comparable(one: State, other: State) -> None:
    """Makes sure that it can be told what differs.

    Raises:
        InvalidArgumentError: It can't.
    """
    if other.view is None:
        raise InvalidArgumentError(
            f"the state at commit {other.seq} is not kept, so nothing can be compared with it; the newest commit "
            "and snapshots are"
        )
    if one.view is not None:
        return
    if one.seq >= other.seq:
        raise InvalidArgumentError(
            f"the state at commit {one.seq} is not kept, and of it can only be told what was written since; give "
            f"it first, and a later one than commit {other.seq} second"
        )
    is_told = other.view.manifest.tombstone_floor <= one.seq
    if not is_told or other.view.commit_at(one.seq) != one.commit_id:
        raise InvalidArgumentError(
            f"what was changed since commit {one.seq} can't be told at commit {other.seq}: the database was "
            "replaced or restored in between, or that is too long ago; only snapshots of both could tell"
        )


def differences(one: State, other: State) -> Iterator[KeyChange]:
    """Yields what differs between two comparable states, in order of key.

    Raises:
        RemoteMissingError: A state is gone meanwhile: a snapshot was deleted, or a newer commit came.
        RemoteIntegrityError: A part of an index is damaged.
        OfflineError: A part is not on this machine, and the remote can't be reached.
    """
    if other.view is None:
        return
    if one.view is not None:
        yield from changes_between(one.view, other.view)
        return
    rows = other.view.changes_since(one.seq, _EveryKey())
    for key in sorted(rows.keys() - {METADATA_KEY}):
        yield KeyChange(key, "removed" if rows[key].row.digest is None else "set")


__all__ = ["State", "Which", "check_comparable", "differences", "pending_changes", "state_of"]
