"""How commits of a database are made: one answer for all of its writers, in its root.

Owns what this process has found out about stores. A commit is made either by compare-and-swap of the root, or by
a plain write under a ticket. Two clients that disagree don't exclude each other: one swaps the root while the
other, which holds the ticket, writes it without a condition. So the root's manifest names the mode, for the
endpoint and bucket where it was found out; elsewhere (a mirror, a copy) the manifest counts as silent. The
invariant: a commit on a root that names a mode is made in that mode, or changes the mode in that very commit
(`change_mode`). An argument, a recorded answer or a probe of new objects never overrides a root by itself; it
only raises a doubt.

Why no commit is lost, whatever each client believes. Let a root R name a mode, and let a commit replace R.

1. R says compare-and-swap, and so does the commit: it names R's ETag, and fails if R is not the root any more.
2. R says tickets, and so does the commit: its writer reads the root again after its ticket was elected. If that
   is not R, the commit fails. While the ticket is held, no other writer that goes by R writes anything.
3. The commit changes R's mode, or R is silent: its writer holds ticket and lease, and reads the root again under
   both. No writer of case 2 is between that reading and its own write, as it would hold the ticket. A writer of
   case 1 with the base R either came before that reading, and the mode's changer sees its root and fails; or it
   comes after the changer's write, and its compare-and-swap fails, for the root is not R. Between the two, the
   changer's own write keeps it off, which has the condition too, wherever conditions are honoured. Where they
   are not, no compare-and-swap can be relied on; there the lease keeps off those that lock at all.
4. There is no root: a writer in either mode writes it on the condition that there is none. Under a ticket it is
   written without that condition only where the condition is refused although there is no root.
5. A writer that reads the new root goes by it: a base is never of one mode and its commit of another.

A commit that changes the mode relies on no earlier answer. It is first sent under a condition that can't hold.
Where the store accepts that, the commit is in, under both locks, and names tickets. Where the store refuses, the
condition that must hold is sent; where that is accepted, the root names compare-and-swap. Where it is refused
again and again although the very ETag is there, as by Ceph once versioning was switched on, this root can't be
swapped by anyone, and the commit is written without a condition. A cache or a lagging replica looks the same: so
before that the store is made to copy the root, and the copy must be what reads of the root show.

A recorded answer that is out of date shows in the same way, in `root_swap` and in the lease: refused, with the
very ETag there. It raises the doubt that makes the next commit one that may change the mode.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Journal, put_meta
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.capabilities import Conditional, Quoting

TICKETS = "tickets"
KEPT_APART_BY_TICKETS = (
    "kept apart by tickets, which is weaker (a writer that stands still for a minute in the middle of its commit "
    "can overwrite another's); see docs/reference/stores.md"
)
"""What every warning about tickets says of writers."""

_PROBE_RESULTS = "conditional_writes"
_NAMES = frozenset(result.value for result in Conditional)
_log = logging.getLogger("ebooklet_tx")

probe_results: dict[str, Conditional] = {}
"""What was found out in this process, by endpoint and bucket."""


@dataclass(slots=True)
class CommitMode:
    """How this client commits at one place, and what it knows of the store's conditional writes.

    Attributes:
        swaps: Whether commits are made by compare-and-swap; otherwise under a ticket.
        place: Endpoint and bucket, as a root names them; None where roots are silent about modes.
        probed_store: The store whose conditional writes may be probed; None where they are known to work or not.
        quoting: The store that can send ETags with quotes or without; None where there is no choice.
        expected: Whether this client, by argument or by a probe, expects conditional writes to work; None where
            it expects neither.
        in_doubt: Whether the next commit has to find out the mode, on the root itself.
        creates_race: Whether concurrent creates were seen to succeed together, whatever one write shows.
        may_list: False where objects are known to be neither listed nor deleted, so that there are no tickets.
        location: The store's, under which results of probes are kept; the `Remote` sets it.
    """

    swaps: bool = True
    place: tuple[str, str] | None = None
    probed_store: Quoting | None = None
    quoting: Quoting | None = None
    expected: bool | None = None
    in_doubt: bool = False
    creates_race: bool = False
    may_list: bool = True
    location: str = ""

    # -- what roots say ------------------------------------------------------------------------

    def to_advertise(self) -> CommitWay | None:
        """Returns the mode that a root written here and now names; None where roots are silent."""
        if self.place is None:
            return None
        unquoted = self.quoting is not None and not self.quoting.quote_etags
        how = TICKETS if not self.swaps else "unquoted" if unquoted else "quoted"
        return CommitWay(how, *self.place)

    def tickets(self) -> CommitWay | None:
        """Returns the mode of commits under tickets, as a root names it here."""
        return None if self.place is None else CommitWay(TICKETS, *self.place)

    def advertised(self, commits: CommitWay | None) -> CommitWay | None:
        """Returns the mode that a root names if it names it for this place."""
        if commits is None or self.place != (commits.endpoint, commits.bucket):
            return None
        return commits

    def follow(self, commits: CommitWay | None) -> None:
        """Takes over the mode that a root names for this place; where this client expects another, in doubt."""
        advertised = self.advertised(commits)
        if advertised is None or self.in_doubt:
            return
        if self.expected is not None and self.expected is not advertised.swaps:
            _log.info(
                "the root at %s names the commit mode %r, this client expects another: the next commit tries",
                self.location,
                advertised.how,
            )
            self.in_doubt = True
        self.swaps = advertised.swaps
        if advertised.how == "unquoted" and self.quoting is not None and not self.quoting.etags_proven:
            self.quoting.quote_etags = False

    def follow_unasked(self, commits: CommitWay | None) -> None:
        """Takes over the mode that a root names, for a client that will not commit: no doubt is left."""
        self.follow(commits)
        self.in_doubt = False

    def must_change(self, commits: CommitWay | None, *, exists: bool) -> bool:
        """Whether a commit on a root has to change the mode, or find it out.

        Args:
            commits: The mode that the root names.
            exists: Whether there is a root at all.
        """
        if self.place is None:
            return False
        if self.in_doubt:
            return True
        advertised = self.advertised(commits)
        if advertised is not None:
            return advertised.swaps is not self.swaps
        # Where conditions are known to work, there is nothing to find out.
        return exists and not (self.swaps and self.probed_store is None)

    # -- what was found out --------------------------------------------------------------------

    @property
    def refuted(self) -> bool:
        """Whether conditions are expected not to work, and nothing speaks against that."""
        return self.creates_race or (self.expected is False and not self.in_doubt)

    def doubt(self) -> bool:
        """Makes the next commit find out the mode; False where roots don't name one."""
        self.in_doubt = self.place is not None
        return self.in_doubt

    def doubt_swaps(self) -> None:
        """After a condition was refused by the store: tickets, until the next commit has found out."""
        self.in_doubt, self.swaps = True, False

    def settle_for_tickets(self) -> None:
        """Goes on with the root's tickets, without a doubt, while another writer holds the lease."""
        self.in_doubt, self.swaps, self.expected = False, False, None

    def leave_to_the_root(self) -> None:
        """Without the rights that a probe and tickets need: the next commit finds out on the root."""
        self.swaps, self.in_doubt, self.may_list = True, self.place is not None, False

    def confirm(self, *, swaps: bool) -> None:
        """Notes what the root itself has shown."""
        self.swaps = self.expected = swaps
        self.in_doubt = False
        shown = self.to_advertise()
        if self.probed_store is None or shown is None:
            return
        known = probe_results.get(self.location)
        if shown.swaps:
            probe_results[self.location] = Conditional(shown.how)
        elif known is None or known.works:
            probe_results[self.location] = Conditional.UNUSABLE

    def expect(self, result: Conditional) -> None:
        """Takes over the result of a probe, of this process or an earlier one, as what is expected."""
        self.expected = result.works
        self.creates_race = result is Conditional.RACY
        if result is Conditional.UNQUOTED and self.probed_store is not None:
            self.probed_store.quote_etags = False

    def known_result(self, recorded: str | None) -> Conditional | None:
        """Returns the result of a probe of this process, else the recorded one; None where there is neither."""
        return probe_results.get(self.location) or (Conditional(recorded) if recorded in _NAMES else None)


# -- what the journal keeps --------------------------------------------------------------------


def recorded_results(recorded: Any, journal_file: Path) -> dict[str, Any]:
    """Returns the results of probes that a journal's fact `conditional_writes` holds, by endpoint and bucket.

    Raises:
        JournalDamagedError: It can't be decoded.
    """
    with decoding(journal_file, "what was found out of stores"):
        return dict(json.loads(recorded or "{}"))


def recorded_result(journal: Journal, mode: CommitMode) -> str | None:
    """Returns what an earlier session with this file found out about the store, or None."""
    result = recorded_results(journal.get_meta(_PROBE_RESULTS), journal.path).get(mode.location)
    return result if isinstance(result, str) else None


def record_result(journal: Journal, mode: CommitMode) -> None:
    """Keeps what was found out about the store in the journal, for the next session with this file."""
    result = probe_results.get(mode.location) if mode.probed_store is not None else None
    if result is None or recorded_result(journal, mode) == result.value:
        return
    with journal.transaction() as transaction:
        known = recorded_results(journal.get_meta(_PROBE_RESULTS), journal.path) | {mode.location: result.value}
        put_meta(transaction, {_PROBE_RESULTS: json.dumps(known, sort_keys=True)})
