"""The codec of entries: how a root, or a page of a run's own list, names index objects.

A run whose entries take much room in the root is written to an object of its own: pages of entries one after
another. The root then names the pages, as a directory names blocks.

The invariant: the entries of a run have disjoint slots in ascending order, none of them empty, and no seq above
that of the root that names them.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.checks import MAX_ETAG_CHARS, is_etag, is_hex_128, short
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter, damaged
from ebooklet_tx.formats.index_records import IndexEntry, RunList, RunPage, Sizes
from ebooklet_tx.limits import (
    MAX_BLOCK_ROWS,
    MAX_COUNT,
    MAX_LIST_BYTES,
    MAX_OBJECT_BLOCKS,
    MAX_OBJECT_BYTES,
    MAX_PAGE_ENTRIES,
    MAX_PAGES,
)
from ebooklet_tx.records import DIGEST_BYTES, ObjectRef, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE_MAGIC = b"EBTXlst\n"

_PAGE = FrameKind(PAGE_MAGIC, "a page of a run's list", MAX_PAGE_ENTRIES, MAX_LIST_BYTES, MAX_LIST_BYTES)
_MOST_ROWS = MAX_BLOCK_ROWS * MAX_OBJECT_BLOCKS
_GIVEN, _NEXT, _OPEN = 0, 1, 2
_DEFAULT_SIZES = Sizes()


def encode_run_list(
    entries: Iterable[IndexEntry], name: str, sizes: Sizes = _DEFAULT_SIZES
) -> tuple[bytes, RunList]:
    """Returns the object that lists a run's entries, and what the root says of it but for the ETag.

    Args:
        entries: In the order of their keys; at least one.
        name: The object's, `index/<id>`.
        sizes: Where pages close.

    Raises:
        InvalidArgumentError: The entries break a rule of a run, or there are too many.
    """
    pages: list[RunPage] = []
    parts: list[bytes] = []
    offset_bytes = 0
    before: str | None = ""
    for group in _page_groups(entries, sizes):
        if before is None or group[0].lo < before:
            raise InvalidArgumentError(f"the slots of a run's entries overlap at {group[0].lo[:100]!r}")
        before = group[-1].hi
        writer = FrameWriter(_PAGE)
        check_entries(group)
        write_entries(writer, group)
        data = writer.finish(len(group))
        page = RunPage(
            group[0].lo,
            group[-1].hi,
            offset_bytes,
            len(data),
            digest_of(data),
            len(group),
            sum(entry.row_count for entry in group),
            min(entry.least_seq for entry in group),
            max(entry.greatest_seq for entry in group),
        )
        pages.append(page)
        parts.append(data)
        offset_bytes += len(data)
    if not 1 <= len(pages) <= MAX_PAGES:
        raise InvalidArgumentError(
            f"a run's list of {len(pages)} pages can't be written; 1 to {MAX_PAGES} are possible"
        )
    return b"".join(parts), RunList(ObjectRef(name, "", offset_bytes), tuple(pages))


def decode_run_page(
    data: bytes | memoryview, page: RunPage, *, name: str, greatest_seq: int = MAX_COUNT
) -> tuple[IndexEntry, ...]:
    """Returns the entries of a page of a run's list, checked as foreign input.

    Args:
        data: The bytes that the root names.
        page: What the root says of them.
        name: How messages call the list's object.
        greatest_seq: The root's seq.

    Raises:
        RemoteIntegrityError: It is truncated, altered, or not what the root says.
        UnsupportedFormatError: A newer version wrote it.
    """
    if len(data) != page.length_bytes or digest_of(data) != page.digest:
        raise damaged(name, _PAGE.what, f"the one at byte {page.offset_bytes} does not match its digest")
    reader = FrameReader(data, _PAGE, name)
    entries = read_entries(reader, reader.row_count, greatest_seq)
    reader.finish()
    problem = problem_of_slots(entries)
    if problem is not None:
        raise reader.damaged(problem)
    if not entries or _numbers(entries) != (
        page.lo,
        page.hi,
        page.entry_count,
        page.row_count,
        page.least_seq,
        page.greatest_seq,
    ):
        raise reader.damaged("its entries are not those that the root says")
    return entries


def _numbers(entries: Sequence[IndexEntry]) -> tuple[str, str | None, int, int, int, int]:
    return (
        entries[0].lo,
        entries[-1].hi,
        len(entries),
        sum(entry.row_count for entry in entries),
        min(entry.least_seq for entry in entries),
        max(entry.greatest_seq for entry in entries),
    )


def _page_groups(entries: Iterable[IndexEntry], sizes: Sizes) -> Iterator[list[IndexEntry]]:
    most = min(sizes.page_entries, MAX_PAGE_ENTRIES)
    group: list[IndexEntry] = []
    bound_bytes = 0
    for entry in entries:
        bytes_of_entry = len(entry.lo.encode()) + len((entry.hi or "").encode())
        if len(group) >= most or (len(group) >= 2 and bound_bytes + bytes_of_entry > sizes.fence_bytes):
            yield group
            group, bound_bytes = [], 0
        group.append(entry)
        bound_bytes += bytes_of_entry
    if group:
        yield group


# -- entries, in whatever frame ----------------------------------------------------------------


def check_entries(entries: Sequence[IndexEntry], greatest_seq: int = MAX_COUNT) -> None:
    """Holds entries that are to be written to what readers demand of them.

    Raises:
        InvalidArgumentError: One breaks a rule, or their slots overlap.
    """
    for entry in entries:
        if not is_sound_entry(entry, greatest_seq):
            raise InvalidArgumentError(f"the index object {short(entry.name)} can't be named: {short(entry)}")
    problem = problem_of_slots(entries)
    if problem is not None:
        raise InvalidArgumentError(f"a run can't be written: {problem}")


def is_sound_entry(entry: IndexEntry, greatest_seq: int) -> bool:
    """Tells whether a writer may name this index object."""
    return (
        is_index_name(entry.name)
        and is_etag(entry.etag)
        and 1 <= entry.size_bytes <= MAX_OBJECT_BYTES
        and 1 <= entry.directory_length_bytes <= min(MAX_LIST_BYTES, entry.size_bytes)
        and 1 <= entry.row_count <= _MOST_ROWS
        and 1 <= entry.least_seq <= entry.greatest_seq <= greatest_seq
        and len(entry.directory_digest) == DIGEST_BYTES
    )


def problem_of_slots(entries: Sequence[IndexEntry]) -> str | None:
    """Says why these entries can't be a run, or None."""
    before: str | None = ""
    for entry in entries:
        if before is None or entry.lo < before:
            return f"slots overlap at {short(entry.lo)}"
        if entry.hi is not None and entry.hi <= entry.lo:
            return f"the slot that begins at {short(entry.lo)} is empty"
        before = entry.hi
    return None


def write_entries(writer: FrameWriter, entries: Sequence[IndexEntry]) -> None:
    """Adds entries, of one run or of several, to a frame; their number is not among it."""
    write_bounds(writer, [(entry.lo, entry.hi) for entry in entries])
    writer.texts([entry.etag for entry in entries])
    writer.integers([entry.size_bytes for entry in entries])
    writer.integers([entry.directory_length_bytes for entry in entries])
    writer.integers([entry.row_count for entry in entries])
    writer.integers([entry.least_seq for entry in entries])
    writer.integers([entry.greatest_seq for entry in entries])
    writer.plain(b"".join([bytes.fromhex(entry.name[6:]) for entry in entries]))
    writer.plain(b"".join([entry.directory_digest for entry in entries]))


def read_entries(reader: FrameReader, count: int, greatest_seq: int) -> tuple[IndexEntry, ...]:
    """Returns the entries that `write_entries` wrote; the order of their slots is still to be checked."""
    bounds = read_bounds(reader, count)
    etags = reader.texts(count, "ETags", most_bytes=MAX_ETAG_CHARS)
    sizes = reader.integers(count, 1, MAX_OBJECT_BYTES, "sizes of objects")
    directories = reader.integers(count, 1, MAX_LIST_BYTES, "lengths of directories")
    row_counts = reader.integers(count, 1, _MOST_ROWS, "rows of objects")
    least = reader.integers(count, 1, greatest_seq, "least seqs")
    greatest = reader.integers(count, 1, greatest_seq, "greatest seqs")
    names = [f"index/{reader.plain(16).hex()}" for _ in range(count)]
    digests = [reader.plain(DIGEST_BYTES) for _ in range(count)]
    lows = [lo for lo, _ in bounds]
    highs = [hi for _, hi in bounds]
    entries = tuple(
        map(IndexEntry, names, etags, sizes, lows, highs, row_counts, least, greatest, directories, digests)
    )
    for entry in entries:
        if not is_sound_entry(entry, greatest_seq):
            raise reader.damaged(f"the index object {short(entry.name)} can't be as it says")
    return entries


def write_bounds(writer: FrameWriter, bounds: Sequence[tuple[str, str | None]]) -> None:
    """Adds slots to a frame; where one ends at the next one's begin, the bound is kept once."""
    lows = [lo for lo, _ in bounds]
    kinds = (
        [
            _OPEN if hi is None else _NEXT if hi == following else _GIVEN
            for (_, hi), following in zip(bounds, [*lows[1:], None], strict=True)
        ]
        if bounds
        else []
    )
    writer.texts(lows)
    writer.integers(kinds)
    writer.texts([hi for (_, hi), kind in zip(bounds, kinds, strict=True) if kind == _GIVEN and hi is not None])


def read_bounds(reader: FrameReader, count: int) -> list[tuple[str, str | None]]:
    """Returns the slots that `write_bounds` wrote."""
    lows = reader.texts(count, "lower bounds")
    kinds = reader.integers(count, _GIVEN, _OPEN, "kinds of upper bounds")
    given = iter(reader.texts(kinds.count(_GIVEN), "upper bounds"))
    bounds: list[tuple[str, str | None]] = []
    for number, (lo, kind) in enumerate(zip(lows, kinds, strict=True)):
        if kind == _NEXT and number + 1 == count:
            raise reader.damaged("the last slot ends at the next one's begin, and there is none")
        hi = None if kind == _OPEN else lows[number + 1] if kind == _NEXT else next(given)
        bounds.append((lo, hi))
    return bounds


def is_index_name(name: object) -> bool:
    """Tells whether this is the relative name of an index object or of a run's list."""
    return isinstance(name, str) and name.startswith("index/") and is_hex_128(name[6:])


# -- pages, as a root names them ---------------------------------------------------------------


def write_pages(writer: FrameWriter, run: RunList) -> None:
    """Adds a run's list to a frame.

    Raises:
        InvalidArgumentError: It breaks a rule that readers demand.
    """
    pages = run.pages
    if not is_index_name(run.ref.name) or not is_etag(run.ref.etag) or not 1 <= len(pages) <= MAX_PAGES:
        raise InvalidArgumentError(f"the list of a run {short(run.ref)} of {len(pages)} pages can't be named")
    writer.number(len(pages))
    writer.texts([run.ref.etag])
    write_bounds(writer, [(page.lo, page.hi) for page in pages])
    writer.integers([page.length_bytes for page in pages])
    writer.integers([page.entry_count for page in pages])
    writer.integers([page.row_count for page in pages])
    writer.integers([page.least_seq for page in pages])
    writer.integers([page.greatest_seq for page in pages])
    writer.plain(bytes.fromhex(run.ref.name[6:]))
    writer.plain(b"".join([page.digest for page in pages]))


def read_pages(reader: FrameReader, greatest_seq: int) -> RunList:
    """Returns the run's list that `write_pages` wrote."""
    count = reader.number(1, MAX_PAGES, "number of pages")
    (etag,) = reader.texts(1, "ETags", most_bytes=MAX_ETAG_CHARS)
    bounds = read_bounds(reader, count)
    lengths = reader.integers(count, 1, MAX_LIST_BYTES, "lengths of pages")
    entry_counts = reader.integers(count, 1, MAX_PAGE_ENTRIES, "entries of pages")
    row_counts = reader.integers(count, 1, MAX_COUNT, "rows of pages")
    least = reader.integers(count, 1, greatest_seq, "least seqs")
    greatest = reader.integers(count, 1, greatest_seq, "greatest seqs")
    name = f"index/{reader.plain(16).hex()}"
    digests = [reader.plain(DIGEST_BYTES) for _ in range(count)]
    if not is_etag(etag):
        raise reader.damaged("the ETag of a run's list is not printable ASCII")
    before: str | None = ""
    for lo, hi in bounds:
        if before is None or lo < before or (hi is not None and hi <= lo):
            raise reader.damaged(f"pages of a run's list overlap at {short(lo)}")
        before = hi
    if any(one > other for one, other in zip(least, greatest, strict=True)):
        raise reader.damaged("a page's least seq is above its greatest")
    offsets = accumulate(lengths, initial=0)
    lows, highs = [lo for lo, _ in bounds], [hi for _, hi in bounds]
    pages = map(RunPage, lows, highs, offsets, lengths, digests, entry_counts, row_counts, least, greatest)
    return RunList(ObjectRef(name, etag, sum(lengths)), tuple(pages))
