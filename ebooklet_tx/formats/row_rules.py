"""What a row of the index must be: rules that a block's writer holds it to, and those that readers share.

The invariant: a row that `problem_of_row` has nothing against is one that every reader takes.
"""

from __future__ import annotations

from itertools import islice
from operator import add, gt, lt
from typing import TYPE_CHECKING, Any, TypeAlias

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.checks import is_etag, is_object_name, short
from ebooklet_tx.limits import (
    MAX_COUNT,
    MAX_INLINE_BYTES,
    MAX_KEY_BYTES,
    MAX_TIMESTAMP_US,
    MAX_VALUE_BYTES,
    RESERVED_TEXTS,
)
from ebooklet_tx.records import DIGEST_BYTES, IndexRow, ObjectRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ebooklet_tx.formats.columns import Texts

FIRST_PACK = 2
"""The number by which a block's rows name its first pack; below are tombstones and inline values."""

AnyRow: TypeAlias = (
    "IndexRow | tuple[str, int, int, bytes | None, str | None, int | None, int | None, bytes | None]"
)
"""An `IndexRow`, or a plain tuple of the same eight values, as a query yields it: a codec takes either."""

Columns: TypeAlias = "Sequence[Sequence[Any]]"
"""Some rows as a sequence for each of the eight values: of many rows no object is made for each."""


_NOT_IN_ORDER = "its keys are not in strict order"
_RESERVED = "it has a row of a key that Booklet keeps for itself"


def is_sound_pack(name: str, ref: ObjectRef) -> bool:
    """Tells whether a writer may name this pack."""
    return (
        ref.name == name
        and is_object_name(name)
        and name.startswith("pack/")
        and is_etag(ref.etag)
        and type(ref.size_bytes) is int
        and 0 <= ref.size_bytes <= MAX_COUNT
    )


def are_integers(values: Sequence[Any], least: int, most: int) -> bool:
    """Tells whether all are int and in a range."""
    return not values or (set(map(type, values)) == {int} and least <= min(values) and max(values) <= most)


def are_digests(values: Sequence[Any]) -> bool:
    """Tells whether all are digests by type and length."""
    return not values or (set(map(type, values)) == {bytes} and set(map(len, values)) == {DIGEST_BYTES})


def problem_of_keys(keys: Sequence[str]) -> str | None:
    """Says whether keys are out of order, or Booklet's own."""
    if not _ascend(keys):
        return _NOT_IN_ORDER
    return None if RESERVED_TEXTS.isdisjoint(keys) else _RESERVED


def problem_of_packed_keys(keys: Texts) -> str | None:
    """Likewise, of keys that are not cut apart yet."""
    prefix = keys.prefix
    if not _ascend(keys.comparable()):
        return _NOT_IN_ORDER
    reserved = {text[len(prefix) :] for text in RESERVED_TEXTS if text.startswith(prefix)}
    return _RESERVED if reserved and not reserved.isdisjoint(keys.without_prefix()) else None


def _ascend(values: Sequence[Any]) -> bool:
    return all(map(lt, values, islice(values, 1, None)))


def problem_of_places(
    packs: Sequence[ObjectRef], kinds: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]
) -> str | None:
    """Says whether a value would lie outside its pack; `kinds` has the number of each placed row's pack."""
    if not kinds:
        return None
    ends = map(add, offsets, lengths)
    if len(packs) == 1:
        size_bytes = packs[0].size_bytes
        # Most blocks are far from the end of their pack, and two maxima say so sooner.
        inside = max(offsets) + max(lengths) <= size_bytes or max(ends) <= size_bytes
    else:
        sizes = [0] * FIRST_PACK + [pack.size_bytes for pack in packs]
        inside = not any(map(gt, ends, map(sizes.__getitem__, kinds)))
    return None if inside else "a row points past the end of its pack"


def problem_of_texts(keys: Sequence[Any]) -> str | None:
    """Says whether something is no text that UTF-8 can hold, or is longer than a key may be."""
    try:
        joined = "".join(keys)
        joined.isascii() or joined.encode()
        long = max(map(len, keys)) * 4 > MAX_KEY_BYTES and any(len(key.encode()) > MAX_KEY_BYTES for key in keys)
    except (TypeError, UnicodeEncodeError) as error:
        return f"its key can't be written: {error}"
    return f"its key is over {MAX_KEY_BYTES} bytes long" if long else None


def problem_of_row(row: AnyRow, refs: Mapping[str, ObjectRef]) -> str | None:
    """Says what is wrong with a row that is to be written, or None."""
    key, seq, stamp, digest, object_name, offset, length, value = row
    problem = problem_of_texts([key]) or problem_of_keys([key])
    if problem is not None:
        return problem
    if not are_integers([seq], 1, MAX_COUNT) or not are_integers([stamp], 0, MAX_TIMESTAMP_US):
        return f"its seq must be 1 to {MAX_COUNT}, and its timestamp 0 to {MAX_TIMESTAMP_US}"
    if digest is None:
        nothing = object_name is None and offset is None and length is None and value is None
        return None if nothing else "it is deleted, and has a value"
    if not are_digests([digest]):
        return f"its digest is not {DIGEST_BYTES} bytes"
    if object_name is None:
        if type(value) is not bytes or offset is not None or length != len(value):
            return "it has neither a place in a pack nor a value of its length"
        if len(value) > MAX_INLINE_BYTES:
            return f"its value takes {len(value)} bytes; at most {MAX_INLINE_BYTES} may lie in the index"
        return None if digest_of(value) == digest else "its value does not match its digest"
    if value is not None:
        return "it has a place in a pack, and a value"
    if object_name not in refs:
        return (
            f"it names the object {short(object_name)}, which is not among the objects given; pass its ObjectRef"
        )
    ref = refs[object_name]
    if not is_sound_pack(object_name, ref):
        return (
            f"it names the object {short(object_name)}, which can't be written: its name must be pack/ and "
            "32 hex digits, its ETag printable ASCII, its size a count"
        )
    if not are_integers([offset], 0, MAX_COUNT) or not are_integers([length], 0, MAX_VALUE_BYTES):
        return "its offset or length is out of range"
    return problem_of_places([ref], [FIRST_PACK], [offset or 0], [length or 0])


def refusal(rows: Sequence[AnyRow], refs: Mapping[str, ObjectRef]) -> InvalidArgumentError:
    """Returns the error that names the first row that is wrong."""
    before: Any = None
    for row in rows:
        problem = problem_of_row(row, refs)
        if problem is None and before is not None and not before < row[0]:
            problem = f"it is not above the key before it, {short(before)}"
        if problem is not None:
            return InvalidArgumentError(f"the index row of key {short(row[0])} can't be written: {problem}")
        before = row[0]
    return InvalidArgumentError("rows of the index can't be written: their columns are of the wrong types")
