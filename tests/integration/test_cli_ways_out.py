"""What the command line says where files are gone or cut off, and whether the ways out that it names lead out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ebooklet_tx.cli import shared as cli
from tests.command_line import complaint, data, run
from tests.integration.test_cli_values import make, url


def _with_pending(folder: Path) -> tuple[Path, Path]:
    """Returns a database with a change that is not pushed, and a backup of its file."""
    path = make(folder, {"a": 1})
    run("put", path, "b", given=b"2")
    backup = folder / "backup"
    shutil.copyfile(path, backup)
    return path, backup


def _cut_off(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


COMMANDS: list[list[str]] = [
    ["status"],
    ["ls"],
    ["get", "b"],
    ["push"],
    ["recover"],
    ["recover", "--dry-run"],
    ["log"],
]


@pytest.mark.parametrize("damage", [Path.unlink, _cut_off, lambda path: path.write_bytes(b"")])
class TestAFileThatIsGone:
    """The journal is left, of a file that was deleted, cut off or emptied."""

    def test_its_way_out_is_a_backup(self, tmp_path: Path, damage: Callable[[Path], None]) -> None:
        path, backup = _with_pending(tmp_path)
        damage(path)
        for command, *rest in COMMANDS:
            refused = run(command, path, *rest)
            assert refused.returncode == cli.FAILED, command
            assert "may hold changes that were not pushed: put the file back" in complaint(refused), command
            assert "flag" not in complaint(refused)
        path.unlink(missing_ok=True)
        shutil.copyfile(backup, path)
        assert run("get", path, "b").stdout == "2\n"
        assert run("push", path).stdout == "pushed commit 2: 1 set, 0 deletes\n"

    def test_without_one_a_clone_keeps_the_journal(self, tmp_path: Path, damage: Callable[[Path], None]) -> None:
        path, _ = _with_pending(tmp_path)
        damage(path)
        assert "`ebooklet-tx clone` copies the remote and keeps the journal" in complaint(run("ls", path))
        path.unlink(missing_ok=True)
        cloned = run("clone", url(tmp_path), path)
        assert cloned.returncode == cli.DONE
        assert "note: the old journal is kept as a.blt.journal.aside-" in cloned.stderr
        assert run("ls", path).stdout == "a\n"
        assert len(list(tmp_path.glob("a.blt.journal.aside-*"))) == 1


def test_a_file_that_never_was_one_has_no_such_way_out(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    assert "is not a Booklet file; give another PATH" in complaint(run("status", tmp_path / "notes.txt"))
    assert "nothing.blt does not exist; check the path" in complaint(run("status", tmp_path / "nothing.blt"))


def test_what_is_pending_is_not_known_without_the_journal(tmp_path: Path) -> None:
    path, _ = _with_pending(tmp_path)
    journal = tmp_path / "a.blt.journal"
    journal.write_bytes(b"garbage" * 1000)
    told = run("recover", path, "--dry-run")
    assert "still to be pushed: not known without the journal" in told.stdout
    assert data(run("recover", path, "--dry-run", "--json"))["pending_known"] is False
    done = run("recover", path, "--remote", url(tmp_path))
    assert "still to be pushed: 1 set, 0 deletes, 1 byte" in done.stdout
    assert data(run("recover", path, "--dry-run", "--json"))["pending_known"] is True


def test_a_remote_that_is_gone_leaves_what_is_here(tmp_path: Path) -> None:
    path, _ = _with_pending(tmp_path)
    shutil.rmtree(tmp_path / "remote")
    for arguments in (["ls", path], ["get", path, "a"], ["diff", path]):
        refused = run(*arguments)
        assert refused.returncode == cli.FAILED
        assert "is gone; everything that is local is kept" in complaint(refused)
        assert "`ebooklet-tx push --force` writes it anew, and --offline shows what is here" in complaint(refused)
        assert run(*arguments, "--offline").returncode == cli.DONE
    assert run("push", path, "--force").returncode == cli.DONE
    assert run("ls", path).stdout == "a\nb\n"
