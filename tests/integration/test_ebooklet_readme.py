"""What ebooklet documents holds here: every example that the script announces, it prints as ok."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_every_documented_example_holds() -> None:
    done = run()
    lines = done.stdout.splitlines()
    assert (done.returncode, [line for line in lines if line.startswith("FAIL")]) == (0, []), done.stderr
    announced = re.fullmatch(r"(\d+) examples", lines[0])
    assert announced is not None, lines[0]
    count = int(announced[1])
    assert count >= FEWEST_EXAMPLES
    assert len([line for line in lines if line.startswith("ok ")]) == count
    assert lines[-1].startswith(f"{count} of {count} hold")


def test_the_page_s_blocks_are_the_first() -> None:
    done = run("page:")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, "2 examples"), done.stdout
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
