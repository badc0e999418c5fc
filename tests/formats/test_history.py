"""History objects: round trips, histories that lie, and when objects join."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebooklet_tx import limits
from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError
from ebooklet_tx.formats.columns import FrameKind, FrameWriter
from ebooklet_tx.formats.history import (
    KEEP_RECORDS,
    decode_history,
    encode_history,
    history_ref,
    plan_history,
    write_facts,
)
from ebooklet_tx.formats.index_records import HistoryRef
from ebooklet_tx.records import CommitRecord
from tests.formats.samples import HISTORY, HISTORY_DATA, HISTORY_RECORDS, hex_id, records

GOLDEN = Path(__file__).parent / "golden"
ANY = FrameKind(b"EBTXhis\n", "a hostile writer's frame", 2**30, 2**40, 2**40)
NAME = f"history/{hex_id(1)}"

COUNTS = st.integers(0, limits.MAX_COUNT)
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30)


@st.composite
def histories(draw: st.DrawFn) -> list[CommitRecord]:
    seqs = sorted(draw(st.sets(st.integers(1, limits.MAX_COUNT), min_size=1, max_size=20)))
    return [
        CommitRecord(
            seq,
            draw(st.binary(min_size=16, max_size=16)).hex(),
            draw(st.integers(0, 2**55)),
            draw(PRINTABLE),
            draw(COUNTS),
            draw(COUNTS),
            draw(COUNTS),
            draw(PRINTABLE | st.just("two\n\tlines")),
        )
        for seq in seqs
    ]


@given(histories())
def test_records_are_read_back(log: list[CommitRecord]) -> None:
    data = encode_history(log)
    assert decode_history(data, ref=history_ref(data, NAME, log)) == tuple(log)


def test_the_golden_history() -> None:
    data = (GOLDEN / "history_v2.bin").read_bytes()
    assert decode_history(data, ref=HISTORY) == HISTORY_RECORDS


def test_a_full_history_is_small() -> None:
    log = records(limits.MAX_HISTORY_RECORDS, limits.MAX_HISTORY_RECORDS)[::-1]
    data = encode_history(log)
    assert len(data) < 30 * len(log)
    assert decode_history(data, ref=history_ref(data, NAME, log)) == log


R = records(1, 5)[0]


@pytest.mark.parametrize(
    "log",
    [
        [],
        [R, R],
        [R, replace(R, seq=4)],
        [replace(R, seq=0)],
        [replace(R, seq=2**53)],
        [replace(R, commit_id="x")],
        [replace(R, committed_at_us=2**55 + 1)],
        [replace(R, committed_at_us=-1)],
        [replace(R, writer="a\nb")],
        [replace(R, writer="a" * 1025)],
        [replace(R, set_count=-1)],
        [replace(R, deleted_count=2**53)],
        [replace(R, value_bytes=2**53)],
        [replace(R, message="m" * 4097)],
        [replace(R, message="é" * 2049)],
        [replace(R, message="\x1b[2J")],
        [replace(R, message="\ud800")],
        list(records(4097, 4097)[::-1]),
        list(records(1100, 1100, "m" * 4096)[::-1]),
    ],
)
def test_what_no_reader_takes_is_not_written(log: list[CommitRecord]) -> None:
    with pytest.raises(InvalidArgumentError):
        encode_history(log)


def test_the_longest_message_fits() -> None:
    log = [replace(R, message="é" * 2048, writer="é" * 1024)]
    data = encode_history(log)
    assert decode_history(data, ref=history_ref(data, NAME, log)) == tuple(log)


def forged(log: list[CommitRecord], ids: bytes | None = None) -> tuple[bytes, HistoryRef]:
    writer = FrameWriter(ANY)
    writer.integers([record.seq for record in log])
    write_facts(writer, log)
    writer.plain(b"".join(bytes.fromhex(record.commit_id) for record in log) if ids is None else ids)
    data = writer.finish(len(log))
    return data, history_ref(data, NAME, log)


def test_the_forger_writes_what_the_writer_does() -> None:
    assert forged(list(HISTORY_RECORDS))[0] == HISTORY_DATA


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ([R, R], "strict order"),
        ([R, replace(R, seq=7), replace(R, seq=6), replace(R, seq=8)], "strict order"),
        ([replace(R, committed_at_us=2**55 + 1)], "times of commits"),
        ([replace(R, writer="a\nb")], "not printable"),
        ([replace(R, writer="a" * 1025)], "not printable"),
        ([replace(R, writer="a" * 5000)], "over 4096 bytes"),
        ([replace(R, message="\x1b[2J")], "not printable"),
        ([replace(R, message="m" * 4097)], "over 4096 bytes"),
        ([replace(R, value_bytes=2**53)], "counts of bytes"),
        (list(records(4097, 4097)[::-1]), "announces 4097 rows"),
    ],
)
def test_a_history_that_lies_is_refused(log: list[CommitRecord], words: str) -> None:
    data, ref = forged(log)
    with pytest.raises(RemoteIntegrityError, match=words):
        decode_history(data, ref=ref)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": bytes(16)}, "digest"),
        ({"size_bytes": 1}, "digest"),
        ({"first_seq": 3}, "seqs are 2 to 6"),
        ({"first_seq": 1}, "not those that the root says"),
        ({"last_seq": 7}, "not those that the root says"),
        ({"record_count": 4}, "not those that the root says"),
    ],
)
def test_a_history_is_what_its_root_says(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RemoteIntegrityError, match=rf"{HISTORY.name} .*{words}"):
        decode_history(HISTORY_DATA, ref=HISTORY._replace(**changes))


def test_ids_that_are_cut_off_are_damage() -> None:
    data, ref = forged([R], b"short")
    with pytest.raises(RemoteIntegrityError, match="cut off"):
        decode_history(data, ref=ref)


# -- when objects join -------------------------------------------------------------------------


def simulated(flushes: int, each: int, record_bytes: int = 20) -> tuple[list[HistoryRef], int]:
    """The history objects after many flushes, and how many records were written for each that came."""
    refs: list[HistoryRef] = []
    written = 0
    for number in range(flushes):
        dropped, joined = plan_history(refs, each)
        gathered = refs[len(refs) - joined :] if joined else []
        count = each + sum(ref.record_count for ref in gathered)
        first = gathered[0].first_seq if gathered else number * each + 1
        kept = refs[dropped : len(refs) - joined]
        refs = [*kept, HistoryRef(NAME, "e", count * record_bytes, b"", first, (number + 1) * each, count)]
        written += count
        assert count <= limits.MAX_HISTORY_RECORDS
    return refs, written


def test_a_root_names_few_objects_and_a_record_is_written_few_times() -> None:
    for flushes in (1, 10, 157, 1000):
        refs, written = simulated(flushes, 64)
        kept = sum(ref.record_count for ref in refs)
        assert min(KEEP_RECORDS, flushes * 64) <= kept <= KEEP_RECORDS + limits.MAX_HISTORY_RECORDS
        assert len(refs) <= 12
        assert written <= 6 * flushes * 64
        assert all(one.last_seq + 1 == other.first_seq for one, other in pairwise(refs))


def test_objects_of_long_messages_do_not_grow_past_their_readers() -> None:
    refs, _ = simulated(100, 64, record_bytes=4_200)
    assert max(ref.size_bytes for ref in refs) <= limits.MAX_HISTORY_BYTES
