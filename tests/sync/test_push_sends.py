"""What a push sends: index objects and tombstones, packs, parts, and nothing twice."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from ebooklet_tx import ConflictError
from ebooklet_tx.errors import LocalIntegrityError
from ebooklet_tx.index.lookup import run_rows
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.stores.object_store import ObjectStore
from tests.campaigns import amounts
from tests.pairs import LARGE, OLD_STAMP, Bench, limit_tails, make, many_large, pending, push, root_of
from tests.store_wrappers import CountingStore, Fault, faulty


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- the index -----------------------------------------------------------------------------------


@pytest.fixture
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 2000)


def drop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tombstones go as soon as another commit lies on top."""
    monkeypatch.setattr("ebooklet_tx.sync.commit.builder.horizon_seq", lambda base, *_, **__: base.seq)


@pytest.mark.usefixtures("small_tails")
def test_an_overflowing_tail_becomes_an_index_object(bench: Bench) -> None:
    make(bench, {"k": b"1"})
    assert bench.objects("index") == []
    push(bench, "a", {f"k{number}": random.Random(number).randbytes(200) for number in range(30)})
    assert len(bench.objects("index")) == 1
    root = root_of(bench)
    assert root.tail == b""
    ((entry,),) = root.manifest.runs
    assert (entry.least_seq, entry.greatest_seq, entry.row_count) == (1, 2, 31)
    assert bench.contents("a") == bench.fresh_contents()
    push(bench, "a", {"later": b"1"})
    assert root_of(bench).tail
    assert len(bench.fresh_contents()) == 32


@pytest.mark.usefixtures("small_tails")
@pytest.mark.parametrize("pushes", amounts(101, 251))
def test_readers_follow_hundreds_of_pushes(bench: Bench, monkeypatch: pytest.MonkeyPatch, pushes: int) -> None:
    drop_early(monkeypatch)
    rng = random.Random(5)
    most_runs = 0
    floors = set()
    with bench.open("a") as db, contextlib.ExitStack() as stack:
        db["first"] = b"1"
        db.changes().push()
        readers = [stack.enter_context(bench.open(f"reader{number}", "w")) for number in range(3)]
        for number in range(pushes):
            if number % 50 == 49:
                for key in rng.sample(sorted(db), k=min(30, len(db) - 1)):
                    del db[key]
            for _ in range(rng.randint(1, 4)):
                db[f"k{rng.randint(0, 150):03}"] = rng.randbytes(rng.choice([0, 10, 300]))
            if len(db) > 5 and rng.random() < 0.6:
                del db[rng.choice(sorted(db))]
            if number % 20 == 0:
                db.set_metadata({"number": number})
            db.changes().push()
            manifest = root_of(bench).manifest
            most_runs = max(most_runs, len(manifest.runs))
            floors.add(manifest.tombstone_floor)
            assert manifest.key_count == len(db)
            for reader in readers:
                if rng.random() < 0.05:
                    reader.changes().pull()
                    assert dict(reader.items()) == dict(db.items())
                    assert len(reader) == len(db)
                    assert reader.get_metadata() == db.get_metadata()
        expected = dict(db.items())
    assert most_runs <= 8
    assert len(floors) > 1, "no tombstones were ever dropped"
    for number in range(3):
        found = bench.contents(f"reader{number}")
        found.pop("", None)
        assert found == expected
    found = bench.fresh_contents()
    assert found.pop("") == {"number": (pushes - 1) // 20 * 20}
    assert found == expected


@pytest.mark.usefixtures("small_tails")
def test_an_old_reader_reads_everything_anew_once_tombstones_are_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_early(monkeypatch)
    values = {f"k{number:02}": random.Random(number).randbytes(150) for number in range(40)}
    make(bench, values)
    assert bench.contents("old") == values
    with bench.open("busy", "w") as busy:
        busy["k39"] = b"pending"
        del busy["k38"]
        busy["mine"] = b"pending"
    push(bench, "a", {f"k{number:02}": None for number in range(30)} | {"k39": None})
    # Other full tails: everything is merged into one run, without the tombstones.
    push(bench, "a", {f"z{number:02}": random.Random(number).randbytes(150) for number in range(40)})
    push(bench, "a", {f"y{number:02}": random.Random(number).randbytes(150) for number in range(40)})
    manifest = root_of(bench).manifest
    assert manifest.tombstone_floor > 1
    with bench.open("looker", "r") as looker:
        index = looker._session.index.of_base(read_base(looker._session.journal))
        assert index is not None
        found = {item.row.key for run in manifest.runs for item in run_rows(run, index.remote.reader)}
    assert "k35" in found
    assert "k00" not in found
    expected = bench.fresh_contents()
    assert "k00" not in expected
    assert bench.contents("old") == expected
    with bench.open("busy", "w") as busy:
        with pytest.raises(ConflictError) as caught:
            busy.changes().push()
        (conflict,) = caught.value.conflicts
        assert conflict.key == "k39"
        assert conflict.theirs_version.digest is None
        busy.changes().push(force_push=True)
    expected |= {"k39": b"pending", "mine": b"pending"}
    del expected["k38"]
    assert bench.contents("busy") == bench.fresh_contents() == expected


# -- what a push sends ---------------------------------------------------------------------------


def test_a_new_timestamp_sends_no_value(bench: Bench) -> None:
    make(bench, {"large": LARGE, "small": b"1"})
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("a", "w", wrap_store=counting) as db:
        counts[0].reset()
        db.set_timestamp("large", OLD_STAMP)
        db.set_timestamp("small", OLD_STAMP + 1)
        assert set(pending(db)) == {"large", "small"}
        assert db.changes().push()
        assert counts[0].log == [("put", "db")]
        assert counts[0].bytes_up < 5000
    assert len(bench.objects("pack")) == 1
    assert bench.fresh_contents() == {"large": LARGE, "small": b"1"}
    with bench.open("t", "r") as db:
        assert [db.get_timestamp(key) for key in ("large", "small")] == [OLD_STAMP, OLD_STAMP + 1]


def test_a_value_set_back_to_itself_is_no_change(bench: Bench) -> None:
    with bench.open() as db:
        db.set("k", b"1", timestamp=OLD_STAMP)
        db.changes().push()
        db.set("k", b"2", timestamp=OLD_STAMP + 1)
        db.set("k", b"1", timestamp=OLD_STAMP)
        assert pending(db) == {}
        assert not db.changes().push()
        db["gone at once"] = b"1"
        db.sync()
        del db["gone at once"]
        # Whether the remote has it is looked up by the push.
        assert not db.changes().push()
        assert pending(db) == {}


def test_equal_values_are_sent_once(bench: Bench) -> None:
    make(bench, {f"k{number}": LARGE for number in range(10)})
    (pack,) = bench.objects("pack")
    assert pack.stat().st_size < 2 * len(LARGE)
    assert bench.fresh_contents() == {f"k{number}": LARGE for number in range(10)}


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.sync.commit.packing.PACK_BYTES", 100_000)
    monkeypatch.setattr("ebooklet_tx.sync.commit.packing.PART_BYTES", 64_000)
    monkeypatch.setattr("ebooklet_tx.sync.commit.packing.PACKS_IN_FLIGHT", 1)


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("vanished", [False, True])
def test_an_interrupted_push_sends_only_what_is_missing(bench: Bench, vanished: bool) -> None:
    values = many_large()
    with bench.open(wrap_store=faulty(Fault(4, Killed(), kind="put"))) as db:
        db.update(values)
        with pytest.raises(Killed):
            db.changes().push()
    arrived = len(bench.objects("pack"))
    assert arrived == 3
    assert not bench.root.exists()
    if vanished:
        bench.objects("pack")[0].unlink()
        arrived -= 1
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("a", "c", wrap_store=counting) as db:
        result = db.changes().push()
        assert result.resumed_packs == arrived
        assert counts[0].requests["put"] == 5 - arrived + 1
        assert counts[0].bytes_up < 40_000 * 2 * (5 - arrived) + 10_000
    assert bench.fresh_contents() == values


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("inline_first", [True, False])
def test_a_value_larger_than_a_pack_goes_in_parts(bench: Bench, inline_first: bool) -> None:
    large = random.Random(1).randbytes(500_000)
    with bench.open(wrap_store=faulty(Fault(4, Killed(), kind="part"))) as db:
        db["large"] = large
        db["small"] = b"1"
        if not inline_first:
            db._session.local.commit(fold=True)
        with pytest.raises(Killed):
            db.changes().push()
    counts = []

    def counting(inner: ObjectStore) -> CountingStore:
        counts.append(CountingStore(inner))
        return counts[-1]

    with bench.open("a", "c", wrap_store=counting) as db:
        assert db.changes().push()
        assert counts[0].bytes_up < 400_000
    assert bench.fresh_contents() == {"large": large, "small": b"1"}
    assert len(bench.objects("pack")) == 2


@pytest.mark.usefixtures("small_packs")
def test_another_value_in_place_of_a_half_sent_one(bench: Bench) -> None:
    with bench.open(wrap_store=faulty(Fault(4, Killed(), kind="part"))) as db:
        db["large"] = random.Random(1).randbytes(500_000)
        with pytest.raises(Killed):
            db.changes().push()
    other = random.Random(2).randbytes(500_000)
    with bench.open() as db:
        db["large"] = other
        assert db.changes().push()
    assert bench.fresh_contents() == {"large": other}


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("size_bytes", [40_000, 500_000], ids=["among others", "in parts"])
def test_a_damaged_pending_value_is_not_pushed(bench: Bench, size_bytes: int) -> None:
    with bench.open() as db:
        db["large"] = bytes(size_bytes)
        db._session.local.commit(fold=True)
        entry = db._session.local.entry("large")
        assert entry is not None
        with bench.path().open("r+b") as file:
            file.seek((entry.local_offset_bytes or 0) + size_bytes - 7)
            file.write(b"damage")
        with pytest.raises(LocalIntegrityError, match="'large'"):
            db.changes().push()
        assert not bench.root.exists()
        assert bench.objects("pack") == []
        db["large"] = b"set again"
        assert db.changes().push()
    assert bench.fresh_contents() == {"large": b"set again"}
