"""The results as Markdown: first the bars, then everything that was measured.

Owns no state. The invariant: what was not measured is not in the table, and what failed is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scripts.bench.bars import Verdict
from scripts.bench.runner import Row

_KIB = 2**10


def markdown(rows: Sequence[Row], verdicts: Sequence[Verdict], failed: Sequence[str]) -> str:
    """Returns the tables."""
    parts = ["# Bars", _bars(verdicts), "# Measurements", _measurements(rows)]
    if failed:
        parts += ["# Failed", "\n".join(f"- {one.splitlines()[0]}" for one in failed)]
    return "\n\n".join(parts) + "\n"


def _bars(verdicts: Iterable[Verdict]) -> str:
    lines = ["| what | measured | bar | met |", "|---|---|---|---|"]
    for one in verdicts:
        met = "yes" if one.met else "**no**"
        lines.append(f"| {one.bar} | {one.measured} | {one.limit} | {met} |")
    return "\n".join(lines)


def _measurements(rows: Iterable[Row]) -> str:
    lines = [
        "| phase | N | what | by | seconds | CPU s | peak MiB | requests | up | down |",
        "|---|--:|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        m = row.measured
        rate = ""
        if row.facts.get("gets"):
            rate = f" ({row.facts['gets'] / m.seconds:,.0f}/s)"
        lines.append(
            f"| {row.phase} | {row.n:,} | {row.variant} | {row.adapter} | {m.seconds:.3f}{rate} | "
            f"{m.cpu_seconds:.2f} | {m.peak_rss_bytes / 2**20:.0f} | {m.counts.requests:,} | "
            f"{_bytes(m.counts.bytes_up)} | {_bytes(m.counts.bytes_down)} |"
        )
    return "\n".join(lines)


def _bytes(count: int) -> str:
    if count < 10 * _KIB:
        return f"{count:,} B"
    if count < 10 * _KIB**2:
        return f"{count / _KIB:,.1f} KiB"
    return f"{count / _KIB**2:,.1f} MiB"
