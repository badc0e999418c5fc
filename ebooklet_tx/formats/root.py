"""The codec of the root object: the manifest, and the tail that rides with it.

Owns no state; everything here is a function over bytes. The invariant: a `Manifest` that went
through `encode_root` or `decode_root` keeps every rule below, so its segments are the whole index up
to the last one's seq, oldest first, without a gap or an overlap; the tail holds what came after.

The user's metadata is not in the manifest: it is the index entry of the reserved key `""`.
docs/reference/FORMAT.md gives the layout.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.segment_image import is_etag, is_hex_128, is_object_name, is_plain_text, short
from ebooklet_tx.limits import (
    MAX_BUCKETS,
    MAX_COUNT,
    MAX_MANIFEST_BYTES,
    MAX_ROOT_BYTES,
    MAX_SEGMENTS,
    MAX_TAIL_BYTES,
    MAX_TIMESTAMP_US,
)
from ebooklet_tx.records import DIGEST_BYTES, CommitWay, SegmentRef

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT_MAGIC = b"EBTXroot"
ROOT_FORMAT_VERSION = 1
ROOT_HEADER_BYTES = 36
ROOT_TAIL_LIMIT_BYTES = 64 * 1024
"""The size up to which a tail rides in the root; past it the tail is written out as a segment."""

_HEADER = struct.Struct("<8sHHII16s")
_TIER_RATIO = 3.0

# What ebooklet stores at the same key: since 0.6 an object of its own that begins like this, before
# that a fixed-length booklet file; a variable-length one is a local file that somebody uploaded.
_EBOOKLET_MAGIC = b"ebooklet-db\x00"
_BOOKLET_FIXED_MAGIC = bytes.fromhex("04d3b294f2104162958d0400738c9e0a")
_BOOKLET_VARIABLE_MAGIC = bytes.fromhex("4f7e8a3fe75c4750ad430a728fe31cfe")


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
        tombstone_floor: The oldest base seq that the index still serves incrementally.
        n_buckets: What the database was made with; a new local file is made alike.
        segments: The index, oldest first.
        commits: How commits are made, None while nobody has said.
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
    segments: tuple[SegmentRef, ...] = ()
    commits: CommitWay | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Root:
    """A decoded root; the tail is a segment blob, not yet looked into, or empty."""

    manifest: Manifest
    tail: bytes


def encode_root(manifest: Manifest, tail: bytes) -> bytes:
    """Returns the bytes of a root object.

    Raises:
        InvalidArgumentError: The manifest breaks a rule, or a part is over its limit.
    """
    record = _record_of(manifest)
    problem = _problem_of(record)
    encoded = b"" if problem else _dump(record)
    if problem is None and len(encoded) > MAX_MANIFEST_BYTES:
        problem = f"it takes {len(encoded)} bytes, over {MAX_MANIFEST_BYTES}"
    if problem is None and len(tail) > MAX_TAIL_BYTES:
        problem = f"its tail takes {len(tail)} bytes, over {MAX_TAIL_BYTES}; write it out as a segment"
    if problem is not None:
        raise InvalidArgumentError(f"the manifest of commit {short(manifest.commit_id)} is not valid: {problem}")
    head = _HEADER.pack(ROOT_MAGIC, ROOT_FORMAT_VERSION, 0, len(encoded), len(tail), bytes(DIGEST_BYTES))
    return head[:-DIGEST_BYTES] + _root_digest(head, encoded + tail) + encoded + tail


def decode_root(data: bytes, *, name: str) -> Root:
    """Returns manifest and tail of a root object, checked as foreign input.

    The tail is a segment blob: `segment.read_segment` checks it in its turn.

    Args:
        data: The whole object.
        name: How messages call it.

    Raises:
        UnsupportedFormatError: Something else lies there: a database of ebooklet, a root of a
            newer version, or a foreign object.
        RemoteIntegrityError: It is a root of ours, truncated or altered.
    """
    _refuse_foreign(data, name)
    if len(data) < ROOT_HEADER_BYTES:
        raise _damaged(name, f"it is cut off after {len(data)} bytes")
    _, version, reserved, manifest_bytes, tail_bytes, digest = _HEADER.unpack_from(data)
    if version > ROOT_FORMAT_VERSION:
        raise _newer(name, str(version))
    if manifest_bytes > MAX_MANIFEST_BYTES or tail_bytes > MAX_TAIL_BYTES:
        raise _damaged(name, "it announces parts over the limit")
    if len(data) != ROOT_HEADER_BYTES + manifest_bytes + tail_bytes:
        raise _damaged(name, f"it has {len(data)} bytes and announces another number")
    body = memoryview(data)[ROOT_HEADER_BYTES:]
    if version < 1 or _root_digest(data, body) != digest:
        raise _damaged(name, "its digest does not match its bytes")
    if reserved:
        raise _newer(name, f"{version} with flags {reserved:#x}")
    manifest = _load_manifest(bytes(body[:manifest_bytes]), name)
    return Root(manifest, bytes(body[manifest_bytes:]))


def too_large_root(start: bytes, *, name: str) -> RemoteIntegrityError:
    """Returns the error of an object in a root's place that is longer than any root.

    Raises:
        UnsupportedFormatError: By its first bytes it is something else altogether.
    """
    _refuse_foreign(start, name)
    return _damaged(name, f"it is over {MAX_ROOT_BYTES} bytes long")


def tail_of(data: bytes) -> bytes:
    """Returns the tail of a root that went through `decode_root` before."""
    *_, tail_bytes, _ = _HEADER.unpack_from(data)
    return data[len(data) - tail_bytes :]


def plan_segments(segments: Sequence[SegmentRef], new_bytes: int) -> int:
    """Returns how many of the newest segments to merge into a new one of `new_bytes`.

    Size-tiered: the next older segment is taken in while it is not some times as large as what has
    gathered, so sizes fall off geometrically and a row is rewritten O(log n) times. The factor grows
    where `MAX_SEGMENTS` tiers of the usual one would not span the whole index.

    Args:
        segments: Those of the manifest, oldest first.
        new_bytes: The size of the segment about to be written.
    """
    # A request costs as much as some bytes do: below that, sizes make no difference.
    floor_bytes = ROOT_TAIL_LIMIT_BYTES // 4
    sizes = [max(segment.size_bytes, floor_bytes) for segment in segments]
    gathered_bytes = max(new_bytes, floor_bytes)
    span = (sum(sizes) + gathered_bytes) / gathered_bytes
    ratio = max(_TIER_RATIO, span ** (1 / (MAX_SEGMENTS - 1)))
    count = 0
    while sizes and (len(sizes) >= MAX_SEGMENTS or sizes[-1] < ratio * gathered_bytes):
        gathered_bytes += sizes.pop()
        count += 1
    return count


# -- the manifest's rules ----------------------------------------------------------------------


def _is_integer(value: object, least: int = 0, most: int = MAX_COUNT) -> bool:
    return type(value) is int and least <= value <= most


_COMMITS_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "how": (lambda v: v in ("quoted", "unquoted", "tickets"), "'quoted', 'unquoted' or 'tickets'"),
    "endpoint": (is_plain_text, "short printable text"),
    "bucket": (is_plain_text, "short printable text"),
}

_MANIFEST_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "uuid": (is_hex_128, "32 hex digits"),
    "type": (lambda v: v in ("booklet", "group"), "'booklet' or 'group'"),
    "seq": (_is_integer, "an integer from 0 to 2**53 - 1"),
    "commit_id": (is_hex_128, "32 hex digits"),
    "parent": (lambda v: v is None or is_hex_128(v), "null or 32 hex digits"),
    "committed_at_us": (lambda v: _is_integer(v, 0, MAX_TIMESTAMP_US), "an integer from 0 to 2**55"),
    "writer": (is_plain_text, "short printable text"),
    "fence": (_is_integer, "an integer from 0 to 2**53 - 1"),
    "value_serializer": (lambda v: v is None or is_plain_text(v), "null or short printable text"),
    "key_count": (_is_integer, "an integer from 0 to 2**53 - 1"),
    "tombstone_floor": (_is_integer, "an integer from 0 to 2**53 - 1"),
    "n_buckets": (lambda v: _is_integer(v, 1, MAX_BUCKETS), f"an integer from 1 to {MAX_BUCKETS}"),
    "segments": (
        lambda v: isinstance(v, list | tuple) and len(v) <= MAX_SEGMENTS,
        f"a list of at most {MAX_SEGMENTS}",
    ),
}

_SEGMENT_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda v: is_object_name(v) and v.startswith("index/"), "index/ and 32 hex digits"),
    "etag": (is_etag, "printable ASCII"),
    "size_bytes": (lambda v: _is_integer(v, 1), "an integer from 1 to 2**53 - 1"),
    "digest": (is_hex_128, "32 hex digits"),
    "first_seq": (lambda v: _is_integer(v, 1), "an integer from 1 to 2**53 - 1"),
    "last_seq": (lambda v: _is_integer(v, 1), "an integer from 1 to 2**53 - 1"),
}


def _problem_of(record: object) -> str | None:
    """Says what is wrong with a manifest as JSON has it, or None."""
    if not isinstance(record, dict):
        return "it is not a JSON object"
    problem = _problem_by_rules(record, _MANIFEST_RULES, "it")
    if problem is not None:
        return problem
    segments = record["segments"]
    for number, segment in enumerate(segments):
        if not isinstance(segment, dict):
            return f"segment {number} is not a JSON object"
        problem = _problem_by_rules(segment, _SEGMENT_RULES, f"segment {number}")
        if problem is not None:
            return problem
    problem = _problem_of_commits(record.get("commits"))
    return problem or _problem_of_order(segments, record["seq"])


def _problem_of_commits(commits: object) -> str | None:
    if commits is None:
        return None
    if not isinstance(commits, dict):
        return "its commits is not a JSON object"
    return _problem_by_rules(commits, _COMMITS_RULES, "its commits")


def _problem_by_rules(
    record: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]], what: str
) -> str | None:
    for name, (holds, wanted) in rules.items():
        if name not in record:
            return f"{what} has no {name}"
        if not holds(record[name]):
            return f"the {name} of {what} must be {wanted}, not {short(record[name])}"
    return None


def _problem_of_order(segments: Sequence[Mapping[str, Any]], seq: int) -> str | None:
    names = {segment["name"] for segment in segments}
    if len(names) != len(segments):
        return "it names a segment twice"
    before = None
    for number, segment in enumerate(segments):
        first_seq, last_seq = segment["first_seq"], segment["last_seq"]
        if first_seq > last_seq or last_seq > seq:
            return f"segment {number} covers the commits {first_seq} to {last_seq} of {seq}"
        if before is not None and first_seq != before + 1:
            return f"segment {number} begins at commit {first_seq}, and the one before ends at {before}"
        before = last_seq
    return None


# -- bytes -------------------------------------------------------------------------------------

_KNOWN = frozenset(known.name for known in fields(Manifest)) - {"unknown"}
_PLAIN = _KNOWN - {"segments", "commits"}


def _record_of(manifest: Manifest) -> dict[str, Any]:
    """Returns a manifest as JSON has it; an optional field that says nothing is left out."""
    record = asdict(manifest)
    unknown = record.pop("unknown")
    if record["commits"] is None:
        del record["commits"]
    return {name: value for name, value in unknown.items() if name not in _KNOWN} | record


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _load_manifest(encoded: bytes, name: str) -> Manifest:
    try:
        record = json.loads(encoded.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its manifest is not JSON ({error})") from error
    problem = _problem_of(record)
    if problem is not None:
        raise _damaged(name, f"its manifest is not valid: {problem}")
    segments = tuple(
        SegmentRef(**{each.name: segment[each.name] for each in fields(SegmentRef)})
        for segment in record["segments"]
    )
    said = record.get("commits")
    commits = None if said is None else CommitWay(said["how"], said["endpoint"], said["bucket"])
    plain = {name: record[name] for name in _PLAIN}
    unknown = {name: value for name, value in record.items() if name not in _KNOWN}
    return Manifest(**plain, segments=segments, commits=commits, unknown=unknown)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal names: neither is right."""
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name comes twice")
    return record


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _root_digest(header: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(header[: ROOT_HEADER_BYTES - DIGEST_BYTES], digest_size=DIGEST_BYTES)
    digest.update(body)
    return digest.digest()


def _refuse_foreign(data: bytes, name: str) -> None:
    start = data[: len(ROOT_MAGIC)]
    if start == ROOT_MAGIC:
        return
    if ROOT_MAGIC.startswith(start):
        raise _damaged(name, f"it is cut off after {len(data)} bytes")
    if data.startswith((_EBOOKLET_MAGIC, _BOOKLET_FIXED_MAGIC, _BOOKLET_VARIABLE_MAGIC)):
        raise UnsupportedFormatError(
            f"{name} is a database that ebooklet wrote, which ebooklet_tx does not read in place. Load all "
            "of it into its local .blt file with ebooklet, open that file with ebooklet_tx against a NEW "
            "db_key, and push; the old remote is left untouched"
        )
    raise UnsupportedFormatError(
        f"a foreign object lies at {name}: it does not begin like a root of ebooklet_tx. Choose another "
        "db_key, or move that object away; it is left untouched"
    )


def _damaged(name: str, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"{name} is not a sound root: {problem}. The download may have been cut short: try again. If it "
        "stays, restore the object from the bucket's versions or from a snapshot, or write it anew from a "
        "machine that has a copy: `python -m ebooklet_tx recover --repair-remote PATH`"
    )


def _newer(name: str, version: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{name} is a root of format {version}; this version of ebooklet_tx reads up to "
        f"{ROOT_FORMAT_VERSION}. Upgrade ebooklet_tx"
    )
