"""Whether file and remote hold the same database, and when one takes the identity of the other.

Owns the journal's word on whose uuid a database that is to replace a remote has. The invariant: a file takes
another uuid only while nobody else can have a copy of what it holds: before its first push, or before the push
that replaces a remote. What it holds stays, and is pending.
"""

from __future__ import annotations

import logging
import uuid

from ebooklet_tx.errors import UnsupportedFormatError, UUIDMismatchError
from ebooklet_tx.formats.root import Manifest
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import kept_uuid, note_replacing
from ebooklet_tx.local.journal.pending.detachment import was_pushed
from ebooklet_tx.sync.origin import is_made_here, note_made_here
from ebooklet_tx.sync.session import Session
from ebooklet_tx.values.serializers import same_serializer

_log = logging.getLogger("ebooklet_tx")


def _local_uuid(session: Session) -> str:
    return session.local.file.header.uuid.hex()


def is_of_one_kind(session: Session, manifest: Manifest) -> bool:
    """Whether file and remote have values of one serializer and are of one type."""
    return manifest.type == session.type and same_serializer(manifest.value_serializer, session.serializer_name)


# -- a database that is synced -----------------------------------------------------------------


def may_join(session: Session, manifest: Manifest) -> bool:
    """Whether the file's database, made before it heard of the remote's, can become a copy of that one.

    Two who make a database at one place at the same time have a uuid each. The one who pushes first has made
    it; nobody has a copy of the other's. Needs the mutex.
    """
    return (
        manifest.uuid != _local_uuid(session)
        and session.local.file.locked
        and read_base(session.journal).seq == 0
        and is_made_here(session.local)
        and not was_pushed(session.journal)
        and is_of_one_kind(session, manifest)
    )


def join(session: Session, manifest: Manifest) -> None:
    """Makes the file's database a copy of the remote's; what it holds is pending. Needs the mutex."""
    _log.warning(
        "%s was made while another writer made %s; it is a copy of that database now, and what was written "
        "here is pending",
        session.local.path,
        session.remote.root_place,
    )
    session.local.take_uuid(bytes.fromhex(manifest.uuid))


def check_identity(session: Session, manifest: Manifest) -> None:
    """Raises unless the remote holds the same database as the local file; the remote says of which type it is.

    What decodes the values is the local file's word: a root that says otherwise is refused.
    """
    if manifest.uuid != _local_uuid(session):
        raise UUIDMismatchError(_difference(session, manifest))
    if not same_serializer(manifest.value_serializer, session.serializer_name):
        raise UnsupportedFormatError(
            f"the root {session.remote.root_place} says that its values are of the serializer "
            f"{manifest.value_serializer!r}, but those of {session.local.path} are of "
            f"{session.serializer_name!r}, and a database never changes its serializer; nothing was taken "
            "in. Find out who wrote that root; a push with flag 'n' replaces it, and offline=True reads what "
            "is here"
        )
    session.type = manifest.type


def _difference(session: Session, manifest: Manifest) -> str:
    """Says which two databases meet, and why they are two."""
    here = f"{session.local.path} holds the database {_local_uuid(session)}"
    there = f"{session.remote.root_place} holds {manifest.uuid}"
    ways_out = (
        "open the remote with another file_path, the file with another remote, or use flag 'n' to replace the "
        "remote by the next push"
    )
    if is_of_one_kind(session, manifest):
        if read_base(session.journal).seq:
            there += (
                ": the database that the file is a copy of was replaced by another, as flag 'n' does where the "
                "root is damaged, or deleted and made anew"
            )
        return f"{here}, but {there}; everything that is local is kept; {ways_out}"
    here += f", a {session.type} with values of the serializer {session.serializer_name!r}"
    there += f", a {manifest.type} with values of {manifest.value_serializer!r}"
    if read_base(session.journal).seq:
        there += ", by which the database that the file is a copy of was replaced (flag 'n')"
    return f"{here}, but {there}; everything that is local is kept; {ways_out}"


# -- a database that is to replace a remote ----------------------------------------------------


def mark_replacing(session: Session, *, kept_uuid: str | None) -> None:
    """Notes that the next push replaces whatever database the remote holds, and whose uuid the file has."""
    note_replacing(session.journal, kept_uuid=kept_uuid)


def reconcile_identity(session: Session, manifest: Manifest | None) -> None:
    """Gives a database that is about to replace a remote the identity that it is to have there.

    It keeps that of a database of its own kind, so that copies elsewhere follow. Where another kind lies, or
    what nobody can read, it has one of its own, so that no copy takes it for what it had.

    Args:
        session: The session.
        manifest: That of the root which is to be replaced; None where it is damaged.
    """
    with session.mutex:
        mine = _local_uuid(session)
        if manifest is not None and is_of_one_kind(session, manifest):
            wanted, kept = manifest.uuid, manifest.uuid
        elif mine in (kept_uuid(session.journal), manifest.uuid if manifest is not None else None):
            wanted, kept = uuid.uuid4().hex, None
        else:
            return
        if wanted == mine:
            return
        mark_replacing(session, kept_uuid=kept)
        session.local.take_uuid(bytes.fromhex(wanted))
        note_made_here(session.local)


__all__ = [
    "check_identity",
    "join",
    "mark_replacing",
    "may_join",
    "reconcile_identity",
]
