"""What an interactive prompt asks of a database: its text, and the keys to complete.

The invariant: no request is sent, nothing is changed, and nothing is raised; what is not known is left out, or
shown as "?".
"""

from __future__ import annotations

from ebooklet_tx.connection import Connection
from ebooklet_tx.errors import Error
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.journal.pending.glance import Glance, first_held_keys, glance
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.base_index import BaseIndex
from ebooklet_tx.sync.connecting import offline_remote
from ebooklet_tx.sync.read.reader import Reader
from ebooklet_tx.sync.read.visible_keys import key_pages

MAX_COMPLETIONS = 2000
LOCK_WAIT_SECONDS = 0.2
"""How long a completion waits for a thread that uses the session."""


def counts_in_words(found: Glance | None, written: int) -> str:
    """Returns how many keys there are and what is not pushed.

    Args:
        found: What is at hand; None where the journal can't be asked now.
        written: How many writes are not committed.
    """
    keys = "? keys" if found is None or found.keys is None else counted(found.keys, "key")
    pending = "? to push" if found is None else found.pending_words
    said = [keys, pending, counted(written, "write") + " not committed" if written else ""]
    return ", ".join(filter(None, said))


def keys_at_hand(local: LocalStore, connection: Connection) -> list[str]:
    """Returns the first keys that can be told without a request, in order; never raises an `Exception`."""
    if not local.mutex.acquire(timeout=LOCK_WAIT_SECONDS):
        return []
    try:
        found = set(_committed_keys(local, connection))
        for key, value in local.written().items():
            if value is None:
                found.discard(key)
            elif key:
                found.add(key)
        return sorted(found)[:MAX_COMPLETIONS]
    except Exception:
        # A prompt that asks while the user types shows nothing rather than a traceback.
        return []
    finally:
        local.mutex.release()


def _committed_keys(local: LocalStore, connection: Connection) -> list[str]:
    seen = glance(local.journal)
    if seen is None:
        return []
    keys: list[str] = []
    if not seen.has_more:
        # A store that refuses every request: what comes is what the journal holds of the index.
        remote = offline_remote(connection)
        reader = Reader(local, remote, BaseIndex(local, remote), pull=lambda: None)
        try:
            for page in key_pages(reader):
                keys += page
                if len(keys) >= MAX_COMPLETIONS:
                    break
            return keys
        except Error:
            pass
    return keys + first_held_keys(local.journal, MAX_COMPLETIONS)


__all__ = ["counts_in_words", "keys_at_hand"]
