"""A picture of how costs grow with the size of the database.

Owns no state. matplotlib is imported only here, when a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.bench.runner import MAPPINGS, OURS, Measured, Row

_NAMES = {OURS: "ebooklet_tx", "grouped": "ebooklet, grouped", "per key": "ebooklet, per key"}
_STYLES = {OURS: ("#0b6e4f", "o"), "grouped": ("#c8553d", "s"), "per key": ("#8d6a9f", "^")}
_COLUMNS = (
    (("push",), "k=1", "push of 1 key"),
    (("push",), "k=10", "push of 10 keys"),
    (("index: cold open", "cold open"), "", "cold open and one key"),
)


def draw(rows: Sequence[Row], target: Path) -> None:
    """Writes requests, bytes and processor time against the number of keys, on logarithmic axes.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise SystemExit("--plot needs matplotlib: install the extra 'bench'") from None
    measures: tuple[tuple[str, Callable[[Measured], float]], ...] = (
        ("requests", lambda m: m.counts.requests),
        ("bytes up and down", lambda m: m.counts.bytes_up + m.counts.bytes_down),
        ("seconds of processor time", lambda m: m.cpu_seconds),
    )
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(3, 3, sharex=True, sharey="row")
    for line, (measure, value) in enumerate(measures):
        for column, (phases, variant, title) in enumerate(_COLUMNS):
            axis = axes[line][column]
            for adapter in MAPPINGS:
                # The first of the phases that measured a size counts.
                found = sorted(
                    {
                        row.n: value(row.measured)
                        for phase in reversed(phases)
                        for row in rows
                        if (row.phase, row.adapter, row.variant) == (phase, adapter, variant)
                    }.items()
                )
                colour, marker = _STYLES[adapter]
                if found:
                    sizes, values = zip(*found, strict=True)
                    axis.plot(sizes, values, color=colour, marker=marker, label=_NAMES[adapter])
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.grid(visible=True, which="major", alpha=0.3)
            if line == 0:
                axis.set_title(title)
            if line == len(measures) - 1:
                axis.set_xlabel("keys in the database")
            if column == 0:
                axis.set_ylabel(measure)
    axes[0][0].legend()
    figure.savefig(target, dpi=150)
