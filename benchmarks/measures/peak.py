"""The least time that a model's weights take, by what the machine can do at most.

The machine is measured with the threads that everybody has, and without anybody's kernels: by the
best products of 8-bit integers of its processor, and by how fast it reads memory. Attention, which
grows with the context, is left out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import gguf

from benchmarks.job import ROOT, Found, Job, serve

PROGRAM = ROOT / "build" / "native" / "bin" / "kvfork-peak"

PREFILLED = "a token of a prefill"
DECODED = "a token of a decode step"
READ = "the weights of a decode step"


def measure(job: Job) -> Iterator[Found]:
    command = [str(PROGRAM), str(job.threads)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    operations, read = (1e9 * float(number) for number in answer.split())
    layers, last, size = weights(job.model_path)
    if operations:  # there is a loop for this processor
        yield Found(PREFILLED, 2 * layers / operations)  # a product and a sum for each
        yield Found(DECODED, 2 * (layers + last) / operations)
    yield Found(READ, size / read)


def weights(model_path: str) -> tuple[int, int, int]:
    """Count the weights that every token meets, those that give logits, and the bytes of both."""
    tensors = {one.name: one for one in gguf.GGUFReader(model_path).tensors}
    layers = [
        one for name, one in tensors.items() if name.startswith("blk.") and len(one.shape) > 1
    ]
    last = tensors.get("output.weight") or tensors["token_embd.weight"]
    n_bytes = sum(int(one.n_bytes) for one in [*layers, last])
    return sum(int(one.n_elements) for one in layers), int(last.n_elements), n_bytes


if __name__ == "__main__":
    serve(measure)
