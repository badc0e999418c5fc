"""What ebooklet documents holds here: every example that the script announces, it prints as ok."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "ebooklet_readme.py"
FEWEST_EXAMPLES = 70


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    """The run of all examples."""
    return run()


def test_every_documented_example_holds(done: subprocess.CompletedProcess[str]) -> None:
    lines = done.stdout.splitlines()
    assert (done.returncode, [line for line in lines if line.startswith("FAIL")]) == (0, []), done.stderr
    announced = re.fullmatch(r"(\d+) examples", lines[0])
    assert announced is not None, lines[0]
    count = int(announced[1])
    assert count >= FEWEST_EXAMPLES
    assert len([line for line in lines if line.startswith("ok ")]) == count
    assert lines[-1].startswith(f"{count} of {count} hold")


def test_the_page_s_blocks_are_the_first(done: subprocess.CompletedProcess[str]) -> None:
    lines = done.stdout.splitlines()
    assert ["page:" in line for line in lines].index(True) == 1
    assert [line.startswith("ok page: ") for line in lines[1:]].count(True) == 2
    assert lines[1].startswith("ok page: its blocks in its order")


def test_words_choose_among_the_examples() -> None:
    done = run("to_dict")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "1 examples"
    assert lines[1].startswith("ok connection: to_dict()")


def test_words_that_name_no_example_make_it_fail() -> None:
    done = run("no such example")
    assert done.returncode == 2
    assert "no example" in done.stderr
