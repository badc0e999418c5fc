"""The script that completes commands in a shell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ebooklet_tx.cli import shared as cli
from tests.command_line import complaint, run

ASK = """\
source "$1"
cd "$2"
shift 2
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p ebooklet-tx | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="this system has no bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], {"recover", "resolve"}),
        (["push", "x.blt", "--on-conflict", "t"], {"theirs"}),
        (["snapshot", "re"], {"restore"}),
        (["status", "stat"], {"stations.blt"}),
        (["put", "stations.blt", "key", "val"], {"value.json"}),
    ],
)
def test_bash_completes(words: list[str], found: set[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").stdout)
    for name in ("stations.blt", "value.json"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "ask", script, tmp_path, "ebooklet-tx", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == found


def test_zsh_gets_a_script_of_its_own() -> None:
    pytest.importorskip("shtab")
    assert run("completion", "zsh").stdout.startswith("#compdef ebooklet-tx\n")


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    failed = run("completion", "bash")
    assert failed.returncode == cli.FAILED
    assert 'pip install "ebooklet-tx[completion]"' in complaint(failed)
    assert run("completion", "fish").returncode == cli.FAILED
