"""The list of tests that are left to CI names tests that there are, and is made as the script says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.long_tests import LIST, long_tests

REPORT = """
9.00s call     tests/a/test_a.py::test_cases[one two]
0.70s setup    tests/a/test_a.py::test_cases[three]
0.70s call     tests/a/test_a.py::test_cases[three]
3.00s call     tests/a/test_a.py::test_cases[four]
0.40s call     tests/a/test_a.py::test_cases[five]
2.00s call     tests/a/test_a.py::test_of_its_own
4.50s call     tests/a/test_a.py::test_long
9.00s call     tests/documents/test_house.py::test_long
0.01s call     tests/integration/test_ebooklet_readme.py::test_short
(12 durations < 0.005s hidden.  Use -vv to show these durations.)
"""


def test_the_quickest_case_of_each_test_stays() -> None:
    assert long_tests(REPORT) == [
        "tests/a/test_a.py::test_cases[four]",
        "tests/a/test_a.py::test_cases[one two]",
        "tests/a/test_a.py::test_cases[three]",
        "tests/a/test_a.py::test_long",
        "tests/integration/test_ebooklet_readme.py::test_short",
    ]


@pytest.mark.ci
@pytest.mark.slow
def test_each_test_of_the_list_is_there() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "ci", "-p", "no:cacheprovider"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert set(LIST.read_text().splitlines()) - set(done.stdout.splitlines()) == set(), done.stderr
