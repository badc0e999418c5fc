"""How commits of a database are made: one answer for all of its writers, in its root.

Owns what this process has found out of stores. Two clients who disagree exclude each other not at all: one
swaps the root while the other, whose turn it is, puts it without a condition. So the manifest says how, for the
endpoint and bucket where that was found out; elsewhere (a mirror, a copy) it says nothing. The invariant: who
commits on a root that says how does as it says, or moves the database in that very commit (`moving`). An
argument, a memory or a probe of new objects never overrides a root by itself, it only raises a doubt.

Why no commit is lost, whatever each client believes. Let a root R say how, and let a commit replace it.

1. R says compare-and-swap, and so does the commit: it names R's ETag, and fails if R is not the root any more.
2. R says tickets, and so does the commit: its writer reads the root again after its ticket was elected. If that
   is not R, it fails. While the ticket is held, no other writer who goes by R puts anything.
3. The commit moves R to another way, or R says nothing: its writer holds ticket and lease, and reads the root
   again under both. No writer of case 2 is between that reading and its own put, as it would hold the ticket. A
   writer of case 1 with the base R either came before that reading, and the mover sees its root and fails; or it
   comes after the mover's put, and its compare-and-swap fails, for the root is not R. Between the two it is
   kept off by the mover's own put, which has the condition too, wherever conditions are heard. Where they are
   not, a compare-and-swap can't be relied on by anybody; there the lease keeps those off who lock at all.
4. There is no root: who swaps puts it if there is none; whose turn it is does so as well before it puts one
   without a condition, which it does only where the condition is refused although there is no root.
5. Whoever reads the new root goes by it: a base is never of one way and its commit of another.

A mover takes nobody's word: it first puts its commit under a condition that can't hold. Where that takes place,
the commit is in, under both locks, and says tickets. Where it is refused, the condition that must hold is sent;
where that takes place, the root says compare-and-swap. Where it is refused again and again although the very ETag
is there, as by Ceph once versioning was switched on, nobody can swap this root, and the commit is put without.

A remembered answer that went stale shows in the same way, in `swapping` and in the lease: refused, with the very
ETag there. It raises the doubt that makes the next commit a mover's.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import put_meta
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.capabilities import Conditional

if TYPE_CHECKING:
    from ebooklet_tx.sync.session import Remote, Session

TICKETS = "tickets"
KEPT_APART_BY_TICKETS = (
    "kept apart by tickets, which is weaker (a writer that stands still for a minute in the middle of its commit "
    "can overwrite another's); see docs/reference/stores.md"
)
"""What every warning about tickets says of writers."""

_log = logging.getLogger("ebooklet_tx")

answers: dict[str, Conditional] = {}
"""What was found out in this process, by endpoint and bucket."""


def way_of(remote: Remote) -> CommitWay | None:
    """Returns what a root says that is written here and now; None where roots say nothing."""
    if remote.place is None:
        return None
    unquoted = remote.quoting is not None and not remote.quoting.quote_etags
    how = TICKETS if not remote.conditional else "unquoted" if unquoted else "quoted"
    return CommitWay(how, *remote.place)


def said_here(remote: Remote, commits: CommitWay | None) -> CommitWay | None:
    """Returns what a root says if it says it of this place."""
    if commits is None or remote.place != (commits.endpoint, commits.bucket):
        return None
    return commits


def adopt(remote: Remote, commits: CommitWay | None) -> None:
    """Goes by what a root says of this place; who holds otherwise doubts it, and finds out at the next commit."""
    said = said_here(remote, commits)
    if said is None or remote.in_doubt:
        return
    if remote.opinion is not None and remote.opinion is not said.swaps:
        _log.info("%s says %r of commits, this client holds otherwise: tried anew", remote.root_place, said.how)
        remote.in_doubt = True
    remote.conditional = said.swaps
    if said.how == "unquoted" and remote.quoting is not None and not remote.quoting.etags_proven:
        remote.quoting.quote_etags = False


def must_move(remote: Remote, commits: CommitWay | None, *, exists: bool) -> bool:
    """Whether a commit on a root has to be a mover's.

    Args:
        remote: The remote.
        commits: What the root says.
        exists: Whether there is a root at all.
    """
    if remote.place is None:
        return False
    if remote.in_doubt:
        return True
    said = said_here(remote, commits)
    if said is not None:
        return said.swaps is not remote.conditional
    # Where conditions are known to work, nobody has to be asked.
    return exists and not (remote.conditional and remote.probing is None)


def found(remote: Remote, *, swaps: bool) -> None:
    """Notes what the root itself has shown."""
    remote.conditional = remote.opinion = swaps
    remote.in_doubt = False
    way = way_of(remote)
    if remote.probing is None or way is None:
        return
    known = answers.get(remote.store.location)
    if way.swaps:
        answers[remote.store.location] = Conditional(way.how)
    elif known is None or known.works:
        answers[remote.store.location] = Conditional.UNUSABLE


def recall(session: Session) -> str | None:
    """Returns what an earlier session with this file found out of the store, None when it found out nothing."""
    with session.mutex:
        kept = _kept_answers(session)
    answer = kept.get(session.remote.store.location)
    return answer if isinstance(answer, str) else None


def _kept_answers(session: Session) -> dict[str, Any]:
    return kept_answers(session.journal.get_meta("conditional_writes"), session.journal.path)


def kept_answers(noted: Any, journal_file: Path) -> dict[str, Any]:
    """Returns what a journal's fact `conditional_writes` says of stores, by endpoint and bucket.

    Raises:
        JournalDamagedError: It can't be decoded.
    """
    with decoding(journal_file, "what was found out of stores"):
        return dict(json.loads(noted or "{}"))


def remember(session: Session) -> None:
    """Keeps what was found out of the store in the journal, for the next session with this file."""
    place = session.remote.store.location
    answer = answers.get(place) if session.remote.probing is not None else None
    if answer is None or recall(session) == answer.value:
        return
    with session.mutex:
        kept = _kept_answers(session) | {place: answer.value}
        with session.journal.transaction() as connection:
            put_meta(connection, {"conditional_writes": json.dumps(kept, sort_keys=True)})
