"""Whether file and remote hold the same database, and when one takes the identity of the other.

The invariant: a file takes another uuid only while no copy of what it holds can exist elsewhere: before its first
push, or before the push that replaces a remote. What it holds stays, and is pending.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass

from ebooklet_tx.errors import UnsupportedFormatError, UUIDMismatchError
from ebooklet_tx.formats.root import Manifest
from ebooklet_tx.local.journal.facts import kept_uuid, note_replacing
from ebooklet_tx.local.journal.pending.pull_view import PullView
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.origin import note_made_here
from ebooklet_tx.values.serializers import same_serializer

_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database a file or a root holds, and how its values are encoded.

    Attributes:
        place: What messages call the file or the root.
        uuid: The database's uuid, 32 hex digits.
        type: Its type.
        serializer: The name of its values' serializer; None for plain bytes.
    """

    place: str
    uuid: str
    type: str
    serializer: str | None

    def is_of_one_kind(self, other: Identity) -> bool:
        """Whether both are of one type with values of one serializer."""
        return self.type == other.type and same_serializer(self.serializer, other.serializer)


def identity_of_file(local: LocalStore, type_name: str, serializer: str | None) -> Identity:
    """Returns the identity of a local file, which is open with a type and a serializer."""
    return Identity(str(local.path), local.file.header.uuid.hex(), type_name, serializer)


def identity_of_root(manifest: Manifest, root_place: str) -> Identity:
    """Returns the identity of the database that a root describes."""
    return Identity(root_place, manifest.uuid, manifest.type, manifest.value_serializer)


# -- a database that is synced -----------------------------------------------------------------


def may_join(here: Identity, there: Identity, view: PullView) -> bool:
    """Whether the file's database, made before it heard of the remote's, can become a copy of that one.

    Two writers who make a database at one place at the same time have a uuid each. The one who pushes first has
    made it; no copy exists of the other one's.
    """
    began_here = view.origin_uuid is not None and view.origin_uuid.hex() == here.uuid
    never_shared = view.base.seq == 0 and began_here and not view.detached
    return here.uuid != there.uuid and never_shared and here.is_of_one_kind(there)


def join(local: LocalStore, there: Identity) -> None:
    """Makes the file's database a copy of the remote's; what it holds is pending. Needs the mutex."""
    _log.warning(
        "%s was made while another writer made %s; it is a copy of that database now, and what was written "
        "here is pending",
        local.path,
        there.place,
    )
    local.take_uuid(bytes.fromhex(there.uuid))


def check_identity(here: Identity, there: Identity, base_seq: int) -> None:
    """Raises unless the remote holds the same database as the local file.

    The serializer that the local file names decodes the values, so a root that names another is refused. The
    type is the root's to tell.

    Args:
        here: The file's identity.
        there: The root's.
        base_seq: The commit of which the file is a copy; 0 for none.

    Raises:
        UUIDMismatchError: It is another database.
        UnsupportedFormatError: Its values are of another serializer.
    """
    if here.uuid != there.uuid:
        raise UUIDMismatchError(_difference(here, there, base_seq))
    if not same_serializer(there.serializer, here.serializer):
        raise UnsupportedFormatError(
            f"the root {there.place} says that its values are of the serializer {there.serializer!r}, but those "
            f"of {here.place} are of {here.serializer!r}, and a database never changes its serializer; nothing "
            "was applied. Find out who wrote that root; a push with flag 'n' replaces it, and offline=True reads "
            "what is here"
        )


def _difference(here: Identity, there: Identity, base_seq: int) -> str:
    """Says which two databases meet, and why they are two."""
    ours = f"{here.place} holds the database {here.uuid}"
    theirs = f"{there.place} holds {there.uuid}"
    ways_out = (
        "open the remote with another file_path, the file with another remote, or use flag 'n' to replace the "
        "remote by the next push"
    )
    if here.is_of_one_kind(there):
        if base_seq:
            theirs += (
                ": the database that the file is a copy of was replaced by another, as flag 'n' does where the "
                "root is damaged, or deleted and made anew"
            )
        return f"{ours}, but {theirs}; everything that is local is kept; {ways_out}"
    ours += f", a {here.type} with values of the serializer {here.serializer!r}"
    theirs += f", a {there.type} with values of {there.serializer!r}"
    if base_seq:
        theirs += ", by which the database that the file is a copy of was replaced (flag 'n')"
    return f"{ours}, but {theirs}; everything that is local is kept; {ways_out}"


# -- a database that is to replace a remote ----------------------------------------------------


def reconcile_identity(local: LocalStore, here: Identity, there: Identity | None) -> None:
    """Gives a database that is about to replace a remote the identity that it is to have there.

    A root of the same kind gives it its uuid, so that copies elsewhere follow. Where a root of another kind
    lies, or a damaged one, it has a uuid of its own, so that no copy elsewhere mistakes it for its own database.

    Args:
        local: The local store.
        here: Its identity.
        there: That of the root which is to be replaced; None where it is damaged.
    """
    with local.mutex:
        new = replacing_uuid(here, there, kept_uuid(local.journal))
        if new is None:
            return
        note_replacing(local.journal, kept_uuid=None if there is None or new != there.uuid else new)
        local.take_uuid(bytes.fromhex(new))
        note_made_here(local)


def replacing_uuid(here: Identity, there: Identity | None, kept: str | None) -> str | None:
    """Returns the uuid that a replacement needs; None where it has the right one.

    Args:
        here: The replacement's identity.
        there: That of the root which is to be replaced; None where it is damaged.
        kept: The uuid that the replacement has from a root that it was to replace.
    """
    if there is not None and here.is_of_one_kind(there):
        return None if here.uuid == there.uuid else there.uuid
    taken = here.uuid == kept or (there is not None and here.uuid == there.uuid)
    return uuid.uuid4().hex if taken else None


__all__ = [
    "Identity",
    "check_identity",
    "identity_of_file",
    "identity_of_root",
    "join",
    "may_join",
    "reconcile_identity",
    "replacing_uuid",
]
