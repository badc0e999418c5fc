"""The errors for values that can't be had, whether one was asked for or many.

The invariant: each message names the key, the object and the way out.
"""

from __future__ import annotations

from pathlib import Path

from ebooklet_tx.errors import Error, LocalIntegrityError, OfflineError, RemoteIntegrityError
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.sync.remote import Remote


def damaged_there(remote: Remote, key: str, ref: ObjectRef) -> RemoteIntegrityError:
    """Returns the error for a value whose bytes in the remote do not have its digest."""
    name = remote.names.object(ref.name)
    return RemoteIntegrityError(
        f"the value of key {key!r} in {name!r} at {remote.store.location} is damaged: "
        f"its digest differs from the index's; compact(packs=[{ref.name!r}]) writes it anew on a machine that "
        "has the value, or restore the object from a backup",
        key=key,
        object_name=name,
    )


def vanished_there(key: str, error: Error) -> RemoteIntegrityError:
    """Returns the error for a value whose object is gone although the root names it."""
    return RemoteIntegrityError(
        f"the value of key {key!r} can't be fetched although the root still names its object: {error}; "
        "compact(packs=[...]) writes it anew on a machine that has the value, or restore the object from a "
        "backup",
        key=key,
        object_name=error.object_name,
    )


def out_of_reach(key: str, error: OfflineError) -> OfflineError:
    """Returns the error for a value that is not on this machine, while its store can't be reached.

    It takes the place of the one that names the request, with the cause of that: the last failure.
    """
    found = OfflineError(
        f"the value of key {key!r} can't be fetched: {error}",
        key=key,
        object_name=error.object_name,
        operation=error.operation,
    )
    found.__cause__ = error.__cause__
    return found


def gone_before_push(key: str, error: Exception) -> RemoteIntegrityError:
    """Returns the error for a value that a fork brought, whose pack is gone before it was pushed."""
    return RemoteIntegrityError(
        f"the value of key {key!r}, which was merged from a fork, is gone: {error}; the fork has expired. "
        "discard() the change, and run that work again on a new fork",
        key=key,
    )


def check_remote_has(entry: Entry, path: Path) -> None:
    """Makes sure that the value which a reader of an entry sees lies in an object of the remote.

    Args:
        entry: What the journal says of a key whose value is not on this machine in a sound state.
        path: The Booklet file.

    Raises:
        LocalIntegrityError: It does not, so that what was damaged here is nowhere else.
    """
    if entry.digest != entry.remote_digest or not entry.known:
        raise LocalIntegrityError(
            f"the value of key {entry.key!r} in {path} is damaged, and the remote does not have it; delete the "
            "key, or discard() its change",
            key=entry.key,
            path=path,
        )
