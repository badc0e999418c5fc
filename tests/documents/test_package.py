"""What the package says of itself, and the command that an installation has."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.cli.commands import DONE, FAILED, NEEDS_DECISION
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


installed = pytest.mark.skipif(
    COMMAND not in importlib.metadata.entry_points(group="console_scripts").names,
    reason="installed before the command was declared: pip install -e . again",
)


@installed
def test_the_command_does_what_the_module_does(tmp_path: Path) -> None:
    assert run("--version").stdout == f"ebooklet_tx {ebooklet_tx.__version__}\n"
    path = tmp_path / "x.blt"
    with ebooklet_tx.open(f"file://{tmp_path}/remote/db", path, "n") as db:
        db["k"] = b"1"
    arguments = ("status", path, "--json")
    done = run(*arguments)
    module = subprocess.run(
        [sys.executable, "-m", "ebooklet_tx", *map(str, arguments)], capture_output=True, check=True, text=True
    )
    assert (done.returncode, done.stderr) == (DONE, "")
    assert json.loads(done.stdout) == json.loads(module.stdout)


@installed
def test_the_command_ends_with_the_exit_code(tmp_path: Path) -> None:
    failed = run("status", tmp_path / "none.blt")
    assert failed.returncode == FAILED
    assert failed.stderr.startswith("ebooklet_tx: ")
    assert run().returncode == FAILED

    remote = f"file://{tmp_path}/remote/db"
    for name in ("first", "second"):
        with ebooklet_tx.open(remote, tmp_path / name, "c") as db:
            db["k"] = name.encode()
    with ebooklet_tx.open(remote, tmp_path / "first", "w") as db:
        db.changes().push()
    assert run("pull", tmp_path / "second").returncode == NEEDS_DECISION


@installed
def test_the_help_names_the_command_that_was_typed() -> None:
    assert run("--help").stdout.startswith("usage: ebooklet-tx ")


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
