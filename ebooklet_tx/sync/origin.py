"""Where a database began: in this journal, or as another's.

Owns one fact of the journal: the uuid of the database that was made with it. The invariant: a pair that became
the copy of another database has another uuid, and so does not count as made here.
"""

from __future__ import annotations

from ebooklet_tx.local.journal import put_meta
from ebooklet_tx.sync.session import Session

_MADE_HERE = "made_here"


def note_made_here(session: Session) -> None:
    """Remembers that the database began in this journal, so that its values are no stranger's."""
    with session.mutex, session.journal.transaction() as connection:
        put_meta(connection, {_MADE_HERE: session.local.file.header.uuid})


def is_made_here(session: Session) -> bool:
    """True when the database began in this journal."""
    with session.mutex:
        return bool(session.journal.get_meta(_MADE_HERE) == session.local.file.header.uuid)
