"""Forks: what workers read and send, what a merge takes in, and what a push makes of it."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import MISSING, Conflict, ConflictError, Fork, MergeConflictError, Receipt
from ebooklet_tx.errors import (
    ContentionError,
    Error,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidTypeError,
    OfflineError,
    RemoteIntegrityError,
    RemoteMissingError,
    SessionClosedError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.formats.fork import decode_changes, encode_changes
from ebooklet_tx.formats.pack import PACK_BYTES
from ebooklet_tx.maintenance.recover import interrupted_push
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.forks import begin, protection
from ebooklet_tx.sync.forks import work as working
from tests.campaigns import amounts
from tests.fleets import divided, in_order, open_part, work
from tests.store_wrappers import CountingStore
from tests.yard import Yard, value

BASE = {f"k{number:02}": value(number, 300) for number in range(20)}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    made = Yard(tmp_path)
    made.push(dict(BASE))
    return made


def test_a_fork_is_small_and_has_no_credential(yard: Yard) -> None:
    counting = CountingStore(yard.store)
    with yard.open(wrap=lambda _store: counting) as db:
        counting.reset()
        fork = db.fork()
        assert [kind for kind, _ in counting.log] == ["get", "put", "get"]
    data = pickle.dumps(fork)
    assert len(data) < 1000
    assert pickle.loads(data) == fork
    connection = ebooklet_tx.S3Connection(
        "id-x", "key-x", "db", "bucket", "http://127.0.0.1:9", session_token="t-x"
    )
    text = repr(replace(fork, address=connection.to_dict()))
    assert not {"id-x", "key-x", "t-x"} & set(text.replace("'", " ").split())


def test_a_part_is_a_mapping_of_the_base_with_its_own_changes(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork()
        db["k00"] = b"pending, so not seen"
        with open_part(fork, yard.store) as part:
            assert dict(part) == BASE
            assert (len(part), part["k00"], part.get("x"), "k01" in part) == (20, BASE["k00"], None, True)
            part["k00"], part["new"] = b"0", b"1"
            del part["k01"]
            part.set("k02", b"2", timestamp="2026-01-31T12:00:00+00:00")
            expected = in_order(BASE, {"k00": b"0", "new": b"1", "k01": None, "k02": b"2"})
            assert dict(part.items()) == expected
            assert (list(part), list(part.keys("n")), len(part)) == (list(expected), ["new"], 20)
            assert part.get_timestamp("k02") == 1769860800000000
            assert dict(part.get_items(["k01", "k00", ""], default=None)) == {"k01": None, "k00": b"0", "": None}
            assert part.pop("new") == b"1"
            assert part.setdefault("new", b"3") == b"3"
            with pytest.raises(KeyError):
                del part["k01"]
            with pytest.raises(InvalidKeyError):
                part[""] = b"x"
            with pytest.raises(SessionClosedError, match="not ended"):
                part.receipt  # noqa: B018
            with pytest.raises(InvalidTypeError):
                pickle.dumps(part)
        with pytest.raises(SessionClosedError):
            part["k00"]
        receipt = part.receipt
        assert (receipt.set_count, receipt.deleted_count, bool(receipt)) == (3, 1, True)


def test_what_a_worker_reads_costs_few_requests(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork()
    counting = CountingStore(yard.store)
    with open_part(fork, counting) as part:
        assert part["k07"] == BASE["k07"]
        assert counting.total <= 4
        counting.reset()
        assert part["k07"] == BASE["k07"]
        assert counting.total == 0
    assert (counting.total, part.receipt.objects) == (0, ())
    work(fork, counting, {"k00": b"0", "k01": None})
    # No worker needs rights on the root.
    assert all(key.startswith("db.d/") for _, key in counting.log)


def test_one_commit_of_many_workers(yard: Yard) -> None:
    changes = {f"k{number:02}": value(("new", number), 200) for number in range(5, 60)}
    changes |= dict.fromkeys(list(BASE)[:5])  # type: ignore[arg-type]
    counting = CountingStore(yard.store)
    with yard.open(wrap=lambda _store: counting) as db:
        fork = db.fork()
        receipts = [work(fork, yard.store, some) for some in divided(changes, 4)]
        assert yard.fresh_contents() == BASE
        assert dict(db) == BASE
        counting.reset()
        result = db.merge(*receipts)
        assert (result.set_count, result.deleted_count, result.merged_count) == (55, 5, 4)
        # The lists of changes alone: no value, and nothing is looked up.
        assert [kind for kind, _ in counting.log] == ["get_range"] * 4
        assert counting.bytes_down == result.read_bytes
        assert [change["key"] for change in db.changes().iter_changes()] == sorted(changes)
        assert len(db) == 70 - 15
        counting.reset()
        pushed = db.changes().push()
        assert (pushed.set_count, pushed.deleted_count, pushed.seq) == (55, 5, 2)
        assert counting.bytes_up < 16_000
        assert not any("pack/" in key for _, key in counting.log)
        assert not db.changes().push()
        assert dict(db) == in_order(BASE, changes)
    assert yard.fresh_contents() == in_order(BASE, changes)
    assert yard.verify().sound


def test_a_key_costs_less_than_64_bytes_here(yard: Yard) -> None:
    """Of keys that are there, whose digests at the base come along, and of new ones."""
    some = {f"station/{number:06}/temp": b"%100d" % number for number in range(3000)}
    yard.push(dict(list(some.items())[:1500]))
    counting = CountingStore(yard.store)
    with yard.open(wrap=lambda _store: counting) as db:
        receipt = work(db.fork(), yard.store, {key: one + b"x" for key, one in some.items()})
        counting.reset()
        db.merge(receipt)
        assert counting.bytes_down + counting.bytes_up < 64 * 3000
        assert len(pickle.dumps(receipt)) < 1000


def test_a_merge_takes_no_more_memory_for_more_keys(yard: Yard) -> None:
    """Of the lists, as they travel, and of one page of rows."""
    peaks = []
    with yard.open() as db:
        for count in (1000, 8000):
            receipt = work(db.fork(), yard.store, {f"{count}/{number:06}": b"1" for number in range(count)})
            tracemalloc.start()
            db.merge(receipt)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    listed = sum(size for _, _, size, _ in receipt.objects)
    assert peaks[1] < peaks[0] + 3 * listed + 2**17, (peaks, listed)


def test_a_merge_tells_how_far_it_is(yard: Yard) -> None:
    told: list[ebooklet_tx.Progress] = []
    with yard.open(progress=told.append) as db:
        receipts = [work(db.fork(), yard.store, {f"n{number}": b"1"}) for number in range(3)]
        told.clear()
        result = db.merge(*receipts)
    last = [event for event in told if event.phase == "merge"][-1]
    assert (last.keys_done, last.keys_total) == (3, 3)
    assert last.bytes_done == last.bytes_total == result.read_bytes


def test_a_receipt_counts_once(yard: Yard) -> None:
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, {"k00": b"0", "x": b"1", "k01": None})
        assert db.merge(receipt, pickle.loads(pickle.dumps(receipt))).set_count == 2
        again = db.merge(receipt)
        assert (bool(again), again.known_count) == (False, 1)
    with yard.open() as db:
        assert not db.merge(receipt)
        assert db.changes().push().set_count == 2
        db["k00"] = b"later"
        assert not db.merge(receipt)
        assert db["k00"] == b"later"
        db.changes().push()
    with yard.open("other") as other:
        # Another machine, which does not know the receipt: the later change comes up.
        assert other.merge(receipt)
        with pytest.raises(ConflictError) as caught:
            other.changes().push()
        assert [conflict.key for conflict in caught.value.conflicts] == ["k00"]


def test_merging_on_two_machines_is_one_change(yard: Yard) -> None:
    with yard.open() as db, yard.open("other") as other:
        receipt = work(db.fork(), yard.store, {"k00": b"0", "x": b"1", "k01": None})
        db.merge(receipt)
        other.merge(receipt)
        assert db.changes().push()
        assert not other.changes().push()
        assert dict(other) == dict(db)


def test_a_key_in_two_receipts(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork()
        one = work(fork, yard.store, {"k00": b"one", "a": b"1"}, worker="worker-1")
        other = work(fork, yard.store, {"k00": b"other", "b": b"2"}, worker="worker-2")
        with pytest.raises(ConflictError, match="'k00' by worker-1 and by worker-2") as caught:
            db.merge(one, other)
        error = caught.value
        assert isinstance(error, MergeConflictError)
        assert error.workers == {"k00": ("worker-1", "worker-2")}
        (conflict,) = error.conflicts
        assert (conflict.base, conflict.ours, conflict.theirs) == (BASE["k00"], b"one", b"other")
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.workers) == (str(error), error.workers)
        assert dict(db) == BASE
        assert db.merge(one)
        # Taken in before, it is the one that is pending.
        with pytest.raises(ConflictError, match="'k00' by worker-1 and by worker-2"):
            db.merge(other)
        assert "b" not in db
        db.changes().discard()
        assert dict(db) == BASE


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("ours", b"one"),
        ("theirs", b"other"),
        ("newest", b"one"),
        (lambda conflict: conflict.ours + conflict.theirs, b"oneother"),
        (lambda conflict: MISSING, None),
    ],
)
@pytest.mark.parametrize("is_pending", [False, True])
def test_the_caller_decides(yard: Yard, choice: Any, expected: bytes | None, is_pending: bool) -> None:
    with yard.open() as db:
        fork = db.fork()
        with open_part(fork, yard.store) as part:
            part.set("k00", b"one", timestamp=1_700_000_000_000_002)
        work_of_other = work(fork, yard.store, {"b": b"2"})
        with open_part(fork, yard.store) as other:
            other.set("k00", b"other", timestamp=1_700_000_000_000_001)
        if is_pending:
            db.merge(part.receipt)
            db.merge(work_of_other, other.receipt, on_conflict=choice)
        else:
            db.merge(part.receipt, work_of_other, other.receipt, on_conflict=choice)
        assert (db.get("k00"), db["b"]) == (expected, b"2")
        db.changes().push()
    assert yard.fresh_contents() == in_order(BASE, {"k00": expected, "b": b"2"})


def test_a_key_that_is_pending_here(yard: Yard) -> None:
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, {"k00": b"worker", "k01": b"1"}, worker="worker-1")
        db["k00"] = b"here"
        with pytest.raises(ConflictError, match=r"'k00' by this session .* and by worker-1") as caught:
            db.merge(receipt)
        assert caught.value.conflicts[0].ours == b"here"
        assert "k01" in db
        assert db["k01"] == BASE["k01"]
        db.merge(receipt, on_conflict="theirs")
        assert db["k00"] == b"worker"


def test_other_writers_changes_are_conflicts_by_key(yard: Yard) -> None:
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, {"k00": b"0", "k01": b"1", "k02": None, "x": b"x"})
        yard.push({"k00": b"theirs", "k03": b"3", "k02": b"2"}, copy="other")
        db.merge(receipt)
        with pytest.raises(ConflictError) as caught:
            db.changes().push()
        found = {conflict.key: conflict for conflict in caught.value.conflicts}
        assert sorted(found) == ["k00", "k02"]
        assert (found["k00"].ours, found["k00"].theirs) == (b"0", b"theirs")
        assert db.changes().push(on_conflict=lambda each: each.theirs if each.key == "k02" else each.ours)
        expected = in_order(BASE, {"k00": b"0", "k01": b"1", "k02": b"2", "k03": b"3", "x": b"x"})
        assert dict(db) == expected
    assert yard.fresh_contents() == expected
    assert yard.verify().sound


def test_what_gives_way_once_can_win_later(yard: Yard) -> None:
    """An operation that is left out of a push keeps its value, which lies in the fork's pack alone."""
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, {"k00": value("w"), "k01": b"1"})
        yard.push({"k00": b"theirs"}, copy="other")
        db.merge(receipt)
        db.changes().pull()
        db["mine"] = b"2"
        assert db.changes().push(on_conflict="theirs").set_count == 2
        assert db["k00"] == b"theirs"
    assert yard.fresh_contents() == in_order(BASE, {"k00": b"theirs", "k01": b"1", "mine": b"2"})


def test_a_coordinator_behind_the_forks_base_pulls_first(yard: Yard) -> None:
    with yard.open("behind") as behind:
        yard.push({"later": b"1"})
        with yard.open() as db:
            receipt = work(db.fork(), yard.store, {"later": b"2", "k00": None})
        behind.merge(receipt)
        assert behind.changes().push().seq == 3
    assert yard.fresh_contents() == in_order(BASE, {"later": b"2", "k00": None})


def test_merged_changes_outlive_the_session(yard: Yard) -> None:
    changes = {"k00": value("0"), "x": b"small", "k01": None}
    with yard.open() as db:
        db.merge(work(db.fork(), yard.store, changes))
        assert db["x"] == b"small"
        assert not interrupted_push(db._session.journal)
    with yard.open() as db:
        assert dict(db) == in_order(BASE, changes)
        db.sync()
        db.prune()
        assert db["k00"] == value("0")
    with yard.open() as db:
        assert db.changes().push().set_count == 2
    assert yard.fresh_contents() == in_order(BASE, changes)


def test_merged_keys_can_be_written_deleted_and_discarded(yard: Yard) -> None:
    changes: dict[str, bytes | None] = {"k00": b"0", "k01": b"1", "k02": b"2", "new": b"n"}
    with yard.open() as db:
        db.merge(work(db.fork(), yard.store, changes))
        db["k00"] = b"here"
        del db["k01"]
        db.changes().discard(["k02"])
        db.set_timestamp("new", 1_700_000_000_000_000)
        assert db["k02"] == BASE["k02"]
        assert db.changes().push().set_count == 2
    assert yard.fresh_contents() == in_order(BASE, {"k00": b"here", "k01": None, "new": b"n"})
    with yard.open() as db:
        assert db.get_timestamp("new") == 1_700_000_000_000_000


def test_a_new_key_that_is_merged_and_deleted_is_no_change(yard: Yard) -> None:
    with yard.open() as db:
        db.merge(work(db.fork(), yard.store, {"new": b"n", "k00": b"0"}))
        del db["new"]
        del db["k00"]
        assert [change["key"] for change in db.changes().iter_changes()] == ["k00"]
        assert db.changes().push().deleted_count == 1
        assert len(db) == len(BASE) - 1


def test_a_value_that_the_remote_has_inline_already(yard: Yard) -> None:
    """It is pushed for its time alone, and lies in the fork's pack alone here."""
    yard.push({"small": b"1"})
    with yard.open("b") as other, yard.open() as db:
        db.merge(work(db.fork(), yard.store, {"small": b"1"}))
        for one in (b"2", b"1"):
            other["small"] = one
            other.changes().push()
        assert db.changes().push().set_count == 1
        assert db["small"] == b"1"
    assert yard.fresh_contents()["small"] == b"1"
    assert yard.verify().sound


def test_own_values_and_merged_ones_go_in_one_commit(yard: Yard) -> None:
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, {"k00": value("w")})
        db["own"] = value("own")
        db.merge(receipt)
        assert db.changes().push().set_count == 2
    assert yard.fresh_contents() == in_order(BASE, {"k00": value("w"), "own": value("own")})


def test_a_block_that_raises_sends_nothing(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork()
    before = set(yard.store.objects)
    part = open_part(fork, yard.store)

    def raising() -> None:
        with part:
            part["k00"] = b"0"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        raising()
    with pytest.raises(SessionClosedError, match="nothing was sent"):
        part.receipt  # noqa: B018
    assert set(yard.store.objects) == before


def test_values_wait_in_a_file_past_the_bound(yard: Yard) -> None:
    changes = {f"v{number:03}": value(number, 5000) for number in range(40)}
    with yard.open() as db:
        fork = db.fork()
        with open_part(fork, yard.store, buffer_size=20_000) as part:
            part.update(dict.fromkeys(changes, b"x" * 9000))
            part.update(changes)
            assert part._work._spill.file_bytes > 150_000
            assert dict(part) == in_order(BASE, changes)
        db.merge(part.receipt)
        db.changes().push()
    assert yard.fresh_contents() == in_order(BASE, changes)


def test_large_values_and_many_packs_and_lists(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "PACK_BYTES", 20_000)
    monkeypatch.setattr(working, "CHANGES_BYTES", 100)
    changes = {f"v{number:03}": value(number, 3000) for number in range(30)} | {"large": value("l", 50_000)}
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, changes)
        assert len(receipt.objects) > 1
        db.merge(receipt)
        assert db["large"] == changes["large"]
        db.changes().push()
    assert len(yard.keys("pack")) > 5
    assert yard.fresh_contents() == in_order(BASE, changes)
    assert PACK_BYTES > 20_000


def test_what_can_not_be_forked(yard: Yard, tmp_path: Path) -> None:
    empty = Yard(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    with empty.open() as db:
        with pytest.raises(RemoteMissingError, match="push first"):
            db.fork()
        assert db.changes().push()
        fork = db.fork()
        assert db.merge(work(fork, empty.store, {"a": b"1"}))
        assert db.changes().push()
    assert empty.fresh_contents() == {"a": b"1"}
    with yard.open() as db:
        for ttl in (0, -1, True, 1.5, 31 * 86_400):
            with pytest.raises(InvalidArgumentError):
                db.fork(ttl_seconds=ttl)  # type: ignore[arg-type]
    with yard.open(flag="n") as db:
        with pytest.raises(InvalidArgumentError, match="replaces the whole database"):
            db.fork()
        with pytest.raises(InvalidArgumentError, match="of the database"):
            db.merge(replace(RECEIPT, uuid=fork.uuid))


RECEIPT = Receipt("a" * 32, "b" * 32, 1, "c" * 32, "d" * 32, "w")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"format": 2}, UnsupportedFormatError),
        ({"format": 0}, InvalidArgumentError),
        ({"fork_id": "x"}, InvalidArgumentError),
        ({"base_seq": 0}, InvalidArgumentError),
        ({"set_count": -1}, InvalidArgumentError),
        ({"set_count": 1}, InvalidArgumentError),
        ({"worker": "a\nb"}, InvalidArgumentError),
        ({"worker": "w" * 201}, InvalidArgumentError),
        ({"objects": []}, InvalidArgumentError),
        ({"objects": ((f"fork/{'e' * 32}.{'1' * 32}", b"d" * 16, 9, 0),)}, InvalidArgumentError),
        ({"objects": ((f"fork/{'a' * 32}.{'1' * 32}", b"d" * 16, 2**40, 0),)}, InvalidArgumentError),
        ({"objects": (("db", b"d" * 16, 9, 0),)}, InvalidArgumentError),
    ],
)
def test_hostile_receipts_are_refused_before_any_request(yard: Yard, wrong: Any, kind: type[Error]) -> None:
    counting = CountingStore(yard.store)
    with yard.open(wrap=lambda _store: counting) as db:
        counting.reset()
        with pytest.raises(kind):
            db.merge(replace(replace(RECEIPT, uuid=db.uuid), **wrong))
        for other in ("receipt", None, b"", object()):
            with pytest.raises(InvalidTypeError):
                db.merge(other)  # type: ignore[arg-type]
        assert counting.total == 0


def test_lists_that_are_not_what_the_receipt_says_are_refused(yard: Yard) -> None:
    with yard.open() as db:
        receipt = work(db.fork(), yard.store, {"k00": b"0", "k01": b"1"})
        ((name, _digest, size, rows),) = receipt.objects
        key = f"db.d/{name}"
        data = yard.store.objects[key].data
        yard.store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(RemoteIntegrityError, match="digest"):
            db.merge(receipt)
        # Another fork's pack, under a digest that fits.
        changed = [row for page in decode_changes(data, name=name) for row in page]
        strange = replace(changed[0].ref, name=f"pack/{'0' * 32}")  # type: ignore[type-var]
        forged = encode_changes(
            [one._replace(ref=strange, row=one.row._replace(object_name=strange.name)) for one in changed]
        )
        yard.store.put(key, forged)
        with pytest.raises(RemoteIntegrityError, match="none of the fork's"):
            db.merge(replace(receipt, objects=((name, digest_of(forged), len(forged), rows),)))
        yard.store.put(key, data)
        one_less = replace(receipt, objects=((name, digest_of(data), size, 1),), set_count=1)
        with pytest.raises(RemoteIntegrityError, match="rows"):
            db.merge(one_less)
        yard.store.delete(key)
        with pytest.raises(RemoteMissingError, match="has expired"):
            db.merge(receipt)
        assert size == len(data)
        assert dict(db) == BASE


def test_a_fork_that_is_gone_or_of_a_newer_version(yard: Yard) -> None:
    with yard.open() as db:
        fork = db.fork()
        with pytest.raises(UnsupportedFormatError, match="Upgrade"):
            open_part(replace(fork, format=2), yard.store)
        with pytest.raises(RemoteMissingError, match="not the one"):
            open_part(replace(fork, base_commit_id="0" * 32), yard.store)
        with pytest.raises(InvalidArgumentError):
            open_part(fork, yard.store, worker="\n")
        with pytest.raises(InvalidArgumentError):
            open_part(fork, yard.store, value_serializer="orjson")
        yard.store.put(f"db.d/fork/{fork.fork_id}", b"nonsense")
        with pytest.raises(RemoteIntegrityError):
            open_part(fork, yard.store)
        yard.store.delete(f"db.d/fork/{fork.fork_id}")
        with pytest.raises(RemoteMissingError, match="expired"):
            open_part(fork, yard.store)


def test_a_fork_that_is_collected_while_a_push_renews_it_is_not_relied_on(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with yard.open() as db:
        fork = db.fork()
        db.merge(work(fork, yard.store, {"k00": b"0"}))
        read = protection.read_fork

        def read_and_collect(remote: Any, fork_id: str) -> Any:
            found = read(remote, fork_id)
            yard.store.delete(f"db.d/fork/{fork_id}")
            return found

        monkeypatch.setattr(protection, "read_fork", read_and_collect)
        with pytest.raises(RemoteMissingError, match="was deleted meanwhile"):
            db.changes().push()
        assert [change["key"] for change in db.changes().iter_changes()] == ["k00"]
    assert yard.fresh_contents() == BASE


def test_a_fork_is_not_made_beside_endless_commits_nor_of_another_database(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with yard.open() as db:
        remote = db._session.remote
        with pytest.raises(UUIDMismatchError, match="nothing was changed"):
            begin.begin(remote, uuid="0" * 32, ttl_seconds=60)
        monkeypatch.setattr(begin, "_is_still_the_root", lambda *_: False)
        monkeypatch.setattr(begin, "backoff", lambda *_: None)
        with pytest.raises(ContentionError, match="commits of other writers came in between"):
            db.fork()
        # Nothing of the attempts is left.
        assert not [key for key in yard.store.objects if "/fork/" in key]
        monkeypatch.undo()
        yard.store.delete("db")
        with pytest.raises(RemoteMissingError, match="push first"):
            begin.begin(remote, uuid=db.uuid, ttl_seconds=60)


def test_offline_a_merged_value_is_not_here(yard: Yard) -> None:
    with yard.open() as db:
        db.merge(work(db.fork(), yard.store, {"k00": b"0", "new": b"n"}))
    with yard.open(offline=True) as db:
        with pytest.raises(OfflineError):
            db["new"]
        assert "new" in db


@pytest.mark.parametrize("count", amounts(3, 300))
def test_serial_equals_parallel(tmp_path: Path, count: int) -> None:
    """Random programs of several fleets: what they leave is what one after another leaves."""
    for seed in range(count):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        yard, model = Yard(folder), dict[str, bytes]()
        yard.push({"first": b"1"})
        model["first"] = b"1"
        with yard.open() as db:
            for _ in range(4):
                fork = db.fork()
                keys = [f"k{number:02}" for number in rng.sample(range(30), rng.randrange(1, 20))]
                changes = {key: rng.choice([None, b"s%d" % rng.randrange(9), value(key, 500)]) for key in keys}
                receipts = [work(fork, yard.store, some) for some in divided(changes, 3, rng.randrange(99))]
                rng.shuffle(receipts)
                if rng.random() < 0.5:
                    work(fork, yard.store, {"lost": b"of a worker that died"})
                if rng.random() < 0.3:
                    yard.push({"other": b"%d" % rng.randrange(99)}, copy="other")
                for receipt in receipts:
                    db.merge(receipt, *rng.sample(receipts, rng.randrange(2)))
                    if rng.random() < 0.3:
                        db.changes().push()
                db.changes().push()
                model = in_order(model, changes)
                # A push that found nothing to do has not asked the remote.
                db.changes().pull()
                seen = dict(db)
                assert {key: one for key, one in seen.items() if key != "other"} == model
                assert len(db) == len(seen)
        assert yard.fresh_contents() == seen
        assert yard.verify().sound


def double(fork: Fork, keys: list[str]) -> Receipt:
    """Runs in another process."""
    with fork.open() as part:
        for key in keys:
            part[key] *= 2
    return part.receipt


def test_workers_in_processes_of_their_own(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'remote' / 'db'}"
    with ebooklet_tx.open(url, tmp_path / "a.blt", "c", "orjson", lock=None) as db:
        db.update({f"k{number}": number for number in range(10)})
        db.changes().push()
        fork = db.fork()
        halves = [[f"k{number}" for number in range(start, 10, 2)] for start in range(2)]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            receipts = list(pool.map(double, [fork] * 2, halves))
        assert len({receipt.worker for receipt in receipts}) <= 2
        db.merge(*receipts)
        assert db.changes().push().set_count == 9 + 1
    with ebooklet_tx.open(url, tmp_path / "b.blt") as db:
        assert dict(db) == {f"k{number}": 2 * number for number in range(10)}


def test_a_conflict_of_workers_is_one_of_the_packages(yard: Yard) -> None:
    assert issubclass(MergeConflictError, ConflictError)
    assert Conflict.__name__ == "Conflict"
