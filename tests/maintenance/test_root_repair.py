"""A damaged root: what says so, and how it is written anew from what a journal keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import RecoverReport, RemoteIntegrityError
from ebooklet_tx.cli.commands import main
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from tests import doors
from tests.pairs import LARGE, Bench, flip, make, push
from tests.store_wrappers import HookedStore

POLICY = RetryPolicy.without_backoff()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, {"small": b"1", "large": LARGE})
    return bench


def recover(bench: Bench, copy: str = "a", **options: Any) -> RecoverReport:
    return doors.recover(bench.path(copy), retry=POLICY, **options)


def empty(root: Path) -> None:
    root.write_bytes(b"")


def cut(root: Path) -> None:
    root.write_bytes(root.read_bytes()[:-7])


def flipped(root: Path) -> None:
    flip(root, 60, 3)


DAMAGES = [empty, cut, flipped]


@pytest.mark.parametrize("damage", DAMAGES)
def test_recover_says_that_the_remote_is_damaged_and_the_repair_writes_what_was_there(
    bench: Bench, damage: Any
) -> None:
    before = bench.root.read_bytes()
    damage(bench.root)
    with pytest.raises(RemoteIntegrityError, match="--repair-remote"):
        bench.open("b", "r")
    report = recover(bench)
    assert report.failure is None
    assert report.needs_decision
    assert report.remote_damage is not None
    assert "DAMAGED" in report.words()
    assert bench.root.read_bytes() != before

    report = recover(bench, repair_remote=True)
    assert bench.root.read_bytes() == before
    assert report.repaired_seq == 1
    assert not report.needs_decision
    assert "commits that others made after that are missing" in report.words()
    assert bench.fresh_contents() == {"small": b"1", "large": LARGE}
    push(bench, "a", {"more": b"2"})
    assert bench.fresh_contents() == {"small": b"1", "large": LARGE, "more": b"2"}


def test_what_was_pending_is_still_so_and_an_interrupted_push_goes_on(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["pending"] = b"3"
    empty(bench.root)
    report = recover(bench, repair_remote=True)
    assert report.pending_sets == 1
    assert bench.fresh_contents() == {"small": b"1", "large": LARGE}
    push(bench, "a", {})
    assert bench.fresh_contents()["pending"] == b"3"


def test_the_machine_with_the_newest_commit_loses_nothing(bench: Bench) -> None:
    push(bench, "b", {"newer": b"4"})
    empty(bench.root)
    assert recover(bench, "b", repair_remote=True).repaired_seq == 2
    assert bench.contents("a") == {"small": b"1", "large": LARGE, "newer": b"4"}


def test_an_older_machine_brings_back_what_it_knew(bench: Bench) -> None:
    push(bench, "b", {"newer": b"4"})
    empty(bench.root)
    assert recover(bench, "a", repair_remote=True).repaired_seq == 1
    assert bench.fresh_contents() == {"small": b"1", "large": LARGE}


def test_a_sound_root_is_left_alone(bench: Bench) -> None:
    before = bench.root.read_bytes()
    report = recover(bench, repair_remote=True)
    assert bench.root.read_bytes() == before
    assert report.repaired_seq is None
    assert "not damaged" in report.words()
    assert not report.needs_decision


@pytest.mark.parametrize("foreign", [b"somebody else's", b"ebooklet-db\x00" + bytes(100)])
def test_another_program_s_object_is_left_alone(bench: Bench, foreign: bytes) -> None:
    bench.root.write_bytes(foreign)
    report = recover(bench, repair_remote=True)
    assert report.failed
    assert bench.root.read_bytes() == foreign


def test_objects_that_are_gone_are_named(bench: Bench) -> None:
    (pack,) = bench.objects("pack")
    pack.unlink()
    empty(bench.root)
    report = recover(bench, repair_remote=True)
    assert report.repaired_seq == 1
    assert report.missing_objects == (f"db.d/pack/{pack.name}",)
    assert report.needs_decision
    assert pack.name in report.words()


def test_a_root_that_somebody_else_has_written_meanwhile_stays(bench: Bench) -> None:
    push(bench, "b", {"newer": b"4"})
    newer = bench.root.read_bytes()
    empty(bench.root)

    def wrap(inner: ObjectStore) -> ObjectStore:
        return HookedStore(inner, "db", before=lambda: bench.root.write_bytes(newer))

    report = recover(bench, repair_remote=True, wrap_store=wrap)
    assert report.repaired_seq is None
    assert bench.root.read_bytes() == newer
    assert bench.contents("a")["newer"] == b"4"


def test_it_is_written_in_its_turn_where_that_is_the_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", conditional_writes=False) as db:
        db["k"] = b"1"
        db.changes().push()
    before = bench.root.read_bytes()
    empty(bench.root)
    assert recover(bench, repair_remote=True).repaired_seq == 1
    found, wanted = (decode_root(data, name="root").manifest for data in (bench.root.read_bytes(), before))
    assert (found.commit_id, found.uuid, found.key_count) == (wanted.commit_id, wanted.uuid, 1)
    assert bench.fresh_contents() == {"k": b"1"}


def test_a_journal_that_keeps_no_root_says_where_to_go(bench: Bench) -> None:
    with bench.open("c", "r"):
        pass
    bench.journal("c").unlink()
    empty(bench.root)
    report = recover(bench, "c", repair_remote=True, remote_conn=bench.url)
    assert report.failure is not None
    assert "another machine" in report.failure or "keeps no root" in report.failure
    assert bench.root.read_bytes() == b""


def test_a_dry_run_tells_and_changes_nothing(bench: Bench) -> None:
    empty(bench.root)
    report = recover(bench, repair_remote=True, dry_run=True)
    assert "would be written anew as it was at commit 1" in report.words()
    assert report.needs_decision
    assert bench.root.read_bytes() == b""


def test_the_command_line_says_so_and_does_it(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench.root.read_bytes()
    empty(bench.root)
    assert main(["verify", str(bench.path())]) == 1
    assert "recover --repair-remote" in capsys.readouterr().out
    assert main(["recover", str(bench.path())]) == 1
    assert "DAMAGED at the remote" in capsys.readouterr().out
    assert main(["recover", str(bench.path()), "--repair-remote", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["repaired_seq"] == 1
    assert bench.root.read_bytes() == before
    assert main(["verify", str(bench.path()), "--values"]) == 0
