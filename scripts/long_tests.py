"""Chooses the tests that take long, from a report of durations, and lists them in `tests/long_tests.txt`.

    python -m pytest -n 2 --durations=0 -vv > report.txt
    python scripts/long_tests.py report.txt

Those tests run in CI (`-m ci`) and not by default. Of each parametrized test the quickest case stays in the
default run, whatever it takes, and so do the files of `KEPT`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

LIST = Path(__file__).parents[1] / "tests" / "long_tests.txt"
CASE_SECONDS, TEST_SECONDS = 0.7, 2.5
"""A case of several, and a test of its own, is long above these, on a machine with other work beside it."""

KEPT = (
    "tests/api/test_import.py",
    "tests/documents/test_house.py",
    "tests/documents/test_pages.py::test_the_blocks_of_a_page_run[README.md]",
    "tests/documents/test_pages.py::test_the_blocks_of_a_page_run[docs/tutorial.md]",
    "tests/model/test_index.py",
)
TOGETHER = (
    "tests/faults/test_kill_requests.py::test_kill_at_requests_to_a_bucket",
    "tests/integration/test_changing_store.py::test_no_commit_is_lost_when_the_store_changes",
    "tests/integration/test_ebooklet_readme.py",
    "tests/property/test_replay.py::test_a_database_replays_as_a_dict",
)
"""What goes as a whole: each of its cases is long, or they share a set-up that is."""

_LINE = re.compile(r"\s*([\d.]+)s (?:call|setup|teardown)\s+(\S.*?)\s*")


def long_tests(report: str) -> list[str]:
    """Returns the ids of the tests that are long, in order."""
    seconds: Counter[str] = Counter()
    for line in report.splitlines():
        found = _LINE.fullmatch(line)
        if found:
            seconds[found[2]] += float(found[1])
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for test in sorted(seconds, key=seconds.__getitem__):
        cases[test.partition("[")[0]].append(test)
    chosen = {
        test
        for tests in cases.values()
        for test in (tests[1:] if len(tests) > 1 else tests)
        if seconds[test] > (CASE_SECONDS if len(tests) > 1 else TEST_SECONDS)
    }
    chosen |= {test for test in seconds if test.startswith(TOGETHER)}
    return sorted(test for test in chosen if not test.startswith(KEPT))


def main(words: list[str]) -> int:
    """Writes the list; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("report", type=Path, help="what pytest printed with --durations=0")
    options = parser.parse_args(words)
    chosen = long_tests(options.report.read_text())
    LIST.write_text("".join(f"{test}\n" for test in chosen))
    print(f"{len(chosen)} tests are long")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
