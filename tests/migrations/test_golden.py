"""The golden journal of revision 0001 opens, migrates and pushes, by a script that CI runs on wheel and sdist."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.documents.page_blocks import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
SCRIPT = REPOSITORY / "tests" / "migrations" / "migrate_golden.py"


def test_the_golden_journal_is_of_the_first_revision() -> None:
    address = f"file:{GOLDEN / 'journal_0001.blt.journal'}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


def test_it_is_migrated_and_pushed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, GOLDEN], cwd=tmp_path, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("migrated journal_0001.blt")
