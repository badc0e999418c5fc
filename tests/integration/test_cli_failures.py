"""The command line when something fails: an exit code, and one line on stderr."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.cli import commands as cli
from tests.pairs import Bench, make


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, {"k": b"v"})
    return bench


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "recover", "log", "push", "verify", "unlock"])
def test_a_folder_in_a_files_place(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, errors = run(capsys, command, tmp_path)
    assert code == cli.FAILED
    assert errors.startswith("ebooklet_tx: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "push", "verify", "ls"])
def test_an_address_in_a_files_place(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(capsys, command, "s3://bucket/stations.blt")
    assert ended.value.code == 2
    assert "clone s3://bucket/stations.blt` makes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OverflowError("too\nlarge"), 2, "ebooklet_tx: OverflowError: too large\n"),
        (RecursionError(), 2, "ebooklet_tx: RecursionError\n"),
        (ebooklet_tx.OfflineError("out of reach"), 2, "ebooklet_tx: out of reach\n"),
        (KeyboardInterrupt(), 130, "ebooklet_tx: interrupted\n"),
        (BrokenPipeError(), 2, ""),
    ],
)
def test_whatever_fails_is_one_line(
    bench: Bench,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ebooklet_tx, "status", failing)
    assert run(capsys, "status", bench.path()) == (code, line)


def test_closed_streams(bench: Bench) -> None:
    for arguments, closed, code, errors in (
        (["status", bench.path()], ">&-", cli.DONE, ""),
        (["put", bench.path(), "k"], "<&-", cli.FAILED, "ebooklet_tx: stdin is closed; give the FILE that holds"),
    ):
        command = shlex.join(map(str, [sys.executable, "-m", "ebooklet_tx", *arguments]))
        done = subprocess.run(
            ["sh", "-c", f"{command} {closed}"], stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr.strip()[: len(errors)]) == (code, errors)
        assert done.stderr.count("\n") == bool(errors)


def test_debug_shows_the_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, errors = run(capsys, "status", tmp_path, "--debug")
    assert code == cli.FAILED
    assert errors.startswith("Traceback (most recent call last):")
    assert errors.splitlines()[-1].startswith("ebooklet_tx: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_behind_stdout(bench: Bench, options: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "ebooklet_tx", "status", bench.path(), *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == cli.FAILED
    assert done.stderr == "ebooklet_tx: OSError: [Errno 28] No space left on device\n"
