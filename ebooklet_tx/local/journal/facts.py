"""Facts that a journal keeps about its database, each with its name and type.

Owns those facts of the meta table that several rooms ask about; `base` has those of the base commit. The
invariant: a fact is written and read through here alone, so that its name and its meaning stand in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.journal import Journal, put_meta

_REPLACE_REMOTE = "replace_remote"
_KEPT_UUID = "kept_uuid"
_MADE_HERE = "made_here"
_TAKEN_AS_IT_IS = "taken_as_it_is"
_CONNECTION = "connection"
_TYPE = "type"
_PUBLIC_SIDES = "public_sides"

REPLACED: Final[dict[str, None]] = {_REPLACE_REMOTE: None, _KEPT_UUID: None}
"""What is recorded, with the new base, once a remote has been replaced."""


# -- a database that is to replace a remote ------------------------------------------------------


def is_replacing(journal: Journal) -> bool:
    """True while the next push is to replace whatever database the remote holds."""
    return bool(journal.get_meta(_REPLACE_REMOTE))


def kept_uuid(journal: Journal) -> str | None:
    """Returns the uuid, 32 hex digits, that a replacement has from what it replaces."""
    found: str | None = journal.get_meta(_KEPT_UUID)
    return found


def note_replacing(journal: Journal, *, kept_uuid: str | None) -> None:
    """Notes that the next push replaces the remote, and the uuid that the file has from there."""
    _note(journal, {_REPLACE_REMOTE: 1, _KEPT_UUID: kept_uuid})


# -- where a database began ----------------------------------------------------------------------


def origin_uuid(journal: Journal) -> bytes | None:
    """Returns the uuid of the database that began in this journal."""
    found: bytes | None = journal.get_meta(_MADE_HERE)
    return found


def is_origin(facts: Mapping[str, Any], uuid: bytes) -> bool:
    """Whether a database began in the journal that has some facts."""
    return facts.get(_MADE_HERE) == uuid


def note_origin(journal: Journal, uuid: bytes) -> None:
    """Notes the uuid of the database that begins in this journal."""
    _note(journal, {_MADE_HERE: uuid})


def is_accepted_as_it_is(journal: Journal) -> bool:
    """True of a file used by ebooklet that was found complete, or accepted as incomplete."""
    return bool(journal.get_meta(_TAKEN_AS_IT_IS))


def note_accepted_as_it_is(journal: Journal) -> None:
    """Notes that a file used by ebooklet is complete, or wanted as it is."""
    _note(journal, {_TAKEN_AS_IT_IS: 1})


# -- what it is and where its remote lies --------------------------------------------------------


def known_type(journal: Journal) -> str | None:
    """Returns the type of the database that a journal belongs to; None when it was never told."""
    found = journal.get_meta(_TYPE)
    if found is None:
        return "booklet" if read_base(journal).seq else None
    return str(found)


def type_fact(type_name: str) -> dict[str, str]:
    """Returns the fact that records the type, to be written with others."""
    return {_TYPE: type_name}


def note_type(journal: Journal, type_name: str) -> None:
    """Remembers of which type the database is, for when its remote can't be asked."""
    _note_change(journal, _TYPE, type_name)


def note_connection(journal: Journal, connection_json: str) -> None:
    """Remembers where the remote is, for `recover`; never a credential."""
    _note_change(journal, _CONNECTION, connection_json)


def remembers_connection(journal: Journal) -> bool:
    """Whether the journal knows where the remote is."""
    return journal.get_meta(_CONNECTION) is not None


def public_sides(journal: Journal) -> str | None:
    """Returns which database each public address showed: JSON of the address to the uuid."""
    found: str | None = journal.get_meta(_PUBLIC_SIDES)
    return found


def note_public_sides(journal: Journal, sides_json: str) -> None:
    """Remembers which database each public address showed."""
    _note(journal, {_PUBLIC_SIDES: sides_json})


def _note(journal: Journal, facts: Mapping[str, Any]) -> None:
    with journal.transaction() as transaction:
        put_meta(transaction, facts)


def _note_change(journal: Journal, name: str, value: str) -> None:
    if journal.get_meta(name) != value:
        _note(journal, {name: value})
