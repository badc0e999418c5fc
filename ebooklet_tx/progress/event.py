"""What is told of the progress of an operation, and what it is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one phase of an operation is.

    Attributes:
        phase: What is done: `load index`, `load`, `fetch`, `look up`, `send`, `index`, `commit`, `pull`, `map`,
            `merge`, `copy`, `read index`, `verify`, `repack`, `delete`, `import` or `compare`.
        keys_done: How many keys are done; of `verify` and `repack` equal values count once.
        keys_total: Of how many; None where that is not known.
        bytes_done: How many bytes are done, those included that are on their way.
        bytes_total: Of how many; None where that is not known.
        seconds: How long the phase has taken so far.

    Examples:
        >>> said = []
        >>> db["a"] = "x" * 100_000
        >>> bool(db.changes().push(progress=said.append))
        True
        >>> [(event.phase, event.keys_done, event.bytes_done) for event in said if event.phase == "send"][-1]
        ('send', 1, 100002)
    """

    phase: str
    keys_done: int
    keys_total: int | None
    bytes_done: int
    bytes_total: int | None
    seconds: float


ProgressOption: TypeAlias = bool | Callable[[Progress], object] | None
"""What `progress=` takes: a function that gets each event, True for a bar, None or False for neither."""


class Listener(Protocol):
    """Gets the events of phases, of which one may begin within another."""

    def tell(self, number: int, event: Progress, *, ended: bool) -> None:
        """Called with each event and the number of its phase; `ended` is true of the last one."""
        ...


__all__ = ["Listener", "Progress", "ProgressOption"]
