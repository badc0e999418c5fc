"""Looking at a pair changes nothing; recovering it settles what can be settled and reports the rest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.local.booklet.layout import GUARD_PREFIX
from ebooklet_tx.maintenance.status import history
from ebooklet_tx.stores.counting import CountingStore
from ebooklet_tx.stores.object_store import ObjectStore
from tests import doors
from tests.command_line import kill_push
from tests.pairs import N_BUCKETS
from tests.processes import workers
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, free_port
from tests.writer_processes import set_and_die

QUICK = ebooklet_tx.RetryPolicy.without_backoff()
BIG = "x" * 50_000
"""Too long to ride in the index: a push of it sends a pack."""


class Place:
    """A folder with one remote and local copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connection = ebooklet_tx.DirectoryConnection(folder / "remote", "db")
        self.path = folder / "a.blt"
        self.journal = folder / "a.blt.journal"

    def open(self, copy: str = "a", flag: str = "c", **options: Any) -> ebooklet_tx.Database:
        return ebooklet_tx.open(
            self.connection,
            self.folder / f"{copy}.blt",
            flag,
            value_serializer="str",
            n_buckets=N_BUCKETS,
            lock_timeout=5.0,
            retry=QUICK,
            **options,
        )

    def push(self, values: dict[str, str], copy: str = "a") -> None:
        with self.open(copy) as db:
            db.update(values)
            db.changes().push()

    def set(self, values: dict[str, str]) -> None:
        with self.open() as db:
            db.update(values)

    def contents(self) -> dict[str, str]:
        """What a machine sees that has never had a copy."""
        shutil.rmtree(self.folder / "fresh", ignore_errors=True)
        (self.folder / "fresh").mkdir()
        with self.open("fresh/b", "r") as db:
            return dict(db.items())

    def packs(self) -> set[str]:
        return {path.name for path in (self.folder / "remote" / "db.d" / "pack").glob("*")}

    def kill_push(self, when: str) -> None:
        """Pushes in a child that is killed before or after it puts the root."""
        kill_push(self.connection, self.path, when)

    def recover(self, **options: Any) -> ebooklet_tx.RecoverReport:
        return doors.recover(self.path, retry=QUICK, lock_timeout=5.0, **options)

    def status(self) -> ebooklet_tx.Status:
        return ebooklet_tx.status(self.path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.push({"k1": "one", "k2": "two"})
    return made


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and modification time of every file below a folder, and the folders themselves."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = fingerprint(folder)
    yield
    assert fingerprint(folder) == before


def edit_journal(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.execute(statement, values)
        raw.commit()


def flip_value(path: Path, value: bytes) -> None:
    """Damages the only copy of some bytes in a file, leaving its length."""
    data = path.read_bytes()
    assert data.count(value) == 1
    path.write_bytes(data.replace(value, bytes(byte ^ 0xFF for byte in value)))


# -- status ------------------------------------------------------------------------------------


def test_status_tells_what_is_pending_and_where_the_base_is(place: Place) -> None:
    with place.open() as db:
        db["k1"] = "changed"
        db["k3"] = "new"
        del db["k2"]
    found = place.status()
    assert (found.keys, found.pending_sets, found.pending_deletes) == (2, 2, 1)
    assert found.pending_bytes == len("changed") + len("new")
    assert (found.journal, found.base_seq, found.conflicts, found.unresolved) == ("current", 1, 0, ())
    assert found.base_commit_id is not None
    assert found.connection == place.connection.to_dict()
    assert found.remote == place.connection.url
    assert found.file_bytes == place.path.stat().st_size
    assert found.journal_bytes == place.journal.stat().st_size
    assert found.repairs == ()
    assert not found.needs_decision
    assert json.loads(json.dumps(found.to_dict()))["pending_sets"] == 2
    assert "2 sets, 1 delete, 10 bytes" in found.words()
    assert "to repair   nothing" in found.words()


def test_status_counts_dead_bytes_until_they_are_pruned(place: Place) -> None:
    place.push({"k1": BIG})
    before = place.status().dead_bytes
    place.push({"k1": "short"})
    after = place.status().dead_bytes
    assert before is not None
    assert after is not None
    assert len(BIG) <= after - before <= len(BIG) + 100
    with place.open() as db:
        db.prune()
    assert place.status().dead_bytes == 0


def test_status_imports_neither_alembic_nor_boto3(place: Place) -> None:
    script = (
        "import sys, ebooklet_tx; ebooklet_tx.status(sys.argv[1]); "
        "print(sorted({'alembic', 'boto3', 'botocore'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", script, place.path], capture_output=True, check=True, text=True)
    assert child.stdout.strip() == "[]"


def test_status_beside_a_writer_sees_what_it_committed(place: Place) -> None:
    with place.open() as db:
        with db.transaction():
            db["k9"] = "staged"
        found = place.status()
        assert found.in_use
        assert (found.pending_sets, found.staged_bytes) == (1, len("staged"))
        assert found.repairs == ()
        assert "a session has it open for writing" in found.words()
    assert not place.status().in_use


def test_status_beside_a_reader_of_this_process_leaves_its_locks(place: Place) -> None:
    with place.open(flag="r") as reader:
        assert place.status().keys == 2
        place.push({"k3": "three"})
        assert place.status().keys == 3
        reader.changes().pull()
        assert reader["k3"] == "three"


@pytest.mark.parametrize("ask", [ebooklet_tx.status, ebooklet_tx.recover, history])
def test_what_is_not_there_or_no_booklet_is_refused(ask: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ebooklet_tx.LocalMissingError, match=r"nothing\.blt"):
        ask(tmp_path / "nothing.blt")
    text = tmp_path / "text.blt"
    text.write_text("no booklet")
    with unchanged(tmp_path), pytest.raises(ebooklet_tx.UnsupportedFormatError, match=r"text\.blt"):
        ask(text)


# -- looking changes nothing -------------------------------------------------------------------


def torn_append(place: Place) -> str:
    with place.path.open("r+b") as file:
        file.write(GUARD_PREFIX + b"\1" * 8)
    return "interrupted append"


def finished_append(place: Place) -> str:
    with contextlib.closing(sqlite3.connect(place.journal)) as raw:
        (number,) = raw.execute("SELECT value FROM meta WHERE name = 'applied_append'").fetchone()
    with place.path.open("r+b") as file:
        file.write(GUARD_PREFIX + number)
    return "finished append"


def unfinished_wal(place: Place) -> str:
    with workers() as start:
        child = start(set_and_die, place.connection.url, place.path, "k5", "in the WAL")
        assert child.wait_until_gone() == -signal.SIGKILL, child.drain()
    assert place.journal.with_name(place.journal.name + "-wal").stat().st_size > 0
    return ""


def no_journal(place: Place) -> str:
    place.journal.unlink()
    return "there is no journal"


def damaged_journal(place: Place) -> str:
    place.journal.write_bytes(b"\xff" * 8192)
    return "set aside"


def foreign_journal(place: Place) -> str:
    for name, length in (("file_uuid", 16), ("file_generation", 8)):
        edit_journal(place.journal, "UPDATE meta SET value = ? WHERE name = ?", bytes(length), name)
    return "belongs to another file"


def plain_edit(place: Place) -> str:
    with booklet.open(place.path, "w") as plain:
        plain["k1"] = "by booklet"
    return "another program"


def partial_rebuild(place: Place) -> str:
    (place.folder / "a.blt.rebuild").write_bytes(b"half a file")
    return "unfinished rebuild"


def finished_rebuild(place: Place) -> str:
    # As when a rebuild died between its transaction and its rename: the journal means the other file.
    shutil.copy(place.path, place.folder / "a.blt.rebuild")
    with place.path.open("r+b") as file:
        file.seek(192)
        file.write(b"another!")
    return "finished rebuild"


def interrupted(place: Place) -> str:
    place.set({"big": BIG})
    place.kill_push("before-root")
    return "a push was interrupted"


def clean(_place: Place) -> str:
    return ""


STATES = [
    clean,
    torn_append,
    finished_append,
    unfinished_wal,
    no_journal,
    damaged_journal,
    foreign_journal,
    plain_edit,
    partial_rebuild,
    finished_rebuild,
    interrupted,
]


@pytest.mark.parametrize("damage", STATES)
def test_looking_changes_no_byte_and_sees_what_is_wrong(damage: Callable[[Place], str], place: Place) -> None:
    said = damage(place)
    with unchanged(place.folder):
        found = place.status()
        told = place.recover(dry_run=True, remote_conn=place.connection)
        history(place.path)
    assert told.dry_run
    assert not told.failed
    if said:
        assert any(said in repair for repair in found.repairs)
        assert any(said in action for action in told.actions)
        assert said in found.words()
    else:
        assert found.repairs == ()
        assert "the local pair is sound" in told.actions
    assert "nothing was changed" in told.words()


@pytest.mark.parametrize("damage", STATES)
def test_recover_makes_each_state_sound_and_whole(damage: Callable[[Place], str], place: Place) -> None:
    damage(place)
    report = place.recover(remote_conn=place.connection)
    assert not report.failed
    assert not report.needs_decision
    assert place.status().repairs == ()
    expected = {"k1": "one", "k2": "two"}
    if damage is unfinished_wal:
        expected["k5"] = "in the WAL"
    if damage is plain_edit:
        expected["k1"] = "by booklet"
        assert report.edited_keys == ("k1",)
    if damage is interrupted:
        expected["big"] = BIG
    with place.open(flag="r") as db:
        assert dict(db.items()) == expected
    with unchanged(place.folder):
        assert place.status().repairs == ()


def test_a_journal_of_another_version_is_told_and_left(place: Place) -> None:
    edit_journal(place.journal, "UPDATE alembic_version SET version_num = '9999'")
    with unchanged(place.folder):
        found = place.status()
        assert found.journal == "newer"
        assert any("upgrade" in repair for repair in found.repairs)
        assert found.connection == place.connection.to_dict()
        with pytest.raises(ebooklet_tx.UnsupportedFormatError, match="9999"):
            place.recover()
    edit_journal(place.journal, "UPDATE alembic_version SET version_num = '0000'")
    with unchanged(place.folder):
        assert place.status().journal == "older"


def test_a_damaged_journal_is_kept_aside_and_pending_values_survive(place: Place) -> None:
    place.set({"k3": "never pushed"})
    damaged_journal(place)
    report = place.recover(remote_conn=place.connection)
    assert report.adopted_keys == 3
    assert (report.pending_sets, report.pending_deletes) == (1, 0)
    assert len(list(place.folder.glob("a.blt.journal.aside-*"))) == 1
    with place.open(flag="r") as db:
        assert db["k3"] == "never pushed"


# -- interrupted pushes ------------------------------------------------------------------------


def counted(stores: list[CountingStore]) -> Callable[[ObjectStore], ObjectStore]:
    def wrap(store: ObjectStore) -> ObjectStore:
        stores.append(CountingStore(store))
        return stores[-1]

    return wrap


def test_an_interrupted_push_is_resumed_and_its_pack_is_not_sent_again(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("before-root")
    packs = place.packs()
    assert len(packs) == 1
    found = place.status()
    assert (found.packs_arrived, len(found.unresolved), found.unresolved[0].seq) == (1, 1, 2)
    stores: list[CountingStore] = []
    report = place.recover(wrap_store=counted(stores))
    assert report.pushed is not None
    assert (report.pushed.resumed_packs, report.pushed.set_count, report.pushed.seq) == (1, 1, 2)
    assert (len(report.dropped), report.applied, report.pending_sets) == (1, (), 0)
    assert stores[0].bytes_up < len(BIG)
    assert place.packs() == packs
    assert place.contents() == {"k1": "one", "k2": "two", "big": BIG}
    again = place.recover()
    assert again.pushed is None
    assert "no push was interrupted" in again.actions


def test_a_push_that_had_taken_effect_is_not_made_again(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("after-root")
    (unresolved,) = place.status().unresolved
    report = place.recover()
    assert report.applied == (unresolved.commit_id,)
    assert (report.pushed, report.pending_sets, report.unresolved, report.base_seq) == (None, 0, (), 2)
    assert place.status().packs_arrived == 0
    assert [record.seq for record in history(place.path)] == [2, 1]


def test_rolling_back_leaves_the_changes_pending_and_the_pack_usable(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("before-root")
    packs = place.packs()
    report = place.recover(resume=False)
    assert (report.pushed, report.pending_sets, report.unresolved) == (None, 1, ())
    assert any("rolled back" in action for action in report.actions)
    assert place.contents() == {"k1": "one", "k2": "two"}
    with place.open() as db:
        assert db.changes().push().resumed_packs == 1
    assert place.packs() == packs
    assert place.contents()["big"] == BIG


@pytest.mark.parametrize(("when", "said"), [("before-root", "had not taken"), ("after-root", "had taken")])
def test_a_dry_run_asks_the_root_once_whether_the_push_took_effect(place: Place, when: str, said: str) -> None:
    place.set({"big": BIG})
    place.kill_push(when)
    stores: list[CountingStore] = []
    with unchanged(place.folder):
        report = place.recover(dry_run=True, wrap_store=counted(stores))
    assert any(said in action for action in report.actions)
    assert [store.requests for store in stores] == [1]
    assert len(report.unresolved) == 1
    assert any("would be resumed" in action for action in report.actions) == (when == "before-root")


def test_what_was_pending_and_not_being_pushed_is_not_pushed(place: Place) -> None:
    place.set({"k3": "three"})
    report = place.recover()
    assert (report.pushed, report.pending_sets) == (None, 1)
    assert place.contents() == {"k1": "one", "k2": "two"}


def test_a_push_settled_by_an_open_is_not_taken_for_an_interrupted_one_later(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("after-root")
    place.set({"k3": "later, and not to be pushed"})
    assert place.status().packs_arrived == 0
    assert place.recover().pushed is None
    assert "k3" not in place.contents()


def test_an_interrupted_push_whose_changes_were_discarded_is_forgotten(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("before-root")
    with place.open() as db:
        db.changes().discard()
    report = place.recover()
    assert report.pushed is None
    assert any("nothing left to push" in action for action in report.actions)
    assert place.status().repairs == ()
    assert place.contents() == {"k1": "one", "k2": "two"}


def test_a_first_push_that_was_killed_is_resumed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.set({"big": BIG})
    place.kill_push("before-root")
    report = place.recover()
    assert report.pushed is not None
    assert report.pushed.seq == 1
    assert place.contents() == {"big": BIG}


def test_a_replacement_that_took_effect_unseen_does_not_erase_what_came_after(place: Place) -> None:
    with place.open(flag="n") as db:
        db["fresh"] = "start"
    assert place.status().replaces_remote
    place.kill_push("after-root")
    with place.open("other", "c") as other:
        other["theirs"] = "on top"
        other.changes().push()
    report = place.recover()
    assert len(report.applied) == 1
    assert not place.status().replaces_remote
    assert place.contents() == {"fresh": "start", "theirs": "on top"}


def test_a_push_after_a_replacement_that_took_effect_unseen_keeps_what_came_after(place: Place) -> None:
    with place.open(flag="n") as db:
        db["fresh"] = "start"
    place.kill_push("after-root")
    with place.open("other", "c") as other:
        other["theirs"] = "on top"
        other.changes().push()
    with place.open(flag="w") as db:
        db["more"] = "later"
        db.changes().push()
    assert place.contents() == {"fresh": "start", "theirs": "on top", "more": "later"}


def test_a_replacement_that_had_not_taken_effect_is_resumed(place: Place) -> None:
    with place.open(flag="n") as db:
        db["fresh"] = "start"
    place.kill_push("before-root")
    assert place.contents() == {"k1": "one", "k2": "two"}
    report = place.recover()
    assert report.pushed is not None
    assert place.contents() == {"fresh": "start"}


# -- what needs a decision ---------------------------------------------------------------------


def test_a_conflict_is_reported_with_both_sides_and_nothing_is_pushed(place: Place) -> None:
    place.set({"k1": "ours", "big": BIG})
    place.kill_push("before-root")
    place.push({"k1": "theirs"}, "b")
    report = place.recover()
    assert report.needs_decision
    assert not report.failed
    (sides,) = report.conflicts
    assert sides.key == "k1"
    assert sides.our_digest is not None
    assert sides.our_digest != sides.their_digest
    assert sides.their_writer is not None
    assert (report.pushed, report.pending_sets) == (None, 2)
    assert any("not resumed" in action for action in report.actions)
    assert "CONFLICT: 1 key was" in report.words()
    assert place.contents() == {"k1": "theirs", "k2": "two"}
    assert place.status().conflicts == 1
    assert place.status().needs_decision
    with unchanged(place.folder):
        assert place.recover(dry_run=True).conflicts == (sides,)
    with place.open() as db:
        db.changes().discard(["k1"])
    settled = place.recover()
    assert settled.pushed is not None
    assert settled.pushed.resumed_packs == 1
    assert place.contents() == {"k1": "theirs", "k2": "two", "big": BIG}


def test_a_damaged_pending_value_is_reported_as_lost(place: Place) -> None:
    place.set({"k3": "a value that was never pushed"})
    flip_value(place.path, b"a value that was never pushed")
    with unchanged(place.folder):
        assert place.recover(dry_run=True).lost_keys == ("k3",)
    report = place.recover()
    assert report.lost_keys == ("k3",)
    assert report.needs_decision
    assert not report.failed
    assert "LOST: 1 value never" in report.words()
    with place.open() as db:
        db["k3"] = "again"
    assert not place.recover().needs_decision


def test_an_interrupted_push_with_a_lost_value_is_not_resumed(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("before-root")
    place.set({"k3": "set after the push was killed"})
    flip_value(place.path, b"set after the push was killed")
    report = place.recover()
    assert (report.lost_keys, report.pushed, report.failed) == (("k3",), None, False)
    with place.open() as db:
        db.changes().discard(["k3"])
    assert place.recover().pushed is not None
    assert place.contents()["big"] == BIG


def test_a_damaged_pending_value_that_had_arrived_is_not_lost(place: Place) -> None:
    place.set({"big": BIG})
    place.kill_push("before-root")
    flip_value(place.path, BIG.encode())
    with unchanged(place.folder):
        assert place.recover(dry_run=True).lost_keys == ()
    report = place.recover()
    assert report.lost_keys == ()
    assert report.pushed is not None
    assert place.contents()["big"] == BIG
    with place.open(flag="r") as db:
        assert db["big"] == BIG


def test_a_damaged_pushed_value_is_fetched_again(place: Place) -> None:
    place.push({"big": BIG})
    data = bytearray(place.path.read_bytes())
    # The head of the block, so that the walk over the file sees it.
    at = data.index(b"big" + BIG.encode()) - 32
    data[at : at + 13] = b"\0" * 13
    place.path.write_bytes(bytes(data))
    report = place.recover()
    assert not report.failed
    assert not report.needs_decision
    with place.open(flag="r") as db:
        assert dict(db.items()) == {"k1": "one", "k2": "two", "big": BIG}
    with booklet.open(place.path) as plain:
        assert plain["big"] == BIG


# -- remotes -----------------------------------------------------------------------------------


def test_without_a_remembered_remote_only_the_local_pair_is_looked_after(tmp_path: Path) -> None:
    path = tmp_path / "plain.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer="str") as plain:
        plain["k"] = "v"
    report = ebooklet_tx.recover(path)
    assert (report.adopted_keys, report.remote, report.pending_sets, report.failed) == (1, None, 1, False)
    assert any("only the local pair" in action for action in report.actions)
    told = ebooklet_tx.recover(path, dry_run=True)
    assert any("only the local pair" in action for action in told.actions)
    assert "none is remembered" in ebooklet_tx.status(path).words()


def test_a_remote_that_is_given_is_remembered_once_it_has_answered(tmp_path: Path) -> None:
    path = tmp_path / "plain.blt"
    with booklet.open(path, "n", key_serializer="str", value_serializer="str") as plain:
        plain["k"] = "v"
    remote = ebooklet_tx.DirectoryConnection(tmp_path / "remote", "db")
    report = ebooklet_tx.recover(path, remote)
    assert report.remote == remote.url
    assert "there is no remote database yet" in report.actions
    assert ebooklet_tx.status(path).connection == remote.to_dict()


def offline() -> ebooklet_tx.S3Connection:
    return ebooklet_tx.S3Connection(
        ACCESS_KEY_ID, ACCESS_KEY, "db", "bucket", f"http://127.0.0.1:{free_port()}", read_timeout=5, retries=0
    )


def test_out_of_reach_the_local_pair_is_repaired_and_the_rest_is_a_failure(place: Place) -> None:
    torn_append(place)
    report = place.recover(remote_conn=offline())
    assert report.failed
    assert any("interrupted append was taken back" in action for action in report.actions)
    assert report.failure is not None
    assert "FAILED" in report.words()
    said = json.dumps(report.to_dict()) + report.words() + repr(report)
    assert ACCESS_KEY not in said
    assert ACCESS_KEY_ID not in said
    # What did not answer is not remembered.
    assert place.status().connection == place.connection.to_dict()
    assert not place.recover().failed


def test_a_dry_run_out_of_reach_says_so_when_it_had_to_ask(place: Place) -> None:
    with unchanged(place.folder):
        assert not place.recover(dry_run=True, remote_conn=offline()).failed
    interrupted(place)
    with unchanged(place.folder):
        assert place.recover(dry_run=True, remote_conn=offline()).failed


def test_a_remote_that_is_gone_is_a_failure_and_everything_is_kept(place: Place) -> None:
    place.set({"k3": "three"})
    shutil.rmtree(place.folder / "remote")
    report = place.recover()
    assert report.failure is not None
    assert "is gone" in report.failure
    assert report.pending_sets == 1


def test_a_session_that_writes_keeps_recover_waiting_and_then_refused(place: Place) -> None:
    with place.open(), pytest.raises(ebooklet_tx.LockTimeoutError):
        ebooklet_tx.recover(place.path, lock_timeout=0.0)


class Upper:
    """A serializer of the user's own."""

    @staticmethod
    def dumps(value: str) -> bytes:
        return value.upper().encode()

    @staticmethod
    def loads(value: bytes) -> str:
        return value.decode()


def test_a_database_with_a_serializer_class_is_recovered_without_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    values = {"k": "value"}
    with ebooklet_tx.open(place.connection, place.path, "c", value_serializer=Upper, retry=QUICK) as db:
        db.update(values)
    place_json = json.dumps(place.connection.to_dict())
    script = (
        "import sys, json, ebooklet_tx\n"
        "from ebooklet_tx.cli import demo\n"
        "from ebooklet_tx.sync.connecting import wrapped_stores\n"
        "class Upper:\n"
        "    dumps = staticmethod(lambda value: value.encode())\n"
        "    loads = staticmethod(lambda value: value.decode())\n"
        "place = ebooklet_tx.DirectoryConnection(**json.loads(sys.argv[1]))\n"
        "wrap = lambda store: demo._DyingStore(store, 'db', 'before-root')\n"
        "with wrapped_stores(wrap):\n"
        "    db = ebooklet_tx.open(place, sys.argv[2], 'w', value_serializer=Upper)\n"
        "with db:\n"
        "    db.changes().push()\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, place_json, os.fspath(place.path)], capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    report = place.recover()
    assert report.pushed is not None
    with ebooklet_tx.open(place.connection, tmp_path / "b.blt", "r", value_serializer=Upper) as copy:
        assert copy["k"] == "VALUE"
