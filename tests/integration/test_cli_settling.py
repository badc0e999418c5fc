"""Conflicts settled from a shell, changes dropped, and what takes room."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.cli import shared as cli
from tests.command_line import complaint, data, run
from tests.integration.test_cli_values import make, url


@pytest.fixture
def conflict(tmp_path: Path) -> Path:
    """A copy that has changed two keys which another writer has changed, too, and pushed."""
    theirs = make(tmp_path, {"a": "first", "b": "first", "c": "first"})
    ours = tmp_path / "ours.blt"
    run("clone", url(tmp_path), ours)
    run("rm", theirs, "b")
    for path, word in ((theirs, "theirs"), (ours, "ours")):
        run("put", path, "a", given=f'"{word}"'.encode())
        run("put", path, "c", given=b'"the same"')
    run("put", ours, "b", given=b'"ours"')
    assert run("push", theirs).returncode == cli.DONE
    return ours


def values(path: Path) -> dict[str, object]:
    with ebooklet_tx.open(url(path.parent), path) as db:
        return dict(db)


def test_a_dry_run_tells_what_a_push_would_meet(conflict: Path) -> None:
    before = data(run("status", conflict, "--json"))
    told = run("push", conflict, "--dry-run")
    assert (told.returncode, told.stderr) == (cli.NEEDS_DECISION, "")
    assert told.stdout == (
        "would push 3 sets and 0 deletes, 22 bytes, on top of commit 2 (this machine stands at commit 1)\n"
        "CONFLICT: 'a' was changed here and by another writer\n"
        "CONFLICT: 'b' was changed here and by another writer\n"
    )
    assert run("push", conflict, "--dry-run", "--on-conflict", "ours").returncode == cli.DONE
    report = data(run("push", conflict, "--dry-run", "--json"))
    assert (report["conflicts"], report["base_seq"], report["remote_seq"]) == (["a", "b"], 1, 2)
    assert data(run("status", conflict, "--json")) == before
    run("discard", conflict, "--all")
    assert run("push", conflict, "--dry-run").stdout.startswith("nothing to push, on top of commit 2")


def test_a_dry_run_of_a_first_push_and_of_another_database(tmp_path: Path) -> None:
    path = tmp_path / "a.blt"
    with ebooklet_tx.open(url(tmp_path), path, "n") as db:
        db["k"] = b"v"
    told = run("push", path, "--dry-run")
    assert told.stdout == "would push 1 set and 0 deletes, 1 byte, as a new database\n"
    assert run("push", path).returncode == cli.DONE
    (tmp_path / "other").mkdir()
    make(tmp_path / "other", {"k": 1})
    strange = run("push", path, "--dry-run", "--remote", url(tmp_path / "other"))
    assert strange.returncode == cli.FAILED
    assert "is the database" in complaint(strange)


def test_a_conflict_is_looked_at_and_settled(conflict: Path) -> None:
    refused = run("push", conflict)
    assert refused.returncode == cli.NEEDS_DECISION
    assert "2 keys ('a', 'b') were changed here and by another writer" in complaint(refused)
    listed = run("resolve", conflict)
    assert listed.returncode == cli.NEEDS_DECISION
    lines = listed.stdout.splitlines()
    words = [" ".join(line.split()[:2]) for line in lines]
    assert words == ["a", "ours set", "theirs set", "b", "ours set", "theirs deleted"]
    assert " by " in lines[2]
    assert [one["key"] for one in json.loads(run("resolve", conflict, "--json").stdout)] == ["a", "b"]
    assert run("get", conflict, "a").stdout == '"ours"\n'
    assert run("get", conflict, "a", "--theirs").stdout == '"theirs"\n'
    assert run("get", conflict, "a", "--base", "--raw").stdout == '"first"'
    gone = run("get", conflict, "b", "--theirs")
    assert gone.returncode == cli.FAILED
    assert "has no value" in complaint(gone)
    assert "is not in conflict" in complaint(run("get", conflict, "c", "--theirs"))
    assert run("resolve", conflict, "a", "--theirs").stdout == "settled a: theirs\n"
    run("put", conflict, "b", given=b'"merged"')
    assert data(run("resolve", conflict, "b", "--ours", "--json")) == {"choice": "ours", "resolved": ["b"]}
    assert run("resolve", conflict).stdout == "no conflicts\n"
    assert run("push", conflict).returncode == cli.DONE
    assert values(conflict) == {"a": "theirs", "b": "merged", "c": "the same"}


@pytest.mark.parametrize("choice", ["ours", "theirs", "newest"])
def test_all_at_once(conflict: Path, choice: str) -> None:
    run("pull", conflict)
    settled = run("resolve", conflict, "--all", f"--{choice}")
    assert settled.stdout == f"settled a: {choice}\nsettled b: {choice}\n"
    assert run("push", conflict).returncode == cli.DONE
    # This machine's versions are the later ones.
    expected = {"ours": ("ours", "ours"), "theirs": ("theirs", None), "newest": ("ours", "ours")}[choice]
    assert (values(conflict)["a"], values(conflict).get("b")) == expected


def test_a_push_that_settles_conflicts(conflict: Path) -> None:
    assert run("push", conflict, "--on-conflict", "theirs").returncode == cli.DONE
    assert values(conflict) == {"a": "theirs", "c": "the same"}


def test_what_resolve_refuses(conflict: Path) -> None:
    for arguments, said in (
        (["a"], "which version?"),
        (["--all"], "which version?"),
        (["--ours"], "which conflicts?"),
        (["a", "--all", "--ours"], "which conflicts?"),
        (["c", "--ours"], "'c' in"),
    ):
        refused = run("resolve", conflict, *arguments)
        assert refused.returncode == cli.FAILED
        assert said in complaint(refused)
    assert run("resolve", conflict, "a", "--ours", "--theirs").returncode == cli.FAILED


def test_changes_are_dropped(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1, "b": 2})
    run("put", path, "a", given=b"10")
    run("put", path, "c", given=b"3")
    run("rm", path, "b")
    assert "which changes?" in complaint(run("discard", path))
    assert "which changes?" in complaint(run("discard", path, "a", "--all"))
    some = run("discard", path, "a", "nothing")
    assert (some.returncode, some.stdout) == (cli.DONE, "dropped 1 change\n")
    assert some.stderr == "ebooklet_tx: note: 1 of these keys had no change to drop\n"
    assert data(run("discard", path, "--all", "--json")) == {"discarded": 2}
    assert values(path) == {"a": 1, "b": 2}


def test_what_takes_room(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": "x" * 50_000, "b": "z" * 50_000}, "str")
    make(tmp_path, {"a": "y" * 50_000}, "str")
    before = data(run("stats", path, "--json"))
    assert before["remote"]["packs"]["objects"] == 2
    assert 150_000 < before["remote"]["packs"]["bytes"] < 151_000
    assert 50_000 < before["remote"]["packs"]["dead_bytes"] < 50_500
    assert before["local"]["dead_bytes"] > 50_000
    shown = run("stats", path)
    assert "of them dead" in shown.stdout
    pruned = run("prune", path)
    assert "1 item removed" in pruned.stdout
    assert data(run("stats", path, "--local", "--json"))["local"]["dead_bytes"] == 0
    compacted = run("compact", path, "--live-share", "1")
    assert compacted.returncode == cli.DONE
    assert "compacted" in compacted.stdout
    after = data(run("stats", path, "--json"))["remote"]
    assert after["garbage"]["bytes"] == after["garbage"]["dead_bytes"] > 0
    assert after["packs"]["dead_bytes"] == 0


def test_local_copies_are_dropped_by_their_time(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": "x" * 50_000}, "str")
    run("put", path, "b", given=b"y")
    done = data(run("prune", path, "--before", "2100-01-01T00:00:00+00:00", "--json"))
    assert done["bytes_after"] < done["bytes_before"] - 50_000
    assert values(path) == {"a": "x" * 50_000, "b": "y"}
    run("pull", path, "--load")
    done = data(run("prune", path, "--max-bytes", "0", "--json"))
    assert done["bytes_after"] < done["bytes_before"] - 50_000
    assert run("prune", path, "--max-bytes", "-1").returncode == cli.FAILED
    wrong = run("prune", path, "--before", "yesterday")
    assert wrong.returncode == cli.FAILED
    assert "ISO 8601" in complaint(wrong)


def test_pull_brings_everything_on_request(tmp_path: Path) -> None:
    make(tmp_path, {"a": 1, "b": 2})
    copy = tmp_path / "copy.blt"
    run("clone", url(tmp_path), copy)
    pulled = run("pull", copy, "--load")
    assert (pulled.returncode, pulled.stdout) == (
        cli.DONE,
        "this machine stands at commit 1, all values loaded\n",
    )
    (tmp_path / "remote").rename(tmp_path / "gone")
    assert run("get", copy, "b", "--offline").stdout == "2\n"
