"""Publishing a commit: it is built, noted as an intent, swapped in, and becomes the journal's base.

The invariant: the intent, written before the swap, holds the commit's rows. So once the swap is known to
have taken place, this process or a later one can make the commit the base, whatever happened to the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebooklet_tx.errors import Error
from ebooklet_tx.formats.segment import read_segment
from ebooklet_tx.local.journal.base import Base, base_facts, read_base
from ebooklet_tx.local.journal.commit_log import is_logged
from ebooklet_tx.local.journal.entries import PENDING_NONE, Entry
from ebooklet_tx.local.journal.facts import REPLACED, is_replacing, type_fact
from ebooklet_tx.local.journal.index_images import apply_images
from ebooklet_tx.local.journal.intents import Intent, drop_intents, write_intent
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.uploads import Place
from ebooklet_tx.sync.commit.builder import Commit, DatabaseFacts, make_commit
from ebooklet_tx.sync.commit.commit_mode import record_result
from ebooklet_tx.sync.commit.read_back import Outcome, Swap
from ebooklet_tx.sync.commit.root_swap import swap_root
from ebooklet_tx.sync.pull.pull import apply_root, pull, replacement_applied
from ebooklet_tx.sync.root_object import FetchedRoot, base_of
from ebooklet_tx.sync.session import Session
from ebooklet_tx.timestamps import now_us


def commit_entries(
    session: Session,
    base: Base,
    base_etag: str | None,
    entries: Sequence[Entry],
    places: Mapping[bytes, Place],
) -> Commit | None:
    """Commits what some entries hold, on a base; None when that has to be tried again on another base.

    Args:
        session: The session.
        base: What the commit is built on.
        base_etag: The ETag of the root that it replaces.
        entries: The entries; those with an operation must be pending still.
        places: Where their values lie in packs, by digest; others ride in the index.

    Raises:
        ReplacedError: A key was written again since its entry was read.
    """
    local, journal = session.local, session.journal
    header = local.file.header
    facts = DatabaseFacts(header.uuid.hex(), session.type, session.serializer_name, header.n_buckets)
    commit = make_commit(local, session.remote, facts, base, entries, places)
    manifest = commit.manifest
    intent = Intent(manifest.commit_id, manifest.seq, base_etag, commit.image_blob)
    keys = [entry.key for entry in entries if entry.pending != PENDING_NONE]
    if not write_intent(journal, intent, keys, begun_at_us=now_us()):
        return None
    outcome = swap_in(session, commit, base_etag)
    if outcome.etag is not None:
        _become_base(journal, outcome.commit or commit, outcome.etag)
    return commit if outcome.applied else None


def swap_in(session: Session, commit: Commit, base_etag: str | None) -> Outcome:
    """Swaps a commit in, and tells the journal what came to light on the way."""
    journal, remote = session.journal, session.remote
    base = read_base(journal)

    def absorb(fetched: FetchedRoot) -> bool:
        if is_replacing(journal) and not replacement_applied(session.local, remote, fetched):
            return False
        if apply_root(session, fetched, since=base) is None:
            pull(session)
        # The log decides, not what this pull settled: another thread's may have come first.
        return is_logged(journal, commit.manifest.commit_id)

    swap = Swap(commit, base_etag, absorb)
    try:
        outcome = swap_root(remote, session.locks, swap)
    except Error:
        if not swap.may_have_arrived:
            # There is nothing to find out about it later.
            drop_intents(journal, [commit.manifest.commit_id])
        raise
    if outcome.applied and commit.changes_mode:
        record_result(journal, remote.mode)
    if outcome.pull_root:
        pull(session)
    return outcome


def _become_base(journal: Journal, commit: Commit, etag: str) -> None:
    """Makes a commit that took place the base; what was written since stays pending on top of it."""
    image = read_segment(commit.image_blob, name="the commit just pushed")
    manifest = commit.manifest
    with journal.mutex:
        if read_base(journal).seq >= manifest.seq:
            # A pull in another thread has come across the commit, and maybe others on top.
            return
        apply_images(
            journal,
            [image],
            base_seq=manifest.seq - 1,
            facts=base_facts(base_of(manifest, etag, commit.root)) | type_fact(manifest.type) | REPLACED,
            own_seq=manifest.seq,
        )
