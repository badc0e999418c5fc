"""The commands about snapshots and differences, as a user runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.cli import shared as cli
from tests.command_line import complaint, data, run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that was pushed once, with a message."""
    path = tmp_path / "a.blt"
    change(path, {"a": "1", "b": "2"}, message="as delivered")
    return path


def change(path: Path, values: dict[str, str | None], *, message: str | None = None) -> None:
    """Sets keys, or deletes them with None; pushes where a message is given."""
    url = f"file://{path.parent}/remote/db"
    with ebooklet_tx.open(url, path, "c", value_serializer="str", lock_timeout=5.0) as db:
        for key, value in values.items():
            if value is None:
                del db[key]
            else:
                db[key] = value
        if message is not None:
            db.changes().push(message=message)


def test_a_day_with_snapshots(path: Path) -> None:
    made = run("snapshot", "create", path, "monday", "--message", "before\nthe cleanup")
    assert (made.returncode, made.stdout, made.stderr) == (cli.DONE, "kept commit 1 (2 keys) as monday\n", "")
    change(path, {"a": "new", "b": None, "c": "3"}, message="cleaned up")
    listed = run("snapshot", "list", path)
    assert listed.stdout.startswith("monday  20")
    assert "commit 1, 2 keys" in listed.stdout
    assert listed.stdout.endswith('  "before the cleanup"\n')
    assert run("diff", path).stdout == ""
    assert run("diff", path, "monday").stdout == "~ a\n- b\n+ c\n"
    assert run("diff", path, "1", "2").stdout == "~ a\n- b\n+ c\n"
    assert run("diff", path, "2", "monday").stdout == "~ a\n+ b\n- c\n"
    told = data(run("diff", path, "monday", "--json"))
    assert told == [
        {"key": "a", "kind": "changed"},
        {"key": "b", "kind": "removed"},
        {"key": "c", "kind": "added"},
    ]
    change(path, {"a": "mine", "d": "4"})
    assert run("diff", path).stdout == "~ a\n+ d\n"
    noted = run("snapshot", "create", path, "tuesday")
    assert noted.returncode == cli.DONE
    assert noted.stderr.startswith("ebooklet_tx: note: changes in ")
    restored = run("snapshot", "restore", path, "monday", "--message", "the cleanup was wrong")
    assert restored.returncode == cli.NEEDS_DECISION
    assert restored.stdout == (
        "commit 3 has the 2 keys of monday\nCONFLICT: 'a' is pending here and was restored\n"
    )
    again = run("snapshot", "restore", path, "monday", "--json")
    assert (again.returncode, data(again)["updated"], data(again)["conflicts"]) == (
        cli.NEEDS_DECISION,
        False,
        ["a"],
    )
    assert run("push", path, "--force", "--message", "mine").returncode == cli.DONE
    lines = run("log", path).stdout.splitlines()
    messages = [line.partition('"')[2].rstrip('"') for line in lines]
    assert messages == ["mine", "the cleanup was wrong", "cleaned up", "as delivered"]
    assert [one["name"] for one in data(run("snapshot", "list", path, "--json"))] == ["monday", "tuesday"]
    assert run("snapshot", "delete", path, "monday").stdout == "deleted the snapshot monday\n"
    assert data(run("snapshot", "delete", path, "tuesday", "--json")) == {"deleted": "tuesday"}
    assert run("snapshot", "list", path).stdout == ""
    assert data(run("snapshot", "list", path, "--json")) == []


def test_what_a_snapshot_keeps_is_looked_into(path: Path) -> None:
    run("snapshot", "create", path, "monday")
    change(path, {"a": "new", "c": "3"}, message="")
    change(path, {"d": "pending"})
    assert run("ls", path, "--at", "monday").stdout == "a\nb\n"
    assert run("get", path, "a", "--at", "monday").stdout == "1"
    assert run("get", path, "a").stdout == "new"
    assert run("ls", path).stdout == "a\nb\nc\nd\n"
    for arguments, said in (
        (["get", path, "c", "--at", "monday"], "there is no key 'c'"),
        (["ls", path, "--at", "sunday"], "there is no snapshot 'sunday'"),
        (["ls", path, "--at", "monday", "--offline"], "can only be read, and from the remote"),
    ):
        failed = run(*arguments)
        assert failed.returncode == cli.FAILED
        assert said in complaint(failed)


def test_as_json(path: Path) -> None:
    made = data(run("snapshot", "create", path, "monday", "--json"))
    assert (made["name"], made["seq"], made["key_count"]) == ("monday", 1, 2)
    nothing = run("snapshot", "restore", path, "monday")
    assert nothing.stdout == "nothing to restore: commit 1 has the keys and values of monday\n"


def test_what_fails_says_so_in_one_line(path: Path) -> None:
    for arguments, said in (
        (["snapshot", "create", path, "17"], "can't be the name of a snapshot"),
        (["snapshot", "restore", path, "sunday"], "there is no snapshot 'sunday'"),
        (["snapshot", "delete", path, "sunday"], "there is no snapshot 'sunday'"),
        (["diff", path, "9"], "has no commit 9"),
        (["diff", path, "sunday"], "there is no snapshot 'sunday'"),
        (["snapshot", "list", "missing.blt"], "does not exist"),
    ):
        failed = run(*arguments)
        assert failed.returncode == cli.FAILED
        assert said in complaint(failed)


def test_wrong_calls_are_refused(path: Path) -> None:
    for arguments in (["snapshot"], ["snapshot", "create", path], ["snapshot", "drop", path, "x"], ["diff"]):
        assert run(*arguments).returncode == cli.FAILED


def test_a_terminal_gets_keys_escaped_and_a_pipe_as_they_are(path: Path) -> None:
    run("snapshot", "create", path, "monday")
    change(path, {"odd\x1b[2Jkey": "1"}, message="")
    assert run("diff", path, "monday").stdout == "+ odd\x1b[2Jkey\n"
    assert run("diff", path, "monday", terminal=True).stdout == "+ odd\\x1b[2Jkey\n"
