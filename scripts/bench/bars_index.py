"""The bars of an index that is read by the block.

Owns no state. The invariant: as in `bars`.
"""

from __future__ import annotations

from collections.abc import Iterator

from scripts.bench.results import KIB, MIB, Results, Verdict, at_most, ratio, timed
from scripts.bench.runner import OURS, Row

PUSH_AGAIN_MS = {"k=1": 15.0, "k=10": 15.0, "k=1000": 60.0}
PUSH_WRITES = {"k=1": 1, "k=10": 1, "k=1000": 3}


def index(results: Results) -> Iterator[Verdict]:
    """Yields every comparison of the phases of `phases_index`."""
    for part in (_cold, _push, _read, _change, _load, _fixed, _first_push):
        yield from part(results)


def _cold(results: Results) -> Iterator[Verdict]:
    rows = results.all("index: cold open", variant="")
    for row in rows:
        what, m = f"cold open and one key, N={row.n:,}", row.measured
        yield at_most(f"{what}: requests", m.counts.requests, 5)
        yield at_most(f"{what}: bytes down", m.counts.bytes_down, 128 * KIB)
        yield timed(f"{what}: peak memory", m.peak_rss_bytes / MIB, 80, "MiB")
        peers = [peer for peer in results.all("index: cold open", "grouped", "") if peer.n == row.n == 100_000]
        for peer in peers:
            yield ratio(f"{what}: CPU to the peer's", m.cpu_seconds / peer.measured.cpu_seconds, 1.5)
    yield from _growth(rows, "cold open and one key: CPU", 2)
    for row in results.all("index: cold open"):
        if row.variant:
            runs = int(row.variant.rpartition(", ")[2].split()[0])
            what = f"cold open and one key {row.variant}, N={row.n:,}"
            yield at_most(f"{what}: requests", row.measured.counts.requests, 5 + 2 * (runs - 1))
    for row in results.all("index: pushes in a row"):
        each = row.measured.counts.bytes_up / int(row.variant.removeprefix("k="))
        yield at_most(f"{row.variant} pushes of one key, N={row.n:,}: bytes up of each", each, 16 * KIB)


def _growth(rows: list[Row], what: str, limit: float) -> Iterator[Verdict]:
    if len(rows) > 1:
        times = [row.measured.cpu_seconds for row in rows]
        sizes = f"N={rows[0].n:,} to {rows[-1].n:,}"
        yield ratio(f"{what}, most to least, {sizes}", max(times) / min(times), limit)


def _push(results: Results) -> Iterator[Verdict]:
    for variant, limit_ms in PUSH_AGAIN_MS.items():
        rows = results.all("index: push again", variant=variant)
        for row in rows:
            what = f"push again, {variant}, N={row.n:,}"
            yield at_most(f"{what}: writes", row.measured.counts.writes, PUSH_WRITES[variant])
            yield timed(f"{what}: CPU", row.measured.cpu_seconds * 1000, limit_ms, "ms")
        yield from _growth(rows, f"push again, {variant}: CPU", 1.5)
    for row in results.all("index: push from a fresh copy"):
        what = f"push from a fresh copy, {row.variant}, N={row.n:,}"
        yield at_most(f"{what}: bytes down", row.measured.counts.bytes_down, 12 * MIB)
        yield timed(f"{what}: CPU", row.measured.cpu_seconds, 1, "s")


def _read(results: Results) -> Iterator[Verdict]:
    for row in results.all("index: random keys"):
        what, counts = f"random keys, {row.variant}, cold, N={row.n:,}", row.measured.counts
        if row.n <= 1_000_000:
            # Of more keys, a thousand lie in a thousand blocks: each takes a request beside those for values.
            yield at_most(f"{what}: requests", counts.requests, 1150)
        yield at_most(f"{what}: bytes down", counts.bytes_down, 16 * MIB)
        yield at_most(f"{what}: bytes of journal a key", row.facts["journal_bytes"] / row.facts["k"], 20 * KIB)
    for row in results.all("index: first of all keys"):
        yield at_most(f"first of all keys, N={row.n:,}: requests", row.measured.counts.requests, 5)
    rows = results.all("index: the rest of all keys")
    if len(rows) > 1:
        peaks = [row.measured.peak_rss_bytes / MIB for row in rows]
        yield ratio(f"all keys in order: memory at N={rows[-1].n:,} to the least", peaks[-1] / min(peaks), 1.5)


def _change(results: Results) -> Iterator[Verdict]:
    for what in ("overwrite", "delete"):
        for row in results.all(f"index: {what}"):
            each_us = row.measured.cpu_seconds / row.facts["changed"] * 1e6
            yield timed(f"{what} half of {row.n:,} local keys: CPU of each", each_us, 15, "us")


def _load(results: Results) -> Iterator[Verdict]:
    for row in results.all("index: load all"):
        what = f"load all, {row.n:,} x {row.variant}"
        peer = results.peer_seconds(row)
        if peer is not None:
            yield ratio(f"{what}: time to the peer's", row.measured.seconds / peer, 0.7)
        if row.variant == f"{MIB} B":
            yield timed(f"{what}: peak memory", row.measured.peak_rss_bytes / MIB, 250, "MiB")


def _fixed(results: Results) -> Iterator[Verdict]:
    phase = "index: until the first byte"
    for ours in results.all(phase, "ebooklet_tx"):
        for floor in results.all(phase, "boto3 and one client"):
            more = ours.measured.cpu_seconds - floor.measured.cpu_seconds
            yield timed("until the first byte: CPU above boto3 and one client", more, 0.15, "s")


def _first_push(results: Results) -> Iterator[Verdict]:
    for row in results.all("index: first push", OURS):
        most_mib = 400 if row.n <= 1_000_000 else 600
        what = f"first push of {row.n:,} keys"
        yield timed(f"{what}: peak memory", row.measured.peak_rss_bytes / MIB, most_mib, "MiB")
        yield timed(f"{what}: CPU", row.measured.cpu_seconds, 14e-6 * row.n, "s")


__all__ = ["index"]
