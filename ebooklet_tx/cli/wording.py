"""Messages that name the Python interface, in the words of the command line.

The invariants: what a message says stays, and a key or a name in quotes is left as it is; a way out that is a
Python call becomes the command that does the same; a file in a command can be typed as it is shown.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

WORDS = {
    # Longer ones first: a shorter one may be a part of them.
    "discard() their local changes to take the other's, or push(force_push=True) to put yours on top": (
        "`ebooklet-tx resolve` shows both versions, and settles them"
    ),
    "open it with flag 'c', and push(force_push=True)": "`ebooklet-tx push --force`",
    "push(force_push=True)": "`ebooklet-tx push --force`",
    "; check the address, or make one with flag 'c'": "; check the address",
    ": make the folder, or open with flag 'c'": ": make the folder",
    "delete the snapshot with delete_snapshot()": "delete it with `ebooklet-tx snapshot delete`",
    "snapshots() lists": "`ebooklet-tx snapshot list` lists",
    "history() lists": "`ebooklet-tx log` lists",
    "discard()": "`ebooklet-tx discard`",
    "get_timestamp(key, include_value=True, decode_value=False) returns its bytes": "--raw shows its bytes",
    "compact(packs=[...]) writes it anew on a machine that has the value": (
        "`ebooklet-tx verify --values --repair PATH` writes it anew on a machine that has the value"
    ),
    "open the remote with another file_path, the file with another remote, or use flag 'n' to replace the remote "
    "by the next push": "`ebooklet-tx clone` the remote to another PATH, or name the file's own with --remote",
    "loading again fetches the rest": "`ebooklet-tx pull --load` fetches the rest",
    "no remote is remembered and none was given": "no remote is remembered and --remote names none",
    "open it with flag 'r', or copy the file": "read it, or copy the file",
    "give a file_path in a folder that can be written; reading needs none: with file_path None it is done from "
    "memory": "give a PATH in a folder that can be written",
    "open it with flag 'r' and without offline, or make it the newest commit with restore()": (
        "leave --offline out, or make it the newest commit with `ebooklet-tx snapshot restore`"
    ),
    "remove what is left of it and open with flag 'c', which keeps the journal under another name and copies the "
    "remote": (
        "remove what is left of it, and `ebooklet-tx clone` copies the remote and keeps the journal under another"
        " name"
    ),
    "offline=True shows what is here": "--offline shows what is here",
    "offline=True reads what is here": "--offline shows what is here",
    "open the local file with offline=True to read what is here": "--offline shows what is here",
    "load_index() and load_items() bring what an offline session needs, when called online": (
        "`ebooklet-tx pull --load` brings what is needed offline"
    ),
    "can only be read: the flag must be r": "can only be read; a bucket or folder can be pushed to",
    "give access_key_id and access_key, or a profile, or set up boto3's own chain": (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --profile NAME"
    ),
    "(lock_timeout, --lock-timeout)": "(--lock-timeout)",
    "force=True, or --force,": "--force",
    "load_items()": "`ebooklet-tx pull --load`",
    "delete_remote()": "delete_remote() in Python",
    "use force_lock=True or 'ebooklet-tx unlock'": "use `ebooklet-tx unlock`",
    "remove it with 'ebooklet-tx unlock' or open with force_lock=True": "remove it with `ebooklet-tx unlock`",
    "another file_path": "another PATH",
    "lock_timeout": "--lock-timeout",
    "accept_partial=True": "--accept-partial",
    "remote_conn can't be used": "the URL can't be used",
    "give remote_conn": "give --remote URL",
    "python -m ebooklet_tx": "ebooklet-tx",
}
"""What messages of the package say, and what is said instead; `[...]` stands for any list."""


_QUOTED = r"""(?<!\w)'(?:[^'\\\n]|\\.)*'(?!\w)|(?<!\w)"(?:[^"\\\n]|\\.)*"(?!\w)"""
"""A key or a name as `repr` shows it; an apostrophe stands behind a letter."""


def _phrase(text: str) -> str:
    """Returns the pattern of a phrase; a part of a longer name is none."""
    before = r"(?<![\w/])" if text[0].isalnum() else ""
    after = r"(?![\w/]|\.\w)" if text[-1].isalnum() else ""
    return before + re.escape(text).replace(re.escape("[...]"), r"\[[^\]\n]*\]") + after


_LIST = re.compile(r"=\[[^\]\n]*\]")

# Phrases first, as some of them have quotes inside.
_TO_REPLACE = re.compile("|".join([*map(_phrase, WORDS), _QUOTED]))


def in_shell_words(text: str) -> str:
    """Returns a message with commands in place of Python calls."""

    def instead(found: re.Match[str]) -> str:
        return WORDS.get(_LIST.sub("=[...]", found.group()), found.group())

    return _TO_REPLACE.sub(instead, text)


def typed(path: Path | str) -> str:
    """Returns a file, or another argument, as it has to be typed in a command."""
    text = str(path)
    if text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    shown = (
        one if one.isprintable() and one not in "'\\" else "".join(rf"\x{byte:02x}" for byte in os.fsencode(one))
        for one in text
    )
    return f"$'{''.join(shown)}'"


__all__ = ["WORDS", "in_shell_words", "typed"]
