"""Messages that name the Python interface, in the words of the command line.

The invariant: what a message says stays; a way out that is a Python call becomes the command that does the same.
"""

from __future__ import annotations

WORDS = {
    # Longer ones first: a shorter one may be a part of them.
    "discard() their local changes to take the other's, or push(force_push=True) to put yours on top": (
        "`ebooklet-tx resolve` shows both versions, and settles them"
    ),
    "open it with flag 'c', and push(force_push=True)": "`ebooklet-tx push --force`",
    "push(force_push=True)": "`ebooklet-tx push --force`",
    "; check the address, or make one with flag 'c'": "; check the address",
    ": make the folder, or open with flag 'c'": ": make the folder",
    "snapshots() lists": "`ebooklet-tx snapshot list` lists",
    "history() lists": "`ebooklet-tx log` lists",
    "discard()": "`ebooklet-tx discard`",
    "load_items()": "`ebooklet-tx pull --load`",
    "delete_remote()": "delete_remote() in Python",
    "use force_lock=True or 'ebooklet-tx unlock'": "use `ebooklet-tx unlock`",
    "remove it with 'ebooklet-tx unlock' or open with force_lock=True": "remove it with `ebooklet-tx unlock`",
    "another file_path": "another PATH",
    "lock_timeout": "--lock-timeout",
    "accept_partial=True": "--accept-partial",
    "remote_conn can't be used": "the URL can't be used",
    "python -m ebooklet_tx": "ebooklet-tx",
}
"""What messages of the package say, and what is said instead."""


def in_shell_words(text: str) -> str:
    """Returns a message with commands in place of Python calls."""
    for python, shell in WORDS.items():
        text = text.replace(python, shell)
    return text


__all__ = ["WORDS", "in_shell_words"]
