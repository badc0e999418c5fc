"""How help is laid out: commands by subject, paragraphs as wide as the terminal, lists as they are written.

The invariant: a command that no subject names is listed all the same.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Iterator

SUBJECTS = {
    "look into a database": ("clone", "status", "ls", "get", "log", "diff", "stats"),
    "change it on this machine": ("put", "rm", "discard"),
    "share the changes": ("push", "pull", "resolve", "snapshot"),
    "look after it": ("recover", "verify", "compact", "collect", "prune", "unlock"),
    "more": ("import-ebooklet", "demo", "completion"),
}
"""The commands by what they are about, in the order of their help."""

DESCRIPTION = """\
Works with databases of ebooklet_tx from a shell.

A database is a local file, which remembers its remote: a place in an S3 bucket or in a
folder that others share. `clone` makes the local file; every other command takes its PATH
first. What is changed is committed to the local file, and published by `push`. Databases
are made by Python programs, or by `import-ebooklet`.

`ebooklet-tx COMMAND --help` tells more of a command, with an example.
"""


class Help(argparse.HelpFormatter):
    """Lists commands under their subjects; of texts, fills paragraphs, and leaves those with indented lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.strip("\n").split("\n\n")
        return "\n\n".join(part if "\n " in part else textwrap.fill(part, width) for part in parts) + "\n"

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction) or "clone" not in action.choices:
            return super()._format_action(action)
        found = {one.dest: one for one in action._get_subactions()}
        text = ""
        for subject, names in _by_subject(found):
            text += f"{'':{self._current_indent}}{subject}:\n"
            self._indent()
            text += "".join(super(Help, self)._format_action(found[name]) for name in names)
            self._dedent()
        return text


def in_order(names: Iterable[str]) -> list[str]:
    """Returns names of commands as help lists them."""
    return [name for _, some in _by_subject(list(names)) for name in some]


def _by_subject(there: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    there = list(there)
    named = {name for names in SUBJECTS.values() for name in names}
    for subject, names in SUBJECTS.items():
        here = [name for name in names if name in there]
        if subject == "more":
            here += [name for name in there if name not in named]
        if here:
            yield subject, here


__all__ = ["DESCRIPTION", "Help", "SUBJECTS", "in_order"]
