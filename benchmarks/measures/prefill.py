"""The prefill of one prompt, without an engine."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.job import Found, Job, serve
from benchmarks.library import Context, Library


def measure(job: Job) -> Iterator[Found]:
    library = Library(job.contestant)
    model = library.load(job.model_path)
    with Context(library, model, job, job.prefix + 256) as context:
        context.decode([(0, 1)])  # brings the weights into memory
        library.drop(context.memory, 1)
        rows = [(position, 0) for position in range(job.prefix)]
        batches = [rows[i : i + Context.N_BATCH] for i in range(0, job.prefix, Context.N_BATCH)]
        seconds = sum(context.decode(batch, logits=False) for batch in batches)
        yield Found(f"prefill {job.prefix}", seconds, prefilled=job.prefix)


if __name__ == "__main__":
    serve(measure)
