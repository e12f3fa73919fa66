"""Shows that the tests can fail: breaks the engine in many ways, and sees who notices.

    python tests/proof/controls.py [--only WORDS] [--log FILE] [--seconds N]

Each of `breaks.py` is made in a copy of the repository (in build/controls), what it changes is
built, and the tests run that ought to see it. The log is a table: what was broken, and which test
saw it, in whose words. What it has already is not tried again. The exit code is 1 if something is
broken and nobody sees it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from breaks import BREAKS, Break
from kinds import KINDS, ROOT, WRITER

WORK = ROOT / "build" / "controls"
TREE = WORK / "tree"
BUILD = TREE / "build" / "native"

RUN = """
import runpy, sys
# an editable install would find the package that it was made from
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
tree, sys.argv = sys.argv[1], sys.argv[2:]
sys.path.insert(0, tree)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
if sys.argv[0].endswith("fuzz.py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    import pytest
    sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=line", *sys.argv]))
"""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=TREE,
        env={**os.environ, "KVFORK_TEST_LLAMA_ARCHS": str(WRITER), **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=900,
    )


def must(*command: str | Path, **environment: str) -> None:
    done = run(*command, **environment)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def copy_repository() -> None:
    """Copy what git knows, and the patched llama.cpp that the build has made."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in names:
        source, target = ROOT / name, TREE / name
        if source.is_file():
            put(target, source.read_bytes())
            target.chmod(source.stat().st_mode)
    for name in ("bindings", "llama.cpp"):
        for path in (ROOT / "build" / name).rglob("*"):
            if path.is_file() and not path.is_symlink():
                put(TREE / path.relative_to(ROOT), path.read_bytes())
    for path in (ROOT / "build").glob("*.tar.gz"):
        put(TREE / path.relative_to(ROOT), path.read_bytes())


def put(path: Path, data: bytes) -> None:
    """Write a file, unless it is so already: what is not touched is not built again."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def build() -> None:
    """Build the library, and put it where the copy's package looks for it."""
    if not (BUILD / "CMakeCache.txt").is_file():
        # as the repository's own build has it: so a compiler cache finds what is not broken
        options = ("-DCMAKE_BUILD_TYPE=Release", "-DKVFORK_BUILD_TESTS=ON")
        python = f"-DPython_EXECUTABLE={sys.executable}"
        must("cmake", "-S", TREE, "-B", BUILD, "-G", "Ninja", python, *options)
    must("cmake", "--build", BUILD, "--target", "kvfork")
    folder = TREE / "langgraph_kvfork" / "lib"
    folder.mkdir(exist_ok=True)
    shutil.copy2(BUILD / "libllama.so", folder)
    if not (folder / "bindings").is_dir():
        shutil.copytree(installed_bindings(), folder / "bindings")


def installed_bindings() -> Path:
    import langgraph_kvfork

    return next(p for e in langgraph_kvfork.__path__ if (p := Path(e, "lib", "bindings")).is_dir())


def sees(test: str) -> str:
    """Return why a test is red, in its own words; empty if it is green."""
    if test in {kind.name for kind in KINDS}:
        script = str(TREE / "tests" / "proof" / "fuzz.py")
        arguments = ["--kind", test, "--seed", "1", "--steps", "1500", "--as-it-is"]
    else:
        script, arguments = str(TREE / test), []
    try:
        done = run(sys.executable, "-c", RUN, TREE, script, *arguments)
    except subprocess.TimeoutExpired:
        return "does not end"
    if done.returncode == 0:
        return ""
    output = done.stdout + done.stderr
    if done.returncode < 0:
        return f"dies of signal {-done.returncode}"
    words = re.findall(r"^ *(?:E +)?(?:\S*Error|\S*: \S*Error): (.+)$", output, re.MULTILINE)
    return words[-1] if words else output.strip().splitlines()[-1]


def try_out(each: Break) -> tuple[str, str]:
    """Break it; return which test sees that, and its words."""
    path = TREE / each.file
    right = path.read_text()
    if right.count(each.before) != 1:
        raise SystemExit(f"{each.file} does not have once: {each.before!r}")
    path.write_text(right.replace(each.before, each.after))
    try:
        if path.suffix == ".cpp":
            build()
        for test in each.seen_by:
            if words := sees(test):
                return test, words
        return "", "nobody has seen it"
    finally:
        path.write_text(right)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="breaks that have this text in their name")
    parser.add_argument("--log", type=Path, default=WORK / "log.md", help="lines are added to it")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="to stop after")
    options = parser.parse_args()
    began = time.monotonic()
    known = options.log.read_text() if options.log.is_file() else ""
    breaks = [
        each for each in BREAKS if options.only in each.what and f"| {each.what} |" not in known
    ]

    copy_repository()
    build()
    n_unseen = 0
    green = set(re.findall(r"^\| nothing \| (.+?) \|", known, re.MULTILINE))
    with options.log.open("a") as log:

        def write(what: str, test: str, words: str) -> None:
            line = f"| {what} | {test} | {words.replace('|', '/')[:160]} |"
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()

        for each in breaks:
            if time.monotonic() - began > options.seconds:
                break
            for test in each.seen_by:
                if test not in green:
                    if words := sees(test):
                        raise SystemExit(f"nothing is broken, and {test} is red: {words}")
                    green.add(test)
                    write("nothing", test, "green")
            test, words = try_out(each)
            n_unseen += not test
            write(each.what, test, words)
    build()
    return 1 if n_unseen else 0


if __name__ == "__main__":
    sys.exit(main())
