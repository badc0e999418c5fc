"""The keys that a reader sees, in order: those of the base commit, with what is pending here on top.

The invariant: keys come in strict order and each once, whatever is pulled meanwhile: an iteration goes on behind
its last key, on the base that there is then. A key that is there all the time is never missed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

from ebooklet_tx.errors import ContentionError, ObjectMissingError
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.local.journal.base import Base, read_base
from ebooklet_tx.local.journal.entries import (
    PENDING_SET,
    check_pending,
    known_keys,
    pending_page,
    prefix_end,
    visible_count,
)
from ebooklet_tx.local.journal.known import keys_to_look_up
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.base_index import check_readable
from ebooklet_tx.sync.read.reader import Reader

PAGE_KEYS = 1000
MAX_MOVES = 1000
"""How often an iteration goes on with another base."""

MAX_COUNTS = 10
"""How often keys are counted while another thread or session keeps writing."""


def key_pages(reader: Reader, prefix: str = "") -> Iterator[list[str]]:
    """Yields the committed user keys with a prefix, in order, a page at a time.

    Costs the index by the block, as far as it is read; memory does not grow with the number of keys.

    Raises:
        OfflineError: A part of the index is not on this machine, and the remote can't be reached.
        RemoteIntegrityError: A part is damaged or missing.
        JournalDamagedError: What is pending can't be told.
    """
    end = prefix_end(prefix)
    # The metadata's key is the empty one.
    least = prefix or "\0"
    for _ in range(MAX_MOVES):
        check_pending(reader.local.journal)
        base = read_base(reader.local.journal)
        view = reader.base_index.of_base(base)
        check_readable(reader.local.journal, base)
        try:
            for page, following in _pages(reader, _live_keys(reader, view, least, end), least, end):
                if not holds_for(base, read_base(reader.local.journal)):
                    # What is pending may have been read behind the move: it is part of the new base then.
                    break
                least = following
                if page:
                    yield page
            else:
                return
        except ObjectMissingError as error:
            reader.move_on(base, error)
    raise ContentionError(
        f"the remote's index was replaced {MAX_MOVES} times while its keys were read; try again"
    )


def holds_for(base: Base, now: Base) -> bool:
    """Whether a page that was read on one base is right for the base that there is now."""
    return now.commit_id == base.commit_id


def _live_keys(reader: Reader, view: CommitIndex | None, least: str, end: str | None) -> Iterator[str]:
    if view is None:
        # Of a remote of format 1 the journal itself knows what there is.
        return iter(known_keys(reader.local.journal, least, end))
    rows = (item.row for item in view.scan(least, end))
    return (row.key for row in rows if row.digest is not None and row.key != METADATA_KEY)


def _pages(reader: Reader, live: Iterator[str], least: str, end: str | None) -> Iterator[tuple[list[str], str]]:
    """Yields pages of keys from one on, each with the first key of which it does not tell."""
    while True:
        there = list(islice(live, PAGE_KEYS))
        upto = there[-1] if len(there) == PAGE_KEYS else None
        yield from _overlaid(reader, there, least, upto, end)
        if upto is None:
            return
        least = upto + "\0"


def _overlaid(
    reader: Reader, there: list[str], least: str, upto: str | None, end: str | None
) -> Iterator[tuple[list[str], str]]:
    """Puts what is pending from one key on, and up to another, on top of the remote's keys there."""
    position = 0
    while True:
        pending = pending_page(reader.local.journal, least, upto, PAGE_KEYS)
        is_last = len(pending) < PAGE_KEYS
        bound = upto if is_last else pending[-1][0]
        stop = len(there) if bound is None else bisect_right(there, bound)
        here = dict(pending)
        keys = [key for key in there[position:stop] if key not in here]
        keys += [key for key, kind in pending if kind == PENDING_SET and (end is None or key < end)]
        keys.sort()
        told = bound if bound is not None else (keys[-1] if keys else least)
        yield keys, told + "\0"
        if is_last or (end is not None and told >= end):
            return
        least, position = told + "\0", stop


def keys_set_here(local: LocalStore) -> Iterator[str]:
    """Yields the user keys that pending and uncommitted operations set; the caller holds the mutex."""
    least: str | None = "\0"
    while least is not None:
        page = pending_page(local.journal, least, None, PAGE_KEYS)
        yield from (key for key, kind in page if kind == PENDING_SET)
        least = page[-1][0] + "\0" if len(page) == PAGE_KEYS else None
    yield from (key for key, value in local.written().items() if value is not None)


def count_keys(reader: Reader) -> int:
    """Returns how many user keys a reader sees, what is uncommitted included; looks up what was written blindly.

    Raises:
        OfflineError: It is not known whether the remote has some of them, and it can't be asked.
    """
    journal = reader.local.journal
    for _ in range(MAX_COUNTS):
        version = journal.version()
        # The key of the metadata, "", is behind none.
        written = reader.local.written()
        count = _count_committed(reader)
        if written:
            entries = reader.entries(list(written))
            there = {key for key, entry in entries.items() if entry.digest is not None}
            count += sum((value is not None) - (key in there) for key, value in written.items())
        # A writer beside may have added some, or another thread committed what is uncommitted here.
        if journal.version() == version:
            break
    return count


def _count_committed(reader: Reader) -> int:
    journal = reader.local.journal
    existing = 0
    after: str | None = None
    while keys := keys_to_look_up(journal, after):
        rows = reader.look_up(keys).rows
        existing += sum(1 for key, item in rows.items() if key != METADATA_KEY and item.row.digest is not None)
        after = keys[-1]
    return visible_count(journal) - existing


__all__ = ["MAX_MOVES", "count_keys", "holds_for", "key_pages", "keys_set_here"]
