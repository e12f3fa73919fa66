"""Build ggml and the tests of our kernels for other processors, and run them in an emulator.

    python scripts/cross.py [TARGET ...]

A target is a processor, maybe with a set of instructions; without one, all of them are taken. It
takes Debian's cross compilers and qemu-user, and CMake on the path.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Target(NamedTuple):
    """How to build for a processor: Debian's name of it, the emulator's, and ggml's options."""

    debian: str
    qemu: str
    options: tuple[str, ...]


TARGETS = {
    "aarch64": Target("aarch64", "aarch64", ("-DGGML_CPU_ARM_ARCH=armv8-a",)),
    "aarch64-i8mm": Target(
        "aarch64", "aarch64", ("-DGGML_CPU_ARM_ARCH=armv8.6-a+dotprod+fp16+i8mm",)
    ),
    "aarch64-sve": Target("aarch64", "aarch64", ("-DGGML_CPU_ARM_ARCH=armv8.6-a+i8mm+sve",)),
    "power9": Target("powerpc64le", "ppc64le", ("-DGGML_CPU_POWERPC_CPUTYPE=power9",)),
    # its vectors need GCC 14; there, attention is left to llama.cpp
    "riscv64": Target(
        "riscv64",
        "riscv64",
        tuple(f"-DGGML_{name}=OFF" for name in ("RVV", "RV_ZFH", "RV_ZVFH", "RV_ZICBOP")),
    ),
    "s390x": Target("s390x", "s390x", ("-DGGML_VXE=ON",)),
}


def run(*command: str) -> None:
    """Run a command; whatever fails ends all of it."""
    subprocess.run(command, check=True)


def check(name: str, target: Target, source: str) -> None:
    """Build for one target and run its tests."""
    compiler = f"{target.debian}-linux-gnu"
    emulator = f"qemu-{target.qemu}"
    for program in (f"{compiler}-g++", emulator):
        if not shutil.which(program):
            sys.exit(
                f"error: there is no {program}; on Debian and Ubuntu: "
                f"apt-get install g++-{compiler} qemu-user"
            )
    folder = str(ROOT / "build" / f"cross-{name}")
    run(
        *("cmake", "-S", str(ROOT / "tests" / "cross"), "-B", folder),
        *("-DCMAKE_BUILD_TYPE=Release", f"-DKVFORK_LLAMA_CPP={source}", *target.options),
        *("-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target.qemu}"),
        *(f"-DCMAKE_C_COMPILER={compiler}-gcc", f"-DCMAKE_CXX_COMPILER={compiler}-g++"),
        f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator};-cpu;max",
    )
    run("cmake", "--build", folder)
    run("ctest", "--test-dir", folder, "--output-on-failure")


def main() -> None:
    """Check the targets that the command line names."""
    parser = argparse.ArgumentParser(description="Test the kernels for other processors.")
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], help="default: all")
    names = parser.parse_args().target or list(TARGETS)
    source = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "llama_cpp_source.py")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    for name in names:
        print(f"== {name}", flush=True)
        check(name, TARGETS[name], source)


if __name__ == "__main__":
    main()
