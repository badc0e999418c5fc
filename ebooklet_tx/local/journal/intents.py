"""Intents: the pushes of which it is not known yet whether they took effect.

Owns the journal's table `intent`. The invariant: an intent is written before its root is sent, and holds the
commit's rows, so that the commit can become the base whatever happens to the process or to the store's answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ebooklet_tx.local.journal.journal import Journal, driver


@dataclass(frozen=True, slots=True)
class Intent:
    """A push whose outcome is not known: it may have taken effect or not.

    Attributes:
        commit_id: The commit's id.
        seq: The commit's number.
        base_etag: The ETag of the root that it replaces, None where it is to be the first.
        image: What the commit says of each key, as an index segment.
    """

    commit_id: str
    seq: int
    base_etag: str | None
    image: bytes


def read_intents(journal: Journal) -> list[Intent]:
    """Returns the pushes whose outcome is not known."""
    rows = journal.rows("SELECT commit_id, seq, base_etag, image FROM intent ORDER BY begun_at_us")
    return [Intent(*row) for row in rows]


def write_intent(journal: Journal, intent: Intent, keys: Iterable[str], *, begun_at_us: int) -> bool:
    """Notes what is about to be committed; False, with nothing noted, when a key has no operation any more.

    Until the intent stands, an operation that is undone leaves nothing behind, and the commit would bring it
    back. An operation that is undone later stays pending, on top of the commit.
    """
    with journal.transaction() as transaction:
        raw = driver(transaction)
        pending = {key for (key,) in raw.execute("SELECT key FROM entry WHERE pending != 0")}
        if not pending.issuperset(keys):
            return False
        raw.execute(
            "INSERT INTO intent(commit_id, seq, base_etag, image, begun_at_us) VALUES (?, ?, ?, ?, ?)",
            (intent.commit_id, intent.seq, intent.base_etag, intent.image, begun_at_us),
        )
    return True


def drop_intents(journal: Journal, commit_ids: Iterable[str] | None = None) -> None:
    """Forgets pushes that did not take effect and can't any more; all of them where none are named."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        if commit_ids is None:
            raw.execute("DELETE FROM intent")
        else:
            raw.executemany("DELETE FROM intent WHERE commit_id = ?", [(one,) for one in commit_ids])
