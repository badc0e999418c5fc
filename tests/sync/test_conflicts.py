"""Two writers of the same keys: who is told what, and how it is settled."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import (
    MISSING,
    Conflict,
    ConflictError,
    Database,
    InvalidArgumentError,
    InvalidValueError,
    ReadOnlyError,
    RemoteIntegrityError,
)
from ebooklet_tx.connection import DirectoryConnection
from ebooklet_tx.local.journal.operations import stage_value
from ebooklet_tx.locks.process_identity import writer_name
from ebooklet_tx.records import digest_of
from ebooklet_tx.stores.object_store import ObjectStore
from tests.doors import open_database
from tests.pairs import N_BUCKETS
from tests.places import Place
from tests.processes import workers
from tests.store_wrappers import CountingStore
from tests.writer_processes import resolve_and_die

EARLY, LATE = 1_700_000_000_000_000, 1_700_000_001_000_000
BIG = "x" * 5000
"""Too long to ride in the index: a value like this lies in a pack."""


class Two:
    """Two sessions of one database on one place, each with a file of its own."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        (folder / "remote").mkdir()
        self.folder = folder
        self.place = DirectoryConnection(folder / "remote", "db")
        self.requests: CountingStore | None = None
        self.ours = self.open("ours", "n")
        self.ours.update(content)
        self.ours.changes().push()
        self.theirs = self.open("theirs", "w")

    def open(self, name: str, flag: str, **options: Any) -> Database:
        return open_database(
            self.place,
            self.folder / f"{name}.blt",
            flag,
            "orjson",
            N_BUCKETS,
            lock=None,
            wrap_store=self._count,
            **options,
        )

    def _count(self, store: ObjectStore) -> ObjectStore:
        self.requests = CountingStore(store)
        return self.requests

    def reopen_ours(self) -> Database:
        self.ours.close()
        self.ours = self.open("ours", "w")
        return self.ours

    def both_change(self, key: str, ours: Any, theirs: Any, *, newer: str = "ours") -> None:
        """Lets both sides change a key, ours pending and theirs pushed; MISSING deletes it."""
        for db, value, name in ((self.ours, ours, "ours"), (self.theirs, theirs, "theirs")):
            if value is MISSING:
                del db[key]
            else:
                db.set(key, value, LATE if newer == name else EARLY)
        self.theirs.changes().push()

    def fresh(self) -> dict[str, Any]:
        """What somebody sees who has seen nothing yet."""
        path = self.folder / "fresh.blt"
        for name in (path, Path(f"{path}.journal")):
            name.unlink(missing_ok=True)
        with self.open("fresh", "r") as db:
            return dict(db.items())

    def the_conflict(self) -> Conflict:
        self.ours.changes().pull()
        (conflict,) = self.ours.changes().conflicts()
        return conflict

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    pair = Two(tmp_path, {"a": "base", "b": "base", "c": "base"})
    yield pair
    pair.close()


def pending(db: Database) -> dict[str, str]:
    return {change["key"]: change["operation"] for change in db.changes().iter_changes()}


# -- being told --------------------------------------------------------------------------------


def test_nothing_is_pushed_and_nothing_lost_when_keys_collide(two: Two) -> None:
    two.both_change("a", "ours", "theirs")
    two.ours["mine"] = 1
    del two.ours["c"]
    two.theirs["other"] = 2
    two.theirs.changes().push()
    before = two.fresh()
    with pytest.raises(ConflictError, match="'a'; nothing was pushed") as caught:
        two.ours.changes().push()
    assert [conflict.key for conflict in caught.value.conflicts] == ["a"]
    assert two.fresh() == before
    assert pending(two.ours) == {"a": "set", "mine": "set", "c": "delete"}
    assert dict(two.ours.items()) == {"a": "ours", "b": "base", "mine": 1, "other": 2}
    reopened = two.reopen_ours()
    assert pending(reopened) == {"a": "set", "mine": "set", "c": "delete"}
    assert [conflict.key for conflict in reopened.changes().conflicts()] == ["a"]


def test_changes_of_different_keys_merge_without_a_word(two: Two) -> None:
    two.ours["a"] = 1
    two.theirs["b"] = 2
    two.theirs.changes().push()
    assert two.ours.changes().push()
    assert two.fresh() == {"a": 1, "b": 2, "c": "base"}


def test_a_conflict_shows_three_versions(two: Two) -> None:
    stamp = two.ours.get_timestamp("a")
    two.both_change("a", ["ours"], {"theirs": 1}, newer="theirs")
    conflict = two.the_conflict()
    assert (conflict.key, conflict.base, conflict.ours, conflict.theirs) == ("a", "base", ["ours"], {"theirs": 1})
    assert conflict.ours_version.timestamp_us == EARLY
    assert conflict.theirs_version.timestamp_us == LATE
    assert conflict.base_version.timestamp_us == stamp
    assert conflict.base_version.digest == digest_of(b'"base"')
    assert conflict.ours_version.digest == digest_of(b'["ours"]')
    assert conflict.theirs_version.digest == digest_of(b'{"theirs":1}')
    assert conflict.theirs_version.writer == writer_name()
    assert (conflict.ours_version.writer, conflict.base_version.writer) == (None, None)


def test_a_key_that_is_new_on_both_sides_has_no_base(two: Two) -> None:
    two.both_change("new", 1, 2)
    conflict = two.the_conflict()
    assert conflict.base is MISSING
    assert (conflict.base_version.digest, conflict.base_version.timestamp_us) == (None, None)
    assert (conflict.ours, conflict.theirs) == (1, 2)
    assert repr(MISSING) == "MISSING"
    assert not MISSING


@pytest.mark.parametrize(("ours", "theirs"), [("changed", MISSING), (MISSING, "changed")])
def test_a_delete_against_a_change_is_a_conflict(two: Two, ours: Any, theirs: Any) -> None:
    two.both_change("a", ours, theirs)
    conflict = two.the_conflict()
    assert (conflict.base, conflict.ours, conflict.theirs) == ("base", ours, theirs)
    missing = conflict.ours_version if ours is MISSING else conflict.theirs_version
    assert missing.digest is None
    assert missing.timestamp_us is not None
    with pytest.raises(ConflictError):
        two.ours.changes().push()


def test_deleting_the_same_key_is_no_conflict(two: Two) -> None:
    two.both_change("a", MISSING, MISSING)
    assert not two.ours.changes().push()
    assert two.fresh() == {"b": "base", "c": "base"}


def test_metadata_conflicts_like_a_key(two: Two) -> None:
    two.ours.set_metadata({"by": "ours"})
    two.theirs.set_metadata({"by": "theirs"})
    two.theirs.changes().push()
    with pytest.raises(ConflictError, match="the metadata") as caught:
        two.ours.changes().push()
    (conflict,) = caught.value.conflicts
    assert (conflict.key, conflict.base, conflict.ours, conflict.theirs) == (
        "",
        MISSING,
        {"by": "ours"},
        {"by": "theirs"},
    )
    assert two.ours.changes().resolve("", {"by": "both"}) == 1
    assert two.ours.get_metadata() == {"by": "both"}
    two.ours.changes().push()
    two.theirs.changes().pull()
    assert two.theirs.get_metadata() == {"by": "both"}


def test_many_conflicts_are_counted_and_some_are_named(two: Two) -> None:
    for number in range(7):
        two.ours[f"k{number}"] = 1
        two.theirs[f"k{number}"] = 2
    two.theirs.changes().push()
    with pytest.raises(ConflictError, match=r"7 keys .*'k0', 'k1', 'k2', 'k3', 'k4' and 2 more") as caught:
        two.ours.changes().push()
    assert [conflict.key for conflict in caught.value.conflicts] == [f"k{number}" for number in range(7)]


def test_being_told_fetches_no_value(two: Two) -> None:
    two.both_change("a", f"ours{BIG}", f"theirs{BIG}")
    ours = two.reopen_ours()
    assert two.requests is not None
    two.requests.reset()
    with pytest.raises(ConflictError) as caught:
        ours.changes().push()
    assert two.requests.requests["get_range"] == 0
    assert caught.value.conflicts[0].theirs == f"theirs{BIG}"
    assert two.requests.requests["get_range"] == 1


def test_a_reader_sees_conflicts_and_settles_none(two: Two) -> None:
    two.both_change("a", 1, 2)
    two.ours.changes().pull()
    two.ours.close()
    with two.open("ours", "r") as reader:
        (conflict,) = reader.changes().conflicts()
        assert (conflict.base, conflict.ours, conflict.theirs) == ("base", 1, 2)
        with pytest.raises(ReadOnlyError):
            reader.changes().resolve("a", "ours")


# -- where the three values lie ----------------------------------------------------------------


def test_a_base_in_the_index_is_found_after_it_was_overwritten(two: Two) -> None:
    two.both_change("a", "ours", "theirs")
    two.reopen_ours()
    assert two.the_conflict().base == "base"


def _with_big_base(two: Two) -> Callable[[], None]:
    """Gives a key a base that lies in a pack; returns what takes that pack away."""
    packs = two.folder / "remote" / "db.d" / "pack"
    old = set(packs.glob("*")) if packs.exists() else set()
    two.ours["big"] = f"base{BIG}"
    two.ours.changes().push()
    two.theirs.changes().pull()
    (pack,) = set(packs.glob("*")) - old
    return pack.unlink


def test_a_base_in_a_pack_is_fetched_for_the_conflict(two: Two) -> None:
    _with_big_base(two)
    two.both_change("big", f"ours{BIG}", f"theirs{BIG}")
    two.reopen_ours()
    conflict = two.the_conflict()
    assert (conflict.base, conflict.ours, conflict.theirs) == (f"base{BIG}", f"ours{BIG}", f"theirs{BIG}")


def test_a_base_is_read_from_the_local_file_while_it_is_there(two: Two) -> None:
    forget_pack = _with_big_base(two)
    two.reopen_ours()
    two.both_change("big", "ours", "theirs")
    forget_pack()
    assert two.the_conflict().base == f"base{BIG}"


def test_a_base_that_is_nowhere_any_more_says_so_and_a_side_can_be_chosen(two: Two) -> None:
    forget_pack = _with_big_base(two)
    two.both_change("big", "ours", "theirs")
    two.reopen_ours()
    forget_pack()
    conflict = two.the_conflict()
    with pytest.raises(RemoteIntegrityError, match=r"'big'.*choose a side"):
        _ = conflict.base
    assert (conflict.ours, conflict.theirs) == ("ours", "theirs")
    assert two.ours.changes().resolve("big", "ours") == 1
    two.ours.changes().push()
    assert two.fresh()["big"] == "ours"


def test_their_value_whose_pack_was_damaged_is_never_shown(two: Two) -> None:
    two.both_change("a", "ours", f"theirs{BIG}")
    (pack,) = (two.folder / "remote" / "db.d" / "pack").glob("*")
    data = bytearray(pack.read_bytes())
    data[-10] ^= 1
    pack.write_bytes(data)
    conflict = two.the_conflict()
    with pytest.raises(RemoteIntegrityError, match="'a'"):
        _ = conflict.theirs


# -- one word for all of them ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "newer", "outcome"),
    [
        ("ours", "theirs", "ours"),
        ("theirs", "ours", "theirs"),
        ("newest", "ours", "ours"),
        ("newest", "theirs", "theirs"),
    ],
)
def test_a_word_settles_a_push(two: Two, word: str, newer: str, outcome: str) -> None:
    two.both_change("a", "ours", "theirs", newer=newer)
    two.ours["mine"] = 1
    assert two.ours.changes().push(on_conflict=word)
    assert two.ours["a"] == outcome
    assert pending(two.ours) == {}
    assert two.fresh() == {"a": outcome, "b": "base", "c": "base", "mine": 1}


@pytest.mark.parametrize("word", ["ours", "theirs"])
@pytest.mark.parametrize(("ours", "theirs"), [("changed", MISSING), (MISSING, "changed")])
def test_a_word_settles_a_delete_against_a_change(two: Two, word: str, ours: Any, theirs: Any) -> None:
    two.both_change("a", ours, theirs)
    two.ours.changes().push(on_conflict=word)
    winner = ours if word == "ours" else theirs
    expected = {"b": "base", "c": "base"} | ({} if winner is MISSING else {"a": winner})
    assert two.fresh() == expected
    assert dict(two.ours.items()) == expected
    assert (len(two.ours), "a" in two.ours) == (len(expected), "a" in expected)


def test_equal_timestamps_leave_the_word_to_the_one_who_came_first(two: Two) -> None:
    two.ours.set("a", "ours", LATE)
    two.theirs.set("a", "theirs", LATE)
    two.theirs.changes().push()
    assert not two.ours.changes().push(on_conflict="newest")
    assert two.ours["a"] == "theirs"


@pytest.mark.parametrize("word", ["raise", "ours", "theirs", "newest"])
def test_equal_content_is_no_conflict_for_words(two: Two, word: str) -> None:
    two.both_change("a", "same", "same")
    assert not two.ours.changes().push(on_conflict=word)
    assert two.ours.changes().conflicts() == []
    assert pending(two.ours) == {}
    assert two.fresh()["a"] == "same"


@pytest.mark.parametrize("bad", ["mine", "", 5, "RAISE"])
def test_an_unknown_word_is_refused_before_anything_happens(two: Two, bad: Any) -> None:
    two.both_change("a", "ours", "theirs")
    with pytest.raises(InvalidArgumentError, match="on_conflict must be"):
        two.ours.changes().push(on_conflict=bad)
    assert pending(two.ours) == {"a": "set"}
    assert two.fresh()["a"] == "theirs"


def test_force_push_puts_ours_on_top(two: Two) -> None:
    two.both_change("a", "ours", "theirs", newer="theirs")
    assert two.ours.changes().push(force_push=True)
    assert two.fresh()["a"] == "ours"


def test_discard_is_their_side(two: Two) -> None:
    two.both_change("a", "ours", "theirs")
    two.ours.changes().pull()
    assert two.ours.changes().discard(["a"]) == 1
    assert two.ours.changes().conflicts() == []
    assert two.ours["a"] == "theirs"


# -- a function --------------------------------------------------------------------------------


def test_a_function_gets_each_conflict_and_its_value_is_pushed(two: Two) -> None:
    two.both_change("a", [1], [2])
    two.both_change("b", [3], MISSING)
    asked: list[tuple[str, Any, Any, Any]] = []

    def merge(conflict: Conflict) -> Any:
        asked.append((conflict.key, conflict.base, conflict.ours, conflict.theirs))
        return [*conflict.ours, *(conflict.theirs or [])]

    assert two.ours.changes().push(on_conflict=merge)
    assert asked == [("a", "base", [1], [2]), ("b", "base", [3], MISSING)]
    assert two.fresh() == {"a": [1, 2], "b": [3], "c": "base"}
    assert pending(two.ours) == {}


def test_a_function_returns_missing_to_delete_and_none_is_a_value(two: Two) -> None:
    two.both_change("a", 1, 2)
    two.both_change("b", 1, 2)
    two.both_change("c", 1, MISSING)
    outcomes = {"a": MISSING, "b": None, "c": MISSING}
    two.ours.changes().push(on_conflict=lambda conflict: outcomes[conflict.key])
    assert two.fresh() == {"b": None}
    assert dict(two.ours.items()) == {"b": None}
    assert pending(two.ours) == {}


def test_a_function_is_asked_about_equal_content(two: Two) -> None:
    two.ours["a"] = two.theirs["a"] = 5
    two.ours.changes().push()
    two.theirs.changes().push(on_conflict="ours")
    two.ours.changes().pull()
    two.both_change("a", 6, 6)
    two.ours.changes().push(on_conflict=lambda c: c.ours + c.theirs - c.base)
    assert two.fresh()["a"] == 7


def test_a_function_that_takes_their_value_leaves_nothing_to_push(two: Two) -> None:
    two.both_change("a", 1, 2)
    assert not two.ours.changes().push(on_conflict=lambda conflict: max(conflict.ours, conflict.theirs))
    assert pending(two.ours) == {}
    assert two.ours["a"] == 2


def test_a_function_that_raises_leaves_everything_pending(two: Two) -> None:
    for key in ("a", "b"):
        two.both_change(key, "ours", "theirs")
    two.ours["mine"] = 1

    def fail(conflict: Conflict) -> Any:
        if conflict.key == "b":
            raise ZeroDivisionError("no idea")
        return "merged"

    with pytest.raises(ZeroDivisionError, match="no idea"):
        two.ours.changes().push(on_conflict=fail)
    assert pending(two.ours) == {"a": "set", "b": "set", "mine": "set"}
    assert [conflict.key for conflict in two.ours.changes().conflicts()] == ["a", "b"]
    assert two.ours["a"] == "ours"
    assert "mine" not in two.fresh()
    assert two.ours.changes().push(on_conflict="ours")


def test_a_value_that_cannot_be_encoded_settles_nothing(two: Two) -> None:
    two.both_change("a", "ours", "theirs")
    with pytest.raises(InvalidValueError, match="'a'"):
        two.ours.changes().push(on_conflict=lambda _: object())
    assert two.the_conflict().ours == "ours"


def test_others_may_push_while_the_function_thinks(two: Two) -> None:
    two.ours["a"] = two.theirs["a"] = 10
    two.ours.changes().push()
    two.theirs.changes().push(on_conflict="theirs")
    two.both_change("a", 11, 12)
    asked: list[tuple[Any, Any, Any]] = []

    def add(conflict: Conflict) -> Any:
        sides = conflict.base, conflict.ours, conflict.theirs
        if not asked:
            two.theirs["a"] = 112
            two.theirs.changes().push()
        asked.append(sides)
        return sides[1] + sides[2] - sides[0]

    two.ours.changes().push(on_conflict=add)
    assert asked == [(10, 11, 12), (12, 13, 112)]
    assert two.fresh()["a"] == 113


def test_a_pull_while_the_function_thinks_makes_it_think_again(two: Two) -> None:
    two.both_change("a", [1], [2])
    asked: list[Any] = []

    def both(conflict: Conflict) -> Any:
        theirs = conflict.theirs
        asked.append(theirs)
        if len(asked) == 1:
            two.theirs["a"] = [3]
            two.theirs.changes().push()
            two.ours.changes().pull()
        return [*conflict.ours, *theirs]

    two.ours.changes().push(on_conflict=both)
    assert asked == [[2], [3]]
    assert two.fresh()["a"] == [1, 3]


def test_a_write_while_the_function_thinks_is_not_lost(two: Two) -> None:
    two.both_change("a", [1], [2])
    asked: list[Any] = []

    def both(conflict: Conflict) -> Any:
        sides = conflict.ours, conflict.theirs
        asked.append(sides)
        if len(asked) == 1:
            two.ours["a"] = [10]
            two.ours.sync()
        return [*sides[0], *sides[1]]

    two.ours.changes().push(on_conflict=both)
    assert asked == [([1], [2]), ([10], [2])]
    assert two.fresh()["a"] == [10, 2]


# -- by hand -----------------------------------------------------------------------------------


@pytest.fixture
def three_conflicts(two: Two) -> Two:
    for key in ("a", "b", "c"):
        two.both_change(key, f"ours {key}", f"theirs {key}")
    two.ours.changes().pull()
    return two


def test_one_key_is_settled_and_the_others_stay(three_conflicts: Two) -> None:
    changes = three_conflicts.ours.changes()
    assert changes.resolve("b", "theirs") == 1
    assert [conflict.key for conflict in changes.conflicts()] == ["a", "c"]
    with pytest.raises(ConflictError):
        changes.push()
    assert changes.resolve(["a", "c"], "ours") == 2
    assert changes.conflicts() == []
    assert changes.push()
    assert three_conflicts.fresh() == {"a": "ours a", "b": "theirs b", "c": "ours c"}


def test_a_mapping_gives_each_key_its_own_choice(three_conflicts: Two) -> None:
    changes = three_conflicts.ours.changes()
    choices = {"a": lambda c: f"{c.ours} and {c.theirs}", "b": MISSING, "c": {"any": "value"}}
    assert changes.resolve(choices) == 3
    assert three_conflicts.ours["a"] == "ours a and theirs a"
    changes.push()
    assert three_conflicts.fresh() == {"a": "ours a and theirs a", "c": {"any": "value"}}


@pytest.mark.parametrize("value", [None, 0, "", [], False])
def test_any_value_may_be_kept(three_conflicts: Two, value: Any) -> None:
    changes = three_conflicts.ours.changes()
    assert changes.resolve(["a", "b", "c"], value) == 3
    changes.push()
    assert three_conflicts.fresh() == {"a": value, "b": value, "c": value}


def test_a_word_can_be_kept_as_a_value_by_a_function(three_conflicts: Two) -> None:
    three_conflicts.ours.changes().resolve("a", lambda _: "newest")
    assert three_conflicts.ours["a"] == "newest"


@pytest.mark.parametrize("keys", ["unknown", ["a", "unknown"], {"a": "ours", "unknown": "theirs"}])
def test_an_unknown_key_settles_nothing(three_conflicts: Two, keys: Any) -> None:
    changes = three_conflicts.ours.changes()
    arguments = (keys,) if isinstance(keys, dict) else (keys, "ours")
    with pytest.raises(KeyError, match="unknown"):
        changes.resolve(*arguments)
    assert [conflict.key for conflict in changes.conflicts()] == ["a", "b", "c"]


def test_a_choice_is_asked_for(three_conflicts: Two) -> None:
    with pytest.raises(InvalidArgumentError, match="needs a choice"):
        three_conflicts.ours.changes().resolve("a")


def test_a_settled_conflict_survives_closing(three_conflicts: Two) -> None:
    three_conflicts.ours.changes().resolve({"a": "ours", "b": "theirs", "c": "mine"})
    reopened = three_conflicts.reopen_ours()
    assert reopened.changes().conflicts() == []
    assert pending(reopened) == {"a": "set", "c": "set"}
    assert dict(reopened.items()) == {"a": "ours a", "b": "theirs b", "c": "mine"}
    reopened.changes().push()
    assert three_conflicts.fresh() == {"a": "ours a", "b": "theirs b", "c": "mine"}


@pytest.mark.parametrize("choice", ["ours", "a third"])
def test_a_settled_key_that_they_change_again_is_a_conflict_again(two: Two, choice: str) -> None:
    two.both_change("a", "ours", "theirs")
    two.ours.changes().pull()
    two.ours.changes().resolve("a", choice)
    two.theirs["a"] = "theirs again"
    two.theirs.changes().push()
    with pytest.raises(ConflictError) as caught:
        two.ours.changes().push()
    (conflict,) = caught.value.conflicts
    assert (conflict.base, conflict.ours, conflict.theirs) == ("theirs", choice, "theirs again")


def test_their_going_back_to_the_base_ends_the_conflict(two: Two) -> None:
    two.both_change("a", "ours", "theirs")
    two.ours.changes().pull()
    two.theirs["a"] = "base"
    two.theirs.changes().push()
    two.ours.changes().pull()
    assert two.ours.changes().conflicts() == []
    assert two.ours.changes().push()
    assert two.fresh()["a"] == "ours"


def test_uncommitted_writes_count_in_a_conflict(two: Two) -> None:
    two.both_change("a", "first", "theirs")
    assert two.the_conflict().ours == "first"
    two.ours["a"] = "second"
    (conflict,) = two.ours.changes().conflicts()
    assert (conflict.base, conflict.ours) == ("base", "second")
    two.ours["a"] = "third"
    with pytest.raises(ConflictError) as caught:
        two.ours.changes().push()
    assert caught.value.conflicts[0].ours == "third"
    two.ours["a"] = "fourth"
    assert two.ours.changes().resolve("a", "ours") == 1
    two.ours["a"] = "fifth"
    assert two.ours.changes().push()
    assert two.fresh()["a"] == "fifth"


def test_a_write_after_the_pull_is_based_on_what_was_pulled(two: Two) -> None:
    two.theirs["a"] = "theirs"
    two.theirs.changes().push()
    two.ours.changes().pull()
    two.ours["a"] = "ours, knowing theirs"
    assert two.ours.changes().push()
    assert two.fresh()["a"] == "ours, knowing theirs"


# -- entirely or not at all --------------------------------------------------------------------


def test_settling_is_one_transaction(three_conflicts: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage_value
    done: list[str] = []

    def fail_at_the_second(raw: Any, key: str, value: bytes | None, timestamp_us: int) -> None:
        if done:
            raise OSError(28, "disk full")
        done.append(key)
        real(raw, key, value, timestamp_us)

    monkeypatch.setattr("ebooklet_tx.local.journal.pending.resolutions.stage_value", fail_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        three_conflicts.ours.changes().resolve(["a", "b", "c"], "merged")
    monkeypatch.undo()
    assert done == ["a"]
    found = three_conflicts.ours.changes().conflicts()
    assert [(conflict.key, conflict.ours) for conflict in found] == [(key, f"ours {key}") for key in "abc"]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_writer_that_is_killed_while_settling_has_settled_nothing(three_conflicts: Two, at: int) -> None:
    two = three_conflicts
    two.ours.close()
    path = two.folder / "ours.blt"
    with workers() as start:
        worker = start(resolve_and_die, Place(two.place), path, ["a", "b", "c"], at)
        assert worker.wait_until_gone() == -signal.SIGKILL
    two.ours = two.open("ours", "w")
    found = two.ours.changes().conflicts()
    assert [(conflict.key, conflict.base, conflict.ours) for conflict in found] == [
        (key, "base", f"ours {key}") for key in "abc"
    ]
