"""Compile our kernels for other processors, and test their vectors in an emulator.

    python scripts/cross.py [TARGET ...]

A target is a processor, maybe with a set of instructions; without one, all of them are taken. It
takes Debian's cross compilers and qemu-user.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TEST = ROOT / "tests" / "cross" / "test_fan_out_simd.cpp"
KERNELS = ("fan-out-attention", "fan-out-mul-mat", "batch-invariant")


class Target(NamedTuple):
    """How to compile for a processor: Debian's name of it, the compiler's options, the emulator."""

    debian: str
    options: tuple[str, ...]
    emulator: tuple[str, ...]


_AARCH64 = ("qemu-aarch64", "-cpu", "max")

TARGETS = {
    "aarch64": Target("aarch64", ("-march=armv8-a",), _AARCH64),
    "aarch64-i8mm": Target("aarch64", ("-march=armv8.6-a+dotprod+fp16+i8mm",), _AARCH64),
    "aarch64-sve": Target("aarch64", ("-march=armv8.6-a+i8mm+sve",), _AARCH64),
    "power9": Target("powerpc64le", ("-mcpu=power9",), ("qemu-ppc64le", "-cpu", "power9")),
    # its vectors need GCC 14; there, attention is left to llama.cpp
    "riscv64": Target("riscv64", (), ("qemu-riscv64",)),
    "s390x": Target("s390x", ("-march=z15", "-mvx", "-mzvector"), ("qemu-s390x", "-cpu", "max")),
}


def check(name: str, target: Target, source: Path) -> None:
    """Compile for one target, and run the test."""
    compiler = f"{target.debian}-linux-gnu-g++"
    for program in (compiler, target.emulator[0]):
        if not shutil.which(program):
            sys.exit(
                f"error: there is no {program}; on Debian and Ubuntu: "
                f"apt-get install g++-{target.debian}-linux-gnu qemu-user"
            )
    ggml = source / "ggml"
    folders = (ggml / "include", ggml / "src", ggml / "src" / "ggml-cpu")
    # ggml writes "vector float" for POWER, a keyword of GNU's C++ only
    command = [compiler, "-std=gnu++17", "-O2", *target.options, *(f"-I{one}" for one in folders)]
    for kernel in KERNELS:
        path = folders[-1] / f"{kernel}.cpp"
        subprocess.run([*command, "-c", str(path), "-o", "/dev/null"], check=True)
    program = str(ROOT / "build" / f"cross-{name}")
    # an emulator has no libraries of that processor
    subprocess.run([*command, "-static", str(TEST), "-o", program], check=True)
    subprocess.run([*target.emulator, program], check=True)


def main() -> None:
    """Check the targets that the command line names."""
    parser = argparse.ArgumentParser(description="Test the kernels for other processors.")
    parser.add_argument("target", nargs="*", help=f"some of: {', '.join(TARGETS)}; default: all")
    names = parser.parse_args().target or list(TARGETS)
    source = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "llama_cpp_source.py")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    for name in names:
        print(f"== {name}", flush=True)
        check(name, TARGETS[name], Path(source))


if __name__ == "__main__":
    main()
