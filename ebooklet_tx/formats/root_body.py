"""The binary part of a root: recent commits, history, the runs of the index, the feed.

The invariant: what is read here names nothing of a later commit than the root's own, each run and each flush of
the feed has disjoint slots in ascending order, and the recent commits begin with the root's own.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.columns import FrameKind, FrameReader, FrameWriter
from ebooklet_tx.formats.history import (
    check_records,
    read_facts,
    read_histories,
    write_facts,
    write_histories,
)
from ebooklet_tx.formats.index_records import Feed, IndexEntry, Run, RunList
from ebooklet_tx.formats.run_list import (
    check_entries,
    problem_of_slots,
    read_entries,
    read_pages,
    write_entries,
    write_pages,
)
from ebooklet_tx.limits import (
    MAX_BODY_BYTES,
    MAX_BODY_ENTRIES,
    MAX_BODY_RAW_BYTES,
    MAX_FEED,
    MAX_HISTORIES,
    MAX_RECENT,
    MAX_RUNS,
)
from ebooklet_tx.records import CommitRecord

if TYPE_CHECKING:
    from ebooklet_tx.formats.manifest import Manifest

BODY_MAGIC = b"EBTXbdy\n"

_BODY = FrameKind(BODY_MAGIC, "a root's binary part", MAX_BODY_ENTRIES, MAX_BODY_RAW_BYTES, MAX_BODY_BYTES)


def encode_body(manifest: Manifest) -> bytes:
    """Returns the binary part of a root.

    Raises:
        InvalidArgumentError: It breaks a rule that readers demand, or is past a limit.
    """
    recent, records, histories = manifest.recent, manifest.records, manifest.histories
    for count, most, what in (
        (len(recent), MAX_RECENT, "recent commits"),
        (len(histories), MAX_HISTORIES, "history objects"),
        (len(manifest.runs), MAX_RUNS, "runs"),
        (len(manifest.feed), MAX_FEED, "flushes in its feed"),
    ):
        if count > most:
            raise InvalidArgumentError(
                f"a root of {count} {what} can't be written: no reader takes more than {most}"
            )
    check_records(records)
    if tuple((record.seq, record.commit_id) for record in records) != recent[: len(records)]:
        raise InvalidArgumentError("a root whose records are not those of its newest commits can't be written")
    listed = [run for run in manifest.runs if isinstance(run, RunList)]
    groups = [run for run in manifest.runs if not isinstance(run, RunList)] + [
        each.entries for each in manifest.feed
    ]
    for group in groups:
        if not group:
            raise InvalidArgumentError("a run without an index object can't be written")
        check_entries(group, manifest.seq)
    entries = [entry for group in groups for entry in group]
    writer = FrameWriter(_BODY)
    writer.number(len(recent))
    writer.number(len(records))
    writer.number(len(histories))
    writer.number(len(manifest.runs))
    writer.number(len(manifest.feed))
    writer.number(manifest.tail_after_seq)
    writer.integers([seq for seq, _ in recent])
    writer.plain(b"".join([bytes.fromhex(commit_id) for _, commit_id in recent]))
    write_facts(writer, records)
    write_histories(writer, histories)
    writer.integers([0 if isinstance(run, RunList) else len(run) for run in manifest.runs])
    writer.integers([len(each.entries) for each in manifest.feed])
    writer.integers([each.after_seq for each in manifest.feed])
    write_entries(writer, entries)
    for run in listed:
        write_pages(writer, run)
    return writer.finish(len(entries))


def decode_body(data: bytes | memoryview, *, name: str, seq: int, commit_id: str) -> dict[str, Any]:
    """Returns the arguments of `Manifest` that a root's binary part says, checked as foreign input.

    Args:
        data: The part.
        name: How messages call the root.
        seq: The root's own.
        commit_id: The root's own.

    Raises:
        RemoteIntegrityError: It is not sound.
        UnsupportedFormatError: A newer version wrote it.
    """
    reader = FrameReader(data, _BODY, name)
    recent_count = reader.number(1, MAX_RECENT, "number of recent commits")
    record_count = reader.number(0, recent_count, "number of records")
    history_count = reader.number(0, MAX_HISTORIES, "number of history objects")
    run_count = reader.number(0, MAX_RUNS, "number of runs")
    feed_count = reader.number(0, MAX_FEED, "number of flushes")
    tail_after_seq = reader.number(0, seq, "seq after which the tail begins")
    seqs = reader.integers(recent_count, 1, seq, "seqs")
    ids = [reader.plain(16).hex() for _ in seqs]
    facts = read_facts(reader, record_count)
    histories = read_histories(reader, history_count, seq)
    sizes = reader.integers(run_count, 0, MAX_BODY_ENTRIES, "sizes of runs")
    feed_sizes = reader.integers(feed_count, 1, MAX_BODY_ENTRIES, "sizes of flushes")
    after_seqs = reader.integers(feed_count, 0, tail_after_seq, "seqs after which flushes begin")
    if sum(sizes) + sum(feed_sizes) != reader.row_count:
        raise reader.damaged("the sizes of its runs do not add up")
    entries = read_entries(reader, reader.row_count, seq)
    lists = iter([read_pages(reader, seq) for size in sizes if size == 0])
    reader.finish()
    if (seqs[0], ids[0]) != (seq, commit_id) or any(one <= other for one, other in pairwise(seqs)):
        raise reader.damaged("its recent commits do not begin with its own, or are out of order")
    if record_count and histories and histories[-1].last_seq >= seqs[record_count - 1]:
        raise reader.damaged("its records overlap its history objects")
    if any(one < other for one, other in pairwise(after_seqs)):
        raise reader.damaged("its feed is out of order")
    ends = list(accumulate([*sizes, *feed_sizes], initial=0))
    groups = [entries[start:end] for start, end in pairwise(ends)]
    for group in groups:
        problem = problem_of_slots(group)
        if problem is not None:
            raise reader.damaged(problem)
    runs: list[Run] = [group or next(lists) for group in groups[:run_count]]
    records = [
        CommitRecord(number, commit, *fact) for number, commit, fact in zip(seqs, ids, facts, strict=False)
    ]
    return {
        "recent": tuple(zip(seqs, ids, strict=True)),
        "records": tuple(records),
        "histories": histories,
        "runs": tuple(runs),
        "feed": tuple(map(Feed, after_seqs, groups[run_count:])),
        "tail_after_seq": tail_after_seq,
    }


def entries_bytes(entries: tuple[IndexEntry, ...]) -> int:
    """Returns about how many bytes a run takes in the root, for the choice of a list of its own."""
    writer = FrameWriter(_BODY)
    write_entries(writer, entries)
    return len(writer.finish(len(entries)))
