"""What the package says of itself, and the command that an installation has."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.cli.commands import DONE, FAILED, NEEDS_DECISION
from tests import command_line
from tests.documents.page_blocks import REPOSITORY

COMMAND = "ebooklet-tx"
SCRIPT = Path(sys.executable).parent / COMMAND


@pytest.fixture
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
    )


def run_here(*arguments: object) -> tuple[int, str]:
    """Runs the installed script in this process; returns its exit code and what it wrote to stdout."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(ended.value.code or 0), out.getvalue()


installed = pytest.mark.skipif(
    COMMAND not in importlib.metadata.entry_points(group="console_scripts").names,
    reason="installed before the command was declared: pip install -e . again",
)


@installed
def test_the_command_does_what_the_module_does(tmp_path: Path) -> None:
    assert run_here("--version") == (DONE, f"ebooklet_tx {ebooklet_tx.__version__}\n")
    path = tmp_path / "x.blt"
    with ebooklet_tx.open(f"file://{tmp_path}/remote/db", path, "n") as db:
        db["k"] = b"1"
    arguments = ("status", path, "--json")
    done = run(*arguments)
    module = command_line.run(*arguments)
    assert (done.returncode, done.stderr, module.returncode) == (DONE, "", DONE)
    assert json.loads(done.stdout) == json.loads(module.stdout)


@installed
def test_the_command_ends_with_the_exit_code(tmp_path: Path) -> None:
    failed = run("status", tmp_path / "none.blt")
    assert failed.returncode == FAILED
    assert failed.stderr.startswith("ebooklet_tx: ")
    assert run_here()[0] == FAILED

    remote = f"file://{tmp_path}/remote/db"
    for name in ("first", "second"):
        with ebooklet_tx.open(remote, tmp_path / name, "c") as db:
            db["k"] = name.encode()
    with ebooklet_tx.open(remote, tmp_path / "first", "w") as db:
        db.changes().push()
    assert run_here("pull", tmp_path / "second")[0] == NEEDS_DECISION


@installed
def test_the_help_names_the_command_that_was_typed() -> None:
    assert run_here("--help")[1].startswith("usage: ebooklet-tx ")


def test_each_version_of_python_is_classified(project: dict[str, Any]) -> None:
    prefix = "Programming Language :: Python :: "
    versions = {one.removeprefix(prefix) for one in project["classifiers"] if one.startswith(prefix)}
    assert versions == {"3 :: Only", "3.11", "3.12", "3.13", "3.14"}
    assert project["requires-python"] == ">=3.11"


def test_the_readme_has_no_link_that_an_index_page_would_break(project: dict[str, Any]) -> None:
    text = (REPOSITORY / project["readme"]).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert [target for target in targets if not target.startswith("https://")] == []
    for name in re.findall(r"`([\w/]+\.md)`", text):
        assert (REPOSITORY / name).is_file() or [*(REPOSITORY / "docs").rglob(name)], name
