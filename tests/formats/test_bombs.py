"""No hostile object of format 2 below 1 MiB costs its reader more than 64 MiB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux alone")

SOUND = {"block as full as can be": "read 14"}


def test_bombs_of_every_kind() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.formats.bombs"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent.parent,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    outcomes = json.loads(child.stdout)
    assert len(outcomes) > 35
    wrong = {
        name: outcome
        for name, outcome in outcomes.items()
        if outcome != SOUND.get(name) and not outcome.startswith("RemoteIntegrityError: ")
    }
    assert not wrong
