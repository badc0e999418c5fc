"""What `status` and `recover` say: plain records, as dicts and in words.

The invariant: a report is what was seen at one moment, holds no credential, and its
dict is JSON whose names do not change from one run to the next.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ebooklet_tx.html_tables import ShownAsTable, counted
from ebooklet_tx.timestamps import as_datetime

SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class UnresolvedPush:
    """A push whose outcome is not known on this machine."""

    commit_id: str
    seq: int
    begun_at_us: int


@dataclass(frozen=True, slots=True)
class PushedCommit:
    """What a resumed push did."""

    commit_id: str | None
    seq: int
    set_count: int
    deleted_count: int
    resumed_packs: int
    value_bytes: int


@dataclass(frozen=True, slots=True)
class ConflictSides:
    """A key that was changed here and by another writer; a digest of None means deleted."""

    key: str
    our_digest: str | None
    our_timestamp_us: int | None
    their_digest: str | None
    their_timestamp_us: int | None
    their_writer: str | None


@dataclass(frozen=True, slots=True, repr=False)
class Status(ShownAsTable):
    """How a local database stands.

    Attributes:
        file: The Booklet file.
        file_bytes: Its size; `dead_bytes` of it are no current value (None when that is not known).
        journal_bytes: The journal's size, with its WAL.
        journal: `current`, `missing`, `damaged`, `unusable`, `older`, `newer`, or `foreign` when it belongs to
            another file. Unless it is `current`, the counts below are 0.
        in_use: Whether a session has the file open for writing now.
        keys: How many keys a reader sees. One that was set without a look at the remote counts as new until it is
            looked up, which the next push does.
        pending_bytes: Encoded bytes of the values still to be pushed.
        staged_bytes: Value bytes that wait in the journal for the Booklet file.
        conflicts: How many keys were changed here and by another writer, as far as was pulled.
        unresolved: Pushes whose outcome is not known.
        packs_arrived: Packs of an unfinished push that have arrived; `packs_unfinished` have not.
        base_seq: The remote commit that this machine stands on; 0 for none.
        replaces_remote: Whether the next push replaces whatever database the remote holds.
        connection: Where the remote is, None when that is not known.
        repairs: What the next session, or `recover`, has to put right, in sentences.
    """

    file: str
    uuid: str
    file_bytes: int
    journal_bytes: int
    dead_bytes: int | None
    journal: str
    in_use: bool
    keys: int
    pending_sets: int
    pending_deletes: int
    pending_bytes: int
    staged_bytes: int
    conflicts: int
    unresolved: tuple[UnresolvedPush, ...]
    packs_arrived: int
    packs_unfinished: int
    base_seq: int
    base_commit_id: str | None
    replaces_remote: bool
    connection: dict[str, Any] | None
    remote: str | None
    repairs: tuple[str, ...]

    @property
    def needs_decision(self) -> bool:
        """Whether there are conflicts to settle."""
        return self.conflicts > 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)

    def words(self) -> str:
        """Returns the same for people, a line for each fact."""
        dead = "" if self.dead_bytes is None else f", {self.dead_bytes:,} of them dead"
        rows = [
            ("file", f"{self.file}: {self.file_bytes:,} bytes{dead}"),
            ("journal", f"{self.journal}, {self.journal_bytes:,} bytes"),
            ("remote", self.remote or "none is remembered"),
        ]
        if self.journal == "current":
            base = f"commit {self.base_seq} ({self.base_commit_id})" if self.base_seq else "none"
            rows += [
                ("keys", f"{self.keys:,}"),
                ("base", base + (", to be replaced by the next push" if self.replaces_remote else "")),
                ("pending", _pending(self.pending_sets, self.pending_deletes, self.pending_bytes)),
                ("unresolved", _unresolved(self.unresolved)),
                ("uploads", f"{counted(self.packs_arrived, 'pack')} arrived, {self.packs_unfinished} unfinished"),
                ("conflicts", f"{self.conflicts:,}"),
            ]
        if self.in_use:
            rows.append(("in use", "a session has it open for writing"))
        rows += [("to repair", repair) for repair in self.repairs] or [("to repair", "nothing")]
        return aligned(rows)


@dataclass(frozen=True, slots=True, repr=False)
class RecoverReport(ShownAsTable):
    """What a recovery did, or with `dry_run` would do.

    Attributes:
        actions: The account in sentences, in order.
        adopted_keys: How many keys of a Booklet without a journal became pending.
        edited_keys: Keys that another program set in the file; they are pending now.
        deleted_keys: Keys that another program deleted from the file; likewise.
        missing_keys: Keys that the file does not have although nothing tells that they were deleted: it may be an
            older one. They stay, unless `accept_deletes` makes their deletion pending.
        outdated_keys: Keys whose values in the file the journal does not know, and which are not newer.
        damaged_keys: Keys whose local copies were damaged. `refetched_keys` counts the values that came again.
        lost_keys: Keys of pending values of which no sound copy is left.
        partial_keys: Keys of ebooklet's remote that its file does not have; it is not pushed until that is
            accepted.
        remote: The place that was asked, None when none is known.
        failure: Why the remote's part could not be done, None when it could.
        remote_damage: What is damaged at the remote, None when nothing was found so.
        repaired_seq: The commit that the remote's root says since it was written anew; None when it was not.
        missing_objects: Keys of objects that a root written anew names and that are missing or damaged.
        applied: Ids of interrupted commits that had taken effect.
        dropped: Ids of interrupted commits that had not.
        pushed: What the resumed push did, None when there was none.
        conflicts: Keys that were changed here and by another writer.
        unresolved: Pushes whose outcome is still not known.
        pending_known: Whether the counts of what is pending are: not where the journal is still to be made anew.
    """

    file: str
    dry_run: bool
    actions: tuple[str, ...]
    adopted_keys: int = 0
    edited_keys: tuple[str, ...] = ()
    deleted_keys: tuple[str, ...] = ()
    missing_keys: tuple[str, ...] = ()
    outdated_keys: tuple[str, ...] = ()
    damaged_keys: tuple[str, ...] = ()
    refetched_keys: int = 0
    lost_keys: tuple[str, ...] = ()
    partial_keys: int = 0
    remote: str | None = None
    failure: str | None = None
    remote_damage: str | None = None
    repaired_seq: int | None = None
    missing_objects: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    pushed: PushedCommit | None = None
    conflicts: tuple[ConflictSides, ...] = ()
    pending_sets: int = 0
    pending_deletes: int = 0
    pending_bytes: int = 0
    unresolved: tuple[UnresolvedPush, ...] = field(default=())
    base_seq: int = 0
    base_commit_id: str | None = None
    pending_known: bool = True

    @property
    def failed(self) -> bool:
        """Whether a part could not be done and is to be tried again."""
        return self.failure is not None

    @property
    def needs_decision(self) -> bool:
        """Whether there are conflicts, lost values, a partial copy or damage to decide about."""
        damaged = self.remote_damage is not None or self.missing_objects
        return bool(self.conflicts or self.lost_keys or self.partial_keys or damaged)

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)

    def words(self) -> str:
        """Returns the same for people."""
        lines = [f"{self.file}{' (nothing was changed)' if self.dry_run else ''}"]
        lines += [f"- {action}" for action in self.actions]
        if self.edited_keys or self.deleted_keys:
            lines.append(
                f"- another program set {counted(len(self.edited_keys), 'key')} and deleted "
                f"{len(self.deleted_keys):,}; that is pending"
            )
        if self.missing_keys:
            lines.append(
                f"- {counted(len(self.missing_keys), 'key')} missing from the file and kept: "
                f"{some_of(self.missing_keys)}; after a deletion, --accept-deletes makes it pending"
            )
        if self.lost_keys:
            lines.append(
                f"- LOST: {counted(len(self.lost_keys), 'value')} never pushed, of which no sound copy is left: "
                f"{some_of(self.lost_keys)}; set or delete what is named, or discard() its change"
            )
        if self.conflicts:
            changed = counted(len(self.conflicts), "key was", "keys were")
            lines.append(
                f"- CONFLICT: {changed} changed here and by another writer: "
                f"{some_of([sides.key for sides in self.conflicts])}; discard() their local changes to take the "
                "other's, or push(force_push=True) to put yours on top"
            )
        if self.remote_damage is not None:
            lines.append(f"- DAMAGED at the remote: {self.remote_damage}")
        if self.failure is not None:
            lines.append(f"- FAILED: {self.failure}")
        pending = _pending(self.pending_sets, self.pending_deletes, self.pending_bytes)
        lines.append(
            f"- still to be pushed: {pending if self.pending_known else 'not known without the journal'}"
        )
        return "\n".join(lines)


def _pending(sets: int, deletes: int, value_bytes: int) -> str:
    if not (sets or deletes):
        return "nothing"
    return f"{counted(sets, 'set')}, {counted(deletes, 'delete')}, {counted(value_bytes, 'byte')}"


def _unresolved(pushes: tuple[UnresolvedPush, ...]) -> str:
    if not pushes:
        return "none"
    last = pushes[-1]
    begun = as_datetime(last.begun_at_us)
    when = f", begun {begun:%Y-%m-%d %H:%M:%S} UTC" if begun is not None else ""
    return f"a push of commit {last.seq} ({last.commit_id}){when}; recover settles it"


def some_of(names: tuple[str, ...] | list[str], count: int | None = None) -> str:
    """Returns the first of some names, and how many more there are; `count` where not all are given."""
    shown = ", ".join(repr(name) for name in names[:SHOWN_NAMES])
    more = (len(names) if count is None else count) - min(len(names), SHOWN_NAMES)
    return shown + (f" and {more} more" if more > 0 else "")


def aligned(rows: list[tuple[str, str]]) -> str:
    """Returns named facts as lines, with the facts below each other."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
