"""Results, found by phase, and comparisons with bars.

Owns no state. The invariant: a comparison says whether it is of counts, which are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scripts.bench.runner import GROUPED, OURS, PER_KEY, Row

KIB, MIB = 2**10, 2**20
PEERS = (GROUPED, PER_KEY)


@dataclass(frozen=True)
class Verdict:
    """One comparison of a result with its bar.

    Attributes:
        bar: What is held to it.
        measured: The value, for people.
        limit: The bar, for people.
        met: Whether it holds.
        counts: Whether it is of counts, so that `--check` may fail by it.
    """

    bar: str
    measured: str
    limit: str
    met: bool
    counts: bool


class Results:
    """Finds rows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def all(self, phase: str, adapter: str = OURS, variant: str | None = None) -> list[Row]:
        """Returns the rows of a phase, by size."""
        found = [
            row
            for row in self.rows
            if (row.phase, row.adapter) == (phase, adapter) and variant in (None, row.variant)
        ]
        return sorted(found, key=lambda row: (row.n, row.variant))

    def peer_seconds(self, row: Row) -> float | None:
        """Returns the time of the peer's faster mode for the same work, None if it was not measured."""
        times = [
            other.measured.seconds
            for peer in PEERS
            for other in self.all(row.phase, peer, row.variant)
            if other.n == row.n
        ]
        return min(times, default=None)


def at_most(bar: str, value: float, limit: float, unit: str = "") -> Verdict:
    """Compares a count with the most that it may be."""
    return Verdict(bar, f"{value:,.0f}{unit}", f"<= {limit:,.0f}{unit}", value <= limit, counts=True)


def ratio(bar: str, value: float, limit: float, *, least: bool = False) -> Verdict:
    """Compares a ratio of times with its bar."""
    met = value >= limit if least else value <= limit
    return Verdict(bar, f"{value:.2f} x", f"{'>=' if least else '<='} {limit:g} x", met, counts=False)


def timed(bar: str, value: float, limit: float, unit: str) -> Verdict:
    """Compares seconds, or memory, with the most that they may be."""
    return Verdict(bar, f"{value:.3g} {unit}", f"<= {limit:g} {unit}", value <= limit, counts=False)
