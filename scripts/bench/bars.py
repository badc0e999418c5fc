"""The bars: what the results are held to.

Owns no state. The invariant: a bar that counts (requests, bytes, objects) is told apart from one that times or
weighs, because only the first kind gives the same answer on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ebooklet_tx.formats.index_records import Sizes
from scripts.bench.bars_index import index
from scripts.bench.phases_alone import LONG_PUSHES
from scripts.bench.results import KIB, MIB, Results, Verdict, at_most, ratio
from scripts.bench.runner import BARE, Row


def verdicts(rows: Iterable[Row]) -> list[Verdict]:
    """Returns every comparison that the results allow."""
    results = Results(rows)
    return [verdict for bar in _BARS for verdict in bar(results)]


def _push(results: Results) -> Iterator[Verdict]:
    for row in results.all("push"):
        counts, what = row.measured.counts, f"push {row.variant}, N={row.n:,}"
        if row.variant in ("k=1", "k=10"):
            yield at_most(f"{what}: write requests", counts.writes, 2)
        limit = 64 * KIB + 3 * row.facts["changed_bytes"]
        yield at_most(f"{what}: bytes up", counts.bytes_up, limit)
    for variant in ("k=1", "k=10", "k=1000"):
        rows = results.all("push", variant=variant)
        if len(rows) > 1:
            up = [row.measured.counts.bytes_up for row in rows]
            requests = [row.measured.counts.requests for row in rows]
            sizes = ", ".join(f"{row.n:,}" for row in rows)
            for what, values in (("bytes up", up), ("requests", requests)):
                yield Verdict(
                    f"push {variant}: {what} equal at N={sizes}",
                    ", ".join(f"{value:,}" for value in values),
                    "within 10 %",
                    max(values) <= 1.1 * min(values),
                    counts=True,
                )


def _session(results: Results) -> Iterator[Verdict]:
    for row in results.all("session"):
        what = f"open for write, push 1, close, {row.variant}, N={row.n:,}"
        yield at_most(f"{what}: requests", row.measured.counts.requests, 6)
        peer = results.peer_seconds(row)
        if peer is not None and row.variant != "0 ms":
            yield ratio(f"{what}: times as fast as the peer", peer / row.measured.seconds, 8, least=True)


def _warm_open(results: Results) -> Iterator[Verdict]:
    rows = results.all("warm open")
    for row in rows:
        yield at_most(f"warm open, N={row.n:,}: requests", row.measured.counts.requests, 1)
        yield at_most(f"warm open, N={row.n:,}: bytes down", row.measured.counts.bytes_down, 0)
    if len(rows) > 1:
        first, last = rows[0].measured, rows[-1].measured
        yield ratio(
            f"warm open: time at N={rows[-1].n:,} to that at N={rows[0].n:,}", last.seconds / first.seconds, 1.5
        )
    for row in results.all("warm len"):
        if row.n >= 1_000_000:
            peak = row.measured.peak_rss_bytes / MIB
            what = f"open and len, warm, N={row.n:,}: peak memory"
            yield Verdict(what, f"{peak:.0f} MiB", "< 150 MiB", peak < 150, counts=False)


def _pull(results: Results) -> Iterator[Verdict]:
    for row in results.all("pull"):
        what = f"pull of another's 10 keys, N={row.n:,}"
        yield at_most(f"{what}: requests", row.measured.counts.requests, 2)
        yield at_most(f"{what}: bytes down", row.measured.counts.bytes_down, 64 * KIB)


def _first_push(results: Results) -> Iterator[Verdict]:
    sizes = Sizes()
    for row in results.all("first push", variant="1024 B"):
        what, counts = f"first push, {row.n:,} x 1 KiB", row.measured.counts
        # One for each pack and each index object, one for the lease and one for the root.
        index_objects = -(-row.n // (sizes.object_blocks * sizes.block_rows))
        packs = -(-row.n * KIB // (16 * MIB))
        yield at_most(f"{what}: requests", counts.requests, packs + index_objects + 2)
        peer = results.peer_seconds(row)
        if peer is not None:
            yield ratio(f"{what}: time to the peer's", row.measured.seconds / peer, 0.7)
        for bare in results.all("first push", BARE, row.variant):
            if bare.n == row.n:
                ours, floor = row.measured, bare.measured
                yield ratio(f"{what}: time to the bare upload's", ours.seconds / floor.seconds, 2.5)
                yield ratio(f"{what}: CPU to the bare upload's", ours.cpu_seconds / floor.cpu_seconds, 6)


def _cold(results: Results) -> Iterator[Verdict]:
    for row in results.all("cold open"):
        what = f"cold open and one key, N={row.n:,}"
        yield at_most(f"{what}: requests", row.measured.counts.requests, 4)
        peer = results.peer_seconds(row)
        if peer is not None:
            yield ratio(f"{what}: time to the peer's", row.measured.seconds / peer, 1)
    for row in results.all("load all"):
        peer = results.peer_seconds(row)
        if peer is not None:
            yield ratio(f"load all, cold, N={row.n:,}: time to the peer's", row.measured.seconds / peer, 0.7)


def _random(results: Results) -> Iterator[Verdict]:
    """A thousand of small values: few requests. Of large ones, far apart in large packs: few bytes."""
    for row in results.all("random keys"):
        what, counts = f"random keys, {row.variant}, N={row.n:,}", row.measured.counts
        if "1 KiB" in row.variant or row.variant.endswith("small packs"):
            # Shown, not held: no 40 ranges have a thousand keys in 100 MB and only 4 MB between them, and each
            # pack takes one, until `compact` has joined them.
            continue
        yield at_most(f"{what}: requests", counts.requests, 40)
        if "large values" in row.variant:
            yield at_most(f"{what}: bytes down", counts.bytes_down, 4 * row.facts["asked_bytes"])


def _local(results: Results) -> Iterator[Verdict]:
    for row in results.all("bulk set"):
        peer = results.peer_seconds(row)
        if peer is not None:
            limit = 1.5 if row.n >= 1_000_000 else 0.7
            yield ratio(
                f"bulk set, {row.n:,}: rate to the peer's", peer / row.measured.seconds, limit, least=True
            )
    for row in results.all("local get"):
        peer = results.peer_seconds(row)
        if peer is not None:
            what = f"get of a local key, N={row.n:,}: rate to the peer's"
            yield ratio(what, peer / row.measured.seconds, 1.5, least=True)


def _alone(results: Results) -> Iterator[Verdict]:
    for phase in ("huge push", "huge load"):
        for row in results.all(phase):
            peak = row.measured.peak_rss_bytes / MIB
            yield Verdict(
                f"{phase}, {row.variant}: peak memory", f"{peak:.0f} MiB", "< 200 MiB", peak < 200, counts=False
            )
    ours, floor = results.all("import", "ebooklet_tx"), results.all("import", "boto3, sqlalchemy")
    if ours and floor:
        yield ratio(
            "import ebooklet_tx: time to that of boto3 and sqlalchemy",
            ours[0].measured.seconds / floor[0].measured.seconds,
            1.1,
        )
    for row in results.all("status imports"):
        found = "imported" if row.facts["alembic"] else "not imported"
        yield Verdict("status: alembic", found, "not imported", not row.facts["alembic"], counts=True)


def _long(results: Results) -> Iterator[Verdict]:
    for row in results.all("long"):
        facts = row.facts
        limit = 40 * facts["changed_bytes"] + LONG_PUSHES * 64 * KIB
        yield at_most(f"{row.variant}: bytes up", row.measured.counts.bytes_up, limit)
        yield at_most(f"{row.variant}: root bytes", facts["root_bytes"], 16 * KIB)
        yield at_most(f"{row.variant}: runs", facts["runs"], 8)
    for row in results.all("collect"):
        yield at_most("after collect: bytes left", row.facts["left_bytes"], 1.5 * row.facts["live_bytes"])


_BARS: tuple[Callable[[Results], Iterator[Verdict]], ...] = (
    _push,
    _session,
    _warm_open,
    _pull,
    _first_push,
    _cold,
    _random,
    _local,
    _alone,
    _long,
    index,
)
