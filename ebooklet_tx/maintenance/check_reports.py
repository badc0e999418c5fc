"""What `collect`, `fsck`, `verify` and `compact` say of a remote: plain records, as dicts and in words.

The invariant: a report is what was seen or done at one moment, holds no credential, and its
dict is JSON whose names do not change from one run to the next.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ebooklet_tx.html_tables import ShownAsTable, counted
from ebooklet_tx.maintenance.reports import aligned, some_of


@dataclass(frozen=True, slots=True)
class Tally:
    """How many objects, and their bytes."""

    objects: int = 0
    size_bytes: int = 0

    def words(self) -> str:
        """Returns the same for people."""
        return f"{counted(self.objects, 'object')}, {self.size_bytes:,} bytes"


@dataclass(frozen=True, slots=True, repr=False)
class CollectReport(ShownAsTable):
    """What a collection of garbage did, or with `dry_run` would do.

    Attributes:
        remote: The database that was looked after.
        dry_run: Whether nothing was deleted.
        seq: The commit that was looked at.
        grace_seconds: For how long garbage was kept.
        live: Objects that the root or a snapshot names.
        young: Garbage that is kept for now, by its own age or because a root may have named it lately.
        deleted: Garbage that was deleted.
        strange: Objects below the database's prefix that are none of its own; they are never touched.
        deleted_names: The deleted objects' keys.
        young_names: The kept garbage's keys.
        strange_names: The strange objects' keys.
    """

    remote: str
    dry_run: bool
    seq: int
    grace_seconds: float
    live: Tally
    young: Tally
    deleted: Tally
    strange: Tally
    deleted_names: tuple[str, ...] = ()
    young_names: tuple[str, ...] = ()
    strange_names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)

    def words(self) -> str:
        """Returns the same for people, a line for each fact."""
        rows = [
            ("remote", f"{self.remote}, commit {self.seq}"),
            ("live", self.live.words()),
            ("would go" if self.dry_run else "deleted", self.deleted.words()),
            ("too young", f"{self.young.words()}; kept for {self.grace_seconds / 3600:g} hours"),
        ]
        if self.strange.objects:
            shown = some_of(self.strange_names)
            rows.append(("strange", f"{self.strange.words()}, none of this database's, left alone: {shown}"))
        return aligned(rows)


@dataclass(frozen=True, slots=True, repr=False)
class FsckReport(ShownAsTable):
    """What the remote's objects are, held against what the root names; lists are of object keys.

    Attributes:
        db_key: The database's key.
        format_version: The root's format; None where there is no root.
        db_object_exists: Whether there is a root.
        torn_teardown: Whether objects lie there although there is no root.
        expected_objects: How many objects the root names.
        orphans: Objects that neither the root nor a snapshot names, before any were deleted. Empty when
            the index can't be read whole: then nothing is surely an orphan.
        swept: Those of them that were deleted.
        skipped_young: Those of them that were to be deleted and are kept for now.
        claimed_but_missing: Objects that the root names and that are not there; with `check_objects` also
            those that are not of the size, or an index segment not of the digest, that the root says.
        unmanifested_group_ids: Always empty: values are in no groups here.
        empty_groups: Always empty.
        dead_fraction: For each pack with dead bytes, the share of its bytes that no live key uses.
        bad_entry_layout: Always False: a segment's layout is checked when it is read.
    """

    db_key: str
    format_version: int | None
    db_object_exists: bool
    torn_teardown: bool = False
    expected_objects: int = 0
    orphans: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)
    skipped_young: list[str] = field(default_factory=list)
    claimed_but_missing: list[str] = field(default_factory=list)
    unmanifested_group_ids: list[str] = field(default_factory=list)
    empty_groups: list[str] = field(default_factory=list)
    dead_fraction: dict[str, float] = field(default_factory=dict)
    bad_entry_layout: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """An object, or a value in one, that is not what the index says.

    Attributes:
        object: The object's key.
        problem: What is wrong with it.
        keys: The first of the keys whose values it costs; `key_count` in all. Of an index segment they can't
            be told.
        sound_copy: Where the value or object may be had again, in words.
        kind: What the object is: `root`, `snapshot`, `index`, `history` or `pack`.
    """

    object: str
    problem: str
    keys: tuple[str, ...] = ()
    key_count: int = 0
    sound_copy: str = ""
    kind: str = ""

    def words(self) -> str:
        """Returns the same for people."""
        affected = f" (keys: {some_of(self.keys, self.key_count)})" if self.keys else ""
        return f"{self.object}: {self.problem}{affected}. {self.sound_copy}".rstrip()


@dataclass(frozen=True, slots=True)
class Mended:
    """An object that was lost or damaged, and that was written anew from this machine.

    Attributes:
        object: The object's key.
        kind: What it is, as in `Damage`.
        problem: What was wrong with it.
        keys: The first of the keys whose values are there again; `key_count` in all. Of the index none are told.
        key_count: How many they are.
        note: What there is to know of it besides.
    """

    object: str
    kind: str
    problem: str
    keys: tuple[str, ...] = ()
    key_count: int = 0
    note: str = ""

    def words(self) -> str:
        """Returns the same for people."""
        affected = f" (keys: {some_of(self.keys, self.key_count)})" if self.keys else ""
        note = f": {self.note}" if self.note else ""
        return f"{self.object}: it was written anew{note}. Before: {self.problem}{affected}"


@dataclass(frozen=True, slots=True, repr=False)
class VerifyReport(ShownAsTable):
    """What a verification of a remote found.

    Attributes:
        remote: The database that was looked at.
        seq: The commit that was looked at, None where the root can't be read.
        commit_id: Its id.
        key_count: How many keys have a value there.
        index_objects: How many objects of index and history the root names.
        packs: How many packs live values lie in.
        objects_bytes: The bytes of all these objects, as the index has them.
        values_read: How many values in packs were read and held to their digests; None when that was not
            asked. Values that ride in the index are always checked.
        bytes_read: How many bytes of packs were read for that.
        moved_objects: How many objects have another ETag than the index says. That is no damage: a copy in
            another store has its own.
        snapshots: How many snapshots were looked at likewise; the counts above are those of the root.
        damage: Whatever is not as it should be; of a repair what is left after it.
        mended: What a repair has written anew.
        unnamed_objects: How many objects of the database neither root nor snapshots name, as interrupted pushes
            leave them, and those under way. They are no damage; `collect` deletes them in time. None where the
            remote can't be listed, or an index can't be read whole.
        unnamed_bytes: Their bytes.
    """

    remote: str
    seq: int | None
    commit_id: str | None
    key_count: int = 0
    index_objects: int = 0
    packs: int = 0
    objects_bytes: int = 0
    values_read: int | None = None
    bytes_read: int = 0
    moved_objects: int = 0
    snapshots: int = 0
    damage: tuple[Damage, ...] = ()
    mended: tuple[Mended, ...] = ()
    unnamed_objects: int | None = None
    unnamed_bytes: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not self.damage

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)

    def words(self) -> str:
        """Returns the same for people, a line for each fact."""
        commit = "a root that can't be read" if self.seq is None else f"commit {self.seq} ({self.commit_id})"
        read = "not read" if self.values_read is None else f"{self.values_read:,} read, {self.bytes_read:,} bytes"
        packs = counted(self.packs, "pack")
        rows = [
            ("remote", f"{self.remote}, {commit}"),
            ("keys", f"{self.key_count:,}"),
            ("objects", f"{self.index_objects} of the index, {packs}, {self.objects_bytes:,} bytes"),
            ("values", read),
        ]
        if self.snapshots:
            rows.append(("snapshots", f"{self.snapshots:,}"))
        if self.moved_objects:
            moved = counted(self.moved_objects, "object has", "objects have")
            rows.append(("moved", f"{moved} another ETag than the index says"))
        if self.unnamed_objects:
            size = f"{counted(self.unnamed_objects, 'object')}, {self.unnamed_bytes:,} bytes"
            rows.append(("garbage", f"{size}, that nothing names; collect deletes it in time"))
        rows += [("mended", mended.words()) for mended in self.mended]
        rows += [("DAMAGED", damage.words()) for damage in self.damage] or [("damage", "none")]
        return aligned(rows)


@dataclass(frozen=True, slots=True, repr=False)
class CompactReport(ShownAsTable):
    """What a compaction did.

    Attributes:
        seq: The commit on which the local database stands now.
        commits: How many commits it took; 0 when there was nothing to do.
        packs: How many packs no live row lies in any more; `collect` deletes them in its time.
        moved_keys: How many keys' values lie elsewhere now.
        moved_bytes: Their encoded bytes, equal values once.
        freed_bytes: The old packs' sizes.
        resumed_packs: How many new packs an earlier, interrupted run had already sent.
        kept_packs: Packs that are due and were left as they are: a key in them has a change still to
            be pushed, or a value can't be read.
        unreadable_keys: Keys whose values could not be had in a sound state; their rows are as they were.
        pruned_values: How many values were dropped from the journal that no entry refers to.
    """

    seq: int
    commits: int = 0
    packs: int = 0
    moved_keys: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    resumed_packs: int = 0
    kept_packs: tuple[str, ...] = ()
    unreadable_keys: tuple[str, ...] = ()
    pruned_values: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)

    def words(self) -> str:
        """Returns the same for people, a line for each fact."""
        if not self.commits:
            rows = [("compacted", f"nothing: commit {self.seq} is compact as it is")]
        else:
            rows = [
                (
                    "compacted",
                    f"{counted(self.packs, 'pack')} of {self.freed_bytes:,} bytes; collect deletes what is old",
                ),
                ("moved", f"{counted(self.moved_keys, 'value')}, {self.moved_bytes:,} bytes; commit {self.seq}"),
            ]
        if self.kept_packs:
            kept = counted(len(self.kept_packs), "pack")
            rows.append(("left alone", f"{kept} with changes to push, or unreadable values"))
        if self.unreadable_keys:
            rows.append(("UNREADABLE", some_of(self.unreadable_keys)))
        return aligned(rows)
