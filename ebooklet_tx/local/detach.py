"""Detaching a database from a remote that is gone: what is on this machine is what the next push sends.

The invariant: a remote is forgotten only where this user asked for that, or where no value is lost by it.
What was written and not committed is committed first, and fetched values are in the file by then.
"""

from __future__ import annotations

from collections.abc import Sequence

from ebooklet_tx.errors import RemoteMissingError
from ebooklet_tx.local.journal.pending.detachment import (
    Forgotten,
    detach,
    is_deletion_begun,
    keys_only_in_remote,
)
from ebooklet_tx.local.local_store import LocalStore


def finish_detaching(local: LocalStore) -> bool:
    """Forgets a remote whose deletion was begun here and cut short.

    Returns:
        False when no deletion was begun, or when the session may not change the journal.
    """
    with local.mutex:
        if not local.writable or not is_deletion_begun(local.journal):
            return False
        forget_remote(local)
    return True


def start_over(local: LocalStore, root_place: str, keys_only_there: Sequence[str] | None) -> None:
    """Forgets a remote that another writer deleted, unless values would be lost by that.

    Args:
        local: The local store; what was written and fetched is in the file.
        root_place: What messages call the remote's root.
        keys_only_there: The keys whose values only the remote had; None where only their number can be told.

    Raises:
        RemoteMissingError: Values of some keys are not on this machine; nothing was changed.
    """
    with local.mutex:
        count = keys_only_in_remote(local.journal) if keys_only_there is None else len(keys_only_there)
        if count:
            raise _values_missing(count, keys_only_there or (), root_place)
        forget_remote(local)


def forget_remote(local: LocalStore, *, base_format: int | None = None) -> Forgotten:
    """Makes every key whose value is on this machine pending and drops the others.

    What was written and not committed is committed first; fetched values are kept.

    Args:
        local: The local store.
        base_format: 1 where a root of format 1 lies there, for the next push to replace.
    """
    with local.mutex:
        local.commit(fold=True)
        return detach(local.journal, base_format=base_format)


def _values_missing(count: int, keys: Sequence[str], root_place: str) -> RemoteMissingError:
    named = ""
    if keys:
        named = ": " + ", ".join(map(repr, keys[:5])) + (f" and {count - 5} more" if count > 5 else "")
    return RemoteMissingError(
        f"the database {root_place} is gone, and of {count} of its keys this machine has no value "
        f"to write anew{named}; nothing was changed. Push from a machine that has them, fetch them with "
        "load_items() where the database still lies, or restore it from a backup. To go on without them call "
        "delete_remote(), which has nothing left to delete and lets go of these keys, and push() what is here"
    )


__all__ = ["Forgotten", "finish_detaching", "forget_remote", "start_over"]
