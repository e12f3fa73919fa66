"""`python -m benchmarks [GRID] [FIELD=VALUE,...]`: measure, keep the results, draw them."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys

from benchmarks import results
from benchmarks.grid import GRIDS, Task
from benchmarks.report import report
from benchmarks.runner import run


def main() -> int:
    """Do what the command line asks; the exit code says whether everything was measured."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("grid", nargs="?", default="quick", choices=list(GRIDS))
    fields = [field.name for field in dataclasses.fields(Task)]
    parser.add_argument(
        "only",
        nargs="*",
        metavar="FIELD=VALUE,...",
        help=f"measure only these of the grid, by {', '.join(fields)}; the rest another time",
    )
    options = parser.parse_args()
    # as Ctrl-C does: what measures is ended, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    only = {}
    for text in options.only:
        name, _, values = text.partition("=")
        if name not in fields or not values:
            parser.error(f"{text!r}: give FIELD=VALUE, with a field out of {', '.join(fields)}")
        only[name] = values.split(",")
    try:
        all_results = run(options.grid, only)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this run was", file=sys.stderr)
        return 130
    results.save(results.FOLDER / f"{options.grid}.json", all_results)
    print(report(all_results))
    return 1 if any(one["error"] and not one["over"] for one in all_results["measurements"]) else 0


if __name__ == "__main__":
    sys.exit(main())
