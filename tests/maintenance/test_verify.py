"""What verify and fsck find out about a remote, and that they leave it as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    ReadOnlyError,
    RemoteIntegrityError,
    RemoteMissingError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.index_object import read_whole
from ebooklet_tx.formats.index_records import RunList
from ebooklet_tx.formats.root import KEEP_RECENT, decode_root, encode_root
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.maintenance import checking, value_checks
from ebooklet_tx.records import digest_of
from tests.pairs import Bench, flip, limit_tails, with_tail
from tests.servers import folder_handler, http_server
from tests.store_wrappers import CountingStore, PassingStore
from tests.yard import Yard, value


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    """A remote with an index object, a tail and three packs, 30 keys and metadata."""
    limit_tails(monkeypatch, 300)
    yard = Yard(tmp_path)
    yard.push({f"k{number:02}": value(number) for number in range(20)}, at_hours=0)
    yard.push({f"k{number:02}": value(number, 600) for number in range(20, 28)}, at_hours=1)
    yard.push({"large": value("large", 50_000)}, at_hours=2)
    with yard.open() as db:
        db.set_metadata({"title": "x"})
        db["tiny"] = b""
        db.changes().push()
    yard.push({"k00": b"in the tail"}, at_hours=3)
    return yard


def pack_of(yard: Yard, key: str) -> tuple[str, int]:
    """The object in which a key's value lies, and where."""
    with yard.open("looker", "r") as db:
        index = db._session.index.of_base(read_base(db._session.journal))
        assert index is not None
        row = index.lookup([key])[key].row
    assert row.offset_bytes is not None
    return f"db.d/{row.object_name}", row.offset_bytes


def index_objects(yard: Yard) -> list[str]:
    """The keys of the index objects that the root names."""
    manifest = decode_root(yard.store.objects["db"].data, name="the root").manifest
    return [f"db.d/{entry.name}" for run in manifest.runs if not isinstance(run, RunList) for entry in run]


def alter(yard: Yard, key: str, at: int, by: bytes = b"\xff") -> None:
    old = yard.store.objects[key].data
    new = bytes([old[at] ^ by[0]])
    yard.store.put(key, old[:at] + new + old[at + 1 :])


# -- verify ------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_values", [False, True])
def test_a_sound_remote_is_sound_and_stays_as_it_was(yard: Yard, read_values: bool) -> None:
    before = dict(yard.store.objects)
    report = yard.verify(read_values=read_values)
    assert report.sound, report.words()
    assert yard.store.objects == before
    assert (report.seq, report.key_count, report.index_objects) == (5, 30, len(index_objects(yard)))
    assert report.index_objects >= 1
    assert report.packs == 2
    # 19 of the first push's values are live, and the large one; the others ride in the index.
    assert report.values_read == (20 if read_values else None)
    assert ("read" in report.words()) == read_values or "not read" in report.words()
    assert json.loads(json.dumps(report.to_dict()))["damage"] == []


def test_values_are_not_read_unless_asked(yard: Yard) -> None:
    counting = CountingStore(yard.store)
    yard.verify(wrap=lambda _store: counting)
    assert counting.requests["get_range"] == 0
    assert counting.requests["list"] == 1


def test_a_missing_pack_names_its_keys(yard: Yard) -> None:
    pack, _ = pack_of(yard, "k05")
    yard.store.delete(pack)
    report = yard.verify(read_values=True)
    (damage,) = report.damage
    assert (damage.object, damage.problem, damage.key_count) == (pack, "it is missing", 19)
    assert damage.keys == tuple(f"k{number:02}" for number in range(1, 20))
    assert "older versions" in damage.sound_copy
    assert report.values_read == 1
    assert "DAMAGED" in report.words()
    assert "'k05'" in report.words()


def test_with_the_local_file_it_is_told_where_sound_copies_are(yard: Yard) -> None:
    pack, _ = pack_of(yard, "k05")
    yard.store.delete(pack)
    assert f"every value is in {yard.path()}" in yard.verify(file_path=yard.path()).damage[0].sound_copy
    with yard.open() as db:
        (entry,) = entries_where(db._session.journal, "key = 'k05'")
    flip(yard.path(), entry.local_offset_bytes or 0, 1)
    assert "18 of 19 values" in yard.verify(file_path=yard.path()).damage[0].sound_copy
    yard.path().rename(yard.path("away"))
    assert "A sound copy" not in yard.verify(file_path=yard.path()).damage[0].sound_copy
    assert "A sound copy" not in yard.verify(file_path=yard.path("never")).damage[0].sound_copy


def test_values_that_ride_in_the_journal_are_copies_too(yard: Yard) -> None:
    with yard.open("b", "w") as db:
        db["k00"] = b"ours"
        yard.push({"k00": b"theirs"})
        db.changes().pull()
    # What the remote had when it was changed here is kept to settle the conflict.
    with checking._copies(yard.path("b")) as ask:
        assert ask("k00", digest_of(b"in the tail")) == f"{yard.path('b')}.journal"


def test_an_altered_value_is_found_by_reading_it(yard: Yard) -> None:
    pack, offset = pack_of(yard, "k07")
    alter(yard, pack, offset + 100)
    assert yard.verify().sound
    (damage,) = yard.verify(read_values=True).damage
    assert (damage.object, damage.keys) == (pack, ("k07",))
    assert "digest differs" in damage.problem


def test_a_pack_cut_off_costs_only_what_lay_behind(yard: Yard) -> None:
    pack, offset = pack_of(yard, "k18")
    yard.store.put(pack, yard.store.objects[pack].data[:offset])
    size, *values = yard.verify(read_values=True).damage
    assert "bytes, and the index says" in size.problem
    assert {key for damage in values for key in damage.keys} == {"k18", "k19"}


def test_a_pack_that_vanishes_while_it_is_read(yard: Yard) -> None:
    pack, _ = pack_of(yard, "large")

    class Vanishing(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if kind == "get_range" and key == pack:
                raise ObjectMissingError("gone")
            return send()

    (damage,) = yard.verify(read_values=True, wrap=Vanishing).damage
    assert damage.keys == ("large",)


@pytest.mark.parametrize("what", ["sound", "altered", "cut off"])
def test_a_large_value_is_read_in_pieces(yard: Yard, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_checks, "READ_BYTES", 7000)
    pack, offset = pack_of(yard, "large")
    if what == "altered":
        alter(yard, pack, offset + 49_999)
    elif what == "cut off":
        yard.store.put(pack, yard.store.objects[pack].data[:-10])
    counting = CountingStore(yard.store)
    report = yard.verify(read_values=True, wrap=lambda _store: counting)
    assert {key for damage in report.damage if "value" in damage.problem for key in damage.keys} == (
        set() if what == "sound" else {"large"}
    )
    # No range is longer than that, but for the one value alone.
    assert sum(kind == "get_range" and key == pack for kind, key in counting.log) == 8


def test_equal_values_are_read_once_and_their_keys_are_all_named(yard: Yard) -> None:
    yard.push({"twin1": value("twin"), "twin2": value("twin")}, at_hours=4)
    pack, offset = pack_of(yard, "twin1")
    assert pack_of(yard, "twin2") == (pack, offset)
    assert yard.verify(read_values=True).values_read == 21
    alter(yard, pack, offset)
    (damage,) = yard.verify(read_values=True).damage
    assert damage.keys == ("twin1", "twin2")


@pytest.mark.parametrize("how", ["missing", "altered", "other"])
def test_a_damaged_index_object_is_named(yard: Yard, how: str) -> None:
    index_object = index_objects(yard)[0]
    if how == "missing":
        yard.store.delete(index_object)
    elif how == "altered":
        alter(yard, index_object, 100)
    else:
        yard.store.put(index_object, b"short")
    report = yard.verify(read_values=True)
    (damage,) = report.damage
    assert damage.object == index_object
    assert "versions" in damage.sound_copy


def rewrite_root(yard: Yard, **changes: object) -> None:
    from dataclasses import replace

    root = decode_root(yard.store.objects["db"].data, name="the root")
    tail = changes.pop("tail", root.tail)
    assert isinstance(tail, bytes)
    yard.store.put("db", encode_root(replace(root.manifest, **changes), tail))  # type: ignore[arg-type]


def test_a_damaged_tail_is_the_roots_damage(yard: Yard) -> None:
    data = yard.store.objects["db"].data
    yard.store.put("db", with_tail(data, b"x" * len(decode_root(data, name="the root").tail)))
    (damage,) = yard.verify().damage
    assert damage.object == "db"
    assert "tail" in damage.problem


def test_a_key_count_that_is_wrong_is_damage(yard: Yard) -> None:
    rewrite_root(yard, key_count=31)
    (damage,) = yard.verify().damage
    assert (damage.object, damage.problem) == ("db", "it says 31 keys, and its index has 30")


def test_rows_of_other_commits_than_an_entry_says_are_damage(yard: Yard) -> None:
    root = decode_root(yard.store.objects["db"].data, name="the root")
    first, *others = root.manifest.runs
    assert not isinstance(first, RunList)
    later = first[-1]._replace(least_seq=first[-1].greatest_seq, greatest_seq=root.manifest.seq)
    rewrite_root(yard, runs=((*first[:-1], later), *others))
    (damage,) = yard.verify().damage
    assert damage.object == f"db.d/{later.name}"


@pytest.mark.parametrize("part", ["block", "list of packs", "directory"])
def test_each_part_of_an_index_object_is_held_to_its_digest(yard: Yard, part: str) -> None:
    (*_, run) = decode_root(yard.store.objects["db"].data, name="the root").manifest.runs
    assert not isinstance(run, RunList)
    key = f"db.d/{run[0].name}"
    data = yard.store.objects[key].data
    directory = read_whole(data, entry=run[0], name=key)
    alter(
        yard, key, {"block": 20, "list of packs": directory.packs_offset_bytes, "directory": len(data) - 1}[part]
    )
    for read_values in (False, True):
        (damage,) = yard.verify(read_values=read_values).damage
        assert damage.object == key
        assert part in damage.problem


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_a_damaged_run_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    limit_tails(monkeypatch, 300, run_list_bytes=0)
    yard = Yard(tmp_path)
    yard.push({f"k{number:02}": value(number) for number in range(20)})
    (run,) = decode_root(yard.store.objects["db"].data, name="the root").manifest.runs
    assert isinstance(run, RunList)
    assert yard.verify().index_objects == 2
    if how == "missing":
        yard.store.delete(f"db.d/{run.ref.name}")
    else:
        alter(yard, f"db.d/{run.ref.name}", 30)
    (damage,) = yard.verify().damage
    assert damage.object == f"db.d/{run.ref.name}"
    with pytest.raises(RemoteIntegrityError, match="nothing was deleted"):
        yard.collect()


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_a_damaged_part_of_the_history_is_named(yard: Yard, how: str) -> None:
    with yard.open() as db:
        for number in range(KEEP_RECENT):
            db["counter"] = b"%d" % number
            db.changes().push()
    (history,) = decode_root(yard.store.objects["db"].data, name="the root").manifest.histories
    key = f"db.d/{history.name}"
    assert key in yard.store.objects
    assert yard.verify().sound
    assert yard.fsck(check_objects=True).claimed_but_missing == []
    assert key not in yard.collect(grace_seconds=0).deleted_names
    yard.store.put("db.d/history/" + "0" * 32, b"of a commit that never was")
    assert yard.collect(grace_seconds=0).deleted_names == ("db.d/history/" + "0" * 32,)
    if how == "missing":
        yard.store.delete(key)
    else:
        alter(yard, key, 40)
    (damage,) = yard.verify().damage
    assert damage.object == key
    # All else can be read, pushed and collected.
    assert yard.fresh_contents()["counter"] == b"%d" % (KEEP_RECENT - 1)
    with yard.open("b") as db:
        for number in range(KEEP_RECENT + 5):
            db["counter"] = b"%d" % number
            db.changes().push()
    assert [damage.object for damage in yard.verify().damage] == [key]
    yard.collect(grace_seconds=0)


def test_a_damaged_root_is_reported_and_a_missing_one_raised(yard: Yard) -> None:
    data = yard.store.objects["db"].data
    alter(yard, "db", 200)
    report = yard.verify()
    assert (report.seq, report.sound) == (None, False)
    assert "can't be read" in report.words()
    yard.store.put("db", b"something else")
    with pytest.raises(UnsupportedFormatError):
        yard.verify()
    yard.store.delete("db")
    with pytest.raises(RemoteMissingError):
        yard.verify()
    yard.store.put("db", data)
    assert yard.verify().sound


@pytest.mark.parametrize("then", ["sound", "gone", "damaged"])
def test_what_was_collected_under_a_newer_root_is_no_damage(yard: Yard, then: str) -> None:
    pack, _ = pack_of(yard, "large")

    class Moves(PassingStore):
        moved = False

        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if kind == "list" and not self.moved:
                self.moved = True
                yard.push({"large": b"small"}, at_hours=5)
                self.inner.delete(pack)
                if then == "gone":
                    self.inner.delete("db")
                elif then == "damaged":
                    self.inner.put("db", b"EBTXroot")
            return send()

    if then == "gone":
        with pytest.raises(RemoteMissingError):
            yard.verify(wrap=Moves)
    else:
        assert yard.verify(wrap=Moves).sound == (then == "sound")


def test_another_etag_is_no_damage(yard: Yard) -> None:
    for key in (*yard.keys("pack"), *yard.keys("index")):
        yard.store.objects[key].etag = "another"
    report = yard.verify(read_values=True)
    assert report.sound
    assert report.moved_objects == report.packs + report.index_objects
    assert "another ETag" in report.words()


def test_a_remote_without_a_listing_is_asked_for_each_object(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open() as db:
        db["k"] = value(1)
        db.changes().push()
    with http_server(folder_handler(tmp_path / "remote")) as url:
        assert checking.verify(f"{url}/db", read_values=True).values_read == 1
        bench.objects("pack")[0].unlink()
        (damage,) = checking.verify(f"{url}/db").damage
        assert damage.problem == "it is missing"


# -- fsck --------------------------------------------------------------------------------------


def test_fsck_of_a_sound_remote(yard: Yard) -> None:
    before = dict(yard.store.objects)
    report = yard.fsck(check_objects=True)
    assert yard.store.objects == before
    assert (report.db_key, report.format_version) == ("db", 2)
    assert report.db_object_exists
    assert not report.torn_teardown
    assert report.expected_objects == len(index_objects(yard)) + 2
    assert (report.claimed_but_missing, report.unmanifested_group_ids, report.empty_groups) == ([], [], [])
    assert not report.bad_entry_layout


def test_fsck_knows_dead_bytes(yard: Yard) -> None:
    pack, _ = pack_of(yard, "k05")
    report = yard.fsck()
    assert list(report.dead_fraction) == [pack.removeprefix("db.d/")]
    assert report.dead_fraction[pack.removeprefix("db.d/")] == pytest.approx(1 / 20, rel=0.02)


def test_fsck_tells_what_is_claimed_but_missing(yard: Yard) -> None:
    pack, _ = pack_of(yard, "k05")
    large, _ = pack_of(yard, "large")
    index_object = index_objects(yard)[0]
    yard.store.delete(pack)
    yard.store.put(large, yard.store.objects[large].data[:-1])
    assert yard.fsck().claimed_but_missing == [pack]
    assert yard.fsck(check_objects=True).claimed_but_missing == sorted([pack, large])
    alter(yard, index_object, 100)
    # What a damaged index object names can't be told.
    assert index_object not in yard.fsck().claimed_but_missing
    report = yard.fsck(check_objects=True)
    assert index_object in report.claimed_but_missing
    assert report.orphans == []
    yard.store.delete(index_object)
    assert index_object in yard.fsck().claimed_but_missing


def test_fsck_deletes_nothing_while_the_index_is_damaged(yard: Yard) -> None:
    yard.store.delete(index_objects(yard)[0])
    with pytest.raises(RemoteIntegrityError):
        yard.fsck(delete_orphans=True, min_age=timedelta(0))
    with pytest.raises(InvalidArgumentError, match="min_age"):
        yard.fsck(min_age=timedelta(seconds=-1))


def test_fsck_sweeps_old_orphans(yard: Yard) -> None:
    old, young = "db.d/pack/" + "a" * 32, "db.d/pack/" + "b" * 32
    for key, hours in ((old, 4.0), (young, 29.0)):
        yard.hours = hours
        yard.store.put(key, b"nobody's")
    yard.hours = 30
    report = yard.fsck()
    dead = [key for key in report.orphans if key not in (old, young)]
    assert {old, young} <= set(report.orphans)
    assert (report.swept, report.skipped_young) == ([], [])
    report = yard.fsck(delete_orphans=True)
    assert report.orphans == sorted([*dead, old, young])
    assert report.swept == sorted([*dead, old])
    assert report.skipped_young == [young]
    assert old not in yard.store.objects
    assert young in yard.store.objects
    assert yard.fsck(delete_orphans=True, min_age=timedelta(0)).swept == [young]
    assert yard.fsck().orphans == []
    assert yard.verify(read_values=True).sound


def test_fsck_finishes_a_deletion_that_was_cut_short(yard: Yard) -> None:
    everything = sorted([*yard.keys("pack"), *yard.keys("index")])
    yard.store.delete("db")
    yard.hours = 100
    report = yard.fsck()
    assert (report.db_object_exists, report.torn_teardown, report.format_version) == (False, True, None)
    assert (report.expected_objects, report.orphans) == (0, everything)
    # Nobody knows since when there is no root, so the first time is only noted.
    report = yard.fsck(delete_orphans=True)
    assert (report.swept, report.skipped_young) == ([], everything)
    yard.hours = 124
    assert yard.fsck(delete_orphans=True).swept == everything
    assert not yard.fsck().torn_teardown
    yard.fsck(delete_orphans=True)
    assert [key for key in yard.store.objects if key.startswith("db.d/")] == []


def test_fsck_without_a_root_keeps_what_a_new_root_names(yard: Yard) -> None:
    root = yard.store.objects["db"].data
    yard.store.delete("db")
    yard.hours = 100

    class Restores(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], object]) -> object:
            if kind == "put" and key.endswith("garbage"):
                self.inner.put("db", root)
            return send()

    report = yard.fsck(delete_orphans=True, min_age=timedelta(0), wrap=Restores)
    assert not set(report.swept) & set(yard.store.objects)
    assert yard.verify(read_values=True).sound


def test_fsck_wants_a_listing() -> None:
    with pytest.raises(ReadOnlyError):
        checking.fsck("https://example.invalid/db")
