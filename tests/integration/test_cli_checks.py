"""`verify` and `collect` as a user runs them: exit codes, and what they print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.cli import commands as cli
from tests.command_line import complaint, data, run, run_process
from tests.integration.test_cli import push

BIG = "x" * 50_000


@pytest.fixture
def remote(tmp_path: Path) -> ebooklet_tx.DirectoryConnection:
    return ebooklet_tx.DirectoryConnection(tmp_path / "remote", "db")


@pytest.fixture
def path(tmp_path: Path, remote: ebooklet_tx.DirectoryConnection) -> Path:
    """A database whose first pack is garbage."""
    path = tmp_path / "a.blt"
    push(remote, path, {"k": BIG})
    push(remote, path, {"k": BIG + "y"})
    push(remote, path, {"small": "1"})
    return path


def packs(path: Path) -> list[Path]:
    found = (path.parent / "remote" / "db.d" / "pack").iterdir()
    return sorted(found, key=lambda pack: pack.stat().st_size)


def age(path: Path, days: int) -> None:
    """Makes every object of the remote so old."""
    for found in (path.parent / "remote").rglob("*"):
        stat = found.stat()
        if found.is_file():
            os.utime(found, (stat.st_atime - days * 86400, stat.st_mtime - days * 86400))


def test_verify_a_sound_remote(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    child = run("verify", path, "--values")
    assert (child.returncode, child.stderr) == (cli.DONE, "")
    assert "damage   none" in child.stdout
    report = data(run("verify", "--remote", remote.url, "--json"))
    assert (report["damage"], report["key_count"], report["values_read"]) == ([], 2, None)


def test_verify_a_damaged_remote_needs_a_decision(path: Path) -> None:
    pack = packs(path)[-1]
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-1] + b"z")
    assert run("verify", path).returncode == cli.DONE
    child = run_process("verify", path, "--values")
    assert (child.returncode, child.stderr) == (cli.NEEDS_DECISION, "")
    assert "DAMAGED" in child.stdout
    assert f"A sound copy of every value is in {path}" in child.stdout
    (damage,) = data(run("verify", path, "--values", "--json"))["damage"]
    assert damage["keys"] == ["k"]
    pack.unlink()
    assert run("verify", path).returncode == cli.NEEDS_DECISION


def test_verify_that_finds_nothing_fails(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    child = run("verify", "--remote", remote.url + "2")
    assert child.returncode == cli.FAILED
    assert "there is no database" in complaint(child)
    child = run("verify")
    assert child.returncode == cli.FAILED
    assert "--remote" in complaint(child)


def test_collect_keeps_young_garbage_and_deletes_old(path: Path) -> None:
    child = run("collect", path)
    assert (child.returncode, child.stderr) == (cli.DONE, "")
    assert "too young  1 object," in child.stdout
    assert len(packs(path)) == 2
    age(path, days=2)
    report = data(run("collect", path, "--dry-run", "--json"))
    assert (report["deleted"]["objects"], report["dry_run"]) == (1, True)
    assert len(packs(path)) == 2
    assert data(run("collect", path, "--json"))["deleted"]["objects"] == 1
    assert len(packs(path)) == 1
    assert run("verify", path, "--values").returncode == cli.DONE


def test_collect_with_no_grace(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    child = run("collect", "--remote", remote.url, "--grace-hours", 0)
    assert (child.returncode, child.stderr) == (cli.DONE, "")
    assert len(packs(path)) == 1
    for wrong in ("-1", "nan", "x"):
        assert run("collect", path, "--grace-hours", wrong).returncode == cli.FAILED


def test_collect_of_a_damaged_remote_needs_a_decision(
    path: Path, remote: ebooklet_tx.DirectoryConnection
) -> None:
    root = path.parent / "remote" / "db"
    root.write_bytes(root.read_bytes()[:-1])
    child = run("collect", path)
    assert child.returncode == cli.NEEDS_DECISION
    assert "is not a sound root" in complaint(child)
    assert run("verify", path).returncode == cli.NEEDS_DECISION
    root.unlink()
    assert run("collect", path).returncode == cli.FAILED
