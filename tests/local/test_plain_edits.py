"""What plain booklet, its crashes, and foreign files do to a pair between two sessions of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.errors import (
    Error,
    LocalMissingError,
    LocalStorageError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.local.booklet.layout import BLOCK_HEAD_BYTES, GUARD_PREFIX, parse_header, scan_file
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import digest_of
from tests.pairs import N_BUCKETS, Bench, flip, local_state, writer_store

BASE = {f"k{number:03}": b"value %d" % number for number in range(50)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A copy "a" whose 50 keys and metadata are pushed."""
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db.update(BASE)
        db.set_metadata({"m": 1})
        db.changes().push()
    return bench


def push(bench: Bench, copy: str = "a") -> None:
    with bench.open(copy, "w") as db:
        db.changes().push()


def edit_everything(blt: Any) -> None:
    blt["added"] = b"plain"
    blt["k001"] = b"overwritten, and longer than before"
    blt["k002"] = b""
    del blt["k003"]
    blt.set_timestamp("k004", 1_000_000)
    blt.set_metadata({"m": 2})


EDITED = {k: v for k, v in BASE.items() if k != "k003"} | {
    "added": b"plain",
    "k001": b"overwritten, and longer than before",
    "k002": b"",
    "": {"m": 2},
}


def test_every_kind_of_edit_is_pushed(bench: Bench) -> None:
    with booklet.open(bench.path(), "w") as blt:
        edit_everything(blt)
    with bench.open("a", "w") as db:
        changes = {change["key"]: change["operation"] for change in db.changes().iter_changes()}
        assert changes == {"added": "set", "k001": "set", "k002": "set", "k003": "delete", "k004": "set"}
        assert db.changes().push()
        assert not db.changes().push()
    assert bench.contents("a") == EDITED
    assert bench.fresh_contents() == EDITED
    with bench.open("t", "r") as db:
        assert db.get_timestamp("k004") == 1_000_000


def test_an_edit_shows_in_a_session_that_only_reads(bench: Bench) -> None:
    with booklet.open(bench.path(), "w") as blt:
        edit_everything(blt)
    assert bench.contents("a") == EDITED


def test_a_session_without_edits_changes_nothing(bench: Bench) -> None:
    before = local_state(bench.path())
    with booklet.open(bench.path(), "w"):
        pass
    with booklet.open(bench.path()) as blt:
        assert blt["k001"] == BASE["k001"]
    assert local_state(bench.path()) == before


def test_prune_moves_values_and_is_no_change(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        del db["k000"]
        db["k001"] = b"later"
    before = local_state(bench.path())
    with booklet.open(bench.path(), "w") as blt:
        # Everything lies elsewhere afterwards.
        blt.prune()
    assert local_state(bench.path()) == before
    expected = BASE | {"k001": b"later", "": {"m": 1}}
    del expected["k000"]
    push(bench)
    assert bench.contents("a") == bench.fresh_contents() == expected


def test_prune_by_age_deletes(bench: Bench) -> None:
    with booklet.open(bench.path(), "w") as blt:
        blt.set("old", b"1", timestamp=1000)
        blt.prune(timestamp=2000)
    push(bench)
    assert bench.fresh_contents() == BASE | {"": {"m": 1}}


def test_clear_is_pushed_as_deletes_once_that_is_accepted(bench: Bench) -> None:
    with booklet.open(bench.path(), "w") as blt:
        blt.clear()
        blt["only"] = b"1"
    ebooklet_tx.recover(bench.path(), accept_deletes=True)
    push(bench)
    # Booklet's clear takes the metadata with it.
    assert bench.contents("a") == bench.fresh_contents() == {"only": b"1"}


def test_the_hash_index_grows_in_a_plain_session(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", n_buckets=17) as db:
        db["first"] = b"1"
        db.changes().push()
    with booklet.open(bench.path(), "w") as blt:
        for number in range(3000):
            blt[f"n{number}"] = b"%d" % number
        blt.sync()
        blt["after"] = b"growth"
    with bench.open("a", "w") as db:
        assert len(db) == 3002
        db["mine"] = b"too"
        db.changes().push()
    found = bench.fresh_contents()
    assert len(found) == 3003
    assert found["n2999"] == b"2999"
    with booklet.open(bench.path()) as blt:
        assert len(blt) == 3003
        assert blt["mine"] == b"too"


def test_keys_never_fetched_are_not_taken_for_deleted(bench: Bench) -> None:
    big = {f"big{number}": bytes([number]) * 50_000 for number in range(4)}
    with bench.open("a", "w") as db:
        db.update(big)
        db.changes().push()
    with bench.open("b", "w") as db:
        assert db["big1"] == big["big1"]
    with booklet.open(bench.path("b"), "w") as blt:
        assert "big0" not in blt
        blt["from b"] = b"1"
        del blt["big1"]
    push(bench, "b")
    expected = BASE | big | {"from b": b"1", "": {"m": 1}}
    del expected["big1"]
    assert bench.contents("b") == bench.fresh_contents() == expected


def test_a_plain_set_of_a_key_never_fetched_is_an_edit(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["big"] = b"x" * 50_000
        db.changes().push()
    with bench.open("b", "w"):
        pass
    with booklet.open(bench.path("b"), "w") as blt:
        blt["big"] = b"small now"
    push(bench, "b")
    assert bench.fresh_contents()["big"] == b"small now"


# -- values that were staged and had not reached the file ----------------------------------------


def stage(bench: Bench, operations: dict[str, bytes | None], timestamp_us: int) -> None:
    """Commits into the journal alone, and dies before the file gets it."""
    with writer_store(bench.path()) as store:
        for key, value in operations.items():
            store.overlay.put(key, value, timestamp_us)
        store.commit()


NOW = 1_900_000_000_000_000
"""Later than anything that a test sets by the clock."""


def test_staged_values_survive_a_plain_session(bench: Bench) -> None:
    stage(bench, {"k001": b"staged", "new": b"staged too", "k002": None}, NOW)
    with booklet.open(bench.path(), "w") as blt:
        assert blt["k001"] == BASE["k001"]
        assert "new" not in blt
        blt["plain"] = b"1"
        blt.prune()
    push(bench)
    expected = BASE | {"k001": b"staged", "new": b"staged too", "plain": b"1", "": {"m": 1}}
    del expected["k002"]
    assert bench.contents("a") == bench.fresh_contents() == expected
    with booklet.open(bench.path()) as blt:
        assert blt["k001"] == b"staged"
        assert "k002" not in blt


def test_an_older_plain_edit_does_not_undo_a_staged_value(bench: Bench) -> None:
    stage(bench, {"k001": b"staged", "k002": b"staged", "k003": None}, NOW)
    with booklet.open(bench.path(), "w") as blt:
        # Whoever edits here sees the values from before what was staged.
        blt.set("k001", b"older edit", timestamp=NOW - 1)
        del blt["k002"]
        blt.set("k003", b"older edit", timestamp=NOW - 1)
    push(bench)
    found = bench.fresh_contents()
    assert (found["k001"], found["k002"], "k003" in found) == (b"staged", b"staged", False)


def test_a_newer_plain_edit_replaces_a_staged_value(bench: Bench) -> None:
    stage(bench, {"k001": b"staged", "new": b"staged", "k003": None}, NOW)
    with booklet.open(bench.path(), "w") as blt:
        for key in ("k001", "new", "k003"):
            blt.set(key, b"newer edit", timestamp=NOW + 1)
    push(bench)
    found = bench.fresh_contents()
    assert found["k001"] == found["new"] == found["k003"] == b"newer edit"


def test_an_edit_right_after_our_close_is_seen(tmp_path: Path) -> None:
    # The file system's clock ticks every few milliseconds: edits of the same length fall into the
    # same tick as our close, and only the time that we leave behind tells them apart.
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db["k"] = b"00"
        db.changes().push()
    for number in range(1, 40):
        with writer_store(bench.path()) as store:
            store.overlay.put("other", b"%d" % (number % 10), number)
            store.commit(fold=True)
        with booklet.open(bench.path(), "w") as blt:
            blt.set_timestamp("k", 1_000_000 + number)
        with writer_store(bench.path()) as store:
            entry = store.entry("k")
            assert entry is not None
            assert entry.timestamp_us == 1_000_000 + number, f"edit {number} was not seen"


# -- a plain user's crash ------------------------------------------------------------------------


def plain_then(bench: Bench, damage: Callable[[Path], None]) -> None:
    with booklet.open(bench.path(), "w") as blt:
        for number in range(10):
            blt[f"plain{number}"] = b"plain value %d" % number
    damage(bench.path())


def placed(path: Path) -> dict[bytes, Any]:
    with path.open("rb") as file:
        header = parse_header(file.read(200))
        assert header is not None
        return scan_file(file.fileno(), header).live


@pytest.mark.parametrize("cut", [1, 20, 45, 60, 100])
def test_a_torn_tail_loses_what_was_torn_and_nothing_else(bench: Bench, cut: int) -> None:
    def truncate(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - cut)

    plain_then(bench, truncate)
    with bench.open("a", "w") as db:
        found = dict(db.items())
        assert {key: value for key, value in found.items() if key in BASE} == BASE
        plain = {key: value for key, value in found.items() if key not in BASE}
        assert all(value == b"plain value " + key[5:].encode() for key, value in plain.items())
        # A block takes 52 bytes: what lies whole before the tear is there.
        assert len(plain) >= 10 - 1 - -(-cut // 52)
        db["after"] = b"1"
        db.changes().push()
    assert bench.fresh_contents() == found | {"after": b"1", "": {"m": 1}}
    with booklet.open(bench.path()) as blt:
        assert {key: blt[key] for key in blt} == found | {"after": b"1"}


def test_a_cut_chain_loses_nothing(bench: Bench) -> None:
    def zero_the_index(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(200)
            file.write(bytes(6 * (N_BUCKETS // 3)))

    plain_then(bench, zero_the_index)
    plain = {f"plain{number}": b"plain value %d" % number for number in range(10)}
    push(bench)
    assert bench.contents("a") == bench.fresh_contents() == BASE | plain | {"": {"m": 1}}


@pytest.mark.parametrize("pointer_bit", [0, 1, 5, 20, 47])
def test_a_flipped_pointer_neither_deletes_nor_alters(bench: Bench, pointer_bit: int) -> None:
    block = placed(bench.path())[b"k007"]

    def flip_pointer(path: Path) -> None:
        flip(path, block.position_bytes + 13 + pointer_bit // 8, pointer_bit % 8)

    plain_then(bench, flip_pointer)
    push(bench)
    plain = {f"plain{number}": b"plain value %d" % number for number in range(10)}
    assert bench.contents("a") == bench.fresh_contents() == BASE | plain | {"": {"m": 1}}


@pytest.mark.parametrize("offset", [0, 12, 19, 21, 22, BLOCK_HEAD_BYTES])
def test_a_damaged_block_head_keeps_what_the_journal_knows(bench: Bench, offset: int) -> None:
    block = placed(bench.path())[b"k007"]
    plain_then(bench, lambda path: flip(path, block.position_bytes + offset, 2))
    push(bench)
    found = bench.fresh_contents()
    assert {key: found.get(key) for key in BASE} == BASE
    assert bench.contents("a") == found


def test_a_flipped_length_is_not_an_edit(tmp_path: Path) -> None:
    # A value of zeros: what a shortened length leaves over looks like dead blocks.
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db["zeros"] = bytes(1024)
        db["other"] = b"1"
    block = placed(bench.path())[b"zeros"]
    flip(bench.path(), block.position_bytes + 21 + 1, 1)
    flip(bench.path(), block.position_bytes + 21 + 1, 2)
    with bench.open("a", "c") as db:
        assert db["zeros"] == bytes(1024)
        assert db["other"] == b"1"


def test_a_dead_block_come_alive_is_not_an_edit(bench: Bench) -> None:
    block = placed(bench.path())[b"k007"]
    with bench.open("a", "w") as db:
        del db["k007"]
        db.changes().push()
    flip(bench.path(), block.position_bytes + 13, 0)
    with bench.open("a", "w") as db:
        assert "k007" not in db
        assert list(db.changes().iter_changes()) == []


def test_values_changed_in_place_are_fetched_again(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["big"] = b"x" * 50_000
        db.changes().push()
    block = placed(bench.path())[b"big"]
    flip(bench.path(), block.value_offset_bytes + 100, 3)
    with bench.open("a", "w") as db:
        assert db["big"] == b"x" * 50_000
        assert list(db.changes().iter_changes()) == []
    with booklet.open(bench.path()) as blt:
        assert blt["big"] == b"x" * 50_000


# -- Booklets without a journal ------------------------------------------------------------------


def make_plain(path: Path, values: dict[str, bytes], **options: Any) -> None:
    with booklet.open(path, "n", key_serializer="str", value_serializer=None, **options) as blt:
        for key, value in values.items():
            blt[key] = value


def test_a_booklet_without_journal_is_adopted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    make_plain(bench.path(), BASE)
    with booklet.open(bench.path(), "w") as blt:
        blt.set_metadata({"m": 3})
    with bench.open("a") as db:
        assert dict(db.items()) == BASE
        assert len(list(db.changes().iter_changes())) == 50
        db.changes().push()
    assert bench.contents("a") == bench.fresh_contents() == BASE | {"": {"m": 3}}


def test_an_empty_booklet_is_adopted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    make_plain(bench.path(), {})
    with bench.open("a") as db:
        assert list(db.changes().iter_changes()) == []
        db["k"] = b"1"
        db.changes().push()
    assert bench.fresh_contents() == {"k": b"1"}


def test_adoption_against_a_remote(bench: Bench) -> None:
    # The same database on another machine, whose journal was lost.
    with booklet.open(bench.path(), "w") as blt:
        blt.set("k001", b"newer here", timestamp=NOW)
        blt.set("k002", b"older here", timestamp=1)
        blt.set("mine", b"only here", timestamp=NOW)
        del blt["k003"]
    bench.journal().unlink()
    with bench.open("a", "w") as db:
        assert [change["key"] for change in db.changes().iter_changes()] == ["k001", "mine"]
        assert db.changes().conflicts() == []
        assert db["k002"] == BASE["k002"]
        # That somebody deleted it can't be told from never having fetched it.
        assert db["k003"] == BASE["k003"]
        db.changes().push()
    expected = BASE | {"k001": b"newer here", "mine": b"only here", "": {"m": 1}}
    assert bench.contents("a") == bench.fresh_contents() == expected


def test_adoption_of_a_foreign_database_is_refused(bench: Bench) -> None:
    make_plain(bench.path("x"), {"a": b"1"})
    with pytest.raises(UUIDMismatchError, match="flag"):
        bench.open("x", "w")
    with booklet.open(bench.path("x")) as blt:
        assert blt["a"] == b"1"
    assert bench.fresh_contents() == BASE | {"": {"m": 1}}


def test_a_damaged_booklet_is_adopted_as_far_as_it_goes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    make_plain(bench.path(), BASE)
    with bench.path().open("r+b") as file:
        file.truncate(bench.path().stat().st_size - 10)
    with bench.open("a") as db:
        found = dict(db.items())
        assert found == {key: value for key, value in BASE.items() if key != "k049"}
        db.changes().push()
    assert bench.fresh_contents() == found


def test_a_key_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with booklet.open(bench.path(), "n", key_serializer="bytes", value_serializer=None) as blt:
        blt[b"\xff\xfe"] = b"no text"
        blt[b"text"] = b"1"
    with bench.path().open("r+b") as file:
        file.seek(31)
        file.write((2).to_bytes(2, "little"))
    with bench.open("a") as db:
        assert dict(db.items()) == {"text": b"1"}


def test_a_booklet_killed_in_our_append_and_without_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    make_plain(bench.path(), BASE)
    with bench.path().open("r+b") as file:
        file.write(GUARD_PREFIX + b"unknown!")
    with bench.open("a") as db:
        assert dict(db.items()) == BASE


# -- journals that are no use --------------------------------------------------------------------


def overwrite(path: Path) -> None:
    path.write_bytes(b"garbage" * 2000)


def truncate_journal(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def zero_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


@pytest.mark.parametrize("damage", [overwrite, truncate_journal, zero_header])
def test_a_corrupt_journal_is_set_aside_and_rebuilt(bench: Bench, damage: Callable[[Path], None]) -> None:
    with bench.open("a", "w") as db:
        db["pending"] = b"never pushed"
    damage(bench.journal())
    kept = bench.journal().read_bytes()
    with bench.open("a", "w") as db:
        assert dict(db.items()) == BASE | {"pending": b"never pushed"}
        assert [change["key"] for change in db.changes().iter_changes()] == ["pending"]
        db.changes().push()
    (aside,) = (path for path in bench.folder.glob("a.blt.journal.aside-*") if path.suffix[-4:] != "-wal")
    assert aside.read_bytes() == kept
    assert bench.contents("a") == bench.fresh_contents() == BASE | {"pending": b"never pushed", "": {"m": 1}}


def test_a_journal_of_another_file_is_set_aside(bench: Bench) -> None:
    other = Bench(bench.folder, "other")
    with other.open("o") as db:
        db["o"] = b"1"
        db.changes().push()
    shutil.copy(other.journal("o"), bench.journal())
    assert bench.contents("a") == BASE | {"": {"m": 1}}
    with bench.open("a", "w") as db:
        assert list(db.changes().iter_changes()) == []
    assert list(bench.folder.glob("a.blt.journal.aside-*"))


def test_a_journal_without_its_file_is_set_aside(bench: Bench) -> None:
    bench.path().unlink()
    assert bench.contents("a") == BASE | {"": {"m": 1}}
    assert list(bench.folder.glob("a.blt.journal.aside-*"))


def test_a_copied_file_is_recognised(bench: Bench) -> None:
    shutil.copy(bench.path(), bench.path("copy"))
    shutil.copy(bench.journal(), bench.journal("copy"))
    with bench.open("copy", "w") as db:
        assert dict(db.items()) == BASE
        assert list(db.changes().iter_changes()) == []


# -- kinds of files that are refused -------------------------------------------------------------


def fixed_length(path: Path) -> None:
    with booklet.FixedLengthValue(path, "n", key_serializer="str", value_len=4) as blt:
        blt["k"] = b"1234"


def int_keys(path: Path) -> None:
    with booklet.open(path, "n", key_serializer="uint4", value_serializer=None) as blt:
        blt[1] = b"1"


def without_timestamps(path: Path) -> None:
    make_plain(path, {"k": b"1"}, init_timestamps=False)


def newer_format(path: Path) -> None:
    make_plain(path, {"k": b"1"})
    with path.open("r+b") as file:
        file.seek(16)
        file.write((6).to_bytes(2, "little"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fixed_length, "fixed-length"),
        (int_keys, "key_serializer='str'"),
        (without_timestamps, "without timestamps"),
        (newer_format, "format 6"),
        (lambda path: path.write_text("just some text " * 100), "not a Booklet file"),
        (lambda path: path.write_bytes(b""), "not a Booklet file"),
        (lambda path: path.write_bytes(b"short"), "not a Booklet file"),
    ],
)
@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_other_kinds_of_file_are_refused_and_left_alone(
    bench: Bench, make: Callable[[Path], object], words: str, flag: str
) -> None:
    path = bench.path("foreign")
    make(path)
    before = path.read_bytes()
    with pytest.raises(UnsupportedFormatError, match=words) as caught:
        bench.open("foreign", flag)
    assert "foreign.blt" in str(caught.value)
    assert path.read_bytes() == before
    assert not bench.journal("foreign").exists()


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_a_folder_is_refused(bench: Bench, flag: str) -> None:
    bench.path("folder").mkdir()
    with pytest.raises(Error, match=r"folder\.blt"):
        bench.open("folder", flag)
    assert bench.path("folder").is_dir()


def test_a_missing_folder_is_named(bench: Bench) -> None:
    with pytest.raises(LocalStorageError, match="make the folder"):
        bench.open("nowhere/a", "w")


def test_a_missing_file_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(LocalMissingError, match="flag 'c'"):
        LocalStore.open_writer(tmp_path / "a.blt", create=False)
    with pytest.raises(LocalMissingError):
        LocalStore.open_reader(tmp_path / "a.blt")
    assert list(tmp_path.iterdir()) == []


def test_digests_are_of_the_encoded_value(bench: Bench) -> None:
    assert local_state(bench.path())["k001"][1] == digest_of(BASE["k001"])
