"""The command line of the benchmark.

Owns the scratch folder and the stub of one run.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scripts.bench import phases, phases_alone, phases_index
from scripts.bench.bars import verdicts
from scripts.bench.plot import draw
from scripts.bench.runner import ALL_ADAPTERS, Options, Runner
from scripts.bench.stub_process import stub_server
from scripts.bench.table import markdown

LARGE_SIZE = 1_000_000

PHASES: dict[str, phases.Phase] = {
    "import": phases_alone.imports,
    "bulk-set": phases.bulk_set,
    "first-push": phases.first_push,
    "push": phases.push,
    "session": phases.session,
    "warm-open": phases.warm_open,
    "pull": phases.pull,
    "cold-open": phases.cold_open,
    "random": phases.random_cold,
    "load-all": phases.load_all,
    "local": phases.local_rates,
    "recovery": phases.recovery,
}
ON_REQUEST: dict[str, phases.Phase] = {
    "huge": phases_alone.huge,
    "long": phases_alone.long,
    "index": phases_index.index,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, shows, and returns 1 when a bar that counts is not met and `--check` was given."""
    options = _parser().parse_args(arguments)
    chosen = list(options.phases or PHASES)
    chosen += [name for name in ON_REQUEST if getattr(options, name) and name not in chosen]
    settings = Options(
        sizes=sorted({*options.sizes, *([LARGE_SIZE] if options.large else [])}),
        adapters=options.adapters,
        latency_ms=options.latency_ms,
        repeats=options.repeats,
        profile=options.profile,
    )
    if options.profile is not None:
        options.profile = settings.profile = options.profile.absolute()
        options.profile.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as folder:
        environments = (options.environments or Path(folder) / "environments").absolute()
        scratch = Path(folder) / "work"
        scratch.mkdir()
        with stub_server(memory_mib=options.memory_mib) as stub:
            runner = Runner(stub, scratch, environments, settings)
            for name in chosen:
                runner.say(f"{name}:")
                runner.guarded(name, partial({**PHASES, **ON_REQUEST}[name], runner))
    return _report(runner, options)


def _report(runner: Runner, options: argparse.Namespace) -> int:
    found = verdicts(runner.rows)
    table = markdown(runner.rows, found, runner.failed)
    if options.table is not None:
        options.table.write_text(table)
    else:
        print(table)
    if options.json is not None:
        machine = {"python": platform.python_version(), "machine": platform.platform()}
        rows = [row.to_dict() for row in runner.rows]
        options.json.write_text(json.dumps({"on": machine, "rows": rows, "failed": runner.failed}, indent=1))
    if options.plot is not None:
        draw(runner.rows, options.plot)
    if not options.check:
        return 0
    missed = [one for one in found if one.counts and not one.met]
    for one in missed:
        print(f"not met: {one.bar}: {one.measured}, the bar is {one.limit}", file=sys.stderr)
    for failure in runner.failed:
        print(f"failed: {failure}", file=sys.stderr)
    if not any(one.counts for one in found):
        print("nothing was counted that has a bar", file=sys.stderr)
        return 1
    return 1 if missed or runner.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Compares ebooklet_tx with ebooklet, an fsspec mapping and a bare upload, on a stub of S3.",
    )
    every = [*PHASES, *ON_REQUEST]
    parser.add_argument(
        "--phases", type=_names(every), help=f"of {', '.join(every)}; default: all but the last three"
    )
    parser.add_argument(
        "--adapters",
        type=_names(ALL_ADAPTERS),
        default=list(ALL_ADAPTERS),
        help=f"of {', '.join(ALL_ADAPTERS)} (default: all)",
    )
    parser.add_argument(
        "--sizes", type=_sizes, default=[1000, 100_000], help="numbers of keys (default: 1e3,1e5)"
    )
    parser.add_argument("--large", action="store_true", help="a million keys as well")
    parser.add_argument("--huge", action="store_true", help="a value of 4 GiB - 1 as well")
    parser.add_argument("--long", action="store_true", help="10,000 pushes in a row as well")
    parser.add_argument(
        "--index", action="store_true", help="what reading the index by the block costs, at all sizes, as well"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="of quick measurements; the best counts (default 3)"
    )
    parser.add_argument(
        "--latency-ms", type=float, default=30.0, help="of the server, in the phases that have it (default 30)"
    )
    parser.add_argument(
        "--environments", type=Path, help="keeps the environments of the others (default: made anew)"
    )
    parser.add_argument("--scratch", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument(
        "--memory-mib", type=int, default=4096, help="what the server keeps in memory; the rest in a file"
    )
    parser.add_argument("--profile", type=Path, help="writes a profile of each section of ours to this folder")
    parser.add_argument("--json", type=Path, help="writes the raw results")
    parser.add_argument("--table", type=Path, help="writes the tables as Markdown (default: standard output)")
    parser.add_argument("--plot", type=Path, help="draws costs against size; needs matplotlib (extra 'bench')")
    parser.add_argument(
        "--check", action="store_true", help="exits 1 if a bar of requests or bytes is not met; never by time"
    )
    return parser


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
        return names

    return parse


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(float(size)) for size in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError("give numbers, like 1e3,1e5") from None
    if sizes[0] < 10:
        raise argparse.ArgumentTypeError("a database of fewer than 10 keys shows nothing")
    return sizes
