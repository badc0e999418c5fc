"""What a root says of its database: the record, and its plain fields as JSON.

The invariant: fields that this version does not know are kept when a root is written again, and never stand for
one that it knows; a field of this version is there and in its range, on either side.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ebooklet_tx.formats.checks import is_hex_128, is_message, is_plain_text, is_snapshot_name, short
from ebooklet_tx.limits import MAX_BUCKETS, MAX_COUNT, MAX_TIMESTAMP_US
from ebooklet_tx.records import CommitRecord, CommitWay, SnapshotNote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ebooklet_tx.formats.index_records import Feed, HistoryRef, Run

FORMAT_LEVEL = 2
"""What this version reads and writes; `min_reader` and `min_writer` of a root are compared with it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a root says of its database.

    Attributes:
        uuid: The database's identity, 32 hex digits.
        type: `booklet`, or `group` for a database of databases.
        seq: The number of the commit that wrote this root.
        commit_id: That commit's random id, 32 hex digits.
        parent: The commit_id of the root that this one replaced, or None.
        committed_at_us: When, by the writer's clock.
        writer: Who, in words for people.
        fence: Raised when a lock is taken over, so that the old holder's commits fail.
        value_serializer: Booklet's name of the serializer, `custom`, or None.
        key_count: The number of keys that are not deleted.
        tombstone_floor: The oldest base seq from which rows alone tell what changed.
        n_buckets: What the database was made with; a new local file is made alike.
        recent: Seq and commit id of the newest commits, newest first, this one at their head.
        records: What is known of the newest of `recent`: those that no history object holds yet, newest first.
        histories: Objects of older history, oldest first.
        runs: The index, newest run first; the tail is newer than all of them.
        feed: The last flushes as they were written, newest first; may be empty.
        tail_after_seq: The tail holds every row of a later seq; counts only where there is a feed.
        commits: How commits are made, None while it is not known.
        snapshot: What a copy that is kept as a snapshot says of itself; None in the root itself.
        min_reader: The least format level that may read the database.
        min_writer: The least format level that may commit to it.
        unknown: Fields that this version does not know; who rewrites a root keeps them.
    """

    uuid: str
    type: str
    seq: int
    commit_id: str
    parent: str | None
    committed_at_us: int
    writer: str
    fence: int
    value_serializer: str | None
    key_count: int
    tombstone_floor: int
    n_buckets: int
    recent: tuple[tuple[int, str], ...]
    records: tuple[CommitRecord, ...] = ()
    histories: tuple[HistoryRef, ...] = ()
    runs: tuple[Run, ...] = ()
    feed: tuple[Feed, ...] = ()
    tail_after_seq: int = 0
    commits: CommitWay | None = None
    snapshot: SnapshotNote | None = None
    min_reader: int = FORMAT_LEVEL
    min_writer: int = FORMAT_LEVEL
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        """The commit's message, or an empty text."""
        return self.records[0].message if self.records else ""


PLAIN_FIELDS = (
    "uuid",
    "type",
    "seq",
    "commit_id",
    "parent",
    "committed_at_us",
    "writer",
    "fence",
    "value_serializer",
    "key_count",
    "tombstone_floor",
    "n_buckets",
    "min_reader",
    "min_writer",
)
"""Those that stand in the JSON as they are, and must."""

_KNOWN = frozenset({*PLAIN_FIELDS, "commits", "snapshot"})


def plain_record(manifest: Manifest) -> dict[str, Any]:
    """Returns a manifest's plain fields as JSON has them; an optional one that says nothing is left out."""
    record: dict[str, Any] = {name: value for name, value in manifest.unknown.items() if name not in _KNOWN}
    record |= {name: getattr(manifest, name) for name in PLAIN_FIELDS}
    if manifest.commits is not None:
        record["commits"] = asdict(manifest.commits)
    if manifest.snapshot is not None:
        record["snapshot"] = asdict(manifest.snapshot)
    return record


def dump(record: Mapping[str, Any]) -> bytes:
    """Returns a record as JSON."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def load(encoded: bytes) -> Any:
    """Returns what JSON says.

    Raises:
        ValueError: It is no JSON, says a name twice, or what could not be written again.
        RecursionError: It is nested too deep.
    """
    record = json.loads(encoded.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    # An unknown field may hold half a surrogate pair, or a number that no float holds.
    dump(record)
    return record


def fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `Manifest` that a checked record says."""
    said = record.get("commits")
    commits = None if said is None else CommitWay(said["how"], said["endpoint"], said["bucket"])
    note = record.get("snapshot")
    snapshot = None if note is None else SnapshotNote(**{name: note[name] for name in _SNAPSHOT_RULES})
    unknown = {name: value for name, value in record.items() if name not in _KNOWN}
    plain = {name: record[name] for name in PLAIN_FIELDS}
    return plain | {"commits": commits, "snapshot": snapshot, "unknown": unknown}


def problem_of(record: object) -> str | None:
    """Says what is wrong with a manifest as JSON has it, or None."""
    if not isinstance(record, dict):
        return "it is not a JSON object"
    problem = _problem_by_rules(record, _RULES, "it")
    for name, rules in (("commits", _COMMITS_RULES), ("snapshot", _SNAPSHOT_RULES)):
        part = record.get(name)
        if problem is None and part is not None:
            known = isinstance(part, dict)
            problem = (
                _problem_by_rules(part, rules, f"its {name}") if known else f"its {name} is not a JSON object"
            )
    return problem


def levels_of(record: object) -> tuple[int, int] | None:
    """Returns the format levels that reading and writing ask for, if a record says them as it must."""
    if not isinstance(record, dict):
        return None
    levels = record.get("min_reader"), record.get("min_writer")
    return levels if all(map(_is_level, levels)) else None  # type: ignore[return-value]


def _is_integer(value: object, least: int = 0, most: int = MAX_COUNT) -> bool:
    return type(value) is int and least <= value <= most


def _is_level(value: object) -> bool:
    return _is_integer(value, 1, MAX_COUNT)


_COUNT = (_is_integer, "an integer from 0 to 2**53 - 1")
_LEVEL = (_is_level, "an integer from 1 to 2**53 - 1")

_COMMITS_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "how": (lambda v: v in ("quoted", "unquoted", "tickets"), "'quoted', 'unquoted' or 'tickets'"),
    "endpoint": (is_plain_text, "short printable text"),
    "bucket": (is_plain_text, "short printable text"),
}

_SNAPSHOT_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (is_snapshot_name, "a snapshot's name"),
    "message": (is_message, "a message"),
    "created_at_us": (lambda v: _is_integer(v, 0, MAX_TIMESTAMP_US), "an integer from 0 to 2**55"),
    "writer": (is_plain_text, "short printable text"),
}

_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "uuid": (is_hex_128, "32 hex digits"),
    "type": (lambda v: v in ("booklet", "group"), "'booklet' or 'group'"),
    "seq": (lambda v: _is_integer(v, 1), "an integer from 1 to 2**53 - 1"),
    "commit_id": (is_hex_128, "32 hex digits"),
    "parent": (lambda v: v is None or is_hex_128(v), "null or 32 hex digits"),
    "committed_at_us": (lambda v: _is_integer(v, 0, MAX_TIMESTAMP_US), "an integer from 0 to 2**55"),
    "writer": (is_plain_text, "short printable text"),
    "fence": _COUNT,
    "value_serializer": (lambda v: v is None or is_plain_text(v), "null or short printable text"),
    "key_count": _COUNT,
    "tombstone_floor": _COUNT,
    "n_buckets": (lambda v: _is_integer(v, 1, MAX_BUCKETS), f"an integer from 1 to {MAX_BUCKETS}"),
    "min_reader": _LEVEL,
    "min_writer": _LEVEL,
}


def _problem_by_rules(
    record: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]], what: str
) -> str | None:
    for name, (holds, wanted) in rules.items():
        if name not in record:
            return f"{what} has no {name}"
        if not holds(record[name]):
            return f"the {name} of {what} must be {wanted}, not {short(record[name])}"
    return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal names: neither is right."""
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name comes twice")
    return record


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
