"""The whole public interface, as a user's program calls it; mypy --strict checks the same file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import ebooklet_tx

PROGRAM = Path(__file__).parent.parent / "typing" / "user_program.py"


def test_it_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_it_names_everything_that_is_public() -> None:
    used = set(re.findall(r"ebooklet_tx\.(\w+)", PROGRAM.read_text()))
    assert set(ebooklet_tx.__all__) <= used
