"""The code of a page of the documents, as a reader would run it from top to bottom.

A page's fenced `python` and `sh` blocks are its steps. Python blocks share one namespace. An HTML comment
before a block speaks to the tests alone: `<!-- hidden` holds a Python step that readers don't see (it ends with
`-->`), and `<!-- not run: reason -->` says why the next block is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_STEP = re.compile(
    r"^<!-- hidden\n(?P<hidden>.*?)\n-->$"
    r"|^<!-- not run: (?P<reason>[^\n]+) -->\n+(?=```)(?P<skipped>```.*?\n```$)"
    r"|^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<code>.*?)\n(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Step:
    """One block: its language, its code, and the line of the page on which it begins."""

    language: str
    code: str
    line: int


def pages() -> list[Path]:
    """Returns every page of the documents, those at the top of the tree included."""
    top = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [page for page in top if page.exists()] + sorted((REPOSITORY / "docs").rglob("*.md"))


def steps(page: Path) -> list[Step]:
    """Returns the steps of a page in order; blocks in other languages are no steps."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _STEP.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["hidden"] is not None:
            found.append(Step("python", match["hidden"], line))
        elif match["code"] is not None and match["language"] in ("python", "sh"):
            indent = len(match["indent"])
            code = "\n".join(part[indent:] for part in match["code"].split("\n"))
            found.append(Step(match["language"], code, line))
    return found
