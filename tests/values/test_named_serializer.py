"""A serializer that is named is the stored one, or nothing is opened; one that is not named never changes."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.errors import InvalidArgumentError, UnsupportedFormatError, UUIDMismatchError
from ebooklet_tx.formats.root import encode_root
from ebooklet_tx.values import pickle_policy as pickles
from ebooklet_tx.values.pickle_policy import ALLOW_PICKLE_VARIABLE
from tests.pairs import Bench, root_of
from tests.values.test_pickles import Trap, unpickled


class Custom:
    """A serializer of a user's own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return str(value).encode()

    @staticmethod
    def loads(encoded: bytes) -> str:
        return encoded.decode()


VALUES: dict[Any, Any] = {
    None: b"1",
    "str": "1",
    "orjson": 1,
    "json": 1,
    "pickle": Trap(),
    "pickle_zstd": Trap(),
    "uint4": 1,
    Custom: "1",
}
PAIRS = [
    (stored, named)
    for stored, named in itertools.product(VALUES, VALUES)
    if named is not None and stored != named
]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_PICKLE_VARIABLE, raising=False)
    monkeypatch.setattr(pickles, "_warned", set())
    unpickled.clear()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def fill(bench: Bench, serializer: Any, copy: str = "a") -> None:
    with bench.open(copy, "c", value_serializer=serializer) as db:
        db["k"] = VALUES[serializer]
        db.changes().push()


def say_of_root(bench: Bench, **facts: Any) -> None:
    """Makes the root say something else of its database, as whoever can write there can."""
    root = root_of(bench)
    manifest = dataclasses.replace(root.manifest, **facts)
    if manifest.seq != root.manifest.seq:
        said = {"seq": manifest.seq, "commit_id": manifest.commit_id}
        records = (dataclasses.replace(manifest.records[0], **said), *manifest.records)
        recent = ((manifest.seq, manifest.commit_id), *manifest.recent)
        manifest = dataclasses.replace(manifest, records=records, recent=recent)
    bench.root.write_bytes(encode_root(manifest, root.tail))


def name_of(serializer: Any) -> str:
    return "custom" if serializer is Custom else str(serializer)


@pytest.mark.parametrize(("stored", "named"), PAIRS, ids=lambda value: name_of(value))
def test_any_other_serializer_is_refused(bench: Bench, stored: Any, named: Any) -> None:
    """For a file that is here and for one that is to be made; both serializers are told."""
    fill(bench, stored)
    for copy in "ab":
        with pytest.raises(InvalidArgumentError) as caught:
            bench.open(copy, "r" if copy == "b" else "w", value_serializer=named).close()
        assert repr(name_of(stored)) in str(caught.value).replace("None", "'None'")
        assert name_of(named) in str(caught.value)
    assert unpickled == []
    assert not bench.path("b").exists()


@pytest.mark.parametrize("flag", ["r", "w", "c"])
@pytest.mark.parametrize("offline", [False, True])
def test_every_way_of_opening_refuses(bench: Bench, flag: str, offline: bool) -> None:
    fill(bench, "pickle")
    with pytest.raises(InvalidArgumentError, match="leave value_serializer out"):
        bench.open("a", flag, value_serializer="orjson", offline=offline).close()
    assert unpickled == []


def test_the_stored_one_and_none_pass(bench: Bench) -> None:
    for stored in VALUES:
        other = Bench(bench.folder, f"db-{name_of(stored)}")
        fill(other, stored, name_of(stored))
        for named in {stored, None if stored is not Custom else Custom}:
            for copy in (name_of(stored), f"{name_of(stored)}-{name_of(named)}"):
                with other.open(copy, "w", value_serializer=named, allow_pickle=True) as db:
                    assert "k" in db


def test_bytes_has_two_names(bench: Bench) -> None:
    """Booklet has a number for None and another for 'bytes'; what both store is the same."""
    fill(bench, None)
    with bench.open("a", "w", value_serializer="bytes") as db:
        assert db["k"] == b"1"


def test_a_file_that_plain_booklet_made_refuses_too(bench: Bench) -> None:
    with booklet.open(bench.path(), "n", key_serializer="str", value_serializer="pickle") as plain:
        plain["k"] = Trap()
    before = bench.path().read_bytes()
    with pytest.raises(InvalidArgumentError, match="'pickle'"):
        bench.open("a", "c", value_serializer="orjson").close()
    assert unpickled == []
    assert bench.path().read_bytes()[16:] == before[16:]


def test_a_new_group_has_its_own(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError, match="group"):
        bench.open("a", "c", value_serializer="pickle", remote_conn_group=True).close()
    assert not bench.path().exists()
    with bench.open("a", "c", value_serializer="orjson", remote_conn_group=True) as group:
        group.changes().push(force_push=True)


@pytest.mark.parametrize("named", [None, "orjson"])
def test_a_root_that_says_pickle_changes_no_copy(bench: Bench, named: str | None) -> None:
    """The bytes of a new commit are those of a pickle; neither session runs them."""
    fill(bench, "orjson")
    with bench.open("b", "r") as db:
        assert db["k"] == 1
    say_of_root(bench, value_serializer="pickle")
    for flag in "rwc":
        with pytest.raises((UnsupportedFormatError, InvalidArgumentError), match="'pickle'"):
            bench.open("b", flag, value_serializer=named).close()
    with bench.open("b", "r", value_serializer=named, offline=True) as db:
        assert db["k"] == 1
    assert unpickled == []


def test_a_root_that_changes_under_a_session_is_refused_by_its_pull(bench: Bench) -> None:
    fill(bench, "orjson")
    with bench.open("a", "w") as db:
        say_of_root(bench, value_serializer="pickle", seq=9, commit_id="0" * 32)
        with pytest.raises(UnsupportedFormatError, match=r"'pickle'.*'orjson'"):
            db.changes().pull()
        assert db["k"] == 1


def test_an_unused_pair_for_which_nothing_was_named_takes_the_remote_s(bench: Bench) -> None:
    with bench.open("b", "c"):
        pass
    fill(bench, "orjson")
    with bench.open("b", "c") as db:
        db["more"] = 2
        db.changes().push()
    assert root_of(bench).manifest.value_serializer == "orjson"
    with bench.open("a", "r") as db:
        assert dict(db) == {"k": 1, "more": 2}


@pytest.mark.parametrize("named", [None, "orjson"])
def test_an_unused_pair_keeps_its_serializer(bench: Bench, named: str | None) -> None:
    """What a session leaves that never wrote may become a copy, but not with other values."""
    with bench.open("b", "c", value_serializer="orjson"):
        pass
    fill(bench, "pickle")
    with pytest.raises((UUIDMismatchError, InvalidArgumentError), match="'pickle'"):
        bench.open("b", "c", value_serializer=named).close()
    assert unpickled == []


def test_a_database_made_here_is_read_without_a_word(bench: Bench) -> None:
    fill(bench, "pickle")
    for flag in "rwc":
        with bench.open("a", flag) as db:
            assert db["k"] == "ran"
    with bench.open("a", "n", value_serializer="pickle") as db:
        db["k"] = 2
        db.changes().push()
    with bench.open("a", "r") as db:
        assert db["k"] == 2


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_pickles_of_others_warn_once(bench: Bench, flag: str) -> None:
    fill(bench, "pickle")
    with pytest.warns(ebooklet_tx.PickleWarning, match="can run code on this machine") as caught:
        db = bench.open("b", flag)
    assert len(caught) == 1
    assert unpickled == []
    db.close()
    with bench.open("b", flag) as db:
        assert db["k"] == "ran"


@pytest.mark.parametrize("said", [{"value_serializer": "pickle"}, {"allow_pickle": True}])
def test_who_says_that_pickle_is_wanted_is_not_warned(bench: Bench, said: dict[str, Any]) -> None:
    fill(bench, "pickle")
    for flag in "rwr":
        with bench.open("b", flag, **said) as db:
            assert db["k"] == "ran"


def test_pickle_that_is_named_is_refused_all_the_same_where_pickle_is(bench: Bench) -> None:
    fill(bench, "pickle")
    for copy in "ab":
        with pytest.raises(ebooklet_tx.PickleRefusedError):
            bench.open(copy, "r", value_serializer="pickle", allow_pickle=False).close()
    assert unpickled == []


def test_an_unused_pair_that_becomes_a_copy_is_not_made_here_any_more(bench: Bench) -> None:
    with bench.open("b", "c", value_serializer="pickle"):
        pass
    fill(bench, "pickle")
    with pytest.warns(ebooklet_tx.PickleWarning):
        bench.open("b", "c").close()


def test_an_adopted_file_is_one_that_others_may_have_written(bench: Bench) -> None:
    with booklet.open(bench.path(), "n", key_serializer="str", value_serializer="pickle") as plain:
        plain["k"] = Trap()
    with pytest.warns(ebooklet_tx.PickleWarning):
        bench.open("a", "c").close()
    assert unpickled == []
