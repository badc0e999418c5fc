"""Gives sessions of boto3 to make clients with: one for all connections with keys of their own.

A session takes as long to make as a client does, and reads the configuration files. It is shared where no
credentials come from it, as one that finds them keeps them, and has to be asked anew when they expire.

Owns the process's session. The invariant: it was made of the environment, and of the configuration files, as they
are now.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TypeAlias

import boto3.session
import botocore.session

from ebooklet_tx.stores.s3.descriptions import DescriptionLoader

making = threading.Lock()
"""Held while a client is made with the shared session."""

_PREFIXES = ("AWS_", "BOTO")
_HOMES = ("HOME", "USERPROFILE")
_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))

_Surroundings: TypeAlias = tuple[object, ...]

_shared: tuple[_Surroundings, boto3.session.Session, botocore.session.Session] | None = None


def shared_session() -> boto3.session.Session:
    """Returns the session of all connections that have keys; for its holder of `making`."""
    global _shared
    surroundings = _surroundings()
    if _shared is None or _shared[0] != surroundings:
        core = _core_session()
        _shared = surroundings, boto3.session.Session(botocore_session=core), core
    _, session, core = _shared
    # The descriptions that all sessions share may have been read anew.
    core.register_component("data_loader", DescriptionLoader.shared(core))
    return session


def new_session(profile: str | None, region: str | None) -> boto3.session.Session:
    """Returns a session that finds credentials: those of a profile, or of boto3's own chain.

    Args:
        profile: The profile's name; None for the chain.
        region: Where services that give credentials are asked as well; None for what is configured.
    """
    return boto3.session.Session(botocore_session=_core_session(), profile_name=profile, region_name=region)


def _core_session() -> botocore.session.Session:
    core = botocore.session.Session()
    core.register_component("data_loader", DescriptionLoader.shared(core))
    return core


def _surroundings() -> _Surroundings:
    """Returns what a session is made of: environment variables, and which state the files are in."""
    variables = sorted(
        (name, value) for name, value in os.environ.items() if name.startswith(_PREFIXES) or name in _HOMES
    )
    states: list[object] = []
    for variable, usual in _FILES:
        try:
            state = Path(os.environ.get(variable) or usual).expanduser().stat()
        except (OSError, RuntimeError):
            states.append(None)
        else:
            states.append((state.st_ino, state.st_size, state.st_mtime_ns))
    return (*variables, *states)


__all__ = ["making", "new_session", "shared_session"]
