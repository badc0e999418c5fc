"""Writes docs/reference/cli.md from the command line's own help: `python scripts/cli_reference.py`.

With `--check` nothing is written, and the exit code says whether the page is what would be written.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
WIDTH_COLUMNS = "88"

_HEAD = """\
# Command line

`ebooklet-tx COMMAND`, or `python -m ebooklet_tx COMMAND`. This page is what `--help` says;
`scripts/cli_reference.py` writes it.

```text
{help}
```
"""

_COMMAND = """
## {name}

```text
{help}
```
"""


def page() -> str:
    """Returns the page as the help of this moment makes it."""
    os.environ["COLUMNS"] = WIDTH_COLUMNS
    from ebooklet_tx.cli.commands import _parser as parser

    root = parser()
    return _HEAD.format(help=root.format_help().rstrip()) + _commands(root, "")


def _commands(parser: argparse.ArgumentParser, before: str) -> str:
    """Returns the sections of a parser's commands, and of theirs."""
    text = ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                text += _COMMAND.format(name=before + name, help=command.format_help().rstrip())
                text += _commands(command, f"{before}{name} ")
    return text


def main(words: list[str]) -> int:
    """Writes the page, or checks it; returns the exit code."""
    text = page()
    if words == ["--check"]:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
