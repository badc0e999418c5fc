"""Writes the tree of modules into docs/explanation/ARCHITECTURE.md: `python scripts/module_tree.py`.

Each module stands with the first line of its docstring. With `--check` nothing is written, and the exit code says
whether the page is what would be written.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PAGE = TOP / "docs" / "explanation" / "ARCHITECTURE.md"
BEGIN, END = "<!-- tree -->\n", "<!-- end of tree -->\n"


def tree() -> str:
    """Returns a table of modules for the top of the package and for each of its rooms."""
    package = TOP / "ebooklet_tx"
    folders = sorted({path.parent for path in package.rglob("*.py")})
    text = ""
    for folder in folders:
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        if modules:
            text += f"\n### `{folder.relative_to(TOP).as_posix()}/`\n\n| module | what it is |\n|---|---|\n"
            text += "".join(f"| `{path.stem}` | {_first_line(path)} |\n" for path in modules)
    return text + "\n"


def _first_line(path: Path) -> str:
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return words.split("\n", 1)[0].replace("|", "\\|")


def page() -> str:
    """Returns the page with the tree of this moment in it."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return before + BEGIN + tree() + END + rest.split(END)[1]


def main(words: list[str]) -> int:
    """Writes the page, or checks it; returns the exit code."""
    text = page()
    if words == ["--check"]:
        return 0 if PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
