"""Where a database began: in this journal, as a copy of another, or in a file that ebooklet used.

The invariant: a pair that became the copy of another database has another uuid, and so does not count as made
here; a partial copy is not pushed as if it were the whole database.
"""

from __future__ import annotations

from ebooklet_tx.errors import PartialCopyError
from ebooklet_tx.local.ebooklet_index import PartialCopy, find_partial_copy, index_path
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import is_accepted_as_it_is, note_accepted_as_it_is, note_origin, origin_uuid
from ebooklet_tx.local.local_store import LocalStore


def note_made_here(local: LocalStore) -> None:
    """Remembers that the database began in this journal, so that its values count as this user's own."""
    note_origin(local.journal, local.file.header.uuid)


def is_made_here(local: LocalStore) -> bool:
    """True when the database began in this journal."""
    return origin_uuid(local.journal) == local.file.header.uuid


def check_complete(local: LocalStore, *, accept_partial: bool) -> None:
    """Makes sure that a file which ebooklet used holds all of its remote, before it can be pushed.

    Raises:
        PartialCopyError: It does not, and was not accepted so; it is as it was.
    """
    lack = undecided_partial_copy(local, accept_partial=accept_partial)
    if lack is not None:
        raise PartialCopyError(
            f"{lack}; the first push would make a remote without them. Load everything with ebooklet first "
            "(its load_items()), or give accept_partial=True (recover --accept-partial) to go on without them; "
            "nothing was pushed"
        )


def undecided_partial_copy(local: LocalStore, *, accept_partial: bool = False) -> PartialCopy | None:
    """Returns what a file used by ebooklet lacks; None once it was found complete or accepted as it is.

    Once a remote holds the database, ebooklet's old index tells nothing more about it.

    Raises:
        PartialCopyError: What ebooklet left can't be read, and nothing was accepted.
    """
    journal = local.journal
    if is_made_here(local) or is_accepted_as_it_is(journal) or read_base(journal).seq:
        return None
    if not index_path(local.path).is_file():
        return None
    lack = None if accept_partial else find_partial_copy(local.file, journal)
    if lack is None:
        note_accepted_as_it_is(journal)
    return lack
