"""Making a fork: its object protects the newest commit, for workers to read.

The invariant: when a fork is made, its commit was still the newest one after its protection was in place. So no
`collect` can have taken anything of it before.
"""

from __future__ import annotations

import secrets

from ebooklet_tx.errors import ContentionError, ObjectMissingError, RemoteMissingError, UUIDMismatchError
from ebooklet_tx.formats.fork import ForkNote, encode_fork
from ebooklet_tx.locks.process_identity import writer_name
from ebooklet_tx.sync.commit.turns import backoff
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root, read_root_or_none
from ebooklet_tx.timestamps import now_us

MAX_TRIES = 50


def begin(remote: Remote, *, uuid: str, ttl_seconds: int) -> tuple[ForkNote, FetchedRoot]:
    """Makes a fork on the newest commit; three requests where no other writer commits meanwhile.

    Raises:
        RemoteMissingError: There is no database yet.
        UUIDMismatchError: Another one lies there.
        ContentionError: Commits came in between at every attempt.
        OfflineError: The store keeps failing.
    """
    for number in range(MAX_TRIES):
        fetched = read_root_or_none(remote)
        if fetched is None:
            raise RemoteMissingError(
                f"there is no database {remote.root_place} yet, of which a fork could be made; push first, an "
                "empty database as well",
                operation="fork",
            )
        if fetched.manifest.uuid != uuid:
            raise UUIDMismatchError(
                f"{remote.root_place} is the database {fetched.manifest.uuid}, and this one is {uuid}; nothing "
                "was changed",
                operation="fork",
            )
        note = ForkNote(secrets.token_hex(16), uuid, ttl_seconds, now_us(), writer_name())
        key = remote.names.fork(note.fork_id)
        remote.store.put(key, encode_fork(note, fetched.data))
        if _is_still_the_root(remote, fetched):
            return note, fetched
        remote.store.delete(key)
        backoff(remote.policy, number)
    raise ContentionError(
        f"{MAX_TRIES} commits of other writers came in between while a fork of {remote.root_place} was made; try "
        "again when there is less traffic",
        operation="fork",
    )


def _is_still_the_root(remote: Remote, fetched: FetchedRoot) -> bool:
    try:
        again = read_root(remote, if_none_match=fetched.etag)
    except ObjectMissingError:
        return False
    return again is None or again.manifest.commit_id == fetched.manifest.commit_id


__all__ = ["begin"]
