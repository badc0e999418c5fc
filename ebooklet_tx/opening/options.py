"""The types of what `open` takes."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

from ebooklet_tx.progress import ProgressOption
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.pull.resolve import Resolver

Flag: TypeAlias = Literal["r", "w", "c", "n"]
"""How a database is opened: read, write, create if missing, or start an empty one."""


class OpenOptions(TypedDict, total=False):
    """The keyword arguments of `open`; see there for their meaning."""

    lock: Literal["exclusive"] | None
    lock_timeout: float
    force_lock: bool
    offline: bool | Literal["auto"]
    allow_pickle: bool | None
    conditional_writes: bool | Literal["auto"]
    on_conflict: str | Resolver
    accept_partial: bool
    index: Literal["lazy", "full"]
    trust_entries: bool
    at: str | None
    max_local_bytes: int | None
    retry: RetryPolicy | None
    remember_remote: bool
    progress: ProgressOption


class ReadOptions(TypedDict, total=False):
    """Those that mean something where there is no local file."""

    lock_timeout: float
    offline: Literal[False, "auto"]
    allow_pickle: bool | None
    conditional_writes: bool | Literal["auto"]
    index: Literal["lazy", "full"]
    trust_entries: bool
    retry: RetryPolicy | None
    progress: ProgressOption


__all__ = ["Flag", "OpenOptions", "ReadOptions"]
