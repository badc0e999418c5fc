"""How a local database stands, and which commits of its remote this machine has heard of.

The invariant: nothing is changed, neither on this machine nor at the remote. The remote is asked for older
history alone.
"""

from __future__ import annotations

import contextlib
import logging
import os

from ebooklet_tx.errors import Error
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.index.history import HistoryReader
from ebooklet_tx.local.files.own_files import local_path
from ebooklet_tx.local.inspection import Inspection, inspect_pair
from ebooklet_tx.local.journal.journal import journal_path
from ebooklet_tx.maintenance.reports import Status, UnresolvedPush
from ebooklet_tx.records import CommitRecord
from ebooklet_tx.stores.deadline import patience
from ebooklet_tx.sync.connecting import noted_connection, remote_at
from ebooklet_tx.sync.pull.conflicts import conflicts_in
from ebooklet_tx.tracebacks import at_edge

UNREACHABLE_SECONDS = 5.0
"""How long it is tried to connect to a store for older history."""

_log = logging.getLogger("ebooklet_tx")


@at_edge
def status(file_path: str | os.PathLike[str]) -> Status:
    """Tells how a local database stands; nothing is changed and no remote is asked.

    Args:
        file_path: The local Booklet file.

    Raises:
        LocalMissingError: There is no such file.
        UnsupportedFormatError: It is no Booklet that can be used here.

    Examples:
        >>> ebooklet_tx.status("db.blt").keys
        2
    """
    return _status(inspect_pair(local_path(file_path), conflicts=conflicts_in))


@at_edge
def history(file_path: str | os.PathLike[str], limit: int = 20) -> list[CommitRecord]:
    """Returns the newest commits of the remote that this machine has heard of, the newest first.

    The remote is asked for those that are not here; where it can't be reached they are left out.
    """
    path = local_path(file_path)
    facts = inspect_pair(path, conflicts=conflicts_in).facts
    data = facts.get("base_root")
    if not data:
        return []
    manifest = decode_root(data, name=f"the root that {path} was pulled to").manifest
    connection = noted_connection(facts, journal_path(path))
    if len(manifest.records) >= limit or not manifest.histories or connection is None:
        return list(manifest.records[:limit])
    try:
        with patience(unreachable_seconds=UNREACHABLE_SECONDS):
            remote = remote_at(connection)
            with contextlib.closing(remote.store):
                return HistoryReader(remote.store, remote.names).newest(manifest, limit)
    except Error as error:
        _log.warning("older commits can't be shown: %s", error)
        return list(manifest.records[:limit])


def _status(found: Inspection) -> Status:
    connection = noted_connection(found.facts, journal_path(found.path))
    return Status(
        file=str(found.path),
        uuid=found.uuid,
        file_bytes=found.file_bytes,
        journal_bytes=found.journal_bytes,
        dead_bytes=found.dead_bytes,
        journal=found.journal,
        in_use=found.in_use,
        keys=found.key_count,
        pending_sets=found.pending_sets,
        pending_deletes=found.pending_deletes,
        pending_bytes=found.pending_bytes,
        staged_bytes=found.staged_bytes,
        conflicts=len(found.conflicts),
        unresolved=unresolved_pushes(found),
        packs_arrived=found.packs_arrived,
        packs_unfinished=found.packs_unfinished,
        base_seq=int(found.facts.get("base_seq", 0)),
        base_commit_id=found.facts.get("base_commit_id"),
        replaces_remote=bool(found.facts.get("replace_remote")),
        connection=None if connection is None else dict(connection.to_dict()),
        remote=None if connection is None else connection.url,
        repairs=tuple(repairs_of(found)),
    )


def repairs_of(found: Inspection) -> list[str]:
    """Says in sentences what differs from what a closed session leaves."""
    repairs = []
    if found.journal_detail is not None:
        repairs.append(found.journal_detail)
    repairs += {
        "missing": ["there is no journal: it is made from the file, every key of which is then pending"],
        "unusable": ["the journal is set aside under a new name and made anew from the file"],
        "damaged": ["the journal is set aside under a new name and made anew from the file"],
        "foreign": ["the journal is set aside under a new name and made anew from the file"],
        "older": ["the journal is backed up and migrated"],
        "newer": ["only a newer ebooklet_tx can use it: upgrade"],
    }.get(found.journal, [])
    if found.rebuild == "finished":
        repairs.append("a finished rebuild of the file waits to be put in place")
    elif found.rebuild == "partial":
        repairs.append("an unfinished rebuild of the file is to be removed")
    if found.guard == "complete":
        repairs.append("a finished append is to be released")
    elif found.guard == "torn":
        repairs.append("an interrupted append is to be taken back: the file is rebuilt from the journal")
    if found.edited:
        repairs.append("another program has changed the file: what it set and deleted becomes pending")
    if found.adopted:
        repairs.append("the file was adopted and has not been compared with a remote")
    if is_push_interrupted(found):
        repairs.append("a push was interrupted: it is settled against the remote")
    return repairs


def is_push_interrupted(found: Inspection) -> bool:
    """True when a push began here whose end is not known, and no session is at work."""
    return bool(found.intents or found.packs_arrived or found.packs_unfinished) and not found.in_use


def unresolved_pushes(found: Inspection) -> tuple[UnresolvedPush, ...]:
    """Returns the pushes whose outcome is not known."""
    return tuple(UnresolvedPush(*intent) for intent in found.intents)
