"""Moving over from ebooklet, by the recipe in the README, with files that ebooklet and booklet made.

The golden files hold twenty keys each, set one microsecond after the other, and metadata. ebooklet 0.11.1
(booklet 0.12.10, Booklet format 5) and 0.5.4 (booklet 0.7.8, format 4) made each by opening with flag c,
setting, pushing and closing:

- `orjson`, `pickle`, `none` (bytes) and `custom` are named for their serializer;
- `pending` was opened again: k03 and k04 changed, `new` set, k05 and k06 deleted, and nothing pushed;
- `unpushed` was never pushed;
- `partial` is another machine's copy that has read k01 and k02;
- `root` is what lay at the key in the bucket, `remote_index` what lay beside the local file.

`booklet_0_12_plain` was made with booklet alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import booklet
import orjson
import pytest

import ebooklet_tx
from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, UnsupportedFormatError
from ebooklet_tx.limits import RESERVED_KEYS
from tests.pairs import Bench

GOLDEN = Path(__file__).parent.parent / "golden"
VERSIONS = ["0_11_1", "0_5_4"]
FIRST_US = 1_700_000_000_000_000
METADATA = ({"owner": "hydrology", "n": 1}, FIRST_US + 100)


class ReversedJson:
    """The class with which the `custom` files were made."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)[::-1]

    @staticmethod
    def loads(encoded: bytes) -> Any:
        return orjson.loads(encoded[::-1])


JSON: dict[str, Any] = {f"k{n:02}": {"n": n, "name": "ключ" * n} for n in range(18)} | {
    "a/b": [1, None, 2.5],
    "ключ": "",
}
BYTES = {f"k{n:02}": b"value %d" % n * n for n in range(20)}


def stamped(values: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    """Values with the timestamps that they were set with."""
    return {key: (FIRST_US + number, value) for number, (key, value) in enumerate(values.items())}


PENDING = {key: pair for key, pair in stamped(JSON).items() if key not in ("k05", "k06")} | {
    "k03": (FIRST_US + 1003, "changed, not pushed"),
    "new": (FIRST_US + 1004, "never pushed"),
    "k04": (FIRST_US + 1005, ""),
}
PARTIAL = {key: pair for key, pair in stamped(JSON).items() if key in ("k01", "k02")}
MADE: dict[str, dict[str, tuple[int, Any]]] = {
    "booklet_0_12_plain": stamped(JSON),
    "ebooklet_0_11_1_pending": PENDING,
    "ebooklet_0_11_1_unpushed": stamped(JSON),
    **{
        f"ebooklet_{version}_{kind}": content
        for version in VERSIONS
        for kind, content in {
            "orjson": stamped(JSON),
            "pickle": stamped(JSON),
            "custom": stamped(JSON),
            "none": stamped(BYTES),
            "partial": PARTIAL,
        }.items()
    },
}
WITHOUT_METADATA = {"ebooklet_0_5_4_partial"}
"""ebooklet 0.5.4 didn't push metadata, so another machine's copy has none."""


def options_for(name: str) -> dict[str, Any]:
    if name.endswith("custom"):
        return {"value_serializer": ReversedJson}
    return {"value_serializer": "pickle"} if name.endswith("pickle") else {}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def place(bench: Bench, name: str, copy: str = "a") -> Path:
    """Puts a golden file where a copy of the bench lies."""
    shutil.copyfile(GOLDEN / f"{name}.blt", bench.path(copy))
    return bench.path(copy)


def stamped_contents(db: Database) -> dict[str, tuple[int, Any]]:
    found = {key: (stamp, value) for key, stamp, value in db.timestamps(include_value=True)}
    assert found.keys() == set(db)
    assert len(db) == len(found)
    assert {key: value for key, (_, value) in found.items()} == dict(db.items())
    return found


@pytest.mark.parametrize("name", MADE)
def test_the_recipe_moves_everything(bench: Bench, name: str) -> None:
    place(bench, name)
    options = options_for(name)
    metadata = None if name in WITHOUT_METADATA else METADATA

    def check(db: Database) -> None:
        assert stamped_contents(db) == MADE[name]
        assert db.get_metadata(include_timestamp=True) == metadata

    with bench.open(flag="c", **options) as db:
        assert db.load_items() == {}
        check(db)
        assert {change["key"] for change in db.changes().iter_changes()} == set(MADE[name])
        assert {change["operation"] for change in db.changes().iter_changes()} == {"set"}
        pushed = db.changes().push()
        assert pushed.set_count == len(MADE[name]) + (metadata is not None)
        assert pushed.deleted_count == 0
        assert not db.changes().push()
    for copy, flag in (("a", "r"), ("a", "w"), ("b", "r"), ("c", "w")):
        with bench.open(copy, flag, **options) as db:
            check(db)
            assert list(db.changes().iter_changes()) == []


@pytest.mark.parametrize("name", MADE)
def test_what_was_moved_is_worked_with(bench: Bench, name: str) -> None:
    """Writes, deletes, growth of the hash index and rewriting come after; booklet alone still reads it."""
    path = place(bench, name)
    options = options_for(name)
    value = b"more" if name.endswith("none") else ["more"]
    expected = {key: content for key, (_, content) in MADE[name].items()}
    with bench.open(flag="c", **options) as db:
        db.changes().push()
        del db["k01"]
        del expected["k01"]
        more = {f"more{number:04}": value for number in range(300)}
        db.update(more)
        expected |= more
        db.sync()
        db.prune()
        db["after"] = value
        expected["after"] = value
        db.changes().push()
        assert dict(db.items()) == expected
    with booklet.open(path, "r", value_serializer=options.get("value_serializer")) as blt:
        assert dict(blt.items()) == expected
        metadata = blt.get_metadata()
    assert metadata == (None if name in WITHOUT_METADATA else METADATA[0])
    with bench.open("b", "r", **options) as db:
        assert dict(db.items()) == expected


def test_the_recipe_as_the_readme_has_it(bench: Bench) -> None:
    place(bench, "ebooklet_0_11_1_orjson")
    with ebooklet_tx.open(bench.url, bench.path(), "c") as db:
        assert db.changes().push()
    with ebooklet_tx.open(bench.url, bench.path("other")) as db:
        assert dict(db.items()) == JSON


def test_a_database_reads_what_was_adopted_before_it_is_pushed(bench: Bench) -> None:
    """The first session ends without a push; the next ones go on where it stopped."""
    place(bench, "ebooklet_0_11_1_pending")
    with bench.open(flag="c") as db:
        db["mine"] = 1
    with bench.open(flag="c") as db:
        assert stamped_contents(db).items() >= PENDING.items()
        assert db["mine"] == 1
        db.changes().push()
    assert bench.fresh_contents() == {k: v for k, (_, v) in PENDING.items()} | {"mine": 1, "": METADATA[0]}


@pytest.mark.parametrize("name", [name for name in MADE if name.startswith("ebooklet_0_11_1")])
def test_what_ebooklet_keeps_for_itself_is_no_key(bench: Bench, name: str) -> None:
    """ebooklet journals what is unpushed under reserved keys of the file; they stay there, unseen."""
    raw = place(bench, name).read_bytes()
    used = {key.decode() for key in RESERVED_KEYS if key in raw}
    assert len(used) >= 2
    with bench.open(flag="c", **options_for(name)) as db:
        for key in used:
            assert key not in db
            assert db.get(key) is None
            assert list(db.get_items([key])) == [(key, None)]
        db.changes().push()
        assert not used & {change["key"] for change in db.changes().iter_changes()}
    with bench.open("b", "r", **options_for(name)) as db:
        assert not used & set(db)


def test_keys_that_ebooklet_had_still_to_delete_are_gone(bench: Bench) -> None:
    """The file does not hold them any more, and a new remote never did: there is nothing to delete."""
    assert b'"deletes":["k05","k06"]' in place(bench, "ebooklet_0_11_1_pending").read_bytes()
    with bench.open(flag="c") as db:
        assert "k05" not in db
        assert "k06" not in db
        assert "delete" not in {change["operation"] for change in db.changes().iter_changes()}
        db.changes().push()
    assert {"k05", "k06"}.isdisjoint(bench.fresh_contents())


@pytest.mark.parametrize("version", VERSIONS)
def test_what_lies_beside_the_local_file_stays_there(bench: Bench, version: str) -> None:
    place(bench, f"ebooklet_{version}_orjson")
    index = (GOLDEN / f"ebooklet_{version}_remote_index.bin").read_bytes()
    beside = [bench.folder / "a.blt.remote_index", bench.folder / "a.blt.changelog"]
    for path in beside:
        path.write_bytes(index)
    with bench.open(flag="c") as db:
        db["more"] = 1
        db.prune()
        db.changes().push()
    with bench.open(flag="r") as db:
        assert dict(db.items()) == JSON | {"more": 1}
    assert [path.read_bytes() for path in beside] == [index, index]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("given", [None, "orjson"])
def test_a_serializer_class_has_to_be_given(bench: Bench, version: str, given: str | None) -> None:
    path = place(bench, f"ebooklet_{version}_custom")
    before = path.read_bytes()
    with pytest.raises(InvalidArgumentError, match="pass that class as value_serializer"):
        bench.open(flag="c", value_serializer=given)
    assert path.read_bytes()[16:] == before[16:]
    with bench.open(flag="c", value_serializer=ReversedJson) as db:
        assert dict(db.items()) == JSON


# -- what ebooklet left in the bucket ------------------------------------------------------------


@pytest.fixture(params=VERSIONS)
def taken(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A place where ebooklet's root lies, with objects of its values; nothing of it may change."""
    root = (GOLDEN / f"ebooklet_{request.param}_root.bin").read_bytes()
    bench.root.parent.mkdir()
    bench.root.write_bytes(root)
    yield bench
    assert bench.root.read_bytes() == root
    # A lock that was given back may be left, but no object of a database.
    names = {path.name for path in bench.root.parent.iterdir() if not path.name.startswith(".")}
    assert names <= {bench.name, f"{bench.name}.lock"}


RECIPE = r"ebooklet wrote.*local \.blt file.*NEW db_key.*push.*left untouched"


@pytest.mark.parametrize("lock", ["exclusive", None])
@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_its_place_is_refused_with_the_recipe(taken: Bench, flag: str, lock: str | None) -> None:
    with pytest.raises(UnsupportedFormatError, match=RECIPE):
        taken.open(flag=flag, lock=lock).close()
    assert not taken.path().exists()
    assert not taken.journal().exists()


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
@pytest.mark.parametrize("name", ["ebooklet_0_11_1_pending", "ebooklet_0_5_4_orjson"])
def test_the_local_file_survives_the_refusal(taken: Bench, flag: str, name: str) -> None:
    """The same key as before is the likeliest mistake, and the local file may be the only copy of much."""
    path = place(taken, name)
    with pytest.raises(UnsupportedFormatError, match=RECIPE):
        taken.open(flag=flag).close()
    with booklet.open(path, "r") as blt:
        assert {key: (stamp, blt[key]) for key, stamp in blt.timestamps()} == MADE[name]
    elsewhere = Bench(taken.folder / "elsewhere")
    elsewhere.folder.mkdir()
    with ebooklet_tx.open(elsewhere.url, path, "c", lock=None) as db:
        assert stamped_contents(db) == MADE[name]
        assert db.changes().push()
    assert elsewhere.fresh_contents() == {k: v for k, (_, v) in MADE[name].items()} | {"": METADATA[0]}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("how", ["never pushed", "adopted", "started anew", "pushed before"])
def test_a_push_never_goes_over_it(bench: Bench, how: str, force: bool) -> None:
    """ebooklet's root may come to lie there after the database was opened, from another machine."""
    root = (GOLDEN / "ebooklet_0_11_1_root.bin").read_bytes()
    if how == "adopted":
        place(bench, "ebooklet_0_11_1_orjson")
    if how == "pushed before":
        with bench.open() as db:
            db.changes().push()
    with bench.open(flag="n" if how == "started anew" else "c") as db:
        db["k"] = b"1" if how != "adopted" else "1"
        bench.root.parent.mkdir(exist_ok=True)
        bench.root.write_bytes(root)
        for _ in range(2):
            with pytest.raises(UnsupportedFormatError, match=RECIPE):
                db.changes().push(force_push=force)
            assert bench.root.read_bytes() == root
        assert "k" in {change["key"] for change in db.changes().iter_changes()}
        # Once it is moved away by hand, everything is still there to be pushed.
        bench.root.unlink()
        assert db.changes().push(force_push=True)
        expected = dict(db.items())
    found = bench.fresh_contents()
    found.pop("", None)
    assert found == expected
    assert "k" in expected
