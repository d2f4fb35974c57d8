"""Many simulated runs, or one again: python -m tests.simulation.run --seeds FIRST..LAST | --seed N."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from functools import partial

from tests.simulation.world import Report, simulate


def main() -> int:
    """Run what the command line says; 1 if a run has broken a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one run, with its last events")
    which.add_argument("--seeds", type=_range, metavar="FIRST..LAST", help="many runs; those that fail are told")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run side by side (1)")
    world = parser.add_argument_group(
        "the run; how many daemons and faults there are says the seed, if nobody does"
    )
    unsaid = argparse.SUPPRESS
    world.add_argument("--daemons", dest="daemon_count", type=int, default=unsaid, help="how many")
    world.add_argument("--faults", dest="fault_count", type=int, default=unsaid, help="how many")
    world.add_argument("--replicas", type=int, default=unsaid, help="2: two copies; daemons go for long (1)")
    world.add_argument("--guests", action="store_true", default=unsaid, help="clients in daemons' processes")
    world.add_argument("--checksums", action="store_true", default=unsaid, help="of all data")
    options = parser.parse_args()
    said = {name: value for name, value in vars(options).items() if name not in ("seed", "seeds", "jobs")}
    run: partial[Report] = partial(simulate, **said)
    if options.seed is not None:
        report = run(options.seed)
        print(report if report.violations else f"{_last_events(report)}\nseed {report.seed}: no violation")
        print(f"trace {report.digest}, {report.simulated_s:.1f} s simulated, {dict(report.counts)}")
        return 1 if report.violations else 0
    return _run_many(run, options.seeds, options.jobs)


def _range(text: str) -> range:
    first, dots, last = text.partition("..")
    if not dots:
        raise ValueError(text)
    return range(int(first), int(last) + 1)


def _last_events(report: Report) -> str:
    return "\n".join(report.trace)


def _run_many(run: "partial[Report]", seeds: range, jobs: int) -> int:
    begun_s = time.monotonic()
    failed: list[int] = []
    counts: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, report in enumerate(pool.imap_unordered(run, seeds, chunksize=8), 1):
            counts += report.counts
            if report.violations:
                failed.append(report.seed)
                print(report, flush=True)
            if not number % 1000:
                print(f"{number} runs, {len(failed)} failed, {time.monotonic() - begun_s:.0f} s", flush=True)
    print(f"{len(seeds)} runs, {time.monotonic() - begun_s:.1f} s: {dict(counts)}")
    print(f"failed: {sorted(failed)}" if failed else "no violation")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
