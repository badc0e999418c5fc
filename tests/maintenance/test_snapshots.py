"""Snapshots: made, listed, read, restored and deleted, and what looks after a remote knows of them."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

import ebooklet_tx
from ebooklet_tx.errors import (
    InvalidArgumentError,
    LockTimeoutError,
    NotPushedWarning,
    OfflineError,
    ReadOnlyError,
    RemoteIntegrityError,
    RemoteMissingError,
    UUIDMismatchError,
)
from ebooklet_tx.formats.root import decode_root, encode_root
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.sync.read.reader import reader_of
from tests.campaigns import amounts
from tests.doors import open_database
from tests.pairs import index_of, limit_tails
from tests.remotes import DyingStore, Killed
from tests.store_wrappers import CountingStore, Fault, HookedStore, PassingStore, faulty
from tests.yard import Wrap, Yard, value

T = TypeVar("T")

MONDAY = {"k": value("monday"), "small": b"1", "gone": b"2"}
TUESDAY = {"k": value("tuesday"), "small": b"3", "new": value("new")}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


@pytest.fixture
def days(yard: Yard) -> Yard:
    """A remote with a snapshot of Monday, and another state since."""
    yard.push(dict(MONDAY), at_hours=0)
    with yard.open() as db:
        db.snapshot("monday", message="as delivered")
    yard.push({**TUESDAY, "gone": None}, at_hours=1)
    return yard


def copy_of(yard: Yard, folder: Path) -> Yard:
    """The same remote and local files once more."""
    shutil.copytree(yard.folder, folder, ignore=lambda _folder, names: [n for n in names if ".blt" not in n])
    copy = Yard(folder)
    copy.hours = yard.hours
    copy.store.objects.update(yard.store.objects)
    return copy


def at(yard: Yard, name: str, path: Path | None = None, **options: object) -> dict[str, bytes]:
    """What a session at a snapshot reads."""
    options.setdefault("wrap_store", lambda _inner: yard.store)
    with open_database(yard.url, path, "r", at=name, **options) as db:
        assert not db.writable
        return dict(db.items())


# -- making, listing, deleting -----------------------------------------------------------------


def test_a_snapshot_costs_three_small_requests_and_no_reader_hears_of_it(yard: Yard) -> None:
    yard.push(dict(MONDAY))
    counting = CountingStore(yard.store)
    with yard.open(wrap=lambda _store: counting) as db:
        counting.reset()
        made = db.snapshot("monday", message="as\ndelivered")
        assert counting.log == [("get", "db"), ("put", "db.d/snapshot/monday"), ("get", "db")]
        assert counting.bytes_up < len(yard.store.objects["db"].data) + 300
        assert (made.name, made.seq, made.key_count, made.message) == ("monday", 1, 3, "as\ndelivered")
        assert made.commit_id == db.history()[0].commit_id
        assert made.to_dict()["writer"]
        assert db.snapshots() == [made]
        counting.reset()
        db.changes().pull()
        assert counting.total == 1


def test_a_snapshot_is_a_root_with_a_note(yard: Yard) -> None:
    yard.push(dict(MONDAY))
    with yard.open() as db:
        made = db.snapshot("monday", message="m")
    root = decode_root(yard.store.objects["db"].data, name="the root")
    copy = decode_root(yard.store.objects["db.d/snapshot/monday"].data, name="the snapshot")
    assert copy.manifest.snapshot is not None
    assert (copy.manifest.snapshot.name, copy.manifest.snapshot.created_at_us) == ("monday", made.created_at_us)
    assert (replace(copy.manifest, snapshot=None), copy.tail) == (root.manifest, root.tail)
    # Put back by hand it is the root; the next commit leaves the note out.
    yard.store.put("db", yard.store.objects["db.d/snapshot/monday"].data)
    yard.push({"x": b"3"}, copy="fresh")
    assert decode_root(yard.store.objects["db"].data, name="the root").manifest.snapshot is None


def test_what_is_no_name_is_refused_before_any_request(yard: Yard) -> None:
    yard.push({"k": b"1"})
    counting = CountingStore(yard.store)
    long = "s" * 65
    names = ["", "a/b", ".hidden", "-x", "a b", "ä", "17", "abcdef0123456789" * 2, "deleted-x", long, None, 3]
    with yard.open(wrap=lambda _store: counting) as db:
        counting.reset()
        for use, name in itertools.product((db.snapshot, db.restore, db.delete_snapshot), names):
            with pytest.raises(InvalidArgumentError, match="can't be the name of a snapshot"):
                use(name)  # type: ignore[operator]
        assert counting.total == 0


def test_names(yard: Yard) -> None:
    yard.push({"k": b"1"})
    with yard.open() as db:
        for name in ("2026-01-31", "v1.2_final", "A", "s" * 64, "1x"):
            db.snapshot(name)
            assert [one.name for one in db.snapshots()] == [name]
            db.delete_snapshot(name)
        assert db.snapshots() == []


def test_a_message_that_cannot_be_kept_makes_no_snapshot(yard: Yard) -> None:
    yard.push({"k": b"1"})
    with yard.open() as db:
        for use in (db.snapshot, db.restore):
            with pytest.raises(InvalidArgumentError, match="a message must be"):
                use("monday", message="\x1b[2J")
        assert db.snapshots() == []


@pytest.mark.parametrize("conditional", [True, False])
def test_a_name_is_given_once(yard: Yard, conditional: bool) -> None:
    yard.push({"k": b"1"})
    with yard.open(conditional_writes=conditional) as db:
        first = db.snapshot("monday")
        db["k"] = b"2"
        db.changes().push()
        with pytest.raises(InvalidArgumentError, match=r"a snapshot 'monday' .* already"):
            db.snapshot("monday")
        assert db.snapshots() == [first]


def test_what_is_pending_is_not_in_it_and_a_warning_says_so(yard: Yard) -> None:
    yard.push({"k": b"1"})
    with yard.open() as db:
        db["k"] = b"2"
        with pytest.warns(NotPushedWarning, match=r"not in the snapshot 'monday', which is of commit 1"):
            db.snapshot("monday")
        db.changes().push()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            db.snapshot("tuesday")
    assert (at(yard, "monday"), at(yard, "tuesday")) == ({"k": b"1"}, {"k": b"2"})


def test_with_nothing_pushed_there_is_nothing_to_keep(yard: Yard) -> None:
    with yard.open() as db:
        db["k"] = b"1"
        with pytest.raises(RemoteMissingError, match="push first"):
            db.snapshot("monday")
        with pytest.raises(RemoteMissingError):
            db.restore("monday")
        assert db.snapshots() == []


def test_the_second_of_two_creators_keeps_the_database_of_the_first(yard: Yard) -> None:
    with yard.open("a") as first, yard.open("b") as second:
        first["k"] = b"1"
        first.changes().push()
        assert second.snapshot("monday").seq == 1
        assert second.uuid == first.uuid
        assert [one.name for one in second.snapshots()] == ["monday"]
    with yard.open("c") as first, yard.open("d") as second:
        assert not second.restore("monday")


def test_readers_list_and_do_not_make(days: Yard) -> None:
    with days.open("reader", "r") as reader:
        assert [one.name for one in reader.snapshots()] == ["monday"]
        for use in (reader.snapshot, reader.restore, reader.delete_snapshot):
            with pytest.raises(ReadOnlyError):
                use("monday")  # type: ignore[operator]


def test_a_snapshot_is_of_the_newest_commit_whatever_this_machine_stands_on(yard: Yard) -> None:
    yard.push({"k": b"1"})
    with yard.open("a") as db:
        yard.push({"k": b"2"}, copy="b")
        assert db.snapshot("now").seq == 2
        assert db["k"] == b"1"


def test_a_commit_in_between_makes_it_a_snapshot_of_the_newer_root(yard: Yard) -> None:
    yard.push({"k": value(1)})
    pushes = itertools.count(2)

    hooked = HookedStore(
        yard.store, "db.d/snapshot/*", after=lambda: yard.push({"k": value(next(pushes))}, copy="other")
    )
    with yard.open("b", wrap=lambda _store: hooked) as db:
        assert db.snapshot("now").seq == 2
    assert at(yard, "now") == {"k": value(2)}


@pytest.mark.parametrize("after", [True, False])
def test_a_lost_answer_makes_one_snapshot(yard: Yard, after: bool) -> None:
    yard.push({"k": b"1"})
    with yard.open(wrap=faulty(Fault(1, ebooklet_tx.errors.TransientStoreError("cut"), after, "put"))) as db:
        made = db.snapshot("monday")
        assert db.snapshots() == [made]


def test_a_missing_snapshot_is_said_to_be_missing(days: Yard) -> None:
    with days.open() as db:
        for use in (db.restore, db.delete_snapshot):
            with pytest.raises(RemoteMissingError, match="there is no snapshot 'sunday'"):
                use("sunday")
    with pytest.raises(RemoteMissingError, match="there is no snapshot 'sunday'"):
        at(days, "sunday")


def test_a_damaged_one_and_another_databases_are_left_out_of_the_list(
    days: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    root = decode_root(days.store.objects["db"].data, name="the root")
    days.store.put("db.d/snapshot/bad", b"EBTXroot")
    days.store.put("db.d/snapshot/deleted-" + "0" * 32, b"a note")
    days.store.put("db.d/snapshot/plain", days.store.objects["db"].data)
    other = replace(root.manifest, uuid="f" * 32)
    days.store.put("db.d/snapshot/other", encode_root(other, root.tail))
    with days.open() as db:
        assert [one.name for one in db.snapshots()] == ["monday", "plain"] or [
            one.name for one in db.snapshots()
        ] == ["plain", "monday"]
        assert "a snapshot is left out" in caplog.text
        with pytest.raises(UUIDMismatchError):
            db.restore("other")
        db.delete_snapshot("bad")


@pytest.mark.parametrize(
    "data",
    [b"garbage", b"", b"EBTXroot", b"EBTXroot\x01\x00" + b"\0" * 40, b"ebooklet-db\x00", b"\0" * 2**22],
    ids=["garbage", "empty", "cut", "format 1", "of ebooklet", "too long"],
)
def test_of_one_that_is_no_root_every_message_says_to_delete_it(
    days: Yard, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    days.store.put("db.d/snapshot/bad", data)

    def check(message: str) -> None:
        assert "snapshot 'bad'" in message, message
        assert "delete the snapshot" in message, message
        assert not re.search("db_key|flag|repair|force_push", message), message

    with days.open() as db:
        for use in (lambda: list(db.diff("bad")), lambda: db.restore("bad"), lambda: at(days, "bad")):
            with pytest.raises(RemoteIntegrityError) as caught:
                use()
            check(str(caught.value))
        assert [one.name for one in db.snapshots()] == ["monday"]
        check(caplog.text)
    (damage,) = days.verify().damage
    check(f"{damage.problem} {damage.sound_copy}")
    with pytest.raises(RemoteIntegrityError, match="delete the snapshot"):
        days.collect()
    with days.open() as db:
        db.delete_snapshot("bad")
    assert days.verify().sound


# -- reading -----------------------------------------------------------------------------------


def test_without_a_path_a_temporary_copy_is_read_and_goes(
    days: Yard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert at(days, "monday") == MONDAY
    assert list(folder.iterdir()) == []
    with pytest.raises(RemoteMissingError):
        at(days, "sunday")
    with pytest.raises(OfflineError):
        at(days, "monday", wrap_store=lambda _inner: faulty(Fault(2, OfflineError("gone")))(days.store))
    assert list(folder.iterdir()) == []


def test_a_missing_path_becomes_a_copy_that_stands_on_the_snapshot(days: Yard) -> None:
    path = days.path("copy")
    assert at(days, "monday", path) == MONDAY
    counting = CountingStore(days.store)
    # Every value is there by now: the snapshot's root alone is read.
    assert at(days, "monday", path, wrap_store=lambda _inner: counting) == MONDAY
    assert [key for _, key in counting.log if "/pack/" in key] == []
    # Without `at` it is a copy like any other.
    assert days.contents("copy") == TUESDAY
    with days.open("copy", "w") as db:
        db["more"] = b"3"
        assert db.changes().push()
    assert at(days, "monday", path) == MONDAY
    assert days.contents("copy") == {**TUESDAY, "more": b"3"}


def test_an_existing_file_keeps_its_base_and_what_is_pending(days: Yard) -> None:
    with days.open() as db:
        db["k"] = b"pending"
        base = read_base(db._session.journal)
    before = days.path().read_bytes()
    assert at(days, "monday", days.path()) == MONDAY
    assert days.path().read_bytes() == before
    with days.open() as db:
        assert read_base(db._session.journal) == base
        assert db["k"] == b"pending"
        assert at(days, "monday", days.path()) == MONDAY


def test_an_existing_file_must_be_of_the_same_database(days: Yard, tmp_path: Path) -> None:
    other = Yard(tmp_path / "second")
    other.folder.mkdir()
    other.push({"k": b"1"})
    before = other.path().read_bytes()
    with pytest.raises(UUIDMismatchError, match="the snapshot 'monday'"):
        at(days, "monday", other.path())
    assert other.path().read_bytes() == before


def test_pickled_values_of_ones_own_are_trusted_in_a_snapshot(yard: Yard) -> None:
    with yard.open(value_serializer="pickle") as db:
        db["k"] = 1
        db.changes().push()
        db.snapshot("monday")
        db["k"] = 2
    # A warning would be an error here.
    assert at(yard, "monday", yard.path()) == {"k": 1}
    with pytest.warns(ebooklet_tx.PickleWarning):
        assert at(yard, "monday") == {"k": 1}


def test_a_session_at_a_snapshot_stays_there(days: Yard) -> None:
    with open_database(days.url, None, "r", at="monday", wrap_store=lambda _inner: days.store) as db:
        days.push({"k": b"newest"}, copy="other")
        assert not db.changes().pull()
        assert (db["k"], len(db), "new" in db) == (MONDAY["k"], 3, False)
        assert db.history()[0].seq == 1
        with pytest.raises(ReadOnlyError):
            db["k"] = b"x"


def test_where_the_snapshot_is_deleted_meanwhile_a_reader_is_told(days: Yard) -> None:
    with open_database(days.url, None, "r", at="monday", wrap_store=lambda _inner: days.store) as db:
        with days.open() as writer:
            writer.delete_snapshot("monday")
        assert days.collect(at_hours=100).deleted.objects == 1
        with pytest.raises(RemoteMissingError, match=r"the snapshot 'monday' .* was deleted"):
            db["k"]


def test_a_snapshot_is_opened_for_reading_alone(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote/db"
    wrong: list[dict[str, object]] = [{"flag": flag} for flag in "wcn"]
    for options in [*wrong, {"offline": True}, {"at": "17"}]:
        given = {"flag": "r", "at": "monday"} | options
        with pytest.raises(InvalidArgumentError):
            ebooklet_tx.open(url, None, **given)  # type: ignore[call-overload]


def test_a_file_that_is_made_at_the_same_moment_is_left_alone(days: Yard) -> None:
    path = days.path("copy")

    def another() -> None:
        days.contents("copy")

    hooked = HookedStore(days.store, "db.d/snapshot/monday", kind="get", after=another)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebooklet_tx.opening.at_snapshot.size_of", lambda _path: None)
        with pytest.raises(LockTimeoutError, match="at the same moment"):
            at(days, "monday", path, wrap_store=lambda _inner: hooked)
    assert days.contents("copy") == TUESDAY


def test_the_whole_index_of_a_snapshot_is_brought_here(days: Yard) -> None:
    assert at(days, "monday", index="full") == MONDAY


# -- restoring -----------------------------------------------------------------------------------


def test_a_restored_snapshot_is_one_commit_and_sends_no_value(days: Yard) -> None:
    counting = CountingStore(days.store)
    with days.open(wrap=lambda _store: counting) as db:
        counting.reset()
        result = db.restore("monday", message="Tuesday's import was wrong")
        snapshot = "db.d/snapshot/monday"
        assert counting.log == [("get", "db"), ("get", snapshot), ("put", "db"), ("get", "db")]
        assert (result.updated, result.seq, result.snapshot_seq, result.key_count) == (True, 3, 1, 3)
        assert (bool(result), result.conflicts, result.to_dict()["snapshot"]) == (True, (), "monday")
        assert dict(db.items()) == MONDAY
        assert [commit.message for commit in db.history()] == ["Tuesday's import was wrong", "", ""]
        assert result.commit_id == db.history()[0].commit_id
    assert days.fresh_contents() == MONDAY
    assert days.verify(read_values=True).sound


def test_restoring_twice_commits_once(days: Yard) -> None:
    with days.open() as db:
        assert db.restore("monday").seq == 3
        again = db.restore("monday")
        assert (again.updated, again.commit_id, again.seq) == (False, None, 3)
        assert db.history()[0].message == "restored the snapshot monday"


def test_other_copies_follow_a_restoration(days: Yard) -> None:
    limits = {"lock": None}
    with days.open("b", "w", **limits) as other, days.open("c", "r") as reader:
        assert (dict(other.items()), dict(reader.items())) == (TUESDAY, TUESDAY)
        other["own"] = b"pending"
        with days.open() as db:
            db.restore("monday")
        other.changes().pull()
        reader.changes().pull()
        assert dict(other.items()) == {**MONDAY, "own": b"pending"}
        assert dict(reader.items()) == MONDAY
        assert other.changes().conflicts() == []
        assert other.changes().push()
    assert days.fresh_contents() == {**MONDAY, "own": b"pending"}


def test_work_goes_on_after_a_restoration(days: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 300)
    with days.open() as db:
        for number in range(40):
            db[f"k{number}"] = value(number, 100)
        db.changes().push()
        db.snapshot("many")
        db.clear()
        db.changes().push()
        db.restore("many")
        expected = {**TUESDAY, **{f"k{number}": value(number, 100) for number in range(40)}}
        assert dict(db.items()) == expected
        del db["k1"]
        db["k2"] = b"changed"
        db.changes().push()
        db.restore("monday")
        db.restore("many")
    assert days.fresh_contents() == expected
    assert days.verify(read_values=True).sound


def test_conflicts_with_what_is_pending_are_told(days: Yard) -> None:
    with days.open() as db:
        db["k"] = b"mine"
        db["new"] = b"mine as well"
        db["untouched"] = b"nobody's else"
        result = db.restore("monday")
        assert result.conflicts == ("k", "new")
        assert [conflict.key for conflict in db.changes().conflicts()] == ["k", "new"]
        assert (db["k"], db["gone"]) == (b"mine", b"2")
        with pytest.raises(ebooklet_tx.ConflictError):
            db.changes().push()
        db.changes().resolve("k", "ours")
        db.changes().resolve("new", "theirs")
        assert db.changes().push()
    assert days.fresh_contents() == {**MONDAY, "k": b"mine", "untouched": b"nobody's else"}


def test_a_change_that_agrees_with_what_is_restored_is_no_conflict(days: Yard) -> None:
    with days.open() as db:
        db["k"] = MONDAY["k"]
        assert db.restore("monday").conflicts == ()


def test_the_metadata_is_restored(yard: Yard) -> None:
    with yard.open() as db:
        db["k"] = b"1"
        db.set_metadata({"version": 1})
        db.changes().push()
        db.snapshot("one")
        db.set_metadata({"version": 2})
        db.changes().push()
        db.restore("one")
        assert db.get_metadata() == {"version": 1}


def test_another_writers_commit_comes_first_and_is_undone_as_well(days: Yard) -> None:
    hooked = HookedStore(days.store, "db", before=lambda: days.push({"late": b"1"}, copy="other"))
    with days.open(wrap=lambda _store: hooked) as db:
        assert db.restore("monday").seq == 4
    assert days.fresh_contents() == MONDAY


def test_a_snapshot_deleted_right_before_the_swap_is_not_restored(days: Yard) -> None:
    def delete() -> None:
        with days.open("other") as other:
            other.delete_snapshot("monday")

    reads = itertools.count()

    class Deletes(CountingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:  # type: ignore[override]
            if (kind, key) == ("get", "db.d/snapshot/monday") and next(reads) == 0:
                delete()
            return send()

    with days.open(wrap=Deletes) as db, pytest.raises(RemoteMissingError, match="no snapshot 'monday'"):
        db.restore("monday")
    assert days.fresh_contents() == TUESDAY


@pytest.mark.parametrize("after", [True, False])
def test_a_restoration_whose_answer_is_lost_is_settled(days: Yard, after: bool) -> None:
    with days.open(wrap=faulty(Fault(1, OfflineError("gone"), after=after, kind="put"))) as db:
        with pytest.raises(OfflineError):
            db.restore("monday")
        db.changes().pull()
        assert dict(db.items()) == (MONDAY if after else TUESDAY)
        assert db.restore("monday").updated is not after
    assert days.fresh_contents() == MONDAY


def test_a_replacing_session_and_a_transaction_restore_nothing(days: Yard) -> None:
    with days.open("new", "n") as db, pytest.raises(InvalidArgumentError, match="push first"):
        db.restore("monday")
    with days.open() as db, db.transaction():
        for use in (db.restore, db.snapshot):
            with pytest.raises(InvalidArgumentError, match="inside a transaction"):
                use("monday")


def test_a_restored_index_is_the_snapshots_own(days: Yard) -> None:
    copy = decode_root(days.store.objects["db.d/snapshot/monday"].data, name="the snapshot").manifest
    with days.open() as db:
        db.restore("monday")
        manifest = index_of(db).manifest
        assert (manifest.runs, manifest.key_count) == (copy.runs, copy.key_count)
        assert manifest.tombstone_floor == manifest.seq == 3
        assert reader_of(db._session).base_index is not None


# -- looking after -------------------------------------------------------------------------------


def test_collect_keeps_what_a_snapshot_names_until_it_is_deleted_and_a_grace_longer(days: Yard) -> None:
    monday = days.keys("pack")[0]
    assert days.collect(at_hours=1000).deleted.objects == 0
    assert at(days, "monday") == MONDAY
    days.hours = 2000
    with days.open() as db:
        db.delete_snapshot("monday")
    # The root has stood for long; that the pack is garbage is new.
    assert days.collect(at_hours=2001).young_names == (monday,)
    assert days.collect(at_hours=2023.9).deleted_names == ()
    assert days.collect(at_hours=2024).deleted_names == (monday,)
    assert days.verify(read_values=True).sound


def test_compact_leaves_a_snapshot_whole(days: Yard) -> None:
    with days.open() as db:
        db.compact(live_share=1.0)
    days.collect(at_hours=1000)
    assert at(days, "monday") == MONDAY
    assert days.verify(read_values=True).sound


@pytest.mark.parametrize("every", amounts(quick=9, ci=1))
@pytest.mark.parametrize("grace_seconds", [0.0, 24 * 3600.0])
def test_a_snapshot_that_is_made_beside_a_collect_is_whole(
    days: Yard, tmp_path: Path, grace_seconds: float, every: int
) -> None:
    days.push({"k": value("wednesday")}, at_hours=2)
    for number in itertools.count(0, every):
        yard = copy_of(days, tmp_path / f"copy {number}")
        count = itertools.count()

        class Beside(PassingStore):
            """Before the n-th request a snapshot is made, and its root replaced."""

            def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
                if next(count) == number:  # noqa: B023
                    with yard.open("a", "w") as db:  # noqa: B023
                        db.snapshot("beside")
                        db["k"] = value("thursday")
                        db.changes().push()
                return send()

        yard.collect(at_hours=30, wrap=Beside, grace_seconds=grace_seconds, lock=None)
        sent = next(count)
        report = yard.verify(read_values=True)
        assert (report.sound, report.snapshots) == (True, 1 + (number < sent)), report.words()
        if number >= sent:
            break


def test_verify_looks_at_snapshots(days: Yard) -> None:
    assert days.verify().snapshots == 1
    monday = days.keys("pack")[0]
    data = days.store.objects[monday].data
    days.store.delete(monday)
    (damage,) = days.verify().damage
    assert (damage.object, damage.keys) == (monday, ("gone", "k", "small"))
    assert damage.problem == "needed by the snapshot 'monday': it is missing"
    days.store.put(monday, data[:-1] + b"x")
    assert days.verify().sound
    (damage,) = days.verify(read_values=True).damage
    assert "needed by the snapshot 'monday'" in damage.problem
    days.store.put("db.d/snapshot/bad", b"EBTXroot")
    assert [each.object for each in days.verify().damage] == ["db.d/snapshot/bad"]
    assert "snapshots" in days.verify().words()


def test_delete_remote_takes_snapshots_before_what_they_name(days: Yard) -> None:
    with days.open() as db:
        db.delete_snapshot("monday")
        db.snapshot("tuesday")
        counting = CountingStore(days.store)
    with days.open("b", "w", wrap=lambda _store: counting) as db:
        db.delete_remote()
    deleted = [key for kind, key in counting.log if kind == "delete" and key.startswith("db")]
    packs = [place for place, key in enumerate(deleted) if "/pack/" in key]
    assert deleted.index("db") < deleted.index("db.d/snapshot/tuesday") < min(packs)
    assert "db.d/released" in deleted
    assert [key for key in days.store.objects if key.startswith("db.d/")] == []


def test_copy_remote_copies_the_database_and_no_snapshot(days: Yard, tmp_path: Path) -> None:
    url, path = f"file://{tmp_path}/real/db", tmp_path / "real.blt"
    with ebooklet_tx.open(url, path, "c") as db:
        db["k"] = b"1"
        db.changes().push()
        db.snapshot("monday")
        db["k"] = b"2"
        db.changes().push()
        db.copy_remote(f"file://{tmp_path}/copied/db")
    with ebooklet_tx.open(f"file://{tmp_path}/copied/db", tmp_path / "copied.blt") as copy:
        assert (dict(copy), copy.snapshots()) == ({"k": b"2"}, [])


# -- kills -----------------------------------------------------------------------------------------


def _snapshot(yard: Yard, wrap: Wrap) -> None:
    with yard.open("victim", "w", wrap=wrap) as db:
        db.snapshot("now")


def _restore(yard: Yard, wrap: Wrap) -> None:
    with yard.open("victim", "w", wrap=wrap) as db:
        db.restore("monday")


def _delete(yard: Yard, wrap: Wrap) -> None:
    with yard.open("victim", "w", wrap=wrap) as db:
        db.delete_snapshot("monday")


def _collect(yard: Yard, wrap: Wrap) -> None:
    yard.hours = 500
    yard.collect(wrap=wrap, lock=None)


def _collect_after_delete(yard: Yard, wrap: Wrap) -> None:
    with yard.open("deleter", "w") as db:
        db.delete_snapshot("monday")
    _collect(yard, wrap)


def _erase(yard: Yard, wrap: Wrap) -> None:
    with yard.open("victim", "w", wrap=wrap) as db:
        db.delete_remote()


@pytest.mark.parametrize("every", amounts(quick=11, ci=1))
@pytest.mark.parametrize("act", [_snapshot, _restore, _delete, _collect, _collect_after_delete, _erase])
def test_a_kill_at_each_request_leaves_the_old_or_the_new_state(
    days: Yard, tmp_path: Path, act: Callable[[Yard, Wrap], None], every: int
) -> None:
    # Its base is an older commit, so that the journal has something to move on from.
    with days.open("victim", "w") as db:
        db.load_items()
    days.push({"k": value("thursday")}, at_hours=2)
    for after, first in ((True, 1), (False, 1 + every // 2)):
        for number in itertools.count(first, every):
            yard = copy_of(days, tmp_path / f"{after} {number}")
            dying = DyingStore(yard.store, number, after=after)
            with contextlib.suppress(Killed):
                act(yard, lambda _inner, dying=dying: dying)
            _check_after_a_kill(yard, act)
            if dying.requests < number:
                break


def _check_after_a_kill(yard: Yard, act: Callable[[Yard, Wrap], None]) -> None:
    """Whatever snapshot there is is whole, also for a collect; the root is of one of the states."""
    if "db" not in yard.store.objects:
        assert act is _erase
        packs = [key for key in yard.store.objects if "/pack/" in key]
        assert "db.d/snapshot/monday" not in yard.store.objects or len(packs) == 3
        return
    thursday = {**TUESDAY, "k": value("thursday")}
    states = {"monday": MONDAY, "now": thursday}
    with yard.open("victim", "w") as db:
        state = dict(db.items())
        assert state == thursday or (act is _restore and state == MONDAY)
        names = [one.name for one in db.snapshots()]
    assert "monday" in names or act in (_delete, _collect_after_delete)
    for grace_seconds in (24 * 3600.0, 0.0):
        yard.collect(at_hours=yard.hours + 25, grace_seconds=grace_seconds, lock=None)
        report = yard.verify(read_values=True)
        assert (report.sound, report.snapshots) == (True, len(names)), report.words()
    for name in names:
        with yard.open("victim", "w") as db:
            db.restore(name)
            assert dict(db.items()) == states[name]
