#!/usr/bin/env python3
"""Provide the llama.cpp source tree that the native library is built from.

Prints the tree's path on standard output, and what it does on standard error:

    llama_cpp_source.py            build/llama.cpp, the pinned source with the patch series applied
    llama_cpp_source.py --stock    build/llama.cpp-stock, the same without the patches
    llama_cpp_source.py --bindings build/bindings, what our wheel takes of its Python package
    llama_cpp_source.py --sdist    the pinned source distribution itself

The source distribution is fetched with pip and kept in build/. A tree that is up to date is left
alone; otherwise only files that differ are written, so that an incremental build stays incremental.
With KVFORK_LLAMA_CPP_DIR set, the first form takes that checkout instead of the pinned source.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "vendor" / "llama.cpp-patches"
BUILD = ROOT / "build"

STAMP = ".kvfork-source"  # in a finished tree: what it was made from


class SourceError(Exception):
    """A step failed; the message says which, and what to do about it."""


@dataclass(frozen=True)
class Upstream:
    """The pinned source distribution (upstream.toml)."""

    name: str
    version: str
    sha256: str
    budget: dict[str, int]

    @classmethod
    def read(cls, patches: Path = PATCHES) -> Upstream:
        """Read the pin that belongs to a folder of patches."""
        data: dict[str, Any] = tomllib.loads((patches / "upstream.toml").read_text("utf-8"))
        return cls(**data["sdist"], budget=data["budget"])

    @property
    def requirement(self) -> str:
        """The pin as pip says it."""
        return f"{self.name}=={self.version}"

    @property
    def file_name(self) -> str:
        """What pip calls the downloaded file."""
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


def series(patches: Path = PATCHES) -> list[Path]:
    """List the patches, in the order in which they apply."""
    lines = (patches / "series").read_text("utf-8").splitlines()
    found = [patches / name for line in lines if (name := line.partition("#")[0].strip())]
    for patch in found:
        if not patch.is_file():
            raise SourceError(f"{patches / 'series'} names {patch.name}, which is not there.")
    return found


def say(message: str) -> None:
    """Tell the user what is going on; standard output is for the result."""
    print(f"llama.cpp source: {message}", file=sys.stderr, flush=True)


# -- the source distribution -------------------------------------------------------------------


def sdist(upstream: Upstream) -> Path:
    """Return the pinned source distribution, fetched with pip if it is not in build/ yet."""
    path = BUILD / upstream.file_name
    if path.is_file() and sha256(path) == upstream.sha256:
        return path
    BUILD.mkdir(exist_ok=True)
    say(f"fetching {upstream.requirement} with pip")
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{upstream.requirement} --hash=sha256:{upstream.sha256}\n")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        download = ["download", "--quiet", "--no-deps", "--no-binary", upstream.name]
        hashes = ["--require-hashes", "--requirement", str(requirements), "--dest", folder]
        done = subprocess.run(pip + download + hashes, capture_output=True, text=True)
        if done.returncode != 0:
            raise SourceError(explain_download(upstream, path, done.stdout + done.stderr))
        fetched = Path(folder, upstream.file_name)
        if not fetched.is_file():
            raise SourceError(f"pip brought {os.listdir(folder)} instead of {upstream.file_name}.")
        if sha256(fetched) != upstream.sha256:
            raise SourceError(f"{upstream.file_name} does not have the sha256 of upstream.toml.")
        fetched.replace(path)
    return path


def explain_download(upstream: Upstream, path: Path, output: str) -> str:
    """Say in words why pip could not fetch the source distribution."""
    if "No module named pip" in output:
        return (
            f"pip is missing in {sys.executable}. Install it: `python -m ensurepip`, "
            "or on Debian and Ubuntu `apt-get install python3-pip python3-venv`."
        )
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"{upstream.requirement} does not have the sha256 that upstream.toml pins. Do not "
            f"build from it; find out what your package index serves.\n\n{output}"
        )
    return (
        f"pip could not fetch {upstream.requirement}. Check the network and pip's index settings, "
        f"or put {upstream.file_name} into {path.parent} by hand.\n\n{output}"
    )


def sha256(path: Path) -> str:
    """Hash a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unpack(archive: Path, target: Path) -> None:
    """Unpack the vendor/llama.cpp of a source distribution into the empty folder `target`."""
    say(f"unpacking {archive.name}")
    with tarfile.open(archive) as tar:
        for member in tar:
            _, *path = member.name.split("/", 3)  # the first is the archive's own folder
            # `.git` is a submodule's pointer to a repository that is not there
            if path[:2] == ["vendor", "llama.cpp"] and path[2:] not in ([], [".git"]):
                member.name = path[2]
                tar.extract(member, target, **EXTRACT)


def unpack_bindings(archive: Path, version: str, target: Path) -> None:
    """Unpack the bindings of `llama.h`, with license and version, into the folder `target`."""
    say(f"unpacking the bindings of {archive.name}")
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition("/")  # the first is the archive's own folder
            if name in BINDINGS:
                member.name = Path(name).name
                tar.extract(member, target, **EXTRACT)
                found.append(name)
    if missing := set(BINDINGS) - set(found):
        raise SourceError(f"{archive.name} does not have {', '.join(sorted(missing))}.")
    (target / "VERSION").write_text(f"{version}\n", "utf-8")


BINDINGS = ("llama_cpp/llama_cpp.py", "llama_cpp/_ctypes_extensions.py", "LICENSE.md")

# the filter keyword came with 3.12 and was given to later releases of 3.10 and 3.11 as well
EXTRACT: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


# -- patches -----------------------------------------------------------------------------------


def apply(patch: Path, tree: Path) -> None:
    """Apply a patch to a tree that is no git checkout. Git allows no fuzz in the context."""
    # Inside another repository, git takes a patch's paths for that repository's and skips them
    # without a word. The ceiling keeps it from looking for one; nor may settings change a patch.
    outer = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    env = {key: value for key, value in os.environ.items() if key not in outer}
    env["GIT_CEILING_DIRECTORIES"] = str(tree.resolve().parent)
    env["GIT_CONFIG_GLOBAL"] = os.devnull
    env["GIT_CONFIG_NOSYSTEM"] = "1"
    git = ["git", "apply", "--whitespace=nowarn"]
    try:
        for command in (git, [*git, "--reverse", "--check"]):  # the second: did it really apply?
            subprocess.run(
                [*command, str(patch.resolve())],
                cwd=tree,
                env=env,
                check=True,
                capture_output=True,
                text=True,
            )
    except FileNotFoundError:
        raise SourceError(
            "git is missing; the patches are applied with it. Install it: on Debian and Ubuntu "
            "`apt-get install git`, on macOS `xcode-select --install`."
        ) from None
    except subprocess.CalledProcessError as error:
        raise SourceError(f"{patch.name} does not apply to {tree}:\n\n{error.stderr}") from None


def added_files(patch: Path) -> list[str]:
    """List the files that a patch creates."""
    text = patch.read_text("utf-8")
    return re.findall(r"^--- /dev/null\n\+\+\+ b/(.+)$", text, flags=re.MULTILINE)


# -- trees -------------------------------------------------------------------------------------


def pinned_tree(name: str, patches: list[Path]) -> Path:
    """Return build/`name`: the pinned source with `patches` applied."""
    upstream = Upstream.read()
    tree = BUILD / name
    key = "\n".join([upstream.sha256, *(f"{sha256(patch)}  {patch.name}" for patch in patches)])
    if not (tree / STAMP).is_file() or (tree / STAMP).read_text("utf-8") != key:
        archive = sdist(upstream)
        make_tree(tree, lambda new: unpack(archive, new), patches, key)
    return tree


def bindings() -> Path:
    """Return build/bindings: the pinned llama-cpp-python's bindings of `llama.h`."""
    upstream = Upstream.read()
    tree = BUILD / "bindings"
    if not (tree / STAMP).is_file() or (tree / STAMP).read_text("utf-8") != upstream.sha256:
        archive = sdist(upstream)

        def fill(new: Path) -> None:
            unpack_bindings(archive, upstream.version, new)

        make_tree(tree, fill, [], upstream.sha256)
    return tree


def own_tree(checkout: Path, patches: list[Path]) -> Path:
    """Return `checkout` itself if it has the patches, else a patched copy; never change it."""
    if not (checkout / "include" / "llama.h").is_file():
        raise SourceError(f"KVFORK_LLAMA_CPP_DIR={checkout} is not a llama.cpp checkout.")
    added = [name for patch in patches for name in added_files(patch)]
    if not patches or (added and all((checkout / name).is_file() for name in added)):
        say(f"using {checkout} as it is: it has every file that the patches add")
        return checkout

    def copy(new: Path) -> None:
        ignored = shutil.ignore_patterns(".git", "build*", "__pycache__")
        shutil.copytree(checkout, new, ignore=ignored, symlinks=True, dirs_exist_ok=True)

    say(f"copying {checkout}")
    make_tree(BUILD / "llama.cpp", copy, patches, f"a copy of {checkout}")
    return BUILD / "llama.cpp"


def make_tree(tree: Path, fill: Callable[[Path], None], patches: list[Path], key: str) -> None:
    """Make `tree` what `fill` and `patches` say, writing only files that differ."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        new = Path(folder, tree.name)
        new.mkdir()
        fill(new)
        for patch in patches:
            say(f"applying {patch.name}")
            apply(patch, new)
        if tree.exists():
            (tree / STAMP).unlink(missing_ok=True)
            sync(new, tree)
        else:
            new.rename(tree)
    (tree / STAMP).write_text(key, "utf-8")


def sync(new: Path, tree: Path) -> None:
    """Move into `tree` the files of `new` that differ, and delete those that `new` has not."""
    wanted = set(files(new))
    for name in set(files(tree)) - wanted:
        (tree / name).unlink()
    for name in wanted:
        source, target = new / name, tree / name
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        os.utime(target)  # now: what upstream's archive says would be older than the objects


def files(tree: Path) -> Iterator[str]:
    """Name every file of a tree, relative to it."""
    for folder, _, names in os.walk(tree):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), tree)


def main() -> int:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description="Provide the llama.cpp source tree.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stock", action="store_true", help="the pinned source without the patches")
    what.add_argument("--bindings", action="store_true", help="the bindings of llama.h")
    what.add_argument("--sdist", action="store_true", help="the source distribution's path")
    options = parser.parse_args()
    checkout = os.environ.get("KVFORK_LLAMA_CPP_DIR")
    try:
        if options.sdist:
            print(sdist(Upstream.read()))
        elif options.bindings:
            print(bindings())
        elif options.stock:
            print(pinned_tree("llama.cpp-stock", []))
        elif checkout:
            print(own_tree(Path(checkout).expanduser().resolve(), series()))
        else:
            print(pinned_tree("llama.cpp", series()))
    except SourceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
