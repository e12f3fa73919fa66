"""llama.cpp's own llama-batched-bench: prefill once, decode in lock step, no scheduling at all.

It computes random tokens and samples none, so it shows what the kernels can do; the branches'
prompts have nothing of their own. Stock, or the same source linked with our library and its
switches on (`native/`).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contestants import CONTESTANTS
from benchmarks.job import Found, Job, serve


def measure(job: Job) -> Iterator[Found]:
    seconds = run(CONTESTANTS[job.contestant].options["path"], job)
    yield Found("first", seconds, job.prefix, len(job.questions) * job.generate)


def run(program: Path, job: Job) -> float:
    """Return the seconds of a fan-out."""
    command = [
        *(str(program), "--model", job.model_path),
        *("--ctx-size", str(job.pool_tokens), "--batch-size", "2048", "--ubatch-size", "512"),
        *("--threads", str(job.threads), "--threads-batch", str(job.threads)),
        *("--flash-attn", "on", "--kv-unified", "-pps"),
        *("-npp", str(job.prefix), "-ntg", str(job.generate), "-npl", str(len(job.questions))),
        *("--output-format", "jsonl"),
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["t"])


if __name__ == "__main__":
    serve(measure)
