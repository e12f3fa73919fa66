#!/usr/bin/env python3
"""Check the patch series: form, budget of touched upstream lines, and that it applies.

The rules are in vendor/llama.cpp-patches/README.md. Exit code 0: all is well; 1: it is not, and
every complaint is printed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama_cpp_source import PATCHES, SourceError, Upstream, apply, sdist, series, unpack

NAME = re.compile(r"\d{4}-[a-z0-9-]+\.patch")
FORM = re.compile(
    r"From [0-9a-f]{40} [^\n]*\n"
    r"From: [^\n]+\n(?: [^\n]+\n)*"
    r"Date: [^\n]+\n"
    r"Subject: \[PATCH[^]\n]*\] (?P<what>\S[^\n]*(?:\n [^\n]+)*)\n"
    r"(?:[A-Za-z-]+: [^\n]*\n)*"
    r"\n(?P<body>.*?)"
    r"^---\n(?P<diff>.*)",
    flags=re.DOTALL | re.MULTILINE,
)
HEADING = re.compile(r"^Upstream:\s*(?P<upstream>\S.*)", flags=re.DOTALL | re.MULTILINE)


def check_form(text: str) -> Iterator[str]:
    """Complain about a patch that is not `git format-patch` output with our kind of header."""
    form = FORM.match(text)
    if form is None:
        yield "is not in `git format-patch` form (From, From:, Date:, Subject: [PATCH], body, ---)"
        return
    why, found, _ = form["body"].partition("Upstream:")
    if not why.strip():
        yield "does not say why: its header needs a text between the subject and `Upstream:`"
    if not found or HEADING.search(form["body"]) is None:
        yield "does not say what upstream would need to take it: its header needs `Upstream: ...`"


def touched_lines(text: str, ours: set[str]) -> int:
    """Count the lines that a patch adds to and removes from upstream's files.

    Files that the patch creates are free, and are added to `ours`; so are files already in it.
    """
    touched = 0
    text = re.sub(r"\n-- \n[^\n]*\n*\Z", "", text)  # git's version
    for part in re.split(r"^diff --git ", text, flags=re.MULTILINE)[1:]:
        head, _, hunks = part.partition("\n@@")
        path = head.splitlines()[0].rpartition(" b/")[2]
        if "\nnew file mode " in head:
            ours.add(path)
        if path not in ours:
            touched += sum(line.startswith(("+", "-")) for line in hunks.splitlines()[1:])
    return touched


def check_budget(patches: Iterable[Path], budget: dict[str, int]) -> Iterator[str]:
    """Complain about patches that touch more of upstream than upstream.toml grants them."""
    ours: set[str] = set()
    for patch in patches:
        touched = touched_lines(patch.read_text("utf-8"), ours)
        granted = budget.get(patch.name)
        if granted is None:
            yield f"{patch.name} has no budget in upstream.toml"
        elif touched > granted:
            yield f"{patch.name} touches {touched} upstream lines; its budget is {granted}"
        else:
            print(f"{patch.name}: {touched} of {granted} upstream lines")


def check_files(folder: Path, patches: list[Path]) -> Iterator[str]:
    """Complain about names, and about patches and budgets that the series does not know."""
    names = {patch.name for patch in patches}
    for name in sorted(names):
        if NAME.fullmatch(name) is None:
            yield f"{name} is not named like 0001-some-words.patch"
    for path in sorted(folder.glob("*.patch")):
        if path.name not in names:
            yield f"{path.name} is not in the series"
    for name in sorted(set(Upstream.read(folder).budget) - names):
        yield f"upstream.toml has a budget for {name}, which is not in the series"
    if [patch.name for patch in patches] != sorted(names):
        yield "the series is not in the order of the patches' numbers, or names one twice"


def check_applies(patches: list[Path], archive: Path) -> Iterator[str]:
    """Complain about the first patch that does not apply to the pinned source without fuzz."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        try:
            for patch in patches:
                apply(patch, Path(folder))
        except SourceError as error:
            yield str(error)


def check(folder: Path, archive: Path | None = None) -> list[str]:
    """Return every complaint about the patches in `folder`."""
    patches = series(folder)
    upstream = Upstream.read(folder)
    complaints = list(check_files(folder, patches))
    for patch in patches:
        text = patch.read_text("utf-8")
        complaints += [f"{patch.name} {complaint}" for complaint in check_form(text)]
    complaints += check_budget(patches, upstream.budget)
    complaints += check_applies(patches, archive or sdist(upstream))
    return complaints


def main() -> int:
    """Check the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Check the llama.cpp patch series.")
    parser.add_argument("folder", nargs="?", type=Path, default=PATCHES)
    try:
        complaints = check(parser.parse_args().folder)
    except SourceError as error:
        complaints = [str(error)]
    for complaint in complaints:
        print(f"error: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
