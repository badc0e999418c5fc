"""Injects faults below SQLite and mutates files, as many as are asked for, and prints what became of them.

    python scripts/fault_campaign.py --injections 500 --mutations 5000 --seed 9

Exits with 1 when any of them ended in a wrong state. The tests take a slice of the same (tests/faults).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.enduring import ENDURED
from tests.faults.faulty import Account, Campaign, built_layer, layer_server
from tests.faults.killing import KillServer
from tests.faults.mutated import MUTATED, PLAN, Specimen, Verdicts
from tests.faults.mutating import planned


def _inject(folder: Path, count: int, seed: int) -> int:
    library = built_layer(folder)
    if library is None:
        print("no C compiler here makes a shared library: nothing is injected")
        return 0
    server = layer_server(library)
    account = Account()
    for name in ENDURED:
        campaign = Campaign(server, folder, name)
        campaign.go_through(campaign.faults(-(-count // len(ENDURED)), seed), account)
        campaign.remove()
        print(f"{name}: {account.injected} so far, {len(account.failures)} failures", flush=True)
    server.close()
    print(account.table())
    return len(account.failures)


def _mutate(folder: Path, count: int, seed: int) -> int:
    server = KillServer(MUTATED)
    verdicts = Verdicts()
    specimens: dict[str, Specimen] = {}
    for (name, file), share in PLAN.items():
        if name not in specimens:
            specimens[name] = Specimen(server, folder, name)
            specimens[name].check()
        specimens[name].go_through(planned(file, seed), -(-count * share // sum(PLAN.values())), verdicts)
        print(f"{name} {file}: {len(verdicts.problems)} problems so far", flush=True)
    server.close()
    print(verdicts.table())
    print("\n".join(verdicts.problems))
    return len(verdicts.problems)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fault injection below SQLite, and mutations of every file.")
    parser.add_argument("--injections", type=int, default=500)
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=9)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = _inject(Path(folder), options.injections, options.seed) if options.injections else 0
        wrong += _mutate(Path(folder), options.mutations, options.seed) if options.mutations else 0
    print(f"{time.monotonic() - begun:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
