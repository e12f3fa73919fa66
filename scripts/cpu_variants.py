#!/usr/bin/env python3
"""Put several builds of ggml's CPU back end into one library; see csrc/variants/variants.cmake.

Each build becomes one object whose functions are its own: local, but for the few that others call,
which get the kind's name behind their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENTRIES = ("ggml_backend_cpu_reg", "ggml_cpu_set_plain_weights")
"""What is called by name; everything else in a CPU back end is found through the first of these."""


class VariantError(Exception):
    """A build cannot be one of several; the message says why."""


def main() -> None:
    """Write an object for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    for tool in ("nm", "ld", "objcopy", "objdump"):
        parser.add_argument(f"--{tool}", required=True)
    parser.add_argument("--callers", nargs="+", required=True)
    parser.add_argument("--kinds", nargs="+", required=True, metavar="NAME=ARCHIVE")
    options = parser.parse_args()
    try:
        called = set(_symbols(options.nm, options.callers, "--undefined-only"))
        for kind, archive in (each.split("=", 1) for each in options.kinds):
            if others := called & _functions(options.nm, archive) - set(ENTRIES):
                raise VariantError(f"{', '.join(sorted(others))} would be called in no kind")
            _write_object(options, archive, options.output / f"{kind}.o", kind)
    except VariantError as error:
        sys.exit(f"error: {error}")


def _write_object(options: argparse.Namespace, archive: str, target: Path, kind: str) -> None:
    names = {entry: f"{entry}_{kind}" for entry in ENTRIES}
    # one copy of each inline function for the whole object, which no other object shares
    whole = ["--whole-archive", archive]
    _run(options.ld, "-r", "--force-group-allocation", "-o", str(target), *whole)
    renamed = [f"--redefine-sym={old}={new}" for old, new in names.items()]
    _run(options.objcopy, *renamed, str(target))
    _run(options.objcopy, *(f"--keep-global-symbol={name}" for name in names.values()), str(target))
    shared = _symbols(options.nm, [str(target)], "--defined-only").keys()
    if others := shared - set(names.values()):
        raise VariantError(f"{archive} would share {', '.join(sorted(others))} with other kinds")
    # it would run on every processor, with this kind's instructions
    if ".init_array" in _run(options.objdump, "-h", str(target)):
        raise VariantError(f"{archive} has code that runs when the library is loaded")


def _functions(nm: str, archive: str) -> set[str]:
    """Return the names of an archive's functions, but for inline ones."""
    return {name for name, kind in _symbols(nm, [archive], "--defined-only").items() if kind == "T"}


def _symbols(nm: str, files: Sequence[str], which: str) -> dict[str, str]:
    """Return the kind of each global symbol of some files, by name, as nm has it."""
    lines = _run(nm, "-g", "-P", which, *files).splitlines()
    return {fields[0]: fields[1] for line in lines if len(fields := line.split()) > 1}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VariantError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
