"""Pages of the documents that are recorded at a terminal: `python -m tests.recorded_pages` records them anew.

Their `console` blocks hold lines of a prompt and what the terminal showed. The page is the expectation of its
test, and the test's outcome is the page: one file for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ebooklet_tx
from tests.command_line import kill_push, run
from tests.documents.page_blocks import REPOSITORY
from tests.terminal import shown

PAGES = [
    page for page in sorted((REPOSITORY / "docs").rglob("*.md")) if "\n```console\n" in page.read_text("utf-8")
]

_STEP = re.compile(
    r"^```(?P<language>python|console)\n(?P<code>.*?)\n```$"
    r"|^<!-- hidden\n(?P<hidden>.*?)\n-->$"
    r"|^<!-- meanwhile: (?P<event>.*?) -->$",
    re.MULTILINE | re.DOTALL,
)

MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-01-31 12:00:00"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "5b0c3f7a9d2e41868f0d6c1b2a3e4f50"),
    (re.compile(r"(?<=  )[\w.-]+:\d+(?=$|  )|(?<= by )[\w.-]+:\d+", re.MULTILINE), "laptop:4711"),
    # How long a bar took, and how fast it was: it leaves as much room for itself.
    (re.compile(r"\|█+\|"), f"|{'█' * 38}|"),
    (re.compile(r"\[\d\d:\d\d<\d\d:\d\d, +[^],]+(?=[],])"), "[00:01<00:00, 1.02MB/s"),
    # SQLite's own share of the journal differs from one version to the next, and roots hold names of machines.
    (re.compile(r"(?<=journal     current, )[\d,]+(?= bytes)"), "110,592"),
    (
        re.compile(r"^(  (?:journal  |root     |snapshots) )[ \d,]{15}(?= bytes)", re.MULTILINE),
        r"\1          1,234",
    ),
)


def recorded(page: str, folder: Path, show: Callable[[str, Path], str] = shown) -> str:
    """Returns a page as a terminal shows it: what follows each line of a prompt is replaced by the answer.

    Args:
        page: The page.
        folder: Where its commands run.
        show: Runs one line of a prompt there, and returns what the terminal shows.
    """
    namespace: dict[str, object] = {"__name__": "page"}

    def step(match: re.Match[str]) -> str:
        if match["language"] == "console":
            prompts = [line for line in match["code"].splitlines() if line.startswith("$ ")]
            return "```console\n" + "\n".join(_answered(line, folder, show) for line in prompts) + "\n```"
        if match["event"] is not None:
            _happen(match["event"], folder)
        else:
            with contextlib.chdir(folder):
                exec(compile(match["code"] or match["hidden"], "page", "exec"), namespace)
        return match[0]

    return _STEP.sub(step, page)


def _answered(prompt: str, folder: Path, show: Callable[[str, Path], str]) -> str:
    answer = show(prompt.removeprefix("$ "), folder).replace(str(folder), "/srv")
    for pattern, instead in MASKS:
        answer = pattern.sub(instead, answer)
    return f"{prompt}\n{answer}" if answer else prompt


def _happen(event: str, folder: Path) -> None:
    """Lets something happen between two commands."""
    remote = ebooklet_tx.DirectoryConnection(folder / "shared", "stations.blt")
    killed = re.fullmatch(r"the push of (\S+) is killed", event)
    if killed is not None:
        run("put", folder / killed[1], "levels", given=b'"' + b"x" * 50_000 + b'"')
        kill_push(remote, folder / killed[1])
        return
    set_elsewhere = re.fullmatch(r"another writer sets (.*)", event)
    assert set_elsewhere is not None, event
    with ebooklet_tx.open(remote, folder / "elsewhere.blt", "w") as db:
        db.update(json.loads(set_elsewhere[1]))
        db.changes().push()


def main() -> None:
    """Records every page."""
    for page in PAGES:
        with tempfile.TemporaryDirectory() as folder:
            text = recorded(page.read_text(encoding="utf-8"), Path(os.path.realpath(folder)))
        page.write_text(text, encoding="utf-8")
        print(page, file=sys.stderr)


if __name__ == "__main__":
    main()
