"""A repair of each kind of damage, from a machine that has what is lost and from one that has not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from ebooklet_tx.cli.commands import main
from ebooklet_tx.errors import InvalidArgumentError, ReadOnlyError
from ebooklet_tx.formats.index_records import RunList
from ebooklet_tx.formats.pack import INCOMPLETE_MARK, iter_pack
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.maintenance import checking
from ebooklet_tx.maintenance.mend import packs as mending
from ebooklet_tx.maintenance.mend.objects import NewBytes, replace_object
from ebooklet_tx.sync.connecting import wrapped_stores
from tests.campaigns import amounts
from tests.pairs import flip, limit_tails
from tests.remotes import DyingStore, Killed, Shelf
from tests.store_wrappers import PassingStore
from tests.yard import Yard, value

T = TypeVar("T")

FIRST = {f"k{number:02}": value(number) for number in range(8)}
CONTENTS = {**FIRST, "k00": value("new"), "small": b"1"}
OTHER = {"zz": b"another writer's"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A remote with packs, index objects, history and a snapshot, whose value of k00 is not that of the root.

    `a` has written all of it. `b` is another writer. `stranger` is a file whose journal knows of nothing.
    """
    yard = Yard(tmp_path_factory.mktemp("template"))
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yard.push(dict(FIRST), at_hours=0)
        with yard.open() as db:
            db.snapshot("monday")
        yard.push({"k00": CONTENTS["k00"]}, at_hours=1)
        yard.push({"small": b"1"}, at_hours=2)
        yard.contents("b")
        with yard.open("stranger", "r"):
            pass
    Path(f"{yard.path('stranger')}.journal").unlink()
    return yard


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Lets a few keys make objects of the index, and a few commits one of the history."""
    limit_tails(patch, 300)
    patch.setattr("ebooklet_tx.index.history.KEEP_RECENT", 2)


@pytest.fixture
def yard(template: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    """The same remote and local files once more."""
    make_small(monkeypatch)
    yard = Yard(tmp_path)
    for path in template.folder.glob("*.blt*"):
        shutil.copy2(path, tmp_path)
    yard.hours = template.hours
    yard.store.objects.update(template.store.objects)
    return yard


def manifest_of(yard: Yard, key: str = "db"):  # type: ignore[no-untyped-def]
    return decode_root(yard.store.objects[key].data, name=key).manifest


def pack_of(yard: Yard, number: int) -> str:
    return yard.keys("pack")[number]


def index_object(yard: Yard) -> str:
    (*_, run) = manifest_of(yard).runs
    assert not isinstance(run, RunList)
    return f"db.d/{run[0].name}"


# -- the damages -------------------------------------------------------------------------------


def lose(yard: Yard, key: str) -> str:
    yard.store.delete(key)
    return key


def cut(yard: Yard, key: str, size_bytes: int) -> str:
    yard.store.put(key, yard.store.objects[key].data[:size_bytes])
    return key


def alter(yard: Yard, key: str, at: int) -> str:
    data = bytearray(yard.store.objects[key].data)
    data[at] ^= 0x10
    yard.store.put(key, bytes(data))
    return key


@dataclass(frozen=True)
class Case:
    """A damage.

    Attributes:
        do: Damages a yard; returns the object's key.
        kind: What the report calls it.
        keys: Whose values it costs.
        values: Whether values have to be read to see it.
        holder: The machine that has what is lost; None where it need not be mended.
    """

    do: Callable[[Yard], str]
    kind: str
    keys: tuple[str, ...] = ()
    values: bool = False
    holder: str | None = "a"


ALL_OF_FIRST = tuple(sorted(FIRST))
CASES = {
    "deleted pack": Case(lambda yard: lose(yard, pack_of(yard, 1)), "pack", ("k00",)),
    "truncated pack": Case(lambda yard: cut(yard, pack_of(yard, 1), 3000), "pack", ("k00",)),
    "flipped byte": Case(lambda yard: alter(yard, pack_of(yard, 0), 6100), "pack", ("k01",), values=True),
    "missing index object": Case(lambda yard: lose(yard, index_object(yard)), "index"),
    "flipped byte in an index object": Case(lambda yard: alter(yard, index_object(yard), 60), "index"),
    "flipped byte in the history": Case(lambda yard: alter(yard, yard.keys("history")[0], 40), "history"),
    "lost base of a snapshot": Case(
        lambda yard: lose(yard, pack_of(yard, 0)), "pack", ALL_OF_FIRST, holder="old"
    ),
    "root of 0 bytes": Case(lambda yard: cut(yard, "db", 0), "root"),
    "orphan": Case(lambda yard: orphan(yard), "", holder=None),
}


def orphan(yard: Yard) -> str:
    key = "db.d/pack/" + "0" * 32
    yard.store.put(key, b"of a push that was killed")
    return key


# -- the matrix --------------------------------------------------------------------------------


class Meanwhile(PassingStore):
    """Lets something happen before the first write of a repair, or before its first listing."""

    def __init__(self, inner: PassingStore, act: Callable[[], None], *, at_write: bool) -> None:
        super().__init__(inner)
        self.written: list[str] = []
        self._act: Callable[[], None] | None = act
        self._at_write = at_write

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        writes = kind == "put" and not key.endswith(".lock")
        act = self._act
        if act is not None and (writes if self._at_write else kind == "list"):
            self._act = None
            act()
        answer = send()
        if writes:
            self.written.append(key)
        return answer


@contextmanager
def command(store: object) -> Iterator[None]:
    with wrapped_stores(lambda _inner: store):  # type: ignore[arg-type, return-value]
        yield


def another_commit(yard: Yard, case: Case, sound_root: bytes) -> None:
    """What another writer does in the middle: a push; where the root is damaged, a push that came before that."""
    if case.kind == "root":
        yard.store.put("db", sound_root)
    yard.push(dict(OTHER), copy="b")


@pytest.mark.parametrize("machine", ["has it", "has it not"])
@pytest.mark.parametrize("name", CASES)
def test_each_damage_from_a_machine_that_has_what_is_lost_and_from_one_that_has_not(
    yard: Yard, name: str, machine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    original = {key: found.data for key, found in yard.store.objects.items()}
    if case.holder == "old":
        # A machine that has not pulled since Monday.
        yard.folder.joinpath("old").mkdir()
        old = Yard(yard.folder / "old")
        old.store.objects.update(yard.store.objects)
        old.store.put("db", original["db.d/snapshot/monday"])
        old.contents("a")
        for suffix in ("", ".journal"):
            Path(f"{old.path()}{suffix}").rename(f"{yard.path('old')}{suffix}")
    has = machine == "has it"
    copy = (case.holder or "a") if has else "stranger"
    key = case.do(yard)
    damaged = {one: found.data for one, found in yard.store.objects.items()}
    before = yard.verify(read_values=case.values)

    # What is said before: kinds, keys, the way out.
    if case.holder is None:
        assert before.sound
        assert before.unnamed_objects == 1
        assert "collect deletes it in time" in before.words()
    else:
        assert {(each.object, each.kind) for each in before.damage} == {(key, case.kind)}
        assert {one for each in before.damage for one in each.keys} == set(case.keys)
        assert all("--repair" in each.sound_copy for each in before.damage)

    # The repair, on the command line, with another writer's commit in its middle.
    mends = has and case.holder is not None
    store = Meanwhile(yard.store, lambda: another_commit(yard, case, original["db"]), at_write=mends)  # type: ignore[arg-type]
    arguments = ["verify", str(yard.path(copy)), "--remote", yard.url, "--repair", "--json"]
    arguments += ["--values"] if case.values else []
    with command(store):
        code = main(arguments)
    after = json.loads(capsys.readouterr().out)
    saved = mends or case.holder is None
    assert code == (0 if saved else 1), after
    if mends and case.kind != "root":
        assert [(each["object"], each["kind"]) for each in after["mended"]] == [(key, case.kind)]
        assert set(after["mended"][0]["keys"]) == set(case.keys)
        assert store.written == [key]
    else:
        # Another writer's root stands in the way of a damaged one; else there was nothing to write.
        assert after["mended"] == []
        assert [one for one in store.written if one != "db"] == []
    if not saved:
        assert {each["object"] for each in after["damage"]} == {key}
        assert all("Not mended from here" in each["sound_copy"] for each in after["damage"])
        assert {one for each in after["damage"] for one in each["keys"]} == set(case.keys)

    # Nothing else was touched, and what was mended is what was there.
    changed = {one for one, found in yard.store.objects.items() if damaged.get(one) != found.data}
    added = {one for one in changed if one not in original and one != key}
    assert changed - added <= {key, "db", "db.lock"}
    if mends and case.kind != "root":
        assert yard.store.objects[key].data == original[key]
    elif not saved:
        assert (yard.store.objects[key].data if key in yard.store.objects else None) == damaged.get(key)

    # The other writer's commit is there, and a second verification agrees.
    if saved or case.kind != "root":
        assert manifest_of(yard).seq == 4
    again = yard.verify(read_values=case.values)
    assert again.sound is saved
    assert {each.object for each in again.damage} == (set() if saved else {key})
    if saved:
        assert yard.fresh_contents() == CONTENTS | OTHER
        assert yard.verify(read_values=True).sound


def test_a_root_that_nobody_else_mends_is_written_as_this_machine_knew_it(yard: Yard) -> None:
    original = yard.store.objects["db"].data
    cut(yard, "db", 0)
    report = yard.verify(repair=True, file_path=yard.path("stranger"))
    assert not report.sound
    assert "keeps no root" in report.damage[0].sound_copy
    assert yard.store.objects["db"].data == b""
    report = yard.verify(repair=True, file_path=yard.path())
    assert report.sound, report.words()
    assert [each.kind for each in report.mended] == ["root"]
    assert "at commit 3" in report.words()
    assert yard.store.objects["db"].data == original


def test_a_root_is_not_written_from_the_file_of_another_database(yard: Yard, tmp_path: Path) -> None:
    """Whose objects lie there tells, as a damaged root does not."""
    tmp_path.joinpath("other").mkdir()
    other = Yard(tmp_path / "other")
    other.push({"k": value("another"), "l": value("yet another")})
    cut(yard, "db", 0)
    report = yard.verify(repair=True, file_path=other.path())
    assert report.mended == ()
    assert "holds another database" in report.damage[0].sound_copy
    assert yard.store.objects["db"].data == b""
    assert yard.verify(repair=True, file_path=yard.path()).sound
    # Where nothing is left at all, everything is written from a machine that has it.
    objects = dict(yard.store.objects)
    for key in [key for key in objects if key.startswith("db.d/")]:
        lose(yard, key)
    cut(yard, "db", 0)
    report = yard.verify(repair=True, file_path=yard.path())
    assert report.sound, report.words()
    assert yard.fresh_contents() == CONTENTS


def damage_much(yard: Yard) -> None:
    for name in ("deleted pack", "missing index object", "flipped byte in the history", "root of 0 bytes"):
        CASES[name].do(yard)


@pytest.mark.parametrize("step", amounts(4, 1))
@pytest.mark.parametrize("after", [False, True])
def test_a_repair_that_is_killed_at_any_request_leaves_no_more_damage_and_is_finished_by_the_next(
    yard: Yard, after: bool, step: int
) -> None:
    original = {key: found.data for key, found in yard.store.objects.items()}
    damage_much(yard)
    damaged = dict(yard.store.objects)
    at = 1
    while True:
        at += step
        yard.store.objects.clear()
        yard.store.objects.update(damaged)
        store = DyingStore(yard.store, at, after=after)
        try:
            yard.verify(repair=True, file_path=yard.path(), wrap=lambda _inner, store=store: store)
        except Killed:
            for key, found in yard.store.objects.items():
                # As it was, or mended.
                was = damaged.get(key)
                assert found.data in (original.get(key), None if was is None else was.data) or key == "db.lock"
            yard.store.objects.pop("db.lock", None)
        else:
            break
        if at % 3 == 0:
            report = yard.verify(repair=True, file_path=yard.path())
            assert report.sound, report.words()
            assert yard.fresh_contents() == CONTENTS
    assert at > 20


def test_values_are_told_of_beside_an_object_that_cannot_be_mended(yard: Yard) -> None:
    index = CASES["missing index object"].do(yard)
    pack = CASES["flipped byte"].do(yard)
    told = yard.verify(read_values=True)
    assert {each.object for each in told.damage} == {index, pack}
    report = yard.verify(read_values=True, repair=True, file_path=yard.path("stranger"))
    assert report.values_read == told.values_read
    assert {each.object for each in report.damage} == {index, pack}
    assert all("Not mended from here" in each.sound_copy for each in report.damage)


@pytest.mark.parametrize("number", [2, 3])
def test_what_nothing_names_any_more_by_the_time_it_is_to_be_mended_is_no_damage(yard: Yard, number: int) -> None:
    """Another writer deletes the key before the repair reads the root for the so-manieth time."""
    key = CASES["deleted pack"].do(yard)

    class Watching(PassingStore):
        reads = 0

        def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
            if (kind, key) == ("get", "db"):
                Watching.reads += 1
                if Watching.reads == number:
                    yard.push({"k00": None}, copy="b")
            return send()

    report = yard.verify(repair=True, file_path=yard.path("stranger"), wrap=Watching)
    assert Watching.reads >= number
    assert report.sound, report.words()
    assert (report.seq, report.mended) == (4, ())
    assert key not in yard.store.objects


# -- parts -------------------------------------------------------------------------------------


def test_two_machines_with_a_half_of_the_values_each_mend_a_pack_together(yard: Yard) -> None:
    for copy, keys in (("left", ["k01", "k02", "k03"]), ("right", ["k04", "k05", "k06", "k07"])):
        with yard.open(copy, "r") as db:
            list(db.get_items(keys))
    with yard.open() as db:
        db.delete_snapshot("monday")
    original = yard.store.objects[pack_of(yard, 0)].data
    key = lose(yard, pack_of(yard, 0))
    report = yard.verify(repair=True, file_path=yard.path("left"))
    (left,) = report.mended
    assert (left.object, left.keys) == (key, ("k01", "k02", "k03"))
    assert "no sound copy of 4 of its 7 values" in left.note
    (damage,) = report.damage
    assert damage.keys == ("k04", "k05", "k06", "k07")
    assert damage.key_count == 4
    assert yard.store.objects[key].data.endswith(INCOMPLETE_MARK)
    # Its values are there again, and nobody takes it for whole.
    with yard.open("fresh", "r") as db:
        assert db["k02"] == FIRST["k02"]
    (damage,) = yard.verify().damage
    assert "without some of its values" in damage.problem
    assert {one for each in yard.verify(read_values=True).damage[1:] for one in each.keys} == set(FIRST) - {
        "k00",
        "k01",
        "k02",
        "k03",
    }
    # The same machine has nothing to add.
    written = yard.store.objects[key]
    assert not yard.verify(repair=True, file_path=yard.path("left")).mended
    assert yard.store.objects[key] == written
    report = yard.verify(repair=True, file_path=yard.path("right"))
    assert report.sound, report.words()
    mended = yard.store.objects[key].data
    assert len(mended) == len(original)
    records = {key: found for key, _, _, found in iter_pack(mended, name=key)}
    # k00 was dead: in its place is a record without a key.
    assert records.pop("") == bytes(len(records["k01"]) + 3)
    assert records == {one: found for one, found in FIRST.items() if one != "k00"}
    assert yard.verify(read_values=True).sound


def test_a_local_copy_that_is_damaged_is_not_written_back(yard: Yard) -> None:
    key = CASES["flipped byte"].do(yard)
    at = yard.path().read_bytes().index(FIRST["k01"][:100])
    flip(yard.path(), at, 1)
    before = yard.store.objects[key]
    report = yard.verify(read_values=True, repair=True, file_path=yard.path())
    # For the root, and for the snapshot.
    assert [damage.keys for damage in report.damage] == [("k01",), ("k01",)]
    assert yard.store.objects[key] == before


def test_a_pack_of_one_large_value_is_written_in_parts(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "PACK_BYTES", 10_000)
    monkeypatch.setattr(mending, "PART_BYTES", 7000)
    yard.push({"large": value("large", 50_000)}, at_hours=3)
    key = pack_of(yard, -1)
    original = yard.store.objects[key].data
    lose(yard, key)
    assert not yard.verify(repair=True, file_path=yard.path("stranger")).sound
    report = yard.verify(repair=True, file_path=yard.path())
    assert report.sound, report.words()
    assert yard.store.objects[key].data == original


def test_pending_changes_stay_pending(yard: Yard) -> None:
    with yard.open(flag="w") as db:
        db["k01"] = b"pending"
    CASES["flipped byte"].do(yard)
    assert yard.verify(read_values=True, repair=True, file_path=yard.path()).sound is False
    # The file has the new value; the old one is with the other machine.
    assert yard.verify(read_values=True, repair=True, file_path=yard.path("b")).sound
    with yard.open(flag="w") as db:
        assert [change["key"] for change in db.changes().iter_changes()] == ["k01"]
        assert db["k01"] == b"pending"


def test_a_list_of_a_run_and_what_it_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_tails(monkeypatch, 300, run_list_bytes=0)
    yard = Yard(tmp_path)
    yard.push({f"k{number:02}": value(number) for number in range(20)})
    original = dict(yard.store.objects)
    for key in yard.keys("index") + yard.keys("pack"):
        lose(yard, key)
    assert len(yard.verify().damage) == 1
    report = yard.verify(repair=True, file_path=yard.path())
    assert report.sound, report.words()
    assert [each.kind for each in report.mended] == ["index", "index", "pack"]
    assert {key: found.data for key, found in yard.store.objects.items()} == {
        key: found.data for key, found in original.items()
    }


def test_without_conditional_writes_only_whole_objects_are_written(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, conditional=False)
    shelf.store.conditions = "refused"
    remote = shelf.remote("db")
    attempt = replace_object(remote, "pack/1", lambda _there: NewBytes(b"part", "a half"), most_bytes=9)
    assert not attempt.written
    assert "no conditional writes" in attempt.lacks
    assert replace_object(remote, "pack/1", lambda _there: NewBytes(b"whole"), most_bytes=9).written
    assert shelf.store.objects["db.d/pack/1"].data == b"whole"


def test_a_repair_wants_a_file_and_a_place_that_can_be_written(yard: Yard) -> None:
    with pytest.raises(InvalidArgumentError, match="file_path"):
        yard.verify(repair=True)
    with pytest.raises(ReadOnlyError, match="can only be read"):
        checking.verify("https://example.invalid/db", repair=True, file_path=yard.path())


def test_the_command_wants_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--remote", "memory://x/db", "--repair"]) == 2
    assert "needs PATH" in capsys.readouterr().err
