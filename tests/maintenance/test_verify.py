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
from ebooklet_tx.formats.root import decode_root, encode_root
from ebooklet_tx.local.journal.entries import entries_where, find_entry
from ebooklet_tx.maintenance import checking, verify
from ebooklet_tx.sync.commit import builder as building
from tests.pairs import Bench, flip
from tests.servers import folder_handler, http_server
from tests.store_wrappers import CountingStore, PassingStore
from tests.yard import Yard, value


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    """A remote with two segments, a tail and three packs, 30 keys and metadata."""
    monkeypatch.setattr(building, "ROOT_TAIL_LIMIT_BYTES", 4000)
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
    with yard.open("looker", "r") as db, db._session.mutex:
        raw = db._session.journal.raw
        name, offset = raw.execute(
            "SELECT o.name, e.remote_offset_bytes FROM entry AS e JOIN remote_object AS o "
            "ON o.id = e.remote_object WHERE e.key = ?",
            (key,),
        ).fetchone()
    return f"db.d/{name}", offset


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
    assert (report.seq, report.key_count, report.segments) == (5, 30, len(yard.keys("index")))
    assert report.segments >= 1
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
    with yard.open("b", "r") as db:
        find = checking._copies(yard.path("b"))
        entry = find_entry(db._session.journal, "k00")
        with find as ask:
            assert ask("k00", entry.digest) == f"{yard.path('b')}.journal"


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
    monkeypatch.setattr(verify, "READ_BYTES", 7000)
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
def test_a_damaged_segment_is_named(yard: Yard, how: str) -> None:
    segment = yard.keys("index")[0]
    if how == "missing":
        yard.store.delete(segment)
    elif how == "altered":
        alter(yard, segment, 100)
    else:
        yard.store.put(segment, b"short")
    report = yard.verify(read_values=True)
    (damage,) = report.damage
    assert damage.object == segment
    assert "versions" in damage.sound_copy


def rewrite_root(yard: Yard, **changes: object) -> None:
    from dataclasses import replace

    root = decode_root(yard.store.objects["db"].data, name="the root")
    tail = changes.pop("tail", root.tail)
    assert isinstance(tail, bytes)
    yard.store.put("db", encode_root(replace(root.manifest, **changes), tail))  # type: ignore[arg-type]


def test_a_damaged_tail_is_the_roots_damage(yard: Yard) -> None:
    rewrite_root(yard, tail=b"x" * 100)
    (damage,) = yard.verify().damage
    assert damage.object == "db"
    assert "tail" in damage.problem


def test_a_key_count_that_is_wrong_is_damage(yard: Yard) -> None:
    rewrite_root(yard, key_count=31)
    (damage,) = yard.verify().damage
    assert (damage.object, damage.problem) == ("db", "it says 31 keys, and its index has 30")


def test_rows_of_other_commits_than_a_segments_are_damage(yard: Yard) -> None:
    root = decode_root(yard.store.objects["db"].data, name="the root")
    from dataclasses import replace

    last = root.manifest.segments[-1]
    moved = replace(last, first_seq=last.last_seq, last_seq=last.last_seq)
    before = root.manifest.segments[:-1]
    if before:
        before = (*before[:-1], replace(before[-1], last_seq=last.last_seq - 1))
    rewrite_root(yard, segments=(*before, moved))
    assert any("outside" in damage.problem for damage in yard.verify().damage)


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
    assert report.moved_objects == report.packs + report.segments
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
    assert (report.db_key, report.format_version) == ("db", 1)
    assert report.db_object_exists
    assert not report.torn_teardown
    assert report.expected_objects == len(yard.keys("index")) + 2
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
    segment = yard.keys("index")[-1]
    yard.store.delete(pack)
    yard.store.put(large, yard.store.objects[large].data[:-1])
    assert yard.fsck().claimed_but_missing == [pack]
    assert yard.fsck(check_objects=True).claimed_but_missing == sorted([pack, large])
    alter(yard, segment, 100)
    # What a damaged segment names can't be told.
    assert segment not in yard.fsck().claimed_but_missing
    report = yard.fsck(check_objects=True)
    assert segment in report.claimed_but_missing
    assert report.orphans == []
    yard.store.delete(segment)
    assert segment in yard.fsck().claimed_but_missing


def test_fsck_deletes_nothing_while_the_index_is_damaged(yard: Yard) -> None:
    yard.store.delete(yard.keys("index")[0])
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
